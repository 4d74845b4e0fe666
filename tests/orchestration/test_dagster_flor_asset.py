"""A training function as an asset: it stays the user's asset, and each execution is a training run that can be asked."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from flor_dagster.errors import FlorError
from flor_dagster.orchestration import (
    FlorProject,
    UnsupportedTrainingError,
    build_flor_definitions,
    flor_asset,
)
from tests.orchestration import toy_project
from tests.orchestration.conftest import Toy


def load(path: Path) -> dg.AssetsDefinition:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module.weighted


def test_a_training_asset_keeps_its_value_and_is_a_run_that_is_asked_in_hindsight(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    toy_project.git(folder, "init", "-q", "-b", "main")
    toy_project.commit(folder, "an asset", weighted_asset=toy_project.ASSET)
    os.utime(
        folder / "weighted_asset.py", (0, 0)
    )  # written before this process began, as a code server finds it
    asset = load(folder / "weighted_asset.py")
    project = FlorProject("toy", repo=folder, entrypoints=[asset])
    assert project.scripts == ("weighted_asset.py:weighted",)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        definitions = build_flor_definitions(project)
        toy = Toy(project, instance, definitions)
        job = definitions.resolve_implicit_global_asset_job_def()
        key = dg.AssetKey("weighted")
        config = {"ops": {"weighted": {"config": {"args": {"rate": 0.5}}}}}
        result = job.execute_in_process(instance=instance, asset_selection=[key], run_config=config)
        weight = result.output_for_node("weighted")
        assert isinstance(weight, float)
        event = instance.get_latest_materialization_event(key)
        assert event is not None
        assert event.asset_materialization is not None
        run_id = (event.asset_materialization.tags or {})["flor/run"]
        assert event.asset_materialization.metadata["arg rate"].value == 0.5

        toy.tick("recorded_runs")
        (run_key,) = toy.keys("runs")
        assert event.asset_materialization.metadata["training run"].value == run_key
        with project.workspace() as workspace:
            (run,) = workspace.runs()
        assert run.id == run_id
        assert run.origin == "dagster"
        assert run.tags["flor/source_asset"] == "weighted"
        assert run.entrypoint == "weighted_asset.py:weighted"

        toy_project.commit(folder, "a question", weighted_asset=toy_project.ASSET_ASKED)
        _, statements = toy.open_questions()
        assert statements == ["asset_weight"]
        assert toy.ask([run_key], statements).success
        cell = toy.cell(run_key, "asset_weight")
        assert str(cell.metadata["answer"].value).startswith("3 values, exact")
        assert cell.metadata["last"].value == weight, "bit for bit what the asset returned"


def test_a_training_that_fails_fails_its_asset_and_is_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    toy_project.git(folder, "init", "-q", "-b", "main")
    failing = toy_project.ASSET.replace("    return weight\n", '    raise ValueError("no convergence")\n')
    toy_project.commit(folder, "an asset", weighted_asset=failing)
    asset = load(folder / "weighted_asset.py")
    result = dg.materialize([asset], raise_on_error=False)
    assert not result.success
    with FlorProject("toy", repo=folder, entrypoints=[asset]).workspace() as workspace:
        workspace.sync()
        (run,) = workspace.runs()
    assert run.status == "failed"
    assert run.reason == "ValueError: no convergence"


def returned(value: Callable[[], Any]) -> dg.AssetsDefinition:
    def training():
        return value()

    training.__qualname__ = "training"
    return flor_asset(name="trained", io_manager_key="kept")(training)


class Kept(dg.InMemoryIOManager):
    pass


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (lambda: 3, 3),
        (lambda: dg.Output(4, metadata={"mine": 1}, tags={"my": "tag"}), 4),
        (lambda: dg.MaterializeResult(value=5, metadata={"mine": 1}, tags={"my": "tag"}), 5),
    ],
)
def test_the_value_goes_to_the_users_io_manager_and_our_tag_is_added(
    value: Any, stored: int, tmp_path: Path
) -> None:
    keeper = Kept()
    asset = returned(value)
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([asset], instance=instance, resources={"kept": keeper}).success
        assert list(keeper.values.values()) == [stored]
        event = instance.get_latest_materialization_event(dg.AssetKey("trained"))
        assert event is not None
        assert event.asset_materialization is not None
        tags = event.asset_materialization.tags or {}
        assert tags["flor/run"]
        if stored > 3:
            assert tags["my"] == "tag"
            assert event.asset_materialization.metadata["mine"].value == 1


def test_a_function_that_says_what_it_returns_is_typed_so_and_none_goes_to_no_io_manager() -> None:
    def number() -> int:
        return 3

    def nothing() -> None: ...

    for training in (number, nothing):
        training.__qualname__ = training.__name__
    keeper = Kept()
    assets = [flor_asset(io_manager_key="kept")(training) for training in (number, nothing)]
    assert [asset.op.output_defs[0].dagster_type.display_name for asset in assets] == ["Int", "Nothing"]
    assert dg.materialize(assets, resources={"kept": keeper}).success
    assert list(keeper.values.values()) == [3]


def with_parameter(context: Any) -> None: ...
async def asynchronous() -> None: ...
def generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (with_parameter, {}, "parameters (context)"),
        (asynchronous, {}, "an async function"),
        (generator, {}, "a generator function"),
        (lambda: None, {}, "can't be found again"),
        (print, {}, "not a plain function"),
        (
            toy_project.environment,
            {"partitions_def": dg.StaticPartitionsDefinition(["a"])},
            "partitions_def=…",
        ),
        (toy_project.environment, {"ins": {"a": dg.AssetIn()}}, "inputs (ins=…)"),
        (toy_project.environment, {"deps": ["a"]}, "dependencies (deps=…)"),
        (toy_project.environment, {"check_specs": [1]}, "check_specs=…"),
        (toy_project.environment, {"something": 1}, "the option something"),
    ],
)
def test_what_could_not_be_asked_is_refused_by_name_with_what_is_supported(
    function: Any, options: Any, said: str
) -> None:
    with pytest.raises(UnsupportedTrainingError) as refusal:
        flor_asset(**options)(function)
    assert isinstance(refusal.value, FlorError)
    assert said in str(refusal.value)
    assert "takes a plain function without parameters" in str(refusal.value)
