"""The log view is an asset: documented columns, a preview, a DataFrame downstream, queries from the launchpad."""

from __future__ import annotations

import base64
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from flor_dagster.orchestration import FlorProject, build_flor_definitions
from tests.orchestration.conftest import Toy

VIEW = dg.AssetKey(["toy", "log_view"])
QUERY = dg.AssetKey(["toy", "log_query"])


def test_the_view_documents_its_columns_and_shows_its_first_rows(toy: Toy) -> None:
    runs, _ = toy.open_questions()
    toy.ask(runs, ["gap", "size", "bias_size"])
    assert toy.definitions.resolve_job_def("toy_log_view").execute_in_process(instance=toy.instance).success
    event = toy.instance.get_latest_materialization_event(VIEW)
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert metadata["dagster/row_count"].value == 36
    columns = {column.name: column for column in metadata["dagster/column_schema"].value.columns}
    assert list(columns) == ["run", "epoch", "step", "loss", "mean", "gap", "size", "bias_size"]
    assert columns["gap"].type == "float64"
    assert columns["gap"].description == "train.py:18 · weight - noise"
    rows = metadata["first rows"].value
    assert len(rows.records) == 36
    refused = next(record for record in rows.records if record.data["run"] == runs[0])
    assert refused.data["bias_size"] is None
    assert refused.data["gap"] ** 2 == refused.data["loss"]
    pytest.importorskip("matplotlib")
    start, _, picture = metadata["plot"].value.partition("base64,")
    assert start == "![log view](data:image/png;"
    assert base64.b64decode(picture.rstrip(")")).startswith(b"\x89PNG")


def test_open_cells_are_a_warning_that_lists_them(toy: Toy) -> None:
    toy.open_questions()
    with toy.project.workspace() as workspace:
        done = {(cell.run_id, cell.statement_id) for cell in workspace.store.cells() if cell.settled}
    result = toy.definitions.resolve_job_def("toy_log_view").execute_in_process(instance=toy.instance)
    check = result.get_asset_check_evaluations()[0]
    assert check.check_name == "log_view_complete"
    assert check.passed == (len(done) == 9)
    if not check.passed:
        assert check.severity == dg.AssetCheckSeverity.WARN
        assert len(check.metadata["open cells"].value.records) == 9 - len(done)


def test_a_downstream_asset_gets_the_view_as_a_frame_and_nothing_is_pickled(toy: Toy, tmp_path: Path) -> None:
    toy.open_questions()

    @dg.asset(ins={"view": dg.AssetIn(key=VIEW)})
    def best(view: pd.DataFrame) -> float:
        return float(view["loss"].min())

    definitions = dg.Definitions.merge(build_flor_definitions(toy.project), dg.Definitions(assets=[best]))
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=toy.instance, asset_selection=[VIEW, best.key])
    assert result.success
    assert 0 <= result.output_for_node("best") < 1
    stored = Path(toy.instance.storage_directory())
    assert not list(stored.rglob("log_view*"))


def test_the_view_is_refreshed_when_something_new_is_known_and_only_then(toy: Toy) -> None:
    toy.open_questions()
    first = toy.tick("log_view_refresh")
    assert len(first.run_requests or ()) == 1
    second = toy.tick("log_view_refresh", first.cursor)
    assert not second.run_requests
    with toy.project.workspace() as workspace:
        cell = workspace.recorded_cell(workspace.runs()[0], workspace.store.statement("loss"))
        workspace.store.save_cell(cell)
    third = toy.tick("log_view_refresh", first.cursor)
    assert len(third.run_requests or ()) == 1


def query(toy: Toy, **config: object) -> dg.AssetMaterialization | str:
    job = toy.definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=toy.instance,
        asset_selection=[QUERY],
        run_config={"ops": {"toy__log_query": {"config": config}}},
        raise_on_error=False,
    )
    if not result.success:
        failed = next(event for event in result.all_events if event.event_type_value == "STEP_FAILURE")
        return str(failed.step_failure_data.user_failure_data)
    event = toy.instance.get_latest_materialization_event(QUERY)
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization


def test_a_query_typed_in_the_launchpad_is_a_table_on_the_page(toy: Toy) -> None:
    toy.open_questions()
    event = query(toy, columns=["loss", "rate"], where="epoch >= 1 and loss < 0.5", order_by="-loss", limit=5)
    assert isinstance(event, dg.AssetMaterialization)
    records = event.metadata["result"].value.records
    losses = [record.data["loss"] for record in records]
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)
    assert max(losses) < 0.5
    assert "where `epoch >= 1 and loss < 0.5`" in str(event.metadata["query"].value)


def test_a_query_may_be_sql_that_reads_and_no_other(toy: Toy) -> None:
    toy.open_questions()
    event = query(toy, sql="SELECT name, count(*) AS n FROM log_view_long GROUP BY name ORDER BY name")
    assert isinstance(event, dg.AssetMaterialization)
    assert {"name": "loss", "n": 36} in [
        dict(record.data) for record in event.metadata["result"].value.records
    ]
    refusal = query(toy, sql="DELETE FROM runs")
    assert isinstance(refusal, str)
    assert len(refusal) > 20


def test_a_wrong_query_fails_with_a_sentence(toy: Toy) -> None:
    toy.open_questions()
    refusal = query(toy, columns=["lossy"])
    assert isinstance(refusal, str)
    assert "lossy" in refusal


def test_every_field_of_the_forms_is_described_and_shown(project: FlorProject) -> None:
    from flor_dagster.orchestration import (
        FlorAssetConfig,
        FlorLogViewIOManager,
        FlorResource,
        HindsightConfig,
        LogQueryConfig,
        TrainConfig,
    )

    for form in (
        LogQueryConfig,
        TrainConfig,
        HindsightConfig,
        FlorAssetConfig,
        FlorResource,
        FlorLogViewIOManager,
    ):
        for name, field in form.model_fields.items():
            assert field.description, f"{form.__name__}.{name}"
            assert field.default is not None, (
                f"{form.__name__}.{name}: a None default is invisible in the launchpad"
            )
    with pytest.raises(Exception, match="limit"):
        LogQueryConfig(limit=0)
