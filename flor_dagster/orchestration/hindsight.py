"""The asset `hindsight`: cells asked in Dagster, answered by the workspace, an event per settled cell."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import dagster as dg

from flor_dagster.errors import FlorError
from flor_dagster.orchestration.checks import (
    FIDELITY,
    fidelity_check_spec,
    fidelity_evaluation,
    fidelity_result,
)
from flor_dagster.orchestration.events import (
    cell_materialization,
    confirm_link,
    failure_text,
    place_of,
    waiting_observation,
)
from flor_dagster.orchestration.metadata import fence_value, log_line
from flor_dagster.orchestration.partitions import cell_of
from flor_dagster.orchestration.private import backfill_request, unchecked_materialization
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.orchestration.specs import spec_of
from flor_dagster.orchestration.translator import DagsterFlorTranslator
from flor_dagster.replay.model import CellAnswer, Question
from flor_dagster.replay.workspace import Workspace
from flor_dagster.showing import shown
from flor_dagster.store.models import RunRow, StatementRow

Cell = tuple[str, str]
"""(training run's key, statement's key)"""


@dataclass
class Answers:
    """What became of the asked cells; `started` counts the child processes."""

    cells: dict[Cell, CellAnswer] = field(default_factory=dict[Cell, CellAnswer])
    problems: dict[Cell, str] = field(default_factory=dict[Cell, str])
    started: int = 0


def build_hindsight_asset(
    project: FlorProject, *, translator: DagsterFlorTranslator | None = None, pool: str | None = None
) -> dg.AssetsDefinition:
    """The asset `hindsight`, training run by statement, with its check `replay_fidelity`.

    A backfill of it is one Dagster run per contiguous range of cells; whichever gets to a training run first answers
    all the cells of that run that the backfill asks for, in one pass, and the others find them settled.

    Args:
        project: the project.
        translator: renames, regroups, annotates.
        pool: Dagster concurrency pool of the step.
    """
    spec = spec_of(project, "hindsight", translator)

    @dg.multi_asset(
        name=spec.key.to_python_identifier(),
        specs=[spec],
        check_specs=[fidelity_check_spec(spec.key)],
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=pool,
    )
    def hindsight(
        context: dg.AssetExecutionContext,
    ) -> Iterator[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckResult]:
        own = [cell_of(key) for key in context.partition_keys]
        with project.workspace() as workspace, dagster_asks(workspace, context.run.run_id):
            answers = _answer_for(context, workspace, own, spec.key)
            for cell in own:
                answer = answers.cells.get(cell)
                if answer is not None and answer.cell.settled:
                    yield cell_materialization(project, answer, spec.key)
                elif answer is not None and waits(answer):
                    yield waiting_observation(project, answer, spec.key, context.run)
            yield fidelity_result(workspace, spec.key)
            # Of Dagster runs side by side the last to end need not be the last that was planned, whose verdict Dagster
            # shows; and it takes that for none once the asset has a newer event.
            newest = unchecked_materialization(context, dg.AssetCheckKey(spec.key, FIDELITY))
            if newest is not None:
                context.instance.report_runless_asset_event(fidelity_evaluation(workspace, spec.key, newest))
        failures = [_failure(answers, cell) for cell in own if _failure(answers, cell)]
        likely = [answers.cells[cell] for cell in own if cell in answers.cells and waits(answers.cells[cell])]
        links = {place_of(answer): confirm_link(project, answer, context.run) for answer in likely}
        log_line(context.log.info)(
            f"{len(own) - len(failures)} of {len(own)} cells are settled; {answers.started} children ran."
        )
        if failures:
            raise failed_cells(failures, links)

    return hindsight


def dagster_asks(workspace: Workspace, run_id: str) -> AbstractContextManager[object]:
    """Say, as long as it lasts, that this process answers cells for a Dagster run."""
    return workspace.asking(f"Dagster run {run_id[:8]}", run_id)


def waits(answer: CellAnswer) -> bool:
    """Whether a cell waits for a person to confirm its statement's place."""
    return answer.cell.status == "open" and answer.cell.place == "likely"


def failed_cells(
    failures: Sequence[str], links: Mapping[str, dg.MetadataValue[Any]] | None = None
) -> dg.Failure:
    """The failure of a Dagster run whose cells could not all be settled: each named, with its reason.

    Args:
        failures: the cells, in words.
        links: places that a person has to confirm → where to do that.
    """
    first = f"{len(failures)} cells failed; the others are settled."
    if links:
        first = f"{len(failures)} cells failed or wait for a person to confirm their place; the others are settled."
    return dg.Failure(
        description=shown("\n\n".join([first, *failures])),
        metadata={
            **{f"confirm {place}": link for place, link in (links or {}).items()},
            "failed cells": fence_value(*failures),
        },
        allow_retries=False,
    )


def answer_cells(
    workspace: Workspace,
    asked: Iterable[Cell],
    *,
    max_seconds: float | None = None,
    say: Callable[[str], None],
    detail: Callable[[str], None],
) -> Answers:
    """Ask the workspace for cells; cells of several statements of one training run are one question.

    Args:
        workspace: the open project.
        asked: cells by keys; what is settled already costs nothing.
        max_seconds: start no further question once this time is over; cells not reached are in neither result.
        say: told every cell's answer.
        detail: told the children's lines.
    """
    answers = Answers()
    runs = {run.key: run for run in workspace.runs()}
    statements = {row.key: row for row in workspace.store.statements()}
    wanted: dict[str, list[str]] = defaultdict(list)
    for run_key, statement_key in asked:
        problem = _unknown(workspace, runs, statements, run_key, statement_key)
        if problem:
            answers.problems[run_key, statement_key] = problem
        else:
            wanted[run_key].append(statement_key)

    def on_cell(answer: CellAnswer) -> None:
        answers.cells[answer.run.key, answer.statement.key] = answer
        say(f"{answer.run.key}|{answer.statement.key}: {answer.cell.sentence}")

    begun = monotonic()
    for statement_keys, run_keys in _questions(wanted):
        left = None if max_seconds is None else max_seconds - (monotonic() - begun)
        if left is not None and left <= 0:
            break
        question = Question(statements=statement_keys, runs=run_keys, max_seconds=left)
        try:
            report = workspace.answer(question, on_cell=on_cell, on_line=detail)
        except FlorError as error:
            # One question's trouble must not hide the others' answers; what was answered before it stays.
            cells = [(run_key, key) for run_key in run_keys for key in statement_keys]
            answers.problems |= {
                cell: f"{cell[0]}|{cell[1]}: {error}" for cell in cells if cell not in answers.cells
            }
            continue
        answers.started += report.children
        answers.cells.update({(answer.run.key, answer.statement.key): answer for answer in report.cells})
    return answers


def _answer_for(
    context: dg.AssetExecutionContext, workspace: Workspace, own: Sequence[Cell], key: dg.AssetKey
) -> Answers:
    request = backfill_request(context, key)
    asked = dict.fromkeys(own)
    known: dict[Cell, CellAnswer] = {}
    if request is not None:
        runs = {run_key for run_key, _ in own}
        asked |= dict.fromkeys(
            cell for cell in map(cell_of, sorted(request.partition_keys)) if cell[0] in runs
        )
        if context.run.parent_run_id is None:
            known = _failed_since(workspace, asked, request.timestamp)
    answers = answer_cells(
        workspace,
        [cell for cell in asked if cell not in known],
        say=log_line(context.log.info),
        detail=log_line(context.log.debug),
    )
    answers.cells.update(known)
    return answers


def _failed_since(workspace: Workspace, asked: Iterable[Cell], timestamp: float) -> dict[Cell, CellAnswer]:
    """Cells that another Dagster run of the same backfill found failing: once per backfill is enough."""
    runs = {run.id: run for run in workspace.runs()}
    statements = {row.id: row for row in workspace.store.statements()}
    wanted, failed = set(asked), dict[Cell, CellAnswer]()
    for cell in workspace.store.cells(status="failed"):
        run, statement = runs.get(cell.run_id), statements.get(cell.statement_id)
        if run and statement and (run.key, statement.key) in wanted and cell.updated.timestamp() >= timestamp:
            failed[run.key, statement.key] = CellAnswer(run, statement, cell, None)
    return failed


def _questions(wanted: Mapping[str, Sequence[str]]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Training runs that are asked the same statements are one question; the order of the runs is kept."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for run_key, statement_keys in wanted.items():
        groups[tuple(statement_keys)].append(run_key)
    return [(statement_keys, tuple(run_keys)) for statement_keys, run_keys in groups.items()]


def _unknown(
    workspace: Workspace,
    runs: Mapping[str, RunRow],
    statements: dict[str, StatementRow],
    run_key: str,
    statement_key: str,
) -> str:
    """Why a cell can't be asked; partition keys can be typed into Dagster's dialogs by hand."""
    if run_key not in runs:
        return f"{run_key}|{statement_key}: no training run of this project has the key {run_key}."
    if statement_key not in statements:
        try:
            row = workspace.ask(statement_key)
        except FlorError as error:
            return f"{run_key}|{statement_key}: {error}"
        if row.key != statement_key:
            return f"{run_key}|{statement_key}: this question's key is {row.key}; ask that one."
        statements[statement_key] = row
    return ""


def _failure(answers: Answers, cell: Cell) -> str:
    if cell in answers.problems:
        return answers.problems[cell]
    answer = answers.cells.get(cell)
    if answer is None:
        return f"{cell[0]}|{cell[1]}: no answer came back."
    return "" if answer.cell.settled else failure_text(answer)
