"""`build_flor_definitions`: everything a project has in Dagster, composed of the public builders."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from flor_dagster.orchestration.checks import build_log_view_complete_check
from flor_dagster.orchestration.hindsight import build_hindsight_asset
from flor_dagster.orchestration.jobs import build_jobs
from flor_dagster.orchestration.log_query import build_log_query_asset
from flor_dagster.orchestration.log_view import (
    build_log_view_asset,
    build_log_view_io_manager,
    io_manager_key,
)
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.orchestration.sensors import build_sensors
from flor_dagster.orchestration.specs import build_runs_spec
from flor_dagster.orchestration.translator import DagsterFlorTranslator


def build_flor_definitions(
    project: FlorProject,
    *,
    translator: DagsterFlorTranslator | None = None,
    schedules: Sequence[dg.ScheduleDefinition] = (),
    default_sensor_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
    pool: str | None = None,
) -> dg.Definitions:
    """The definitions of a project: assets, checks, jobs, sensors, and the schedules given.

    The executor of the code location is left to it. One process is enough for ours, since replays run in children of
    their own: `Definitions.merge(build_flor_definitions(project), Definitions(executor=in_process_executor))`.

    Args:
        project: the project.
        translator: renames, regroups and annotates its assets.
        schedules: of `build_hindsight_schedule` and `build_training_schedule`.
        default_sensor_status: whether the sensors run without being switched on. None of them replays anything.
        pool: Dagster concurrency pool of the step that replays.
    """
    return dg.Definitions(
        assets=[
            build_runs_spec(project, translator=translator),
            build_hindsight_asset(project, translator=translator, pool=pool),
            build_log_view_asset(project, translator=translator),
            build_log_query_asset(project, translator=translator),
            *project.assets,
        ],
        asset_checks=[build_log_view_complete_check(project, translator=translator)],
        jobs=build_jobs(project, translator=translator),
        sensors=build_sensors(project, translator=translator, default_status=default_sensor_status),
        schedules=schedules,
        resources={io_manager_key(project): build_log_view_io_manager(project)},
    )
