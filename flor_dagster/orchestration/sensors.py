"""Sensors: training runs and statements become partitions; the log view follows what is known."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import dagster as dg

from flor_dagster.orchestration.checks import fidelity_evaluation
from flor_dagster.orchestration.events import cell_materialization, run_materialization
from flor_dagster.orchestration.going_on import next_try, replays_going_on
from flor_dagster.orchestration.jobs import log_view_job_name
from flor_dagster.orchestration.metadata import log_line
from flor_dagster.orchestration.partitions import (
    Registration,
    cell_key,
    plan_registration,
    run_partitions,
    statement_partitions,
)
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.orchestration.specs import key_of
from flor_dagster.orchestration.translator import DagsterFlorTranslator
from flor_dagster.replay.askers import askers
from flor_dagster.replay.model import CellAnswer
from flor_dagster.replay.workspace import Workspace
from flor_dagster.showing import shown
from flor_dagster.store.models import RunRow

MAX_EVENTS = 200
"""Events a tick: about two seconds of Dagster's writing, well inside the tick's time limit."""


def build_recorded_runs_sensor(
    project: FlorProject,
    *,
    translator: DagsterFlorTranslator | None = None,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds: int = 5,
) -> dg.SensorDefinition:
    """The sensor `<project>_recorded_runs`: what was made outside Dagster becomes visible in it.

    Training runs become partitions of `runs` (at most 200 events a tick; the cursor is the store's ingest sequence),
    open questions become keys, and cells that were settled elsewhere (recorded by the training run itself, or replayed
    from the command line) become green.

    Args:
        project: the project.
        translator: the one that the assets were built with.
        default_status: whether it runs without being switched on.
        minimum_interval_seconds: between two ticks.
    """
    runs_key, hindsight_key = key_of(project, "runs", translator), key_of(project, "hindsight", translator)

    @dg.sensor(
        name=f"{project.name}_recorded_runs",
        description="Training runs made anywhere become partitions; cells settled elsewhere become green.",
        default_status=default_status,
        minimum_interval_seconds=minimum_interval_seconds,
        asset_selection=dg.AssetSelection.assets(runs_key, hindsight_key),
    )
    def recorded_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        with project.workspace() as workspace:
            workspace.sync()
            seen = int(context.cursor or 0)
            arrived = workspace.store.runs_after(seen, MAX_EVENTS)
            ours = {run.id for run in workspace.runs()}
            # Ranges of Dagster's keys are ranges of time only where keys are registered in time order.
            new = sorted((run for run in arrived if run.id in ours), key=lambda run: run.started)
            questions = [row.key for row in workspace.questions()]
            plan = plan_registration(context.instance, project, [run.key for run in new], questions)
            told = context.instance.get_materialized_partitions(runs_key) if new else set[str]()
            events = [
                run_materialization(project, workspace, run, runs_key) for run in new if run.key not in told
            ]
            known = {*context.instance.get_dynamic_partitions(f"flor/{project.name}/runs"), *plan.runs}
            answers = _settled_elsewhere(
                context, project, workspace, hindsight_key, known, MAX_EVENTS - len(events)
            )
            events += [cell_materialization(project, answer, hindsight_key) for answer in answers]
            events += [fidelity_evaluation(workspace, hindsight_key)] if answers else []
        cursor = str(max((run.ingested_seq for run in arrived), default=seen))
        return dg.SensorResult(
            dynamic_partitions_requests=_requests(project, plan),
            asset_events=events,
            cursor=cursor,
            skip_reason=_recorded_words(new, plan, len(answers)),
        )

    return recorded_runs


def build_new_statements_sensor(
    project: FlorProject,
    *,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds: int = 30,
) -> dg.SensorDefinition:
    """The sensor `<project>_new_statements`: a commit that adds statements adds their keys, nothing more.

    Args:
        project: the project.
        default_status: whether it runs without being switched on.
        minimum_interval_seconds: between two ticks.
    """

    @dg.sensor(
        name=f"{project.name}_new_statements",
        description="A commit that adds statements opens them as hindsight questions. Nothing is replayed.",
        default_status=default_status,
        minimum_interval_seconds=minimum_interval_seconds,
        asset_selection=dg.AssetSelection.groups(project.group_name or project.name),
    )
    def new_statements(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        with project.workspace() as workspace:
            head = workspace.repository.head()
            if head is None or head == context.cursor:
                return dg.SensorResult(skip_reason="no new commit", cursor=context.cursor)
            questions = [row.key for row in workspace.discover("head")]
        plan = plan_registration(context.instance, project, [], questions)
        added = f"opened {', '.join(plan.statements)}" if plan.statements else "no new statement"
        requests = _requests(project, plan)
        return dg.SensorResult(
            dynamic_partitions_requests=requests, cursor=head, skip_reason=f"commit {head[:12]}: {added}"
        )

    return new_statements


def build_log_view_sensor(
    project: FlorProject,
    *,
    translator: DagsterFlorTranslator | None = None,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds: int = 10,
) -> dg.SensorDefinition:
    """The sensor `<project>_log_view_refresh`: materializes `log_view` when replays are over and something changed.

    A refresh that failed or was killed is requested again, twice at most; one that somebody canceled is not.

    Args:
        project: the project.
        translator: the one that the assets were built with.
        default_status: whether it runs without being switched on.
        minimum_interval_seconds: between two ticks.
    """

    @dg.sensor(
        name=f"{project.name}_log_view_refresh",
        description="Refreshes the log view when no replay is going on and something new is known.",
        default_status=default_status,
        minimum_interval_seconds=minimum_interval_seconds,
        job_name=log_view_job_name(project),
    )
    def log_view_refresh(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        with project.workspace() as workspace:
            state, asking = _state(workspace), askers(workspace.home)
        if not state:
            return dg.SkipReason("no training run yet")
        job = log_view_job_name(project)
        run_key = next_try(context.instance, job, state) if state == context.cursor else state
        if run_key is None:
            return dg.SkipReason("nothing new is known")
        going = replays_going_on(
            context.instance,
            project,
            key_of(project, "hindsight", translator),
            asking,
            log_line(context.log.info),
        )
        if going:
            return dg.SkipReason(shown(f"replays are going on: {'; '.join(going)}"))
        context.update_cursor(state)
        return dg.RunRequest(run_key=run_key)

    return log_view_refresh


def build_sensors(
    project: FlorProject,
    *,
    translator: DagsterFlorTranslator | None = None,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
) -> list[dg.SensorDefinition]:
    """All sensors of a project."""
    return [
        build_recorded_runs_sensor(project, translator=translator, default_status=default_status),
        build_new_statements_sensor(project, default_status=default_status),
        build_log_view_sensor(project, translator=translator, default_status=default_status),
    ]


def _settled_elsewhere(
    context: dg.SensorEvaluationContext,
    project: FlorProject,
    workspace: Workspace,
    key: dg.AssetKey,
    known: set[str],
    limit: int,
) -> list[CellAnswer]:
    """Settled cells of open questions that Dagster shows no event of.

    While Dagster itself is replaying, only recorded cells are taken: the others are about to be told by their own run.
    """
    questions = {row.id: row for row in workspace.questions()}
    if not questions or limit <= 0:
        return []
    runs = {run.id: run for run in workspace.runs() if run.key in known}
    told = context.instance.get_materialized_partitions(key)
    busy = replays_going_on(
        context.instance, project, key, askers(workspace.home), log_line(context.log.info)
    )
    answers = list[CellAnswer]()
    for cell in workspace.store.cells(statement_ids=list(questions)):
        run, question = runs.get(cell.run_id), questions[cell.statement_id]
        if run is None or not cell.settled or (busy and cell.status != "recorded"):
            continue
        if str(cell_key(run.key, question.key)) not in told:
            answers.append(CellAnswer(run, question, cell, None))
    return answers[:limit]


def _requests(
    project: FlorProject, plan: Registration
) -> list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest]:
    runs, statements = run_partitions(project), statement_partitions(project)
    requests: list[Any] = []
    requests += [runs.build_add_request(list(plan.runs))] if plan.runs else []
    requests += [statements.build_add_request(list(plan.statements))] if plan.statements else []
    requests += [statements.build_delete_request(list(plan.closed))] if plan.closed else []
    return requests


def _recorded_words(runs: list[RunRow], plan: Registration, cells: int) -> str:
    said = list[str]()
    if runs:
        said.append(
            f"recorded {len(runs)} training runs: {', '.join(run.key for run in runs[:5])}{'…' * (len(runs) > 5)}"
        )
    if plan.statements:
        said.append(f"opened {', '.join(plan.statements)}")
    if plan.closed:
        said.append(f"closed {', '.join(plan.closed)}")
    if cells:
        said.append(f"{cells} cells were settled elsewhere")
    return "; ".join(said) or "nothing new"


def _state(workspace: Workspace) -> str:
    """A digest of what the log view depends on; empty where there is no training run that is over."""
    runs = [(run.id, run.status) for run in workspace.runs() if run.status != "running"]
    if not runs:
        return ""
    cells = [
        (cell.run_id, cell.statement_id, cell.status, cell.updated.isoformat())
        for cell in workspace.store.cells()
    ]
    return hashlib.sha256(json.dumps([runs, sorted(cells)]).encode()).hexdigest()[:32]
