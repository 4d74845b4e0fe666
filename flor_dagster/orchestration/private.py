"""The only module that leans on parts of Dagster which are not public API. Everything here has a plain fallback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import dagster as dg

from flor_dagster.orchestration.metadata import log_line

BACKFILL_TAG = "dagster/backfill"


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """What the backfill of a Dagster run asks for: its partition keys of one asset, and when it was launched."""

    partition_keys: frozenset[str]
    timestamp: float


def backfill_request(context: dg.AssetExecutionContext, key: dg.AssetKey) -> BackfillRequest | None:
    """All partitions of `key` that the backfill of this Dagster run asks for, other Dagster runs' included.

    None where the Dagster run belongs to no backfill, or where Dagster's records can't be read as expected: the caller
    then works on the Dagster run's own partitions, which is right as well, only less in one go.
    """
    backfill_id = context.run.tags.get(BACKFILL_TAG)
    if backfill_id is None:
        return None
    try:
        backfill = context.instance.get_backfill(backfill_id)
        if backfill is None:
            return None
        data = backfill.get_asset_backfill_data(_asset_graph(context))
        subset = data.get_target_partitions_subset(key)
        return BackfillRequest(frozenset(subset.get_partition_keys()), float(backfill.backfill_timestamp))
    except Exception as error:  # noqa: BLE001 - whatever a later Dagster changes here, the fallback stays right
        log_line(context.log.debug)(
            f"The backfill {backfill_id} could not be read ({error}); answering this Dagster run's cells."
        )
        return None


def unchecked_materialization(context: dg.AssetExecutionContext, check: dg.AssetCheckKey) -> Any:
    """The newest event of a check's asset, as an evaluation's target, where the check that Dagster shows is not of it.

    Dagster shows the execution that was planned last. None where it is of the newest event, or is going on, or where
    Dagster's records can't be read as expected: the Dagster run's own verdict then stands for itself.
    """
    try:
        from dagster._core.definitions.asset_checks.asset_check_evaluation import (
            AssetCheckEvaluationTargetMaterializationData,
        )
        from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

        history = context.instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
        newest = context.instance.fetch_materializations(check.asset_key, limit=1).records
        if not history or not newest or history[0].status == AssetCheckExecutionRecordStatus.PLANNED:
            return None
        if history[0].run_id == newest[0].run_id:
            return None
        return AssetCheckEvaluationTargetMaterializationData(
            storage_id=newest[0].storage_id, run_id=newest[0].run_id, timestamp=newest[0].timestamp
        )
    except Exception as error:  # noqa: BLE001 - whatever a later Dagster changes here, the run's own verdict stands
        log_line(context.log.debug)(
            f"The executions of {check.to_user_string()} could not be read ({error})."
        )
        return None


def launchpad_path(run: dg.DagsterRun, job: str, config: str) -> str:
    """Where the UI opens a job's launchpad filled in with a configuration; empty where the code location is not known.

    Args:
        run: a Dagster run of the same code location.
        job: the job's name.
        config: YAML.
    """
    try:
        origin = run.remote_job_origin
        if origin is None:
            return ""
        repository = origin.repository_origin
        location = repository.code_location_origin.location_name
        name = repository.repository_name
        place = location if name == "__repository__" else f"{name}@{location}"
        return (
            f"/locations/{quote(place, safe='@')}/jobs/{job}/playground/setup?config={quote(config, safe='')}"
        )
    except AttributeError:
        return ""


def worker_lives(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool | None:
    """Whether the process of a Dagster run lives, by what its launcher knows; None where it does not know."""
    try:
        from dagster._core.launcher import WorkerStatus

        launcher = instance.run_launcher
        if run.status == dg.DagsterRunStatus.QUEUED or not launcher.supports_check_run_worker_health:
            return None
        known = launcher.check_run_worker_health(run).status
        if known == WorkerStatus.RUNNING:
            return True
        return False if known in (WorkerStatus.NOT_FOUND, WorkerStatus.FAILED) else None
    except Exception:  # noqa: BLE001 - a launcher of somebody's own, or one that can't be reached
        return None


def _asset_graph(context: dg.AssetExecutionContext) -> Any:
    try:
        return context.repository_def.asset_graph
    except Exception:  # noqa: BLE001 - a job executed in process has no repository; its own graph holds the asset
        return context.job_def.asset_layer.asset_graph
