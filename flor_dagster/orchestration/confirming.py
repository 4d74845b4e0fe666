"""Likely places in Dagster: shown with their diff on the cell, confirmed by the job `<project>_confirm`, then answered."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from flor_dagster.errors import FlorError
from flor_dagster.orchestration.checks import fidelity_evaluation
from flor_dagster.orchestration.events import (
    cell_materialization,
    confirm_job_name,
    failure_text,
    place_of,
)
from flor_dagster.orchestration.hindsight import Cell, answer_cells, dagster_asks, failed_cells
from flor_dagster.orchestration.metadata import log_line
from flor_dagster.orchestration.partitions import register
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.orchestration.specs import key_of
from flor_dagster.orchestration.translator import DagsterFlorTranslator
from flor_dagster.replay.model import CellAnswer
from flor_dagster.replay.workspace import Workspace
from flor_dagster.showing import shown
from flor_dagster.store.models import CellRow


class ConfirmConfig(dg.Config):
    """Which likely places are confirmed. The link on a cell that waits opens this launchpad filled in."""

    places: list[str] = Field(
        default=[],
        description="STATEMENT@VERSION, as the waiting cells name them; behind a # the place that was looked at.",
    )
    confirmed_by: str = Field(default="", description="Who confirms them; empty: this Dagster run.")


def confirm_op_name(project: FlorProject) -> str:
    """The op to configure in `<project>_confirm`; Dagster wants op names to differ within a code location."""
    return f"confirm_{project.name}"


def build_confirm_job(
    project: FlorProject, *, translator: DagsterFlorTranslator | None = None
) -> dg.JobDefinition:
    """The job `<project>_confirm`: a person confirms likely places, and their cells are answered.

    Args:
        project: the project.
        translator: the one that the assets were built with.
    """
    key = key_of(project, "hindsight", translator)

    @dg.op(
        name=confirm_op_name(project),
        description="Notes that a person confirmed the places, and answers the cells that waited for it.",
    )
    def confirm(context: dg.OpExecutionContext, config: ConfirmConfig) -> Iterator[Any]:
        by = config.confirmed_by or f"Dagster run {context.run_id[:8]}"
        with project.workspace() as workspace, dagster_asks(workspace, context.run_id):
            workspace.sync()
            if not config.places:
                raise dg.Failure(description=shown(_nothing_named(workspace)), allow_retries=False)
            try:
                asked = [cell for place in config.places for cell in confirm_place(workspace, place, by)]
            except FlorError as error:
                raise dg.Failure(description=shown(error), allow_retries=False) from error
            register(
                context.instance, project, [run.key for run in workspace.runs() if run.status != "running"]
            )
            answers = answer_cells(
                workspace, asked, say=log_line(context.log.info), detail=log_line(context.log.debug)
            )
            failures = list(answers.problems.values())
            for answer in answers.cells.values():
                if answer.cell.settled:
                    yield cell_materialization(project, answer, key)
                else:
                    failures.append(failure_text(answer))
            yield fidelity_evaluation(workspace, key)
        if failures:
            raise failed_cells(failures)
        yield dg.Output(None)

    @dg.job(
        name=confirm_job_name(project),
        description="Confirms likely places of statements in old versions, and answers the cells that waited for it. "
        "The link `confirm` on a waiting cell fills this in.",
        executor_def=dg.in_process_executor,
        config=dg.RunConfig(ops={confirm_op_name(project): ConfirmConfig()}),
    )
    def confirm_job() -> None:
        confirm()

    return confirm_job


def confirm_place(workspace: Workspace, place: str, by: str) -> list[Cell]:
    """Note that a person confirmed a place; the cells that it answers.

    Args:
        workspace: the open project.
        place: STATEMENT@VERSION, or STATEMENT@VERSION#PLACE.
        by: who confirms it.

    Raises:
        FlorError: there is no such likely place, or another one than the person looked at.
    """
    said, _, digest = place.partition("#")
    statement_key, at, version = said.rpartition("@")
    if not at or len(version) < 4:
        raise FlorError(f"{place!r} is no place: write STATEMENT@VERSION, as `gap@1a2b3c4d`.")
    statement = workspace.store.statement(statement_key)
    runs = [run for run in workspace.runs() if run.commit is not None and run.commit.startswith(version)]
    commits = sorted({run.commit for run in runs if run.commit is not None})
    if len(commits) != 1:
        raise FlorError(
            f"{version} is the version of no training run, or of several; write more of the commit."
        )
    row = workspace.placement(statement, commits[0], runs[0].entrypoint)
    if digest and not row.place.startswith(digest):
        raise FlorError(
            f"`{statement_key}` stands at another place in {commits[0][:12]} by now than the one that was confirmed: "
            "materialize its cell again and look at the place that is found now."
        )
    workspace.confirm_place(statement, commits[0], by)
    return [(run.key, statement_key) for run in runs]


def waiting(workspace: Workspace) -> list[CellAnswer]:
    """The cells of open questions that wait for a person to confirm their statement's place."""
    questions = {row.id: row for row in workspace.questions()}
    runs = {run.id: run for run in workspace.runs()}
    cells: Sequence[CellRow] = (
        workspace.store.cells(statement_ids=list(questions), status="open") if questions else []
    )
    return [
        CellAnswer(runs[cell.run_id], questions[cell.statement_id], cell, None)
        for cell in cells
        if cell.place == "likely" and cell.run_id in runs
    ]


def _nothing_named(workspace: Workspace) -> str:
    found = dict.fromkeys(filter(None, (place_of(answer) for answer in waiting(workspace))))
    if not found:
        return "`places` names none, and no cell waits for its place to be confirmed."
    return "`places` names none. These wait to be confirmed:\n" + "\n".join(found)
