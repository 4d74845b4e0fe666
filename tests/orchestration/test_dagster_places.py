"""Two verdicts on a cell: the place of its statement and its replay. A likely place waits for a person, who clicks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from flor_dagster.orchestration import ConfirmConfig, FlorProject
from flor_dagster.orchestration.jobs import HindsightConfig, cells_to_answer
from tests.orchestration import toy_project
from tests.orchestration.conftest import Toy


@pytest.fixture
def doubtful(tmp_path: Path) -> Iterator[Toy]:
    """Two training runs of a version in which the place of `size` and `gap` is likely, in an instance of its own."""
    project = FlorProject(
        "toy", repo=toy_project.make_doubtful_project(tmp_path / "toy"), entrypoints=["train.py"]
    )
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Toy(project, instance)


def observation(toy: Toy, run: str, statement: str) -> dg.AssetObservation:
    records = toy.instance.fetch_observations(
        dg.AssetRecordsFilter(asset_key=toy.hindsight, asset_partitions=[f"{run}|{statement}"]), limit=1
    ).records
    assert records, f"nothing was observed of {run}|{statement}"
    found = records[0].asset_observation
    assert found is not None
    return found


def confirm(toy: Toy, *places: str) -> dg.ExecuteInProcessResult:
    config = dg.RunConfig(ops={"confirm_toy": ConfirmConfig(places=list(places))})
    job = toy.definitions.resolve_job_def("toy_confirm")
    return job.execute_in_process(instance=toy.instance, run_config=config, raise_on_error=False)


def failure(result: dg.ExecuteInProcessResult) -> str:
    event = next(event for event in result.all_events if event.event_type_value == "STEP_FAILURE")
    return str(event.step_failure_data.user_failure_data)


def test_a_likely_place_waits_with_its_diff_until_a_click_confirms_it_and_the_values_say_so(
    doubtful: Toy,
) -> None:
    runs, _ = doubtful.open_questions()
    asked = doubtful.ask(runs, ["size"])
    assert not asked.success
    assert "wait for a person" in failure(asked)
    assert "`weight = round(" in failure(asked)
    assert doubtful.replays() == 0, "nothing was answered"
    assert "green" not in doubtful.colours().values()

    seen: dict[str, Any] = {
        name: value.value for name, value in observation(doubtful, runs[0], "size").metadata.items()
    }
    assert list(seen)[:2] == ["answer", "place"], "the verdict comes first"
    assert seen["place"].startswith("likely: `weight = round(")
    assert '+    flor.log("size", abs(weight))' in seen["diff"]

    with doubtful.project.workspace() as workspace:
        waiting = {row["status"] for row in _open(workspace) if row["statement"] == "size"}
        assert waiting == {"waiting"}
        asked_by_the_clock = cells_to_answer(workspace, HindsightConfig())
        assert {statement for _, statement in asked_by_the_clock} == {"gap", "bias_size"}, "no clock decides"
        commit = workspace.runs()[0].commit or ""

    nothing = confirm(doubtful)
    assert f"size@{commit[:12]}#" in failure(nothing), "the places that wait are named"
    other = confirm(doubtful, f"size@{commit[:12]}#ffff")
    assert "another place" in failure(other), "a click on an old page confirms nothing"
    assert doubtful.replays() == 0

    assert confirm(doubtful, f"size@{commit[:12]}").success
    assert doubtful.replays() == 2
    for run in runs:
        cell = doubtful.cell(run, "size")
        assert str(cell.metadata["answer"].value).startswith("3 values, exact, place confirmed")
        said = str(cell.metadata["place"].value)
        assert said.startswith("likely, confirmed by Dagster run ")
        assert "the doubt was: `weight = round(" in said
        assert list(cell.metadata).index("place") + 1 == list(cell.metadata).index("fidelity"), "side by side"
        assert cell.tags is not None
        assert cell.tags["flor/place"] == "confirmed"
    assert doubtful.ask(runs, ["size"]).success, "it is settled from now on"
    assert "has no likely place" in failure(confirm(doubtful, f"bias_size@{commit[:12]}"))


def test_a_certain_place_stands_beside_the_fidelity(toy: Toy) -> None:
    runs, _ = toy.open_questions()
    result = toy.ask(runs, ["gap"])
    cell = toy.cell(runs[0], "gap")
    assert cell.metadata["place"].value == "certain"
    assert cell.tags is not None
    assert (cell.tags["flor/place"], cell.tags["flor/fidelity"]) == ("certain", "exact")
    (check,) = result.get_asset_check_evaluations()
    table: Any = check.metadata["training runs"]
    assert {record.data["place"] for record in table.records} == {"certain"}


def _open(workspace: Any) -> list[dict[str, str]]:
    from flor_dagster.orchestration.checks import open_cells

    return open_cells(workspace)
