"""Answer a question: what is known is read, what is open is replayed, what can't be is refused with its reason."""

from __future__ import annotations

import functools
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from flor_dagster.errors import FlorError
from flor_dagster.propagation import PROPAGATOR_VERSION
from flor_dagster.recording import layout
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.recording.exits import EXIT_DAMAGED, EXIT_EFFECT, EXIT_RESTORE
from flor_dagster.recording.values import Failure, decode
from flor_dagster.replay.estimating import rates_of
from flor_dagster.replay.exactness import why_approximate, why_not_alone
from flor_dagster.replay.executing import Job, Outcome, execute
from flor_dagster.replay.holding import Held, held_by
from flor_dagster.replay.model import CellAnswer, Plan, Question, Report, RunPlan
from flor_dagster.replay.placing import PlacedVersion, VersionPlacer
from flor_dagster.replay.planning import LoopPlan, Target, absent_loops, never_reached, plan_loops
from flor_dagster.replay.reach import Reach
from flor_dagster.replay.record import RunRecord, read_record
from flor_dagster.replay.selecting import choose_runs
from flor_dagster.replay.verifying import Verdict, tainted_statements, verify
from flor_dagster.store.models import CellRow, PlacementRow, ReplayRow, RunRow, StatementRow

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace

_KEPT_REACHES = 4
OnCell = Callable[[CellAnswer], None]
OnLine = Callable[[str], None]


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
        placed = PlacedVersion()
        loops: LoopPlan | None = None
        sentence = "nothing to do: every cell is settled" if not todo else ""
        if todo and run.status == "running":
            sentence, todo = "still running: ask again when it is over", []
        elif todo and run.commit is None:
            for statement in todo:
                settled[statement.id] = _cell(run, statement, "refused", self._why_no_version(run))
            sentence, todo = "its code was not kept", []
        elif todo:
            reason = why_not_alone(run, None)
            if not reason:
                record = read_record(self._journal(run))
                reason = why_not_alone(run, record)
            if reason:
                for statement in todo:
                    settled[statement.id] = _cell(run, statement, "refused", f"refused: {reason}")
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
            {"executed": loops.executed, "skipped": loops.skipped, "iterations": loops.iterations, "notes": loops.notes} if loops else {},
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

    def _journal(self, run: RunRow) -> Path:
        return layout.run_folder(self._workspace.home, run.id) / "journal.0.jsonl"

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
                settled[statement.id] = _cell(run, statement, "refused", f"refused: {row.sentence}")
            elif not _loads(record, row.file):
                settled[statement.id] = _cell(
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
        if record.finished or not todo:
            return todo
        reach = self._reach(run, record, placed)
        never = never_reached(record, reach, _targets(placed, todo, reach), _added(placed))
        for statement in todo:
            if statement.key in never:
                settled[statement.id] = _cell(run, statement, "refused", f"refused: {never[statement.key]}")
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

    def _held(self, run: RunRow, record: RunRecord, targets: Sequence[Target]) -> Callable[[str], Held]:
        """What each checkpoint lacks of what the statements read; one that can't be read is met, and named, later."""
        store = CheckpointStore(layout.checkpoints_folder(self._workspace.home))
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
        self, question: Question, *, on_cell: OnCell | None = None, on_line: OnLine | None = None
    ) -> Report:
        """Replay what is open."""
        begin = time.perf_counter()
        statements, prepared = self._prepare(question)
        state = _Answers(on_cell)
        started = 0.0
        jobs: list[_Prepared] = []
        for item in sorted(
            prepared, key=lambda p: p.plan.run.started, reverse=True
        ):  # newest first, where time is bounded
            estimate = item.plan.estimated_seconds or 0.0
            for statement in statements:
                if statement.id in item.settled:
                    self._settle(item.settled[statement.id])
                    state.tell(item, statement, item.settled[statement.id])
            if not item.plan.todo:
                continue
            if question.max_seconds is not None and started + estimate > question.max_seconds:
                for statement in item.plan.todo:
                    words = f"open: replaying it (about {estimate:.0f} s) is beyond the {question.max_seconds:.0f} s that were asked"
                    state.tell(item, statement, _cell(item.plan.run, statement, "open", words))
                continue
            started += estimate
            jobs.append(item)
        jobs.sort(key=lambda p: p.plan.estimated_seconds or 0.0, reverse=True)
        workers = question.workers or os.cpu_count() or 1
        with ThreadPoolExecutor(max_workers=max(1, min(workers, len(jobs) or 1))) as pool:
            futures = [pool.submit(self._answer_run, item, question, state, on_line) for item in jobs]
            for future in futures:
                future.result()
        plan = Plan(question, statements, tuple(p.plan for p in prepared))
        order = {run.run.id: i for i, run in enumerate(plan.runs)}
        cells = tuple(sorted(state.cells, key=lambda c: (order[c.run.id], c.statement.id)))
        return Report(plan, cells, tuple(state.replays), state.children, time.perf_counter() - begin)

    def _settle(self, cell: CellRow) -> None:
        known = self._store.cells(run_ids=[cell.run_id], statement_ids=[cell.statement_id])
        if not known or (known[0].status, known[0].sentence) != (cell.status, cell.sentence):
            self._store.save_cell(cell)

    def _answer_run(
        self, item: _Prepared, question: Question, state: _Answers, on_line: OnLine | None
    ) -> None:
        run = item.plan.run
        folder = self._workspace.home / "replays"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{run.id}.lock"):
            todo = self._still_open(item, state)
            if not todo:
                return
            try:
                self._replay(item, todo, question, state, on_line)
            except FlorError as error:
                for statement in todo:
                    self._fail(item, statement, str(error), (), state, None)

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

    def _replay(
        self,
        item: _Prepared,
        todo: list[StatementRow],
        question: Question,
        state: _Answers,
        on_line: OnLine | None,
    ) -> None:
        run, record = item.plan.run, item.record
        if record is None:
            return
        placed, loops = item.placed, item.loops
        if loops is None or len(todo) != len(item.plan.todo):
            placed = self._placer(question).place(run.commit or "", run.entrypoint, todo)
            loops = self._loops(run, record, placed, todo, question)
        # Each retry leaves out what the one before met: a jump, all checkpoints, one statement.
        for _ in range(len(todo) + 3):
            replay = self._begin(run, loops)
            job = Job(
                replay.id, run, record, placed, tuple(todo), loops, self._workspace.home, self._workspace.root,
                self._workspace.cache, max(600.0, 20 * (run.seconds or 0.0)),
            )  # fmt: skip
            state.started()
            outcome = execute(job, on_line)
            if outcome.status == EXIT_RESTORE and (loops.start is not None or loops.skipped):
                self._store.fail_replay(replay.id, outcome.reason)
                jump = loops.start is None
                without = frozenset("*") if jump else frozenset[str]()
                if on_line is not None:
                    on_line(
                        f"{run.key}: {outcome.reason}; {'executing it from the beginning' if jump else 'not jumping'}"
                    )
                loops = self._loops(run, record, placed, todo, question, without=without, jump=False)
                continue
            if outcome.status == EXIT_EFFECT:
                self._store.fail_replay(replay.id, outcome.reason)
                todo = self._refuse_effect(item, todo, outcome, state)
                if not todo:
                    return
                placed = self._placer(question).place(run.commit or "", run.entrypoint, todo)
                loops = self._loops(run, record, placed, todo, question)
                continue
            self._conclude(item, todo, job, replay, outcome, question, state)
            return

    def _begin(self, run: RunRow, loops: LoopPlan) -> ReplayRow:
        now = datetime.now().astimezone()
        replay = ReplayRow(
            secrets.token_hex(8), run.id, now, None, loops.estimated_seconds, "running", None, 0, 0, loops.sentence,
            {"executed": loops.executed, "skipped": loops.skipped, "start": loops.start, "sentence": loops.sentence,
             "cost": loops.cost},
        )  # fmt: skip
        self._store.begin_replay(replay)
        return replay

    def _refuse_effect(
        self, item: _Prepared, todo: list[StatementRow], outcome: Outcome, state: _Answers
    ) -> list[StatementRow]:
        key = next(
            (p[2] for _, k, p in read_record(outcome.journal).events if k == "x" and p[1] == "effect"), None
        )
        for statement in todo:
            if statement.key == key:
                words = (
                    f"refused: evaluating `{statement.expression}` draws random numbers, which would change the training "
                    "that is replayed"
                )
                cell = _cell(item.plan.run, statement, "refused", words)
                self._store.save_cell(cell)
                state.tell(item, statement, cell)
        return [s for s in todo if s.key != key]

    def _fail(
        self,
        item: _Prepared,
        statement: StatementRow,
        words: str,
        tail: Sequence[str],
        state: _Answers,
        replay: str | None,
    ) -> None:
        cell = replace(
            _cell(item.plan.run, statement, "failed", f"failed: {words}"), replay_id=replay,
            detail={"tail": list(tail), "commit": item.plan.run.commit},
        )  # fmt: skip
        self._store.save_cell(cell)
        state.tell(item, statement, cell)

    def _conclude(
        self, item: _Prepared, todo: list[StatementRow], job: Job, replay: ReplayRow, outcome: Outcome,
        question: Question, state: _Answers,
    ) -> None:  # fmt: skip
        run = item.plan.run
        if outcome.status != 0:
            words = outcome.reason or f"the child ended with status {outcome.status}"
            if outcome.status == EXIT_DAMAGED:
                words += ". Ask again with --without-checkpoints to execute the run from its beginning"
            elif outcome.status < 0:
                words = f"the child was ended by signal {-outcome.status} after {outcome.seconds:.0f} s"
            self._store.fail_replay(replay.id, words)
            for statement in todo:
                self._fail(item, statement, words, outcome.tail, state, replay.id)
            return
        replayed = read_record(outcome.journal)
        lines = {file: tuple(by_line) for file, by_line in outcome.statements.items()}
        verdict = verify(job.record, replayed, job.loops, lines, self._tainted(run, job.record))
        partial = question.iterations is not None
        cells = [
            self._cell_of(item, statement, job, replayed, outcome, verdict, replay.id, partial=partial)
            for statement in todo
        ]
        done = replace(
            replay, seconds=outcome.seconds, status="finished", fidelity=verdict.fidelity,
            compared_records=verdict.records, compared_digests=verdict.digests, sentence=verdict.sentence,
        )  # fmt: skip
        with self._write:
            self._store.commit_replay(done, [outcome.journal], cells)
        state.replayed(done)
        for statement, cell in zip(todo, cells, strict=True):
            state.tell(item, statement, cell)

    def _tainted(self, run: RunRow, record: RunRecord) -> frozenset[tuple[str, int]]:
        found: set[tuple[str, int]] = set()
        for file in sorted({r.file for r in record.records}):
            text = self._workspace.repository.read(run.commit or "", file)
            if text is not None:
                found |= tainted_statements(file, text)
        return frozenset(found)

    def _cell_of(
        self, item: _Prepared, statement: StatementRow, job: Job, replayed: RunRecord, outcome: Outcome,
        verdict: Verdict, replay_id: str, *, partial: bool,
    ) -> CellRow:  # fmt: skip
        file, placement = job.placed.placements[statement.id]
        by_line = outcome.statements.get(file, {})
        values = [
            decode(json.loads(r.text))
            for r in replayed.records
            if r.file == file and by_line.get(r.line) == statement.key
        ]
        failures = [v for v in values if isinstance(v, Failure)]
        good = len(values) - len(failures)
        fidelity = verdict.fidelity
        words = f"{good} value{'s' * (good != 1)}, {verdict.sentence}"
        status = "open" if partial else "replayed"
        if fidelity == "diverged":
            status, words = "failed", verdict.sentence
        elif failures:
            first = failures[0]
            words = f"{first.type}: {first.message} ({file}, line {first.line}) in {len(failures)} of {len(values)} loop contexts"
            status = "failed" if not good else status
            words = words if not good else f"{good} values; {words}; {verdict.sentence}"
        detail: dict[str, Any] = {
            "values": summarise(values), "diff": placement.diff, "seconds": outcome.seconds, "commit": item.plan.run.commit,
            "file": file, "line": placement.lines[0], "plan": job.loops.sentence, "tail": list(outcome.tail)[-5:],
        }  # fmt: skip
        approximate = why_approximate(self._store, item.plan.run)
        if approximate:
            words += f"; its version is approximate: {approximate}"
        if partial and status == "open":
            words = f"asked for some iterations only: {words}"
        return CellRow(
            item.plan.run.id, statement.id, status, fidelity, words, len(values), replay_id,
            datetime.now().astimezone(), detail,
        )  # fmt: skip


class _Answers:
    """What became known so far; told from several threads."""

    def __init__(self, on_cell: OnCell | None) -> None:
        self._on_cell = on_cell
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

    def started(self) -> None:
        with self._lock:
            self.children += 1

    def replayed(self, replay: ReplayRow) -> None:
        with self._lock:
            self.replays.append(replay)


def _cell(run: RunRow, statement: StatementRow, status: Any, sentence: str) -> CellRow:
    return CellRow(run.id, statement.id, status, None, sentence, 0, None, datetime.now().astimezone())


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
    modules = {name for _, kind, parts in record.events if kind == "m" for name in parts[1]}
    return file in modules or record.ended is None


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


def summarise(values: Sequence[Any]) -> dict[str, Any]:
    """First, last, and for numbers the extremes."""
    good = [v for v in values if not isinstance(v, Failure)]
    if not good:
        return {"count": 0}
    summary: dict[str, Any] = {"count": len(good), "first": _plain(good[0]), "last": _plain(good[-1])}
    numbers = [v for v in good if isinstance(v, int | float) and not isinstance(v, bool) and v == v]
    if numbers:
        summary |= {"min": min(numbers), "max": max(numbers)}
    return summary


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) or value is None else repr(value)[:200]
