"""Launch a hindsight backfill through Dagster and wait for its end, without a running `dagster dev`.

    python -m example_pipelines.digits.backfill --home demo/dagster_home --result result.json weight_norm update_ratio

It does what Dagster's daemon does for a backfill that was launched in the UI: the sensors tick, the backfill is handed
to the instance, and its Dagster runs are launched by the code server of `definitions.py`. The daemon looks for new
backfills every 30 seconds; here that wait is left out. Afterwards the backfill is found in the UI like any other.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from dagster._core.workspace.context import WorkspaceProcessContext

ROOT = Path(__file__).parents[2]
PROJECT = "digits"
POLL_SECONDS = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True, help="DAGSTER_HOME of the demo")
    parser.add_argument("--result", type=Path, required=True, help="file for what came of it, as JSON")
    parser.add_argument("statements", nargs="+", metavar="STATEMENT", help="keys of open questions")
    options = parser.parse_args()

    os.environ["DAGSTER_HOME"] = str(options.home.resolve())
    with dg.DagsterInstance.get() as instance, code_server(instance) as server:
        tick_sensors(instance)
        start = time.perf_counter()
        backfill_id = launch(instance, server, options.statements)
        status = drive(instance, server, backfill_id)
        seconds = time.perf_counter() - start
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill_id}))
    result = {
        "backfill": backfill_id,
        "status": status,
        "seconds": seconds,
        "runs": {run.run_id: run.status.value for run in runs},
    }
    options.result.write_text(json.dumps(result))
    return 0 if status == "COMPLETED_SUCCESS" else 1


def tick_sensors(instance: dg.DagsterInstance) -> None:
    """One tick of every sensor that is on by default: training runs and new statements become partitions."""
    from definitions import defs

    repository = defs.get_repository_def()
    for sensor in repository.sensor_defs:
        if sensor.default_status is not dg.DefaultSensorStatus.RUNNING:
            continue
        cursor = None
        while True:
            context = dg.build_sensor_context(instance=instance, repository_def=repository, cursor=cursor)
            result = sensor(context)
            if not isinstance(result, dg.SensorResult):
                break
            for request in result.dynamic_partitions_requests or ():
                if isinstance(request, dg.AddDynamicPartitionsRequest):
                    instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
                else:
                    for key in request.partition_keys:
                        instance.delete_dynamic_partition(request.partitions_def_name, key)
            for event in result.asset_events or ():
                instance.report_runless_asset_event(event)
            if not result.asset_events or result.cursor == cursor:
                break
            cursor = result.cursor


# From here on: what Dagster offers to its own daemon and web server, not to others. A later Dagster may change it.


@contextmanager
def code_server(instance: dg.DagsterInstance) -> "Iterator[WorkspaceProcessContext]":
    """`definitions.py`, loaded by a code server in a process of its own, as `dagster dev` does."""
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import ModuleTarget

    target = ModuleTarget(
        module_name="definitions", attribute=None, working_directory=str(ROOT), location_name="flor"
    )
    with WorkspaceProcessContext(instance, target) as server:
        yield server


def launch(instance: dg.DagsterInstance, server: "WorkspaceProcessContext", statements: Sequence[str]) -> str:
    """The backfill of every training run and each of `statements`; returns its id. In the UI the backfill dialog does this."""
    from dagster._core.execution.backfill import PartitionBackfill
    from dagster._core.utils import make_new_backfill_id

    backfill_id = make_new_backfill_id()
    runs = instance.get_dynamic_partitions(f"flor/{PROJECT}/runs")
    keys = [dg.MultiPartitionKey({"run": run, "statement": key}) for run in runs for key in statements]
    backfill = PartitionBackfill.from_asset_partitions(
        asset_graph=server.create_request_context().asset_graph,
        backfill_id=backfill_id,
        tags={},
        backfill_timestamp=time.time(),
        asset_selection=[dg.AssetKey([PROJECT, "hindsight"])],
        partition_names=list(keys),
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=f"Hindsight: {', '.join(statements)}",
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill_id


def drive(instance: dg.DagsterInstance, server: "WorkspaceProcessContext", backfill_id: str) -> str:
    """Iterate the backfill as the daemon does, until it is over; returns its last status."""
    from dagster._daemon.backfill import execute_backfill_iteration

    log = logging.getLogger("example.backfill")
    while True:
        for error in execute_backfill_iteration(server, log):
            if error is not None:
                print(error.to_string(), file=sys.stderr)
        backfill = instance.get_backfill(backfill_id)
        if backfill is None or backfill.status.value not in ("REQUESTED", "CANCELING", "FAILING"):
            return "LOST" if backfill is None else backfill.status.value
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
