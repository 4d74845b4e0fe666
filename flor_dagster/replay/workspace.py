"""One project as a whole: its repository, its runs, its statements, the answers to its hindsight questions."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Self

import platformdirs

from flor_dagster.computed import fits, is_computed, of_names, told
from flor_dagster.errors import (
    FlorError,
    NoRepositoryError,
    NoRunsError,
    QueryError,
    SourceSyntaxError,
    StoreError,
    UnknownNameError,
    odd_content,
)
from flor_dagster.recording import layout
from flor_dagster.recording.artifacts import Artifact, ArtifactStore
from flor_dagster.recording.settings import checkpoint_settings
from flor_dagster.replay.answering import Answerer
from flor_dagster.replay.archiving import archive_versions, give_back_versions
from flor_dagster.replay.askers import Asking
from flor_dagster.replay.collecting import Collection, collect_project
from flor_dagster.replay.exactness import mark_approximate, why_doubtful
from flor_dagster.replay.keeping import end_replays_of_killed
from flor_dagster.replay.linking import Linker, Located
from flor_dagster.replay.model import CellAnswer, Plan, Question, Report
from flor_dagster.replay.places import PLACES_VERSION
from flor_dagster.replay.placing import VersionPlacer
from flor_dagster.replay.reserve import keep_reserve
from flor_dagster.replay.sweeping import sweep
from flor_dagster.replay.users import user_name
from flor_dagster.replay.workers import LocalBackend
from flor_dagster.store import LogStore
from flor_dagster.store.models import CellRow, CellStatus, PlacementRow, RunRow, StatementRow
from flor_dagster.versions import Repository
from flor_dagster.versions.collecting import shared_lock
from flor_dagster.versions.snapshot import snapshot

Source = Literal["worktree", "head"]
MANY_RUNS = 500  # more are asked for altogether: databases bound how many values a query may name


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync brought in: runs that changed, statements that are new."""

    runs: tuple[RunRow, ...]
    statements: tuple[StatementRow, ...]


@dataclass(frozen=True, slots=True)
class VersionPlacement:
    """One version of the project and what becomes of a statement in it. `runs` is how many training runs it has."""

    commit: str
    subject: str
    date: datetime
    runs: int
    placement: PlacementRow


class Workspace:
    """A project: a git repository, its training entry points, its log store.

    Args:
        repository: the user's repository.
        home: its `.flor/` folder.
        store: its log store.
        entrypoints: scripts, relative to the repository; empty takes every one that has recorded runs.
    """

    def __init__(
        self, repository: Repository, home: Path, store: LogStore, entrypoints: Sequence[str] = ()
    ) -> None:
        self.repository = repository
        self.root = repository.root
        self.home = home
        self.store = store
        self.entrypoints = tuple(entrypoints)
        self._linker = Linker(repository, store)
        self._placers: dict[bool, VersionPlacer] = {}
        self._backend: LocalBackend | None = None
        self._asking = False
        self.supply: Callable[[], Mapping[str, str]] = dict[str, str]
        """Gives the variables and secrets that every replay of this workspace is given; a question's own win over them."""

    @classmethod
    def open(
        cls, root: Path | str | None = None, *, entrypoints: Sequence[str] = (), store_url: str | None = None
    ) -> Workspace:
        """Open the project around a folder.

        Args:
            root: a folder in the repository; None takes the working directory.
            entrypoints: scripts, relative to the repository.
            store_url: where the log store is; None or empty takes SQLite in `.flor/`.

        Raises:
            NoRepositoryError: there is no git repository around the folder.
        """
        start = Path(root) if root is not None else Path.cwd()
        located = layout.find_place(start) if start.is_dir() else None
        if located is None:
            raise NoRepositoryError(
                f"there is no git repository around {start.absolute()}. Hindsight needs one, because every training run is kept "
                "with its version of the code: go to the project's folder, name it with --project, or run `git init` there."
            )
        layout.ensure_home(located.home)
        keep_reserve(located.home)
        store = LogStore.open(store_url or located.home / "flor.db", home=located.home)
        return cls(Repository(located.root), located.home, store, entrypoints)

    def close(self) -> None:
        """End the worker processes, close the log store."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        self.store.close()

    def backend(self, slots: int) -> LocalBackend:
        """What carries out replays: its warm workers stay for the next question."""
        if self._backend is None:
            self._backend = LocalBackend(slots)
        self._backend.resize(slots)
        return self._backend

    @contextlib.contextmanager
    def asking(self, what: str = "", dagster_run: str = "") -> Generator[None]:
        """Say to others, as long as it lasts, that this process is at work here; what killed ones left is taken away first.

        Args:
            what: what it is, in words; empty takes the name of the program. What is said first holds for what is in it.
            dagster_run: the id of the Dagster run, where it is one.
        """
        if self._asking:
            yield
            return
        self._asking = True
        try:
            sweep(self.root, self.home, self.cache)
            end_replays_of_killed(self.store)
            with Asking(self.home, what or f"`{Path(sys.argv[0]).name}`", dagster_run):
                yield
        finally:
            self._asking = False

    def stop_backend(self) -> None:
        """End every replay that is going on, and the workers with them."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.stop()
            backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def cache(self) -> Path:
        """Where our own clones lie, outside the repository; `FLOR_CACHE` moves it."""
        moved = os.environ.get("FLOR_CACHE")
        return Path(moved).expanduser() if moved else Path(platformdirs.user_cache_dir("flor_dagster"))

    # Runs and statements -------------------------------------------------------------------------------------------

    def sync(self) -> Synced:
        """Bring in what was recorded since: runs, the statements of their versions, the cells that they settle."""
        changed = tuple(self.store.ingest_all(self.home))
        give_back_versions(self.repository, self.store, self.cache)
        # Also what another process took in and did not carry through, because it was killed.
        news = self.store.with_news()
        fresh: list[StatementRow] = []
        runs = self.store.runs(ids=list(news)) if len(news) < MANY_RUNS else self.store.runs()
        runs = [run for run in runs if run.id in news]
        questions = self.questions()
        failed: list[FlorError] = []
        for run in runs:
            try:
                with odd_content(f"what was recorded of training run {run.key}"):
                    fresh += self._linker.link_run(run)
                    mark_approximate(self.repository, self.store, run)
                    self._settle_recorded([run], questions)
            except StoreError:
                raise
            except FlorError as error:
                failed.append(error)  # the others go on
        self.store.carried_through(news)  # what can't be carried through is said once
        if failed:
            raise failed[0]
        archive_versions(self.repository, self.store)
        return Synced(changed, tuple(fresh))

    def _settle_recorded(self, runs: Sequence[RunRow], questions: Sequence[StatementRow]) -> None:
        wanted = {q.id: q for q in questions}
        for run in runs:
            if run.status == "running" or not wanted:
                continue
            linked = {statement for *_, statement in self.store.call_sites(run.id) if statement in wanted}
            known = {c.statement_id: c for c in self.store.cells(run_ids=[run.id])}
            for statement_id in linked:
                if known.get(statement_id) is None or known[statement_id].status != "recorded":
                    self.store.save_cell(self.recorded_cell(run, wanted[statement_id]))

    def recorded_cell(self, run: RunRow, statement: StatementRow) -> CellRow:
        """The cell of a statement that the run logged itself."""
        calls = {
            call: name for call, name, *_, linked in self.store.call_sites(run.id) if linked == statement.id
        }
        logged = sorted({*calls.values()}) if is_computed(statement.name) else [statement.name]
        rows = sum(call in calls for _, _, call, _ in self.store.records(run.id, names=logged))
        sentence = (
            f"recorded by the run itself: {rows} value{'s' * (rows != 1)}{of_names(statement.name, logged)}"
        )
        status: CellStatus = "recorded"
        if not rows:
            sentence = "never fired: the run has this statement itself and did not come to it; 0 values"
            doubt = why_doubtful(self.repository, self.store, run)
            if doubt:
                status = "refused"
                sentence = f"refused: nobody knows whether this run had the statement: its version is approximate: {doubt}"
        now = datetime.now().astimezone()
        return CellRow(
            run.id,
            statement.id,
            status,
            "recorded" if status == "recorded" else None,
            sentence,
            rows,
            None,
            now,
            place="certain",
        )

    def artifact(self, reference: str | Artifact) -> Any:
        """A logged figure, image or large value: what a cell of the log view refers to, as an object.

        Args:
            reference: the cell's value, or its text `artifact:0123456789abcdef`.

        Returns:
            A numpy array, an image of PIL, a value; bytes where nothing better is installed. Nothing is unpickled.

        Raises:
            StoreError: when it is missing, or is not what was written.
        """
        store = ArtifactStore(self.home)
        return store.load(store.find(reference) if isinstance(reference, str) else reference)

    def runs(self) -> tuple[RunRow, ...]:
        """All training runs of the project, in the order of their start."""
        runs = self.store.runs()
        if not self.entrypoints:
            return tuple(runs)
        return tuple(
            r
            for r in runs
            if r.entrypoint in self.entrypoints or r.entrypoint.partition(":")[0] in self.entrypoints
        )

    def questions(self) -> tuple[StatementRow, ...]:
        """The open hindsight questions."""
        return tuple(self.store.statements(questions=True))

    def close_question(self, key: str) -> None:
        """Take a statement off the open questions; its values stay."""
        self.store.set_question(self.store.statement(key).id, False)

    def newest_commit(self, source: Source) -> str:
        """The commit that holds the newest source: HEAD, or a snapshot of the files as they lie on disk."""
        if source == "worktree" and not self.repository.bare:
            return snapshot(self.root).commit
        head = self.repository.head()
        if head is None:
            raise NoRunsError(
                f"{self.root} has no commit yet: commit the training script, or ask from the work tree"
            )
        return head

    def _newest_files(self, commit: str) -> tuple[str, ...]:
        """Files that may hold statements of this project."""
        scripts = {e.partition(":")[0] for e in self.entrypoints}
        scripts |= {r.entrypoint.partition(":")[0] for r in self.runs()}
        files = [f for f in self.repository.files(commit) if f.endswith(".py")]
        return tuple(
            f for f in files if f in scripts or b"flor" in (self.repository.read_bytes(commit, f) or b"")
        )

    def _located(self, commit: str) -> list[Located]:
        scripts = {r.entrypoint.partition(":")[0] for r in self.runs()} | {
            e.partition(":")[0] for e in self.entrypoints
        }
        found: list[Located] = []
        for file in self._newest_files(commit):
            try:
                statements = self._linker.statements_of(commit, file)
            except SourceSyntaxError:
                if file in scripts:
                    raise
                continue  # some other file of the repository that is no Python of ours
            found += [Located(file, s, s.name) for s in statements if s.name is not None]
        return found

    def discover(self, source: Source = "worktree") -> tuple[StatementRow, ...]:
        """Make every statement of the newest source that no training run recorded an open question.

        Returns:
            All open questions.

        Raises:
            SourceSyntaxError: the newest source of an entry point is no Python; the message names file and line.
        """
        self.sync()
        if not self.runs():
            return self.questions()
        fresh: list[StatementRow] = []
        with shared_lock(self.home):  # until the statements name the version, it must not be collected
            commit = self.newest_commit(source)
            for located in self._located(commit):
                row, new = self._linker.identify(located, commit, question=True)
                if new:
                    fresh.append(row)
        if fresh:
            self._settle_recorded(self.runs(), fresh)
        return self.questions()

    def resolve(self, name: str, source: Source = "worktree") -> tuple[StatementRow, ...]:
        """The statements that a name or a key means: the newest definition where it is a name.

        `norm/a` also means `flor.log(f"norm/{layer}", …)`, and `norm/*` every statement of the newest source that logs such names.

        Raises:
            UnknownNameError: neither the newest source nor any version has it; near names are listed.
        """
        by_key = [s for s in self.store.statements() if name in (s.key, s.shown)]
        if by_key and by_key[0].name != name:
            return tuple(by_key)
        with shared_lock(self.home):  # until the statements name the version, it must not be collected
            commit = self.newest_commit(source)
            located = self._located(commit)
            meant = _meant(name, located)
            exact = bool(meant) and (meant[0].name == name or bool(told(meant[0].name)))
            # A call that computes the whole of a name may log any: what has logged this one goes before it.
            known = () if exact else self._known_of(name)
            if meant and not known:
                rows = {self._linker.identify(found, commit, question=True)[0].id for found in meant}
                return tuple(s for s in self.store.statements() if s.id in rows)
        if known:
            return known
        names = sorted({s.name for s in self.store.statements()} | {found.name for found in located})
        near = difflib.get_close_matches(name, names, 3, 0.5)
        hint = f" Did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else ""
        raise UnknownNameError(
            f"no statement logs `{name}`: neither the newest source nor any recorded version has it.{hint} "
            f'Write `flor.log("{name}", …)` where it belongs in the newest version, then ask again.'
        )

    def _known_of(self, name: str) -> tuple[StatementRow, ...]:
        """The newest statement that has a name, or that logged it in some run; of `norm/*`, of every name that is so."""
        if "*" in name:
            logged = [one for one in self.store.names() if fnmatchcase(one, name)]
            found = {s.id: s for one in logged for s in self._known_of(one)}
            return tuple(found.values())
        known = [*self.store.statements(name=name), *self.store.statements_that_logged(name)]
        return tuple(sorted(known, key=lambda s: s.created)[-1:])

    def ask(self, name: str, source: Source = "worktree") -> StatementRow:
        """Make the statement of a name or key an open question."""
        self.sync()
        rows = self.resolve(name, source)
        for row in rows:
            if not row.question:
                self.store.set_question(row.id, True)
        fresh = [s for s in self.questions() if s.id in {r.id for r in rows}]
        self._settle_recorded(self.runs(), fresh)
        return fresh[0]

    # Propagation ---------------------------------------------------------------------------------------------------

    def placer(self, *, allow_effects: bool = False) -> VersionPlacer:
        """What puts statements into this project's versions; it keeps what it learnt of them."""
        if allow_effects not in self._placers:
            self._placers[allow_effects] = VersionPlacer(self.repository, allow_effects=allow_effects)
        return self._placers[allow_effects]

    def propagation(
        self,
        name: str,
        *,
        runs: Sequence[str] | None = None,
        versions: Sequence[str] | None = None,
        allow_effects: bool = False,
    ) -> tuple[VersionPlacement, ...]:
        """Where a statement goes in every version that was trained, oldest first; nothing is run.

        Args:
            name: a name or a key.
            runs: only the versions of these training runs (keys, ids or unique prefixes).
            versions: only these versions (commits, abbreviations, branches or tags).
            allow_effects: also place expressions that are known to change the training.

        Raises:
            NoRunsError: nothing was trained yet.
            UnknownNameError: no such statement, or no training run has a version that was named.
        """
        self.sync()
        self.require_runs()
        rows = self.resolve(name)
        trained: dict[str, list[RunRow]] = {}
        chosen = None if runs is None else {self.store.run(key).id for key in runs}
        for run in self.runs():
            if run.commit is not None and (chosen is None or run.id in chosen):
                trained.setdefault(run.commit, []).append(run)
        if versions is not None:
            wanted = self._versions_named(versions, tuple(trained))
            trained = {commit: runs_of for commit, runs_of in trained.items() if commit in wanted}
        result: list[VersionPlacement] = []
        # From the newest on: what was placed in one version is where a hard one before it starts from.
        for commit, runs_of in reversed(trained.items()):
            subject, date = self.repository.describe(commit)
            result += [
                VersionPlacement(
                    commit, subject, date, len(runs_of),
                    self.placement(row, commit, runs_of[0].entrypoint, allow_effects=allow_effects),
                )
                for row in reversed(rows)
            ]  # fmt: skip
        return tuple(reversed(result))

    def _versions_named(self, names: Sequence[str], trained: Sequence[str]) -> set[str]:
        """Trained versions by abbreviation, or by whatever git calls a commit; a version of uncommitted code by its base, too."""
        wanted: set[str] = set()
        for name in names:
            found = {commit for commit in trained if len(name) >= 4 and commit.startswith(name)}
            if not found:
                full = self.repository.resolve(name)
                found = {commit for commit in trained if full in (commit, self.repository.base(commit))}
            if not found:
                raise UnknownNameError(
                    f"no training run was made of the version {name}. `flor runs` lists them."
                )
            wanted |= found
        return wanted

    def placement(
        self, statement: StatementRow, commit: str, entrypoint: str, *, allow_effects: bool = False
    ) -> PlacementRow:
        """What becomes of a statement in a version; kept in the store, unless it was asked for with its effects."""
        known = self.store.placement(statement.id, commit, PLACES_VERSION)
        if known is not None and not (allow_effects and known.kind == "changes-training"):
            return known
        row = (
            self.placer(allow_effects=allow_effects)
            .place(commit, entrypoint, [statement])
            .row(statement, commit)
        )
        if not allow_effects:
            self.store.save_placement(row)
        return self.store.confirmed(row)

    def confirm_place(self, statement: StatementRow, commit: str, by: str = "") -> PlacementRow:
        """A person confirms the likely place of a statement in a version; it is answered from there from now on.

        Args:
            statement: the statement.
            commit: the version.
            by: who confirms it; empty takes the name of the process's user.

        Raises:
            UnknownNameError: no training run has this version.
            FlorError: the place is not likely: there is nothing to confirm.
        """
        run = next((run for run in reversed(self.runs()) if run.commit == commit), None)
        if run is None:
            raise UnknownNameError(f"no training run was made of the version {commit}")
        row = self.placement(statement, commit, run.entrypoint)
        if row.verdict != "likely":
            said = row.sentence if row.status == "refused" else f"its place is {row.said}"
            raise FlorError(
                f"`{statement.key}` has no likely place in {commit[:12]} that could be confirmed: {said}"
            )
        return self.store.confirm_place(row, by or user_name())

    # Hindsight -----------------------------------------------------------------------------------------------------

    def require_runs(self) -> None:
        """Raise NoRunsError where nothing was trained yet."""
        if not self.runs():
            raise NoRunsError(
                f"{self.root} has no training runs yet. Run the training script once (`python train.py` or "
                "`flor run train.py`): a question can only be asked of runs that were made."
            )

    def plan(self, question: Question) -> Plan:
        """What would be done for a question, and what it should cost; nothing is run."""
        return self._answerer().plan(question)

    def answer(
        self,
        question: Question,
        *,
        on_cell: Callable[[CellAnswer], None] | None = None,
        on_line: Callable[[str], None] | None = None,
        on_plan: Callable[[Plan], None] | None = None,
    ) -> Report:
        """Answer a question: replay what is open, in children; settled cells are not computed again.

        Args:
            question: what is asked.
            on_cell: told of each asked cell as soon as it is known.
            on_line: told of what goes on, in words.
            on_plan: told of the plan before anything is started.
        """
        with self.asking():
            return self._answerer().answer(question, on_cell=on_cell, on_line=on_line, on_plan=on_plan)

    def _answerer(self) -> Answerer:
        return Answerer(self)

    # Keeping house ---------------------------------------------------------------------------------------------------

    def collect(
        self, keep_bytes: int | None = None, runs: Sequence[str] | None = None, *, plan: bool = False
    ) -> Collection:
        """Let go of what nobody needs any more and thin the checkpoints, beside running trainings and replays.

        Args:
            keep_bytes: what the checkpoints of all runs may take; None takes the project's setting.
            runs: keys of the runs that may be thinned; None takes all that are over.
            plan: only say what would go.

        Raises:
            UnknownNameError: no such run.
            QueryError: the project's setting can't be read.
        """
        if keep_bytes is None:
            try:
                keep_bytes = checkpoint_settings(self.root).project_bytes
            except ValueError as error:
                raise QueryError(str(error)) from error
        return collect_project(self, keep_bytes, runs, plan=plan)

    # Training ------------------------------------------------------------------------------------------------------

    def train(
        self,
        entrypoint: str,
        args: Mapping[str, Any],
        *,
        ref: str | None = None,
        tags: Mapping[str, str] | None = None,
        origin: str = "script",
        portable: bool | None = None,
        variables: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> RunRow:
        """Run a training script in a child process.

        Args:
            entrypoint: the script, relative to the repository.
            args: values for its `flor.arg`s; texts are read in the type of the default.
            ref: a commit or branch to train instead of the files on disk, in a checkout of our own.
            tags: kept with the run.
            origin: who started it.
            portable: whether it is started with kernels that every machine of this one's kind gives alike; None takes what
                `[tool.flor]` of the project's pyproject.toml says.
            variables: environment variables besides this process's own.
            on_line: given each line that the script prints.

        Returns:
            The finished run.

        Raises:
            TrainingFailedError: the script failed; the run is recorded, the message has its last lines.
        """
        from flor_dagster.replay.training import train

        return train(
            self, entrypoint, args, ref=ref, tags=tags, origin=origin, portable=portable, variables=variables or {},
            on_line=on_line,
        )  # fmt: skip


def _meant(name: str, located: Sequence[Located]) -> list[Located]:
    """The statements of a source that a name means: those of this name, else those that compute theirs and say most of it."""
    same = [found for found in located if found.name == name]
    if same or "*" in name:
        return same or [found for found in located if fnmatchcase(found.name, name)]
    fitting = [found for found in located if is_computed(found.name) and fits(found.name, name)]
    most = max((told(found.name) for found in fitting), default=0)
    return [found for found in fitting if told(found.name) == most]
