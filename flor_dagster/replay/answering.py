"""Answer a question: what is known is read, what is open is replayed, what can't be is refused with its reason."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock

from flor_dagster.errors import FlorError
from flor_dagster.propagation import PROPAGATOR_VERSION
from flor_dagster.recording import layout
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.replay.attempting import Passing, StoppedError
from flor_dagster.replay.carrying import LEAST_TIMEOUT, TIMEOUT_FACTOR, Carrier, Places
from flor_dagster.replay.cells import plain_cell
from flor_dagster.replay.environments import Environment, choose_environment
from flor_dagster.replay.estimating import rates_of
from flor_dagster.replay.exactness import why_approximate
from flor_dagster.replay.holding import Held, held_by
from flor_dagster.replay.model import CellAnswer, Plan, Question, Report, RunPlan
from flor_dagster.replay.placing import PlacedVersion, VersionPlacer
from flor_dagster.replay.planning import LoopPlan, Target, absent_loops, never_reached, plan_loops
from flor_dagster.replay.reach import Reach
from flor_dagster.replay.record import RunRecord, let_go_of, read_run
from flor_dagster.replay.reproducing import audited_loops
from flor_dagster.replay.resources import available_memory, default_slots, memory_needed, torch_threads
from flor_dagster.replay.segments import Bounds, choose, costs_of, divide
from flor_dagster.replay.selecting import choose_runs
from flor_dagster.replay.topology import why_not_together
from flor_dagster.replay.verifying import tainted_statements
from flor_dagster.replay.warmth import preloadable
from flor_dagster.replay.workers import LocalBackend
from flor_dagster.store.models import CellRow, PlacementRow, ReplayRow, RunRow, StatementRow

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace

_KEPT_REACHES = 4
OnCell = Callable[[CellAnswer], None]
OnLine = Callable[[str], None]
OnPlan = Callable[[Plan], None]


@dataclass(slots=True)
class _Prepared:
    """One run's share of a question, worked out."""

    plan: RunPlan
    record: RunRecord | None
    placed: PlacedVersion
    placements: dict[int, PlacementRow]
    loops: LoopPlan | None
    settled: dict[int, CellRow]


class Answerer:
    """Plans and answers questions of one workspace.

    Args:
        workspace: the project.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._store = workspace.store
        self._checkpoints = CheckpointStore(layout.checkpoints_folder(workspace.home))
        self._write = threading.Lock()
        self._reading = threading.Lock()
        self._reaches: dict[tuple[object, ...], Reach] = {}

    # Planning ------------------------------------------------------------------------------------------------------

    def plan(self, question: Question) -> Plan:
        """What would be done."""
        statements, prepared = self._prepare(question)
        return Plan(question, statements, tuple(p.plan for p in prepared), rates_of(self._store.replays()))

    def _prepare(self, question: Question) -> tuple[tuple[StatementRow, ...], list[_Prepared]]:
        self._workspace.sync()
        self._workspace.require_runs()
        resolved: dict[int, StatementRow] = {}
        for name in question.statements:
            for row in self._resolve(name):
                resolved[row.id] = row
        statements = tuple(resolved.values())
        runs = self._select(question)
        return statements, [self._prepare_run(run, statements, question) for run in runs]

    def _resolve(self, name: str) -> tuple[StatementRow, ...]:
        # A key of an open question needs no look at the newest source: it may have changed since it was asked.
        known = [s for s in self._store.statements() if s.key == name]
        if known and known[0].question and known[0].key != known[0].name:
            return tuple(known)
        return self._workspace.resolve(name)

    def _select(self, question: Question) -> list[RunRow]:
        return list(choose_runs(self._workspace.runs(), self._store, question))

    def _prepare_run(self, run: RunRow, statements: Sequence[StatementRow], question: Question) -> _Prepared:
        cells = {c.statement_id: c for c in self._store.cells(run_ids=[run.id])}
        settled: dict[int, CellRow] = {}
        placements: dict[int, PlacementRow] = {}
        todo: list[StatementRow] = []
        linked = {statement for *_, statement in self._store.call_sites(run.id)}
        for statement in statements:
            cell = cells.get(statement.id)
            placement = (
                self._store.placement(statement.id, run.commit, PROPAGATOR_VERSION)
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
            elif cell is not None and cell.settled and not outdated:
                settled[statement.id] = cell
            else:
                todo.append(statement)
        record: RunRecord | None = None
        environment: Environment | None = None
        placed = PlacedVersion()
        loops: LoopPlan | None = None
        sentence = "nothing to do: every cell is settled" if not todo else ""
        if todo and run.status == "running":
            sentence, todo = "still running: ask again when it is over", []
        elif todo and run.commit is None:
            for statement in todo:
                settled[statement.id] = plain_cell(run, statement, "refused", self._why_no_version(run))
            sentence, todo = "its code was not kept", []
        elif todo:
            record = read_run(layout.run_folder(self._workspace.home, run.id))
            reason = why_not_together(run.header, record)
            if not reason:
                record = let_go_of(record, self._checkpoints.names(run.id))
                environment = choose_environment(record, question.python, self._workspace.home)
                record.header["executable"] = environment.interpreter
            if reason:
                for statement in todo:
                    settled[statement.id] = plain_cell(run, statement, "refused", f"refused: {reason}")
                sentence, todo = reason, []
        if todo and record is not None:
            todo, placed = self._place(run, record, todo, settled, placements, question)
            todo = self._reached(run, record, placed, todo, settled)
            if todo:
                todo, loops, sentence = self._planned(run, record, placed, todo, question)
            else:
                sentence = "nothing to replay: this version takes none of the statements, or has them already"
        refused = tuple((s, placements[s.id]) for s in statements
                        if s.id in placements and placements[s.id].status == "refused")  # fmt: skip
        plan = RunPlan(
            run, tuple(todo), tuple(s for s in statements if s.id in settled), refused, tuple(placements.values()),
            sentence, loops.estimated_seconds if loops else None, run.seconds,
            {"executed": loops.executed, "skipped": loops.skipped, "iterations": loops.iterations, "notes": loops.notes, "warnings": environment.warnings if environment is not None else ()} if loops else {},
        )  # fmt: skip
        return _Prepared(plan, record, placed, placements, loops, settled)

    def _planned(
        self,
        run: RunRow,
        record: RunRecord,
        placed: PlacedVersion,
        todo: list[StatementRow],
        question: Question,
    ) -> tuple[list[StatementRow], LoopPlan | None, str]:
        absent = absent_loops(record, question.iterations)
        if absent:
            return [], None, f"nothing to replay: {absent}"
        loops = self._loops(run, record, placed, todo, question)
        return todo, loops, loops.sentence

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
        """Put the statements into the run's version; what is refused or already there is settled."""
        commit = run.commit or ""
        placed = self._placer(question).place(commit, run.entrypoint, todo)
        remaining: list[StatementRow] = []
        for statement in todo:
            row = placed.row(statement, commit)
            self._store.save_placement(row)
            placements[statement.id] = row
            if row.status == "refused":
                settled[statement.id] = plain_cell(run, statement, "refused", f"refused: {row.sentence}")
            elif not _loads(record, row.file):
                settled[statement.id] = plain_cell(
                    run, statement, "refused", f"refused: this run never loaded {row.file}"
                )
            elif row.status == "already-there":
                self._store.link_call_site(commit, row.file, row.line or 0, statement.name, statement.id)
                settled[statement.id] = self._workspace.recorded_cell(run, statement)
            else:
                remaining.append(statement)
        return remaining, placed

    def _placer(self, question: Question) -> VersionPlacer:
        return self._workspace.placer(allow_effects=question.allow_effects)

    def _loops(
        self, run: RunRow, record: RunRecord, placed: PlacedVersion, todo: Sequence[StatementRow], question: Question,
        *, without: frozenset[str] = frozenset(), jump: bool = True,
    ) -> LoopPlan:  # fmt: skip
        if question.without_checkpoints:
            without = frozenset("*")
        reach = self._reach(run, record, placed)
        targets = _targets(placed, todo, reach)
        return plan_loops(
            record, reach, targets, iterations=question.iterations, without=without, jump=jump,
            held=self._held(run, record, targets), added=_added(placed), rates=rates_of(self._store.replays()),
            unskippable=audited_loops(self._store.replays(), self._store.runs(), run.commit),
        )  # fmt: skip

    def _reached(
        self,
        run: RunRow,
        record: RunRecord,
        placed: PlacedVersion,
        todo: list[StatementRow],
        settled: dict[int, CellRow],
    ) -> list[StatementRow]:
        """Leave out, as refused, what a run that died never came to."""
        if all(one.finished for one in record.ranks) or not todo:
            return todo
        reach = self._reach(run, record, placed)
        never = never_reached(record, reach, _targets(placed, todo, reach), _added(placed))
        for statement in todo:
            if statement.key in never:
                settled[statement.id] = plain_cell(
                    run, statement, "refused", f"refused: {never[statement.key]}"
                )
        return [statement for statement in todo if statement.key not in never]

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

    def _loaded_sources(self, run: RunRow, record: RunRecord, placed: PlacedVersion) -> dict[str, str]:
        """The texts of the files that the run said it had loaded, and of those that statements were put into."""
        tree = self._workspace.placer().tree(run.commit or "")
        files = sorted(f for f in loaded_files(record) | placed.files.keys() if f.endswith(".py"))
        texts = {f: placed.files[f].text if f in placed.files else tree.read(f) for f in files}
        return {f: text for f, text in texts.items() if text is not None}

    def _held(self, run: RunRow, record: RunRecord, targets: Sequence[Target]) -> Callable[[str], Held]:
        """What each checkpoint lacks of what the statements read; one that can't be read is met, and named, later."""
        store = self._checkpoints
        chains = frozenset(chain for target in targets for chain in target.reads.chains)

        @functools.cache
        def held(name: str) -> Held:
            try:
                return held_by(store.read(run.id, name), chains)
            except FlorError:
                return Held()

        return held

    # Answering -----------------------------------------------------------------------------------------------------

    def answer(
        self,
        question: Question,
        *,
        on_cell: OnCell | None = None,
        on_line: OnLine | None = None,
        on_plan: OnPlan | None = None,
    ) -> Report:
        """Replay what is open. Stopped by an exception such as KeyboardInterrupt, it ends its children and keeps what is finished."""
        begin = time.perf_counter()
        statements, prepared = self._prepare(question)
        if on_plan is not None:
            on_plan(
                Plan(question, statements, tuple(p.plan for p in prepared), rates_of(self._store.replays()))
            )
        jobs, cells = self._within_budget(question, statements, prepared)
        slots = question.workers or self._default_slots(jobs)
        state = _Answers(on_cell, self._workspace.backend(slots), question.max_seconds)
        for item, statement, cell in cells:
            state.tell(item, statement, cell)
        bounds = self._split(question, jobs, slots)
        carriers = [self._carrier(item, question, state, on_line) for item in jobs]
        state.spend(sum(item.plan.estimated_seconds or 0.0 for item in jobs))
        for carrier, item, parts in zip(carriers, jobs, bounds, strict=True):
            if item.loops is not None:
                state.backend.expect(carrier.example(item.placed, item.loops), len(parts or ()) or 1)
        with ThreadPoolExecutor(
            max_workers=max(1, min(slots, len(jobs))), thread_name_prefix="flor-run"
        ) as pool:
            futures = [
                pool.submit(self._answer_run, item, carrier, parts, state)
                for item, carrier, parts in zip(jobs, carriers, bounds, strict=True)
            ]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._workspace.stop_backend()
                raise
        plan = Plan(question, statements, tuple(p.plan for p in prepared))
        order = {run.run.id: i for i, run in enumerate(plan.runs)}
        told = tuple(sorted(state.cells, key=lambda c: (order[c.run.id], c.statement.id)))
        return Report(plan, told, tuple(state.replays), state.children, time.perf_counter() - begin)

    def _within_budget(
        self, question: Question, statements: Sequence[StatementRow], prepared: Sequence[_Prepared]
    ) -> tuple[list[_Prepared], list[tuple[_Prepared, StatementRow, CellRow]]]:
        """The runs to replay, longest first, and the cells that are known without a replay."""
        started = 0.0
        jobs: list[_Prepared] = []
        cells: list[tuple[_Prepared, StatementRow, CellRow]] = []
        for item in sorted(
            prepared, key=lambda p: p.plan.run.started, reverse=True
        ):  # newest first, where time is bounded
            estimate = item.plan.estimated_seconds or 0.0
            for statement in statements:
                if statement.id in item.settled:
                    self._settle(item.settled[statement.id])
                    cells.append((item, statement, item.settled[statement.id]))
            if not item.plan.todo:
                continue
            if question.max_seconds is not None and started + estimate > question.max_seconds:
                for statement in item.plan.todo:
                    words = f"open: replaying it (about {estimate:.0f} s) is beyond the {question.max_seconds:.0f} s that were asked"
                    cells.append((item, statement, plain_cell(item.plan.run, statement, "open", words)))
                continue
            started += estimate
            jobs.append(item)
        jobs.sort(key=lambda p: p.plan.estimated_seconds or 0.0, reverse=True)
        return jobs, cells

    def _default_slots(self, jobs: Sequence[_Prepared]) -> int:
        """One child per core, fewer where memory is short."""
        needs = [memory_needed(item.record) for item in jobs if item.record is not None]
        return min(default_slots(), max(1, int(available_memory() // max(needs, default=1))))

    def _split(self, question: Question, jobs: Sequence[_Prepared], slots: int) -> list[Bounds | None]:
        """Where each run's segments begin and end."""
        rates = rates_of(self._store.replays())
        costs = [
            costs_of(item.record, item.loops, rates)
            if item.loops is not None and item.record is not None
            else None
            for item in jobs
        ]
        if question.segments:
            return [None if c is None else divide(c, question.segments) for c in costs]
        # As many threads as the recorded run had must find a core each: with fewer of them, they wait for one another.
        threads = max((torch_threads(item.record) for item in jobs if item.record is not None), default=1)
        workers = max(1, slots // threads)
        return choose(costs, [item.plan.estimated_seconds or 0.0 for item in jobs], workers)

    def _settle(self, cell: CellRow) -> None:
        known = self._store.cells(run_ids=[cell.run_id], statement_ids=[cell.statement_id])
        if not known or (known[0].status, known[0].sentence) != (cell.status, cell.sentence):
            self._store.save_cell(cell)

    def _answer_run(self, item: _Prepared, carrier: Carrier, bounds: Bounds | None, state: _Answers) -> None:
        run = item.plan.run
        folder = self._workspace.home / "replays"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{run.id}.lock"):
            todo = self._still_open(item, state)
            if not todo:
                return
            try:
                if item.loops is not None and len(todo) == len(item.plan.todo):
                    carrier.carry(todo, item.placed, item.loops, bounds)
                else:
                    carrier.carry(todo, *carrier.replan(todo), None)
            except StoppedError:
                return
            except FlorError as error:
                for statement in todo:
                    carrier.fail(statement, str(error), (), None)

    def _still_open(self, item: _Prepared, state: _Answers) -> list[StatementRow]:
        """What nobody else has answered while we waited for the run."""
        cells = {c.statement_id: c for c in self._store.cells(run_ids=[item.plan.run.id])}
        todo: list[StatementRow] = []
        for statement in item.plan.todo:
            cell = cells.get(statement.id)
            if cell is not None and cell.settled:
                state.tell(item, statement, cell)
            else:
                todo.append(statement)
        return todo

    def _carrier(
        self, item: _Prepared, question: Question, state: _Answers, on_line: OnLine | None
    ) -> Carrier:
        run, record = item.plan.run, item.record
        assert record is not None

        def replan(
            todo: Sequence[StatementRow], *, without: frozenset[str] = frozenset(), jump: bool = True
        ) -> tuple[PlacedVersion, LoopPlan]:
            placed = self._placer(question).place(run.commit or "", run.entrypoint, todo)
            return placed, self._loops(run, record, placed, todo, question, without=without, jump=jump)

        def tell(statement: StatementRow, cell: CellRow) -> None:
            state.tell(item, statement, cell)

        passing = Passing(
            state.backend, self._tainted(run, record), on_line, state.started, question.tolerance
        )
        libraries = preloadable(self._loaded_sources(run, record, item.placed))
        timeout = question.timeout_seconds or max(LEAST_TIMEOUT, TIMEOUT_FACTOR * (run.seconds or 0.0))
        place_ = Places(self._workspace.home, self._workspace.root, self._workspace.cache)
        approximate = why_approximate(self._store, run)
        return Carrier(
            self._store, self._write, place_, passing, run, record, replan=replan, tell=tell, done=state.replayed,
            allows=state.allows, timeout=timeout, libraries=libraries if question.warm else None,
            partial=question.iterations is not None, approximate=approximate,
        )  # fmt: skip

    def _tainted(self, run: RunRow, record: RunRecord) -> frozenset[tuple[str, int]]:
        found: set[tuple[str, int]] = set()
        for file in sorted({r.file for one in record.ranks for r in one.records}):
            text = self._workspace.repository.read(run.commit or "", file)
            if text is not None:
                found |= tainted_statements(file, text)
        return frozenset(found)


class _Answers:
    """What became known so far; told from several threads."""

    def __init__(self, on_cell: OnCell | None, backend: LocalBackend, max_seconds: float | None) -> None:
        self._on_cell = on_cell
        self._left = max_seconds
        self.backend = backend
        self._lock = threading.Lock()
        self.cells: list[CellAnswer] = []
        self.replays: list[ReplayRow] = []
        self.children = 0

    def tell(self, item: _Prepared, statement: StatementRow, cell: CellRow) -> None:
        answer = CellAnswer(item.plan.run, statement, cell, item.placements.get(statement.id))
        with self._lock:
            self.cells.append(answer)
            if self._on_cell is not None:
                self._on_cell(answer)

    def spend(self, seconds: float) -> None:
        """Take something off the seconds that were asked."""
        with self._lock:
            if self._left is not None:
                self._left -= seconds

    def allows(self, seconds: float) -> bool:
        """Whether something that was not planned stays within the seconds that were asked; takes them off if so."""
        with self._lock:
            if self._left is None:
                return True
            if self._left < seconds:
                return False
            self._left -= seconds
            return True

    def started(self) -> None:
        with self._lock:
            self.children += 1

    def replayed(self, replay: ReplayRow) -> None:
        with self._lock:
            self.replays.append(replay)


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


def loaded_files(record: RunRecord) -> frozenset[str]:
    """The repository's files that a run said it had loaded."""
    events = (event for one in record.ranks for event in one.events)
    return frozenset(name for _, kind, parts in events if kind == "m" for name in parts[1])


def _loads(record: RunRecord, file: str) -> bool:
    """Whether the run loaded a file. A run that died only said what it had loaded at its start: it may have loaded more."""
    return file in loaded_files(record) or any(one.ended is None for one in record.ranks)


def _function_at(text: str, line: int) -> str:
    """The qualified name of the function around a line, `<module>` at the top."""
    import ast

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

    visit(ast.parse(text), [])
    return ".".join(best) if best else "<module>"
