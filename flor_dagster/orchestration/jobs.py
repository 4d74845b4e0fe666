"""Jobs: train, answer open questions within a time, refresh the log view."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from flor_dagster.errors import FlorError
from flor_dagster.orchestration.checks import COMPLETE, WAITING, fidelity_evaluation, open_cells
from flor_dagster.orchestration.confirming import build_confirm_job
from flor_dagster.orchestration.events import (
    cell_materialization,
    failure_text,
    run_materialization,
    waiting_observation,
)
from flor_dagster.orchestration.hindsight import Cell, answer_cells, dagster_asks, failed_cells, waits
from flor_dagster.orchestration.metadata import log_line
from flor_dagster.orchestration.partitions import register
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.orchestration.specs import key_of
from flor_dagster.orchestration.translator import DagsterFlorTranslator
from flor_dagster.orchestration.upkeep import build_gc_job, build_verify_job
from flor_dagster.replay.training import TrainingFailedError
from flor_dagster.replay.workspace import Workspace
from flor_dagster.showing import shown
from flor_dagster.store.models import RunRow

if TYPE_CHECKING:
    # What `define_asset_job` returns; Dagster does not export the name.
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


class TrainConfig(dg.Config):
    """What to train. Shown, filled in, in the job's launchpad."""

    entrypoint: str = Field(default="", description="The training script, relative to the repository.")
    args: dict[str, Any] = Field(
        default={}, description="Values for the script's flor.arg names, e.g. {lr: 0.01}."
    )
    ref: str = Field(
        default="",
        description="A commit, branch or tag to train; empty: the files as they are in the repository's folder.",
    )
    portable: bool = Field(
        default=False,
        description="Train with kernels and threads that every x86-64-v3 (or arm64) machine gives alike.",
    )


class HindsightConfig(dg.Config):
    """Which open cells to answer, and for how long."""

    statements: list[str] = Field(default=[], description="Keys of open questions; empty: all of them.")
    runs: list[str] = Field(default=[], description="Keys of training runs; empty: all of them.")
    latest: int = Field(default=0, description="Only this many of the newest training runs; 0: all.", ge=0)
    max_seconds: float = Field(default=600.0, description="Start nothing more after this time.", gt=0)


def train_job_name(project: FlorProject) -> str:
    """`<project>_train`."""
    return f"{project.name}_train"


def hindsight_job_name(project: FlorProject) -> str:
    """`<project>_hindsight`."""
    return f"{project.name}_hindsight"


def train_op_name(project: FlorProject) -> str:
    """The op to configure in `<project>_train`; Dagster wants op names to differ within a code location."""
    return f"train_{project.name}"


def hindsight_op_name(project: FlorProject) -> str:
    """The op to configure in `<project>_hindsight`."""
    return f"answer_{project.name}"


def log_view_job_name(project: FlorProject) -> str:
    """`<project>_log_view`."""
    return f"{project.name}_log_view"


def build_train_job(
    project: FlorProject, *, translator: DagsterFlorTranslator | None = None
) -> dg.JobDefinition:
    """The job `<project>_train`: one training run, in a child process, recorded as a partition of `runs`.

    Args:
        project: the project.
        translator: the one that the assets were built with.
    """
    key = key_of(project, "runs", translator)
    scripts = [script for script in project.scripts if ":" not in script]

    @dg.op(
        name=train_op_name(project),
        description="Runs a training script in a child process and records its partition.",
    )
    def train(context: dg.OpExecutionContext, config: TrainConfig) -> Iterator[Any]:
        entrypoint = config.entrypoint or (scripts[0] if scripts else "")
        if not entrypoint:
            raise dg.Failure(f"{project.name} names no training script; say which one in `entrypoint`.")
        tags = {"flor/dagster_run": context.run_id}
        with project.workspace() as workspace:
            try:
                run = workspace.train(
                    entrypoint,
                    config.args,
                    ref=config.ref or None,
                    tags=tags,
                    origin="dagster",
                    portable=config.portable or None,
                    on_line=log_line(context.log.info),
                )
            except FlorError as error:
                if isinstance(error, TrainingFailedError) and error.run is not None:
                    yield _recorded(context, project, workspace, error.run, key)
                raise dg.Failure(description=shown(error), allow_retries=False) from error
            yield _recorded(context, project, workspace, run, key)
        yield dg.Output(None)

    @dg.job(
        name=train_job_name(project),
        description=f"Train {project.name}: fill in the arguments and launch.",
        executor_def=dg.in_process_executor,
        config=dg.RunConfig(
            ops={train_op_name(project): TrainConfig(entrypoint=scripts[0] if scripts else "")}
        ),
    )
    def train_job() -> None:
        train()

    return train_job


def build_hindsight_job(
    project: FlorProject, *, translator: DagsterFlorTranslator | None = None
) -> dg.JobDefinition:
    """The job `<project>_hindsight`: answers open cells within a time, newest training run first.

    Cells whose replay failed before are left alone: they fail again. It is what a hindsight schedule launches.

    Args:
        project: the project.
        translator: the one that the assets were built with.
    """
    key = key_of(project, "hindsight", translator)

    @dg.op(
        name=hindsight_op_name(project),
        description="Answers open cells, newest training run first, and logs an event per cell.",
    )
    def answer(context: dg.OpExecutionContext, config: HindsightConfig) -> Iterator[Any]:
        with project.workspace() as workspace, dagster_asks(workspace, context.run_id):
            workspace.sync()
            asked = cells_to_answer(workspace, config)
            register(
                context.instance,
                project,
                [run.key for run in workspace.runs() if run.status != "running"],
                [row.key for row in workspace.questions()],
            )
            answers = answer_cells(
                workspace,
                asked,
                max_seconds=config.max_seconds,
                say=log_line(context.log.info),
                detail=log_line(context.log.debug),
            )
            failures = list(answers.problems.values())
            for result in answers.cells.values():
                if result.cell.settled:
                    yield cell_materialization(project, result, key)
                elif waits(result):
                    yield waiting_observation(project, result, key, context.run)
                elif result.cell.status in ("failed", "refused"):
                    # What is lacking here may be there next time.
                    failures.append(failure_text(result))
            yield fidelity_evaluation(workspace, key)
        settled = sum(result.cell.settled for result in answers.cells.values())
        log_line(context.log.info)(
            f"{settled} of {len(asked)} cells are settled; {answers.started} children ran."
        )
        if failures:
            raise failed_cells(failures)
        yield dg.Output(None)

    @dg.job(
        name=hindsight_job_name(project),
        description="Answers open hindsight questions for at most max_seconds, newest training run first.",
        executor_def=dg.in_process_executor,
        config=dg.RunConfig(ops={hindsight_op_name(project): HindsightConfig()}),
    )
    def hindsight_job() -> None:
        answer()

    return hindsight_job


def cells_to_answer(workspace: Workspace, config: HindsightConfig) -> list[Cell]:
    """The open cells that a `HindsightConfig` means, newest training run first.

    Failed ones are left out, and those that wait for a person.
    """
    newest = [run.key for run in reversed(workspace.runs())]
    wanted = newest[: config.latest] if config.latest else newest
    return [
        (row["training run"], row["statement"])
        for row in open_cells(workspace)
        if row["status"] not in ("failed", WAITING)
        and row["training run"] in wanted
        and (not config.runs or row["training run"] in config.runs)
        and (not config.statements or row["statement"] in config.statements)
    ]


def build_log_view_job(
    project: FlorProject, *, translator: DagsterFlorTranslator | None = None
) -> "UnresolvedAssetJobDefinition":
    """The job `<project>_log_view`: materializes the log view and its check."""
    key = key_of(project, "log_view", translator)
    selection = dg.AssetSelection.assets(key) | dg.AssetSelection.checks(dg.AssetCheckKey(key, COMPLETE))
    return dg.define_asset_job(
        log_view_job_name(project),
        selection=selection,
        description="Refreshes the log view.",
        executor_def=dg.in_process_executor,
    )


def build_jobs(
    project: FlorProject, *, translator: DagsterFlorTranslator | None = None
) -> Sequence["dg.JobDefinition | UnresolvedAssetJobDefinition"]:
    """All jobs of a project."""
    return list(_jobs(project, translator))


def _jobs(
    project: FlorProject, translator: DagsterFlorTranslator | None
) -> Iterator["dg.JobDefinition | UnresolvedAssetJobDefinition"]:
    yield build_train_job(project, translator=translator)
    yield build_hindsight_job(project, translator=translator)
    yield build_confirm_job(project, translator=translator)
    yield build_log_view_job(project, translator=translator)
    yield build_verify_job(project, translator=translator)
    yield build_gc_job(project)


def _recorded(
    context: dg.OpExecutionContext, project: FlorProject, workspace: Workspace, run: RunRow, key: dg.AssetKey
) -> dg.AssetMaterialization:
    register(context.instance, project, [run.key])
    return run_materialization(project, workspace, run, key)
