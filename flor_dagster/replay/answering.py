"""Answer a question: what is known is read, what is open is replayed, what can't be is refused with its reason."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from flor_dagster.errors import FlorError, ReplayError
from flor_dagster.replay.attempting import Attempt, Passing
from flor_dagster.replay.carrying import Carrier, Places
from flor_dagster.replay.cautions import clock_branches, clock_statements
from flor_dagster.replay.cells import how_it_fired, plain_cell
from flor_dagster.replay.exactness import why_approximate, why_doubtful
from flor_dagster.replay.firing import Firing
from flor_dagster.replay.keeping import child_timeout
from flor_dagster.replay.locked import environment_of
from flor_dagster.replay.model import CellAnswer, Plan, Question, Report
from flor_dagster.replay.placing import PlacedVersion
from flor_dagster.replay.planning import LoopPlan
from flor_dagster.replay.preparing import Prepared, Preparer
from flor_dagster.replay.record import loaded_files
from flor_dagster.replay.resources import available_memory, default_slots, memory_needed, torch_threads
from flor_dagster.replay.run_lock import StoppedError, replays_of
from flor_dagster.replay.segments import Bounds, choose, costs_of, divide
from flor_dagster.replay.users import user_name
from flor_dagster.replay.warmth import preloadable
from flor_dagster.replay.workers import LocalBackend
from flor_dagster.store.models import CellRow, PlacementRow, ReplayRow, StatementRow

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace

_KEPT_REACHES = 4
OnCell = Callable[[CellAnswer], None]
OnLine = Callable[[str], None]
OnPlan = Callable[[Plan], None]


class Answerer:
    """Plans and answers questions of one workspace.

    Args:
        workspace: the project.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._store = workspace.store
        self._preparer = Preparer(workspace)
        self._write = threading.Lock()

    # Planning ------------------------------------------------------------------------------------------------------

    def plan(self, question: Question) -> Plan:
        """What would be done."""
        statements, prepared = self._preparer.prepare(question)
        return Plan(question, statements, tuple(p.plan for p in prepared), self._preparer.rates)

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
        statements, prepared = self._preparer.prepare(question)
        if on_plan is not None:
            on_plan(Plan(question, statements, tuple(p.plan for p in prepared), self._preparer.rates))
        if question.accept_likely:
            self._accept(question, prepared)
        jobs, cells = self._within_budget(question, statements, prepared)
        slots = question.workers or self._default_slots(jobs)
        state = _Answers(on_cell, self._workspace.backend(slots), question.max_seconds)
        for item, statement, cell in cells:
            state.tell(item, statement, cell)
        jobs = self._with_environments(jobs, question, state, on_line)
        bounds = self._split(question, jobs, slots)
        carriers = [self._carrier(item, question, state, on_line) for item in jobs]
        state.spend(sum(item.plan.estimated_seconds or 0.0 for item in jobs))
        for carrier, item, parts in zip(carriers, jobs, bounds, strict=True):
            if item.loops is not None:
                state.backend.expect(carrier.example(item.placed, item.loops), len(parts or ()) or 1)
        # Twice as many as children at once: checkouts are written, and journals compared, beside the children that run.
        with ThreadPoolExecutor(
            max_workers=max(1, min(2 * slots, len(jobs))), thread_name_prefix="flor-run"
        ) as pool:
            futures = [
                pool.submit(self._answer_run, item, carrier, parts, state, question, on_line)
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

    def _accept(self, question: Question, prepared: Sequence[Prepared]) -> None:
        """Note that a person confirmed the likely places of what is to be replayed."""
        by = question.accepted_by or user_name()
        told: dict[tuple[int, str, str], PlacementRow] = {}
        for item in prepared:
            for statement in item.plan.todo:
                row = item.placements[statement.id]
                if row.waits:
                    key = row.statement_id, row.commit, row.place
                    told[key] = told.get(key) or self._store.confirm_place(row, by)
                    item.placements[statement.id] = told[key]

    def _within_budget(
        self, question: Question, statements: Sequence[StatementRow], prepared: Sequence[Prepared]
    ) -> tuple[list[Prepared], list[tuple[Prepared, StatementRow, CellRow]]]:
        """The runs to replay, longest first, and the cells that are known without a replay."""
        started = 0.0
        jobs: list[Prepared] = []
        cells: list[tuple[Prepared, StatementRow, CellRow]] = []
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

    def _with_environments(
        self, jobs: Sequence[Prepared], question: Question, state: _Answers, on_line: OnLine | None
    ) -> list[Prepared]:
        """Make the environments that are lacking; a run whose environment can't be made has failed."""
        able: list[Prepared] = []
        for item in jobs:
            try:
                if item.lock is not None and item.record is not None:
                    environment_of(item.lock, self._workspace.cache, on_line)
                    self._preparer.environment(item.record, question, item.lock)
            except ReplayError as error:
                for statement in item.plan.todo:
                    cell = plain_cell(item.plan.run, statement, "failed", f"failed: {error}")
                    self._store.save_cell(cell)
                    state.tell(item, statement, cell)
            else:
                able.append(item)
        return able

    def _default_slots(self, jobs: Sequence[Prepared]) -> int:
        """One child per core, fewer where memory is short."""
        needs = [memory_needed(item.record) for item in jobs if item.record is not None]
        return min(default_slots(), max(1, int(available_memory() // max(needs, default=1))))

    def _split(self, question: Question, jobs: Sequence[Prepared], slots: int) -> list[Bounds | None]:
        """Where each run's segments begin and end."""
        rates = self._preparer.rates
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

    def _answer_run(
        self, item: Prepared, carrier: Carrier, bounds: Bounds | None, state: _Answers, question: Question,
        on_line: OnLine | None,
    ) -> None:  # fmt: skip
        run = item.plan.run
        with (
            contextlib.suppress(StoppedError),
            replays_of(self._workspace.home, run, on_line, lambda: state.backend.stopped),
        ):
            todo = self._still_open(item, state, question)
            if not todo:
                return
            try:
                # From here on nobody collects this run's checkpoints; what went since it was planned is planned without.
                whole = item.record is None or self._preparer.look_again(run, item.record)
                if whole and item.loops is not None and len(todo) == len(item.plan.todo):
                    carrier.carry(todo, item.placed, item.loops, bounds)
                else:
                    carrier.carry(todo, *carrier.replan(todo), None)
            except FlorError as error:
                for statement in todo:
                    carrier.fail(statement, str(error), (), None)

    def _still_open(self, item: Prepared, state: _Answers, question: Question) -> list[StatementRow]:
        """What nobody else has answered while we waited for the run."""
        cells = {c.statement_id: c for c in self._store.cells(run_ids=[item.plan.run.id])}
        todo: list[StatementRow] = []
        for statement in item.plan.todo:
            cell = self._preparer.answered(item, cells.get(statement.id), question)
            if cell is not None:
                state.tell(item, statement, cell)
            else:
                todo.append(statement)
        return todo

    def _carrier(
        self, item: Prepared, question: Question, state: _Answers, on_line: OnLine | None
    ) -> Carrier:
        run, record, prepare = item.plan.run, item.record, self._preparer
        assert record is not None

        def replan(
            todo: Sequence[StatementRow], *, without: frozenset[str] = frozenset(), jump: bool = True
        ) -> tuple[PlacedVersion, LoopPlan]:
            prepare.look_again(run, record)
            placer = self._workspace.placer(allow_effects=question.allow_effects)
            placed = placer.place(run.commit or "", run.entrypoint, todo)
            prepare.look_at_places(run, placed, todo, question)
            return placed, prepare.loops(
                run, record, placed, todo, question, item.earlier, without=without, jump=jump
            )

        def tell(statement: StatementRow, cell: CellRow) -> None:
            state.tell(item, statement, cell)

        def read(file: str) -> str | None:
            return self._workspace.repository.read(run.commit or "", file)

        def firing(
            statement: StatementRow, placed: PlacedVersion, loops: LoopPlan, attempt: Attempt
        ) -> Firing:
            source = self._workspace.placer().tree(statement.source).read(statement.file) or ""
            return how_it_fired(statement, source, record, placed, loops, attempt)

        passing = Passing(
            state.backend, clock_statements(record, read), on_line, state.started, question.tolerance,
            why_doubtful(self._workspace.repository, self._store, run),
        )  # fmt: skip
        libraries = preloadable(prepare.loaded_sources(run, record, item.placed))
        timeout = question.timeout_seconds or child_timeout(run)
        place_ = Places(self._workspace.home, self._workspace.root, self._workspace.cache)
        approximate = why_approximate(self._store, run)
        return Carrier(
            self._store, self._write, place_, passing, run, record, replan=replan, tell=tell, done=state.replayed,
            allows=state.allows, timeout=timeout, libraries=libraries if question.warm else None,
            share=lambda statement, placed: prepare.share(item, statement, placed, question), approximate=approximate,
            branches=clock_branches(record, read),
            firing=firing,
            sources=lambda: {f: text for f in loaded_files(record) if f.endswith(".py") and (text := read(f)) is not None},
        )  # fmt: skip


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

    def tell(self, item: Prepared, statement: StatementRow, cell: CellRow) -> None:
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
