"""Dagster: a training run is a partition, hindsight is a backfill, the log view is an asset."""

from flor_dagster.orchestration.asset_decorator import FlorAssetConfig, UnsupportedTrainingError, flor_asset
from flor_dagster.orchestration.build import build_flor_definitions
from flor_dagster.orchestration.checks import build_log_view_complete_check
from flor_dagster.orchestration.components import FlorProjectComponent
from flor_dagster.orchestration.confirming import ConfirmConfig, build_confirm_job
from flor_dagster.orchestration.hindsight import build_hindsight_asset
from flor_dagster.orchestration.jobs import (
    HindsightConfig,
    TrainConfig,
    build_hindsight_job,
    build_log_view_job,
    build_train_job,
)
from flor_dagster.orchestration.log_query import LogQueryConfig, build_log_query_asset
from flor_dagster.orchestration.log_view import (
    FlorLogViewIOManager,
    build_log_view_asset,
    build_log_view_io_manager,
)
from flor_dagster.orchestration.partitions import (
    TooManyCellsError,
    hindsight_partitions,
    run_partitions,
    statement_partitions,
)
from flor_dagster.orchestration.project import FlorProject, ProjectError
from flor_dagster.orchestration.resource import FlorResource
from flor_dagster.orchestration.schedules import build_hindsight_schedule, build_training_schedule
from flor_dagster.orchestration.sensors import (
    build_log_view_sensor,
    build_new_statements_sensor,
    build_recorded_runs_sensor,
)
from flor_dagster.orchestration.specs import build_flor_asset_specs, build_runs_spec
from flor_dagster.orchestration.translator import DagsterFlorTranslator, FlorTranslatorData
from flor_dagster.orchestration.upkeep import GcConfig, VerifyConfig, build_gc_job, build_verify_job

__all__ = [
    "ConfirmConfig",
    "DagsterFlorTranslator",
    "FlorAssetConfig",
    "FlorLogViewIOManager",
    "FlorProject",
    "FlorProjectComponent",
    "FlorResource",
    "FlorTranslatorData",
    "GcConfig",
    "HindsightConfig",
    "LogQueryConfig",
    "ProjectError",
    "TooManyCellsError",
    "TrainConfig",
    "UnsupportedTrainingError",
    "VerifyConfig",
    "build_confirm_job",
    "build_flor_asset_specs",
    "build_flor_definitions",
    "build_gc_job",
    "build_hindsight_asset",
    "build_hindsight_job",
    "build_hindsight_schedule",
    "build_log_query_asset",
    "build_log_view_asset",
    "build_log_view_complete_check",
    "build_log_view_io_manager",
    "build_log_view_job",
    "build_log_view_sensor",
    "build_new_statements_sensor",
    "build_recorded_runs_sensor",
    "build_runs_spec",
    "build_train_job",
    "build_training_schedule",
    "build_verify_job",
    "flor_asset",
    "hindsight_partitions",
    "run_partitions",
    "statement_partitions",
]
