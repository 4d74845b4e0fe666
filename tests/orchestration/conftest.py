"""Real projects and real Dagster instances: nothing here stands in for anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest

from flor_dagster.orchestration import (
    FlorProject,
    build_flor_definitions,
    build_hindsight_schedule,
    hindsight_partitions,
)
from tests.orchestration import toy_project


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clones of the tests' repositories go away with them."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FLOR_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two trained versions, three training runs, and three questions in its newest version."""
    return toy_project.make_project(tmp_path_factory.mktemp("project") / "toy")


@pytest.fixture(scope="module")
def project(folder: Path) -> FlorProject:
    return FlorProject("toy", repo=folder, entrypoints=["train.py"])


@pytest.fixture
def toy(project: FlorProject, tmp_path: Path) -> Iterator[Toy]:
    """The project in a Dagster instance of its own."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Toy(project, instance)


class Toy:
    """A project's definitions in an instance, driven as the daemon drives them."""

    def __init__(
        self, project: FlorProject, instance: dg.DagsterInstance, definitions: dg.Definitions | None = None
    ) -> None:
        self.project = project
        self.instance = instance
        schedules = [build_hindsight_schedule(project, cron_schedule="* * * * *")]
        self.definitions = definitions or build_flor_definitions(project, schedules=schedules)
        self.repository = self.definitions.get_repository_def()
        self.hindsight = dg.AssetKey([project.name, "hindsight"])
        self.runs = dg.AssetKey([project.name, "runs"])

    def tick(self, sensor: str, cursor: str | None = None) -> dg.SensorResult:
        """One tick of a sensor; what it asks for is done, as the daemon does it."""
        context = dg.build_sensor_context(self.instance, cursor=cursor, repository_def=self.repository)
        result = self.repository.get_sensor_def(f"{self.project.name}_{sensor}").evaluate_tick(context)
        for request in result.dynamic_partitions_requests or ():
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(
                    request.partitions_def_name, list(request.partition_keys)
                )
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(request.partitions_def_name, key)
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        return result

    def open_questions(self) -> tuple[list[str], list[str]]:
        """Both sensors ticked; the keys of training runs and statements that Dagster now has."""
        self.tick("new_statements")
        self.tick("recorded_runs")
        return self.keys("runs"), self.keys("statements")

    def keys(self, dimension: str) -> list[str]:
        return list(self.instance.get_dynamic_partitions(f"flor/{self.project.name}/{dimension}"))

    def ask(
        self, runs: Sequence[str], statements: Sequence[str], tags: dict[str, str] | None = None
    ) -> dg.ExecuteInProcessResult:
        """One Dagster run over a range of cells, as a single-run backfill launches it."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        span = {
            "dagster/asset_partition_range_start": f"{runs[0]}|{statements[0]}",
            "dagster/asset_partition_range_end": f"{runs[-1]}|{statements[-1]}",
        }
        return job.execute_in_process(
            instance=self.instance,
            asset_selection=[self.hindsight],
            raise_on_error=False,
            tags={**span, **(tags or {})},
        )

    def colours(self) -> dict[str, str]:
        """Every cell's colour, by partition key: grey, green or red."""
        keys = [f"{run}|{statement}" for run in self.keys("runs") for statement in self.keys("statements")]
        found = (
            self.instance.get_status_by_partition(self.hindsight, keys, hindsight_partitions(self.project))
            or {}
        )
        names = {None: "grey", "MATERIALIZED": "green", "FAILED": "red", "IN_PROGRESS": "blue"}
        return {key: names[getattr(found.get(key), "value", None)] for key in keys}

    def cell(self, run: str, statement: str) -> dg.AssetMaterialization:
        """The latest event of a cell."""
        return self.event(self.hindsight, f"{run}|{statement}")

    def event(self, key: dg.AssetKey, partition: str) -> dg.AssetMaterialization:
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition]), limit=1
        ).records
        assert records, f"{key} has no event for {partition}"
        found = records[0].asset_materialization
        assert found is not None
        return found

    def replays(self) -> int:
        """How many replays the store knows: children that were started for answers."""
        with self.project.workspace() as workspace:
            return len(workspace.store.replays())
