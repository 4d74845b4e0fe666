"""Can this training run still be reproduced? Replays without a new statement, and the audit of what a replay would skip."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import ReplayError
from flor_dagster.recording import layout
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.replay.attempting import Attempt, Failed, Passing
from flor_dagster.replay.diagnosing import diagnose, same_replay
from flor_dagster.replay.estimating import rates_of
from flor_dagster.replay.exactness import why_doubtful
from flor_dagster.replay.executing import Job
from flor_dagster.replay.given import given_back
from flor_dagster.replay.keeping import begin_replay, child_timeout, finished
from flor_dagster.replay.locked import ask_environment, environment_of, find_lock
from flor_dagster.replay.placing import PlacedVersion
from flor_dagster.replay.planning import LoopPlan, Target, plan_loops
from flor_dagster.replay.reach import Reach
from flor_dagster.replay.record import Execution, let_go_of, loaded_files, read_run
from flor_dagster.replay.run_lock import StoppedError, replays_of
from flor_dagster.replay.verifying import tainted_statements
from flor_dagster.store.models import Fidelity, ReplayRow, RunRow

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace

OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Audited:
    """A loop that an audit looked at: where it stands, and how skipping it differs from executing it (empty: it does not)."""

    name: str
    file: str
    line: int
    column: int
    why: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of `flor verify` for one run.

    Args:
        run: the training run.
        fidelity: how the replay compares with the record; None where it failed.
        sentence: the verdict, or why it failed.
        replay: the stored replay, None where nothing was executed.
        seconds: what it took.
        tail: the child's last lines, where it failed.
        audited: the loops that an audit compared both ways.
        warnings: how what executed it differs from what the run was recorded with, each in words.
    """

    run: RunRow
    fidelity: Fidelity | None
    sentence: str
    replay: ReplayRow | None = None
    seconds: float = 0.0
    tail: tuple[str, ...] = ()
    audited: tuple[Audited, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether the run can be reproduced, as far as that was compared."""
        return self.fidelity in ("exact", "within tolerance") and not any(a.why for a in self.audited)


def audited_loops(
    replays: Iterable[ReplayRow], runs: Iterable[RunRow], commit: str | None
) -> dict[tuple[str, int, int], str]:
    """(file, line, column) of a version's loops that an audit found not to be skippable → why.

    Args:
        replays: all of the project's.
        runs: all of the project's.
        commit: the version.
    """
    same = {run.id for run in runs if run.commit == commit}
    found: dict[tuple[str, int, int], str] = {}
    for replay in replays:
        for entry in (
            replay.plan.get("audit", ()) if replay.run_id in same and replay.status == "finished" else ()
        ):
            place = entry["file"], entry["line"], entry["column"]
            if entry["why"]:
                found[place] = entry["why"]
            else:
                found.pop(place, None)  # a later audit found it mended
    return found


def verify_run(
    workspace: Workspace,
    name: str,
    *,
    audit: bool = False,
    tolerance: Mapping[str, float] | None = None,
    python: str | None = None,
    environment: str | None = None,
    variables: Mapping[str, str] | None = None,
    on_line: OnLine | None = None,
) -> Verification:
    """Execute a training run again from its beginning and compare everything with its record, bit for bit.

    Args:
        workspace: the project.
        name: key, id or unique beginning of the run.
        audit: compute one iteration both ways too, its nested loops skipped and executed; a loop where they differ is not
            skipped in later replays of this version.
        tolerance: as in a question: name → relative difference, `*` for every other name.
        python: as in a question: the interpreter that executes it; None takes the one that it was recorded with.
        environment: as in a question: `uv` makes the environment that the version's own lock file describes.
        variables: as in a question: what its replays are given besides what is kept with the run.
        on_line: told of what goes on, in words.

    Raises:
        ReplayError: the run can't be executed again at all; the message says why.
        UnknownNameError: no such run.
    """
    workspace.sync()
    run = workspace.store.run(name)
    if run.status == "running":
        raise ReplayError(f"training run {run.key} is still running: verify it when it is over")
    if run.commit is None:
        raise ReplayError(f"the code of training run {run.key} was not kept: it can't be executed again")
    with workspace.asking(), replays_of(workspace.home, run, on_line):
        verifier = _Verifier(workspace, run, on_line, tolerance)
        try:
            warnings = verifier.choose(python, environment, variables or {})
        except ReplayError as error:
            if environment is None:
                raise  # what was asked can't be done for any run
            return Verification(run, None, f"failed: {error}")
        whole = verifier.whole()
        done = verifier.audit(whole) if audit and whole.fidelity == "exact" else whole
        return replace(done, warnings=warnings)


class _Verifier:
    def __init__(
        self, workspace: Workspace, run: RunRow, on_line: OnLine | None, tolerance: Mapping[str, float] | None
    ) -> None:
        self._workspace = workspace
        self._store = workspace.store
        self._run = run
        self._on_line = on_line
        there = CheckpointStore(layout.checkpoints_folder(workspace.home)).names(run.id)
        self._record = let_go_of(read_run(layout.run_folder(workspace.home, run.id)), there)
        self._sources = self._read_sources()
        self._reach = Reach(self._sources)
        doubt = why_doubtful(workspace.repository, self._store, run)
        self._passing = Passing(workspace.backend(1), self._tainted(), on_line, _nothing, tolerance, doubt)

    def _read_sources(self) -> dict[str, str]:
        repository, commit = self._workspace.repository, self._run.commit or ""
        texts = {f: repository.read(commit, f) for f in repository.files(commit) if f.endswith(".py")}
        return {file: text for file, text in texts.items() if text is not None}

    def _tainted(self) -> frozenset[tuple[str, int]]:
        files = {r.file for one in self._record.ranks for r in one.records} & self._sources.keys()
        return frozenset(place for file in files for place in tainted_statements(file, self._sources[file]))

    def _plan(
        self, targets: list[Target], *, without: frozenset[str] = frozenset(),
        iterations: Mapping[str, tuple[int | str, ...]] | None = None, jump: bool = True,
    ) -> LoopPlan:  # fmt: skip
        return plan_loops(
            self._record, self._reach, targets, iterations=iterations, without=without, jump=jump,
            rates=rates_of(self._store.replays()),
        )  # fmt: skip

    def choose(
        self, python: str | None, environment: str | None, variables: Mapping[str, str]
    ) -> tuple[str, ...]:
        """Choose what executes it, and make that where it is not there yet; how it differs from what the run had."""
        workspace, lock = self._workspace, None
        supplied = {**workspace.supply(), **variables}
        self._record.given = given = given_back(self._record, workspace.home, supplied)
        if given.missing:
            raise ReplayError(
                f"training run {self._run.key} can't be executed again: {'; '.join(given.missing)}"
            )
        if environment is not None:
            commit, recorded = self._run.commit or "", str(self._record.header.get("python") or "")
            read = functools.partial(workspace.repository.read, commit)
            lock = find_lock(read, self._run.entrypoint, recorded, commit[:12])
            environment_of(lock, workspace.cache, self._on_line)
        return ask_environment(lock, self._record, python, workspace.home, workspace.cache).warnings

    # The whole run ------------------------------------------------------------------------------------------------

    def whole(self) -> Verification:
        """From the beginning, nothing restored."""
        loops = self._plan([], without=frozenset("*"), jump=False)
        replay = self._begin(loops, {"verify": True})
        job = self._job(replay.id, loops)
        try:
            result = self._passing.carry_out(job, [loops], "")
            if isinstance(result, Attempt) and result.verdict.fidelity == "diverged":
                result = self._diagnosed(job, loops, result)
        except BaseException as error:
            self._store.fail_replay(replay.id, "stopped before its end")
            if isinstance(error, StoppedError):
                raise ReplayError(f"the verification of training run {self._run.key} was stopped") from None
            raise
        return self._kept(replay, result)

    def _diagnosed(self, job: Job, loops: LoopPlan, result: Attempt) -> Attempt:
        again = self._passing.repeat(job, loops, "repeat")
        repeats = None if again is None else same_replay(result.replayed, again[1])
        loaded = loaded_files(self._record)
        sources = {file: text for file, text in self._sources.items() if file in loaded}
        words = diagnose(
            self._record, result.replayed, loops, repeats=repeats, sources=sources, home=self._workspace.home
        )  # fmt: skip
        return replace(result, diagnosis=words)

    def _kept(self, replay: ReplayRow, result: Attempt | Failed) -> Verification:
        if isinstance(result, Failed):
            self._store.fail_replay(replay.id, result.reason)
            return Verification(
                self._run,
                None,
                f"failed: {result.reason}",
                replay,
                result.outcome.seconds,
                tuple(result.outcome.tail),
            )
        verdict = result.verdict
        sentence = verdict.sentence + (f". {result.diagnosis}" if result.diagnosis else "")
        done = finished(replay, result, sentence)
        self._store.commit_replay(done, list(result.journals), [])
        return Verification(self._run, verdict.fidelity, sentence, done, result.seconds)

    # The audit ----------------------------------------------------------------------------------------------------

    def audit(self, whole: Verification) -> Verification:
        """One iteration of each outermost loop, entered by jumping, its nested loops skipped; the record says what executing gives.

        That the code repeats itself was just shown: it is the record that both ways are compared with.
        """
        audited: list[Audited] = []
        for outer in self._outermost():
            audited += self._audit_in(outer)
        replay = self._begin(
            self._plan([], without=frozenset("*")), {"audit": [_entry(a) for a in audited], "verify": True}
        )
        bad = [a for a in audited if a.why]
        words = f"{len(audited)} loop{'s' * (len(audited) != 1)} compared both ways: " + (
            "; ".join(f"{a.name} ({a.file}:{a.line}) {a.why}" for a in bad)
            or "restoring is the same as executing"
        )
        row = replace(
            replay, seconds=0.0, status="finished", estimated_seconds=None, sentence=words, fidelity=None
        )
        self._store.commit_replay(row, [], [])
        return replace(whole, sentence=f"{whole.sentence}. {words}", audited=tuple(audited))

    def _outermost(self) -> list[Execution]:
        """One execution per place: the one that went furthest."""
        best: dict[tuple[str, int, int], Execution] = {}
        for execution in self._record.executions.values():
            place = execution.file, execution.line, execution.column
            if execution.parent is None and (place not in best or execution.count > best[place].count):
                best[place] = execution
        return list(best.values())

    def _audit_in(self, outer: Execution) -> list[Audited]:
        nested = self._skippable_in(outer)
        index = nested[0].parent_index or 0 if nested else outer.count - 1
        found: list[Audited] = []
        jump = outer.points.get(index - 1) is not None
        if jump:
            entered = self._differs(outer, index, (), jump=True)
            found.append(_audited(outer, entered))
            jump = not entered
        # All at once first; only where something differs, one by one.
        together = bool(nested) and not self._differs(outer, index, nested, jump=jump)
        for one in _per_place(nested):
            alone = [e for e in nested if _place(e) == _place(one)]
            found.append(_audited(one, "" if together else self._differs(outer, index, alone, jump=jump)))
        return found

    def _skippable_in(self, outer: Execution) -> list[Execution]:
        """The loop executions of one iteration that a replay would skip; of the latest iteration that has any."""
        children = [self._record.executions[c] for c in outer.children]
        able = [
            c for c in children
            if c.checkpoint is not None and not c.reasons and c.how in ("exhausted", "break") and c.parent_index is not None
        ]  # fmt: skip
        last = max((c.parent_index or 0 for c in able), default=0)
        return [c for c in able if c.parent_index == last]

    def _differs(self, outer: Execution, index: int, skipped: Sequence[Execution], *, jump: bool) -> str:
        """How an iteration with these loops skipped differs from the record; empty where it does not.

        Args:
            outer: the loop.
            index: the iteration.
            skipped: loop executions in it; all others are executed.
            jump: whether the loop is entered at that iteration, or executed from its beginning.
        """
        keep = {e.checkpoint for e in skipped}
        others = frozenset(
            e.checkpoint for e in self._record.executions.values()
            if e.checkpoint is not None and e.checkpoint not in keep and e.path.startswith(f"{outer.path}[")
        )  # fmt: skip
        # A statement on the line of the `for` itself: in the loop, in none of those within it.
        at = Target("", outer.file, "<module>", outer.line)
        loops = self._plan([at], without=others, iterations={outer.name: (index,)}, jump=jump)
        if any(loops.loops.get(e.path, {}).get("action") != "skip" for e in skipped):
            return ""
        replay_id = secrets.token_hex(8)
        result = self._passing.carry_out(self._job(replay_id, loops), [loops], "audit")
        if isinstance(result, Failed):
            return f"can't be put back: {result.reason}"
        return result.verdict.difference if result.verdict.fidelity == "diverged" else ""

    # Small parts --------------------------------------------------------------------------------------------------

    def _begin(self, loops: LoopPlan, more: Mapping[str, Any]) -> ReplayRow:
        return begin_replay(self._store, self._run, loops, {"cost": loops.cost, **more})

    def _job(self, replay_id: str, loops: LoopPlan) -> Job:
        timeout = child_timeout(self._run)
        return Job(
            replay_id, self._run, self._record, PlacedVersion(), (), loops, self._workspace.home, self._workspace.root,
            self._workspace.cache, timeout,
        )  # fmt: skip


def _nothing() -> None:
    """Nobody counts the children of a verification."""


def _place(execution: Execution) -> tuple[str, int, int]:
    return execution.file, execution.line, execution.column


def _per_place(executions: Iterable[Execution]) -> list[Execution]:
    return list({_place(e): e for e in executions}.values())


def _audited(execution: Execution, why: str) -> Audited:
    return Audited(execution.name, *_place(execution), why)


def _entry(audited: Audited) -> dict[str, Any]:
    return {
        "name": audited.name,
        "file": audited.file,
        "line": audited.line,
        "column": audited.column,
        "why": audited.why,
    }
