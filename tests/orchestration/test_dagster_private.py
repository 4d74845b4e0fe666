"""The one module on private Dagster API: what a backfill asks for, and the fallback where that can't be read."""

from __future__ import annotations

import ast
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import PartitionBackfill

from flor_dagster import orchestration
from tests.orchestration.conftest import Toy


def backfill(toy: Toy, runs: list[str], statements: list[str], timestamp: float) -> dict[str, str]:
    """A backfill as Dagster's dialog makes it; the tags of its Dagster runs."""
    made = PartitionBackfill.from_asset_partitions(
        backfill_id="asked",
        asset_graph=toy.repository.asset_graph,
        partition_names=[f"{run}|{statement}" for run in runs for statement in statements],
        asset_selection=[toy.hindsight],
        backfill_timestamp=timestamp,
        tags={},
        dynamic_partitions_store=toy.instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    toy.instance.add_backfill(made)
    return {"dagster/backfill": "asked"}


def test_the_first_dagster_run_of_a_backfill_answers_for_the_others_and_tells_only_its_own(toy: Toy) -> None:
    runs, _ = toy.open_questions()
    tags = backfill(toy, runs, ["gap", "size"], 0.0)
    assert toy.ask(runs, ["gap"], tags).success
    assert toy.replays() == 3
    assert {toy.colours()[f"{run}|size"] for run in runs} == {"grey"}
    assert toy.ask(runs, ["size"], tags).success
    assert toy.replays() == 3, "found settled: no child"
    assert {toy.colours()[f"{run}|size"] for run in runs} == {"green"}


def test_where_the_backfill_can_not_be_read_the_dagster_runs_own_cells_are_answered(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, _ = toy.open_questions()
    tags = backfill(toy, runs, ["gap", "bias_size"], 0.0)

    def gone(*_: object) -> None:
        raise AttributeError("a later Dagster has no such method")

    monkeypatch.setattr(PartitionBackfill, "get_asset_backfill_data", gone)
    assert toy.ask(runs, ["bias_size"], tags).success
    assert toy.ask(runs, ["bias_size"], {"dagster/backfill": "unknown"}).success


def test_no_other_module_leans_on_private_dagster() -> None:
    folder = Path(orchestration.__file__).parent
    for file in [*folder.glob("*.py"), folder.parents[1] / "definitions.py"]:
        tree = ast.parse(file.read_text())
        # Where private API is allowed, it is imported where its lack has a fallback.
        looked_at = tree.body if file.name == "private.py" else ast.walk(tree)
        imports = [node.module or "" for node in looked_at if isinstance(node, ast.ImportFrom)]
        typing_only = (
            {"dagster._core.definitions.unresolved_asset_job_definition"} if file.name == "jobs.py" else set()
        )
        assert not {name for name in imports if name.startswith("dagster._")} - typing_only, file.name
        if file.name != "private.py":
            assert "get_backfill" not in file.read_text()


def test_dagster_exports_what_we_use() -> None:
    for name in ("BetaWarning", "MultiToSingleDimensionPartitionMapping", "AssetRecordsFilter"):
        assert hasattr(dg, name)
