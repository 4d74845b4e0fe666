"""Work out a run's share of a question: what is known, what is refused, where the statements stand, what must be executed."""

from __future__ import annotations

import ast
import functools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flor_dagster.errors import CheckpointError, FlorError, JournalError, ReplayError, odd_content
from flor_dagster.parsing import parse_python
from flor_dagster.recording import layout
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.replay.cautions import clock_values, data_warnings
from flor_dagster.replay.cells import plain_cell, waiting_cell
from flor_dagster.replay.coverage import NOWHERE, Share, common_of, covered_by_asking, is_all, read_coverage
from flor_dagster.replay.environments import Environment
from flor_dagster.replay.estimating import UNMEASURED, Rates, rates_of
from flor_dagster.replay.given import given_back, world_of
from flor_dagster.replay.holding import Held, held_by, said_by
from flor_dagster.replay.iterations import absent_iterations, absent_loops, check_iterations
from flor_dagster.replay.locked import Lock, ask_environment, find_lock
from flor_dagster.replay.model import Question, RunPlan
from flor_dagster.replay.places import PLACES_VERSION
from flor_dagster.replay.placing import PlacedVersion, VersionPlacer
from flor_dagster.replay.planning import LoopPlan, Target, never_reached, plan_loops
from flor_dagster.replay.reach import Reach
from flor_dagster.replay.record import RunRecord, checkpoints_of, let_go_of, loaded_files, read_run
from flor_dagster.replay.reproducing import audited_loops
from flor_dagster.replay.selecting import choose_runs
from flor_dagster.replay.topology import why_not_together
from flor_dagster.store.models import CellRow, PlacementRow, ReplayRow, RunRow, StatementRow

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace

_KEPT_REACHES = 4
_NO_FILE = (
    "refused: this run was recorded in a notebook or an interactive session, whose cells lie in no file of its version: "
    "put the training into a script, or into a function of a module that `flor run` or an asset starts"
)


@dataclass(slots=True)
class Prepared:
    """One run's share of a question, worked out.

    `earlier` are cells of which earlier questions answered a part that counts, `known` all that were there.
    """

    plan: RunPlan
    record: RunRecord | None
    placed: PlacedVersion
    placements: dict[int, PlacementRow]
    loops: LoopPlan | None
    settled: dict[int, CellRow]
    earlier: dict[int, CellRow] = field(default_factory=dict[int, CellRow])
    known: Mapping[int, CellRow] = field(default_factory=dict[int, CellRow])
    lock: Lock | None = None


class Preparer:
    """Works out questions of one workspace; what several runs of a version need is worked out once.

    Args:
        workspace: the project.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._store = workspace.store
        self._checkpoints = CheckpointStore(layout.checkpoints_folder(workspace.home))
        self._reading = threading.Lock()
        self._reaches: dict[tuple[object, ...], Reach] = {}
        self._replays: Sequence[ReplayRow] = ()
        self._runs: Sequence[RunRow] = ()
        self.rates: Rates = UNMEASURED

    def prepare(self, question: Question) -> tuple[tuple[StatementRow, ...], list[Prepared]]:
        """The statements that are asked, and each run's share."""
        self._workspace.sync()
        self._workspace.require_runs()
        resolved: dict[int, StatementRow] = {}
        for name in question.statements:
            for row in self._resolve(name):
                resolved[row.id] = row
        statements = tuple(resolved.values())
        runs = self._select(question)
        if question.iterations is not None and runs:
            check_iterations(question.iterations, runs, self._store)
        # Read once for all runs: what past replays cost, and which loops audits found.
        self._replays, self._runs = self._store.replays(), self._store.runs()
        self.rates = rates_of(self._replays)
        return statements, [self._fenced(run, statements, question) for run in runs]

    def _fenced(self, run: RunRow, statements: Sequence[StatementRow], question: Question) -> Prepared:
        """A run's share; one whose files say something odd has failed, and no other with it."""
        try:
            with odd_content(f"what was recorded of training run {run.key}"):
                return self._prepare_run(run, statements, question)
        except (JournalError, CheckpointError) as error:
            sentence = str(error)
        cells = {c.statement_id: c for c in self._store.cells(run_ids=[run.id])}
        settled, failed = dict[int, CellRow](), f"failed: {sentence}"
        for statement in statements:
            known = cells.get(statement.id)
            settled[statement.id] = (
                known if known is not None and known.settled else plain_cell(run, statement, "failed", failed)
            )
        plan = RunPlan(run, (), tuple(statements), (), (), sentence, None, run.seconds, {})
        return Prepared(plan, None, PlacedVersion(), {}, None, settled)

    def _resolve(self, name: str) -> tuple[StatementRow, ...]:
        # A key of an open question needs no look at the newest source: it may have changed since it was asked.
        known = [s for s in self._store.statements() if s.key == name]
        if known and known[0].question and known[0].key != known[0].name:
            return tuple(known)
        return self._workspace.resolve(name)

    def _select(self, question: Question) -> list[RunRow]:
        return list(choose_runs(self._workspace.runs(), self._store, question))

    def _prepare_run(self, run: RunRow, statements: Sequence[StatementRow], question: Question) -> Prepared:
        cells = {c.statement_id: c for c in self._store.cells(run_ids=[run.id])}
        cells = {number: c for number, c in cells.items() if not self._of_another_world(c, question)}
        settled, placements, todo = self._known(run, statements, question, cells)
        record: RunRecord | None = None
        environment: Environment | None = None
        lock: Lock | None = None
        placed = PlacedVersion()
        loops: LoopPlan | None = None
        earlier: dict[int, CellRow] = {}
        sentence = "nothing to do: every cell is settled" if not todo else ""
        if todo and run.status == "running":
            sentence, todo = "still running: ask again when it is over", []
        elif todo and run.entrypoint.startswith("<"):
            for statement in todo:
                settled[statement.id] = plain_cell(run, statement, "refused", _NO_FILE)
            sentence, todo = "its code lies in no file", []
        elif todo and run.commit is None:
            for statement in todo:
                settled[statement.id] = plain_cell(run, statement, "refused", self._why_no_version(run))
            sentence, todo = "its code was not kept", []
        elif todo:
            record, environment, lock, why = self._read(run, question)
            if record is None:
                for statement in todo:
                    cell = plain_cell(run, statement, why.partition(":")[0], why)
                    # Who asks again may have what is lacking here.
                    settled[statement.id] = replace(cell, detail={"ask_again": True})
                sentence, todo = why.partition(": ")[2], []
        if todo and record is not None:
            todo, placed = self._place(run, record, todo, settled, placements, question)
            todo, placed = self._reached(run, record, placed, todo, settled, question)
            earlier = self._earlier(record, cells, question)
            if todo:
                todo, loops, sentence = self._planned(run, record, placed, todo, question, earlier, settled)
                placed = self._only(todo, placed, run, question)
            else:
                sentence = "nothing to replay: this version takes none of the statements, or has them already"
        refused = tuple((s, placements[s.id]) for s in statements
                        if s.id in placements and placements[s.id].status == "refused")  # fmt: skip
        likely = tuple(
            (s, placements[s.id]) for s in statements if s.id in placements and placements[s.id].waits
        )
        waiting = {s.id for s, _ in likely} & settled.keys()
        lacking = tuple(s for s in statements if s.id in settled and settled[s.id].detail.get("ask_again"))
        waiting |= {s.id for s in lacking}
        done = tuple(s for s in statements if s.id in settled and s.id not in waiting)
        plan = RunPlan(
            run, tuple(todo), done, refused, tuple(placements.values()),
            sentence, loops.estimated_seconds if loops else None, run.seconds,
            {"executed": loops.executed, "skipped": loops.skipped, "iterations": loops.iterations, "notes": loops.notes, "warnings": self._warnings(run, record, environment)} if loops else {},
            likely, lacking,
        )  # fmt: skip
        return Prepared(plan, record, placed, placements, loops, settled, earlier, cells, lock)

    def _known(
        self,
        run: RunRow,
        statements: Sequence[StatementRow],
        question: Question,
        cells: Mapping[int, CellRow],
    ) -> tuple[dict[int, CellRow], dict[int, PlacementRow], list[StatementRow]]:
        """What is settled of a run, where its statements were put before, and what is to be done."""
        settled: dict[int, CellRow] = {}
        placements: dict[int, PlacementRow] = {}
        todo: list[StatementRow] = []
        linked = {statement for *_, statement in self._store.call_sites(run.id)}
        for statement in statements:
            cell = cells.get(statement.id)
            placement = (
                self._store.placement(statement.id, run.commit, PLACES_VERSION)
                if run.commit is not None
                else None
            )
            if placement is not None:
                placements[statement.id] = placement
            refused = cell is not None and cell.status == "refused" and run.commit is not None
            outdated = refused and (
                placement is None or (question.allow_effects and placement.kind == "changes-training")
            )
            if statement.id in linked:
                settled[statement.id] = (
                    cell
                    if cell is not None and cell.status == "recorded"
                    else self._workspace.recorded_cell(run, statement)
                )
            elif (
                cell is not None and cell.settled and not outdated and not self._revoked(run, statement, cell)
            ):
                settled[statement.id] = cell
            else:
                todo.append(statement)
        return settled, placements, todo

    def _revoked(self, run: RunRow, statement: StatementRow, cell: CellRow) -> bool:
        """Whether a cell's values come from a place that a person confirmed, and that is another one by now."""
        if cell.place != "confirmed" or run.commit is None:
            return False
        row = self._workspace.placement(statement, run.commit, run.entrypoint)
        return row.said not in ("certain", "confirmed")

    def look_again(self, run: RunRow, record: RunRecord) -> bool:
        """Take out of a record the checkpoints that are not there any more; whether all were."""
        before = checkpoints_of(record)
        return checkpoints_of(let_go_of(record, self._checkpoints.names(run.id))) == before

    def _read(
        self, run: RunRow, question: Question
    ) -> tuple[RunRecord | None, Environment | None, Lock | None, str]:
        """A run's record and what executes it, or why there is no replay: `refused: …` or `failed: …`."""
        record = read_run(layout.run_folder(self._workspace.home, run.id))
        reason = why_not_together(run.header, record)
        if reason:
            return None, None, None, f"refused: {reason}"
        self.look_again(run, record)
        lock: Lock | None = None
        supplied = {**self._workspace.supply(), **question.variables}
        record.given = given_back(record, self._workspace.home, supplied)
        if record.given.missing:
            return None, None, None, f"refused: {'; '.join(record.given.missing)}"
        try:
            if question.environment is not None:
                read = functools.partial(self._workspace.repository.read, run.commit or "")
                python = str(record.header.get("python") or "")
                lock = find_lock(read, run.entrypoint, python, (run.commit or "")[:12])
            return record, self.environment(record, question, lock), lock, ""
        except ReplayError as error:
            if question.environment is None:
                raise  # what was asked can't be done for any run
            return None, None, None, f"failed: {error}"

    def environment(self, record: RunRecord, question: Question, lock: Lock | None) -> Environment:
        """What executes a run; see `ask_environment`."""
        return ask_environment(lock, record, question.python, self._workspace.home, self._workspace.cache)

    def _planned(
        self,
        run: RunRow,
        record: RunRecord,
        placed: PlacedVersion,
        todo: list[StatementRow],
        question: Question,
        earlier: Mapping[int, CellRow],
        settled: dict[int, CellRow],
    ) -> tuple[list[StatementRow], LoopPlan | None, str]:
        absent = absent_loops(record, question.iterations)
        if absent:
            return [], None, f"nothing to replay: {absent}"
        asked = covered_by_asking(record, question.iterations) if question.iterations is not None else NOWHERE
        if question.iterations is not None and not asked:
            return [], None, f"nothing to replay: {absent_iterations(question.iterations)}"
        for statement in todo if asked else ():
            cell = earlier.get(statement.id)
            if cell is not None and read_coverage(cell).holds(asked):
                settled[statement.id] = _answered_before(cell)
        todo = [statement for statement in todo if statement.id not in settled]
        if not todo:
            return [], None, "nothing to do: these iterations were answered before"
        loops = self.loops(run, record, placed, todo, question, earlier)
        before = common_of(read_coverage(earlier.get(statement.id)) for statement in todo).count
        if before:
            words = f"{before} iteration{'s' * (before != 1)} answered before {'are' if before > 1 else 'is'} left out"
            loops = replace(loops, notes=(*loops.notes, words))
        if question.segments > 1 and len(record.ranks) > 1:
            words = f"its {len(record.ranks)} ranks stay together: it is not split into segments"
            loops = replace(loops, notes=(*loops.notes, words))
        return todo, loops, loops.sentence

    def _earlier(
        self, record: RunRecord, cells: Mapping[int, CellRow], question: Question
    ) -> dict[int, CellRow]:
        """The cells of which earlier questions answered a part that need not be computed again."""
        # Of several ranks each has loop executions of its own; who distrusts checkpoints has everything computed.
        if question.without_checkpoints or len(record.ranks) > 1:
            return {}
        return {number: cell for number, cell in cells.items() if read_coverage(cell)}

    def _of_another_world(self, cell: CellRow, question: Question) -> bool:
        """Whether a cell was answered with other variables than the run had, and than are supplied now: it is asked anew."""
        world = cell.detail.get("world")
        return bool(world) and world != world_of(
            self._workspace.home, {**self._workspace.supply(), **question.variables}
        )

    def answered(self, item: Prepared, cell: CellRow | None, question: Question) -> CellRow | None:
        """A cell that another asker has answered since a run's share was worked out; None where there is something to do.

        What it answered of others counts from here on as answered earlier.
        """
        if (
            cell is None
            or cell == item.known.get(cell.statement_id)
            or self._of_another_world(cell, question)
        ):
            return None
        if cell.settled:
            return cell
        if item.record is None or cell.statement_id not in self._earlier(
            item.record, {cell.statement_id: cell}, question
        ):
            return None
        item.earlier[cell.statement_id] = cell
        if question.iterations is None:
            return None
        asked = covered_by_asking(item.record, question.iterations)
        return _answered_before(cell) if asked and read_coverage(cell).holds(asked) else None

    def share(
        self, item: Prepared, statement: StatementRow, placed: PlacedVersion, question: Question
    ) -> Share:
        """What of a statement's cell the answer to a question settles.

        Args:
            item: the run's share of the question.
            statement: the statement.
            placed: where it was put in the end.
            question: what was asked.
        """
        record, earlier = item.record, item.earlier.get(statement.id)
        if question.iterations is None:
            return Share(True, NOWHERE, earlier)
        if record is None or len(record.ranks) > 1:
            return Share(False, NOWHERE, None)
        asked = covered_by_asking(record, question.iterations)
        now = read_coverage(earlier).with_(asked)
        reach = self._reach(item.plan.run, record, placed)
        places = [(t.file, t.function, t.line) for t in _targets(placed, [statement], reach)]
        return Share(is_all(record, reach, places, now, _added(placed)), asked, earlier)

    def _warnings(
        self, run: RunRow, record: RunRecord | None, environment: Environment | None
    ) -> tuple[str, ...]:
        if record is None or environment is None:
            return ()
        return (*environment.warnings, *data_warnings(self._workspace, run, record))

    def _why_no_version(self, run: RunRow) -> str:
        path = layout.run_folder(self._workspace.home, run.id) / "version.json"
        try:
            reason = json.loads(path.read_text(encoding="utf-8")).get("error", "")
        except (OSError, ValueError):
            reason = ""
        return f"refused: the code of this run was not kept as a version{f' ({reason})' if reason else ''}"

    def _place(
        self, run: RunRow, record: RunRecord, todo: list[StatementRow], settled: dict[int, CellRow],
        placements: dict[int, PlacementRow], question: Question,
    ) -> tuple[list[StatementRow], PlacedVersion]:  # fmt: skip
        """Put the statements into the run's version; what is refused, already there or to be confirmed is not replayed."""
        again = False
        while True:
            placed = self._placer(question).place(run.commit or "", run.entrypoint, todo)
            remaining = self._taken(run, record, todo, placed, settled, placements, question, again)
            # Without one of them another one may stand elsewhere: what is replayed was looked at as it is.
            if len(remaining) == len(todo) or not remaining:
                return remaining, placed
            todo, again = remaining, True

    def _taken(
        self, run: RunRow, record: RunRecord, todo: list[StatementRow], placed: PlacedVersion,
        settled: dict[int, CellRow], placements: dict[int, PlacementRow], question: Question,
        again: bool,
    ) -> list[StatementRow]:  # fmt: skip
        """Those of the statements that are replayed at their places; the others are settled."""
        commit = run.commit or ""
        remaining: list[StatementRow] = []
        together = (
            {number for number, known in placements.items() if known.status == "placed"} if again else set()
        )
        for statement in todo:
            row = self._store.confirmed(placed.row(statement, commit))
            if row.status == "refused" and statement.id in together:
                # It has a place in one block with others, which are not put in now: that is no refusal for good.
                words = (
                    "open: it goes into one block with statements that are not answered now; ask it with them"
                )
                settled[statement.id] = plain_cell(run, statement, "open", words)
                continue
            if placements.get(statement.id) != row:
                self._store.save_placement(row)
            placements[statement.id] = row
            if row.status == "refused":
                cell = plain_cell(run, statement, "refused", f"refused: {row.sentence}")
                settled[statement.id] = replace(cell, place=row.said)
            elif not _loads(record, row.file):
                settled[statement.id] = plain_cell(
                    run, statement, "refused", f"refused: this run never loaded {row.file}"
                )
            elif (
                row.status != "already-there"
                and not question.allow_effects
                and (held := clock_values(placed, statement))
            ):
                words = f"refused: `{held}` is a value of the clock, the process or the machine, which no replay can give again"
                settled[statement.id] = plain_cell(run, statement, "refused", words)
            elif row.status == "already-there":
                self._store.link_call_site(commit, row.file, row.line or 0, statement.name, statement.id)
                settled[statement.id] = self._workspace.recorded_cell(run, statement)
            elif row.waits and not question.accept_likely:
                settled[statement.id] = waiting_cell(run, statement, row)
            else:
                remaining.append(statement)
        return remaining

    def _placer(self, question: Question) -> VersionPlacer:
        return self._workspace.placer(allow_effects=question.allow_effects)

    def loops(
        self, run: RunRow, record: RunRecord, placed: PlacedVersion, todo: Sequence[StatementRow], question: Question,
        earlier: Mapping[int, CellRow], *, without: frozenset[str] = frozenset(), jump: bool = True,
    ) -> LoopPlan:  # fmt: skip
        """What one replay does with the loops to answer statements at their places.

        Args:
            run: the training run.
            record: its journal.
            placed: its version with the statements in it.
            todo: the statements.
            question: what was asked.
            earlier: statement id → cell of which a part is answered.
            without: names of checkpoints that must not be used (`*`: none at all).
            jump: whether the outermost loop may be entered in the middle.
        """
        if question.without_checkpoints:
            without = frozenset("*")
        reach = self._reach(run, record, placed)
        targets = _targets(placed, todo, reach)
        return plan_loops(
            record, reach, targets, iterations=question.iterations, without=without, jump=jump,
            held=self._held(run, record, targets), added=_added(placed), rates=self.rates,
            unskippable=audited_loops(self._replays, self._runs, run.commit),
            covered=common_of(read_coverage(earlier.get(statement.id)) for statement in todo),
        )  # fmt: skip

    def _reached(
        self,
        run: RunRow,
        record: RunRecord,
        placed: PlacedVersion,
        todo: list[StatementRow],
        settled: dict[int, CellRow],
        question: Question,
    ) -> tuple[list[StatementRow], PlacedVersion]:
        """Leave out, as refused, what a run that died never came to; what is left is all that is replayed."""
        if todo and not all(one.finished for one in record.ranks):
            reach = self._reach(run, record, placed)
            never = never_reached(record, reach, _targets(placed, todo, reach), _added(placed))
            for statement in todo:
                if statement.key in never:
                    words = f"refused: {never[statement.key]}"
                    settled[statement.id] = plain_cell(run, statement, "refused", words)
            todo = [statement for statement in todo if statement.key not in never]
        return todo, self._only(todo, placed, run, question)

    def _only(
        self, todo: Sequence[StatementRow], placed: PlacedVersion, run: RunRow, question: Question
    ) -> PlacedVersion:
        """The version with these statements alone: what is settled otherwise is no part of the replayed source."""
        if len(todo) == len(placed.placements):
            return placed
        again = self._placer(question).place(run.commit or "", run.entrypoint, todo)
        self.look_at_places(run, again, todo, question)
        return again

    def look_at_places(
        self, run: RunRow, placed: PlacedVersion, todo: Sequence[StatementRow], question: Question
    ) -> None:
        """Make sure that every statement stands at a place that is certain, or that a person confirmed.

        Raises:
            ReplayError: one does not: without others it was put elsewhere.
        """
        for statement in todo:
            row = self._store.confirmed(placed.row(statement, run.commit or ""))
            if row.status != "placed" or (row.waits and not question.accept_likely):
                raise ReplayError(
                    f"`{statement.key}` was put elsewhere in {(run.commit or '')[:12]} than where it was looked at "
                    f"({row.sentence}); ask it by itself"
                )

    def _reach(self, run: RunRow, record: RunRecord, placed: PlacedVersion) -> Reach:
        """What calls what in the files that the run loaded; runs of one version that loaded the same share it."""
        tree = self._workspace.placer().tree(run.commit or "")
        files = [f for f in tree.paths() if f.endswith(".py") and (f in placed.files or _loads(record, f))]
        key = run.commit, tuple(files), tuple((f, placed.files[f].text) for f in placed.files)
        with self._reading:
            if key not in self._reaches:
                tree.prepare(f for f in files if f not in placed.files)
                texts = {f: placed.files[f].text if f in placed.files else tree.read(f) for f in files}
                while len(self._reaches) >= _KEPT_REACHES:
                    del self._reaches[next(iter(self._reaches))]
                self._reaches[key] = Reach({f: text for f, text in texts.items() if text is not None})
            return self._reaches[key]

    def loaded_sources(self, run: RunRow, record: RunRecord, placed: PlacedVersion) -> dict[str, str]:
        """The texts of the files that the run said it had loaded, and of those that statements were put into."""
        tree = self._workspace.placer().tree(run.commit or "")
        files = sorted(f for f in loaded_files(record) | placed.files.keys() if f.endswith(".py"))
        texts = {f: placed.files[f].text if f in placed.files else tree.read(f) for f in files}
        return {f: text for f, text in texts.items() if text is not None}

    def _held(self, run: RunRow, record: RunRecord, targets: Sequence[Target]) -> Callable[[str], Held]:
        """What each checkpoint lacks of what the statements read; one that can't be read is met, and named, later."""
        store = self._checkpoints
        store.pin(run.id, {name: digest for one in record.ranks for name, digest in one.pinned.items()})
        chains = frozenset(chain for target in targets for chain in target.reads.chains)

        said = {name: facts for one in record.ranks for name, facts in one.facts.items()}

        @functools.cache
        def held(name: str) -> Held:
            lacks = said.get(name, {}).get("lacks")
            if lacks is not None and len(lacks) == 3:  # the journal says it: no manifest is read
                return said_by(lacks)
            try:
                return held_by(store.read(run.id, name), chains)
            except FlorError:
                return Held()

        return held


def _answered_before(cell: CellRow) -> CellRow:
    """A cell whose asked iterations are known; that a later question about others failed does not count here."""
    if cell.status != "failed":
        return cell
    words = "asked for some iterations only: these were answered before"
    return replace(
        cell, status="open", sentence=words, fidelity=(cell.coverage or {})["fidelity"], replay_id=None
    )


def _targets(placed: PlacedVersion, todo: Sequence[StatementRow], reach: Reach) -> list[Target]:
    """Where the statements stand, line by line."""
    targets: list[Target] = []
    for statement in todo:
        file, placement = placed.placements[statement.id]
        text = placed.files[file].text
        lines = range(placement.lines[0], placement.lines[1] + 1)
        # What travelled with a statement (its helper, its import) reads for it.
        reads = reach.reads_of(file, {*lines, *placed.files[file].added})
        targets += [Target(statement.key, file, _function_at(text, line), line, reads) for line in lines]
    return targets


def _added(placed: PlacedVersion) -> dict[str, tuple[int, ...]]:
    return {file: state.added for file, state in placed.files.items()}


def _loads(record: RunRecord, file: str) -> bool:
    """Whether the run loaded a file. A run that died only said what it had loaded at its start: it may have loaded more."""
    return file in loaded_files(record) or any(one.ended is None for one in record.ranks)


def _function_at(text: str, line: int) -> str:
    """The qualified name of the function around a line, `<module>` at the top."""
    best: list[str] = []

    def visit(node: ast.AST, path: list[str]) -> None:
        nonlocal best
        for child in ast.iter_child_nodes(node):
            inside = path
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if child.lineno <= line <= (child.end_lineno or child.lineno):
                    inside = [*path, child.name]
                    if not isinstance(child, ast.ClassDef):
                        best = inside
                else:
                    continue
            visit(child, inside)

    visit(parse_python(text), [])
    return ".".join(best) if best else "<module>"
