"""Schedules: hindsight at night, training at dawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from flor_dagster.orchestration.jobs import (
    HindsightConfig,
    TrainConfig,
    cells_to_answer,
    hindsight_job_name,
    hindsight_op_name,
    train_job_name,
    train_op_name,
)
from flor_dagster.orchestration.project import FlorProject


def build_hindsight_schedule(
    project: FlorProject,
    *,
    cron_schedule: str,
    runs: Sequence[str] | int | None = None,
    statements: Sequence[str] | None = None,
    max_seconds: float = 600.0,
    name: str | None = None,
    execution_timezone: str | None = None,
    default_status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED,
) -> dg.ScheduleDefinition:
    """A schedule that settles open cells by itself: newest training run first, for at most `max_seconds` a tick.

    A tick without open cells launches nothing. Cells whose replay failed before are left alone.

    Args:
        project: the project; its definitions must hold the job `<project>_hindsight`.
        cron_schedule: when, e.g. `"0 2 * * *"`.
        runs: keys of training runs, or how many of the newest; None asks all.
        statements: keys of open questions; None asks all.
        max_seconds: start nothing more after this time.
        name: of the schedule; `<project>_hindsight_schedule` by default.
        execution_timezone: of the cron expression; UTC by default.
        default_status: whether it runs without being switched on.
    """
    config = HindsightConfig(
        statements=list(statements or ()),
        runs=[] if runs is None or isinstance(runs, int) else list(runs),
        latest=runs if isinstance(runs, int) else 0,
        max_seconds=max_seconds,
    )

    @dg.schedule(
        name=name or f"{project.name}_hindsight_schedule",
        description=f"Answers open hindsight questions, at most {max_seconds:g} s a tick.",
        cron_schedule=cron_schedule,
        execution_timezone=execution_timezone,
        default_status=default_status,
        job_name=hindsight_job_name(project),
    )
    def hindsight_schedule() -> dg.RunRequest | dg.SkipReason:
        with project.workspace() as workspace:
            workspace.sync()
            asked = cells_to_answer(workspace, config)
        if not asked:
            return dg.SkipReason("no open cell to answer")
        return dg.RunRequest(run_config=dg.RunConfig(ops={hindsight_op_name(project): config}))

    return hindsight_schedule


def build_training_schedule(
    project: FlorProject,
    *,
    cron_schedule: str,
    entrypoint: str = "",
    args: Mapping[str, Any] | None = None,
    ref: str = "",
    name: str | None = None,
    execution_timezone: str | None = None,
    default_status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED,
) -> dg.ScheduleDefinition:
    """A schedule that trains: one training run a tick.

    Args:
        project: the project; its definitions must hold the job `<project>_train`.
        cron_schedule: when, e.g. `"0 5 * * 1"`.
        entrypoint: the training script; the project's first one by default.
        args: values for the script's `flor.arg` names.
        ref: a commit, branch or tag; empty: the files in the repository's folder.
        name: of the schedule; `<project>_training_schedule` by default.
        execution_timezone: of the cron expression; UTC by default.
        default_status: whether it runs without being switched on.
    """
    config = TrainConfig(entrypoint=entrypoint, args=dict(args or {}), ref=ref)

    @dg.schedule(
        name=name or f"{project.name}_training_schedule",
        description=f"Trains {entrypoint or project.name}.",
        cron_schedule=cron_schedule,
        execution_timezone=execution_timezone,
        default_status=default_status,
        job_name=train_job_name(project),
    )
    def training_schedule() -> dg.RunRequest:
        return dg.RunRequest(run_config=dg.RunConfig(ops={train_op_name(project): config}))

    return training_schedule
