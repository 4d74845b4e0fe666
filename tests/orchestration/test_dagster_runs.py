"""Training runs made anywhere are partitions; what they say is on their page."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from flor_dagster.orchestration import FlorProject, TooManyCellsError, build_flor_definitions, sensors
from flor_dagster.orchestration.partitions import register
from tests.orchestration import toy_project
from tests.orchestration.conftest import Toy


def test_a_run_made_in_a_terminal_is_a_partition_with_what_it_logged(toy: Toy) -> None:
    result = toy.tick("recorded_runs")
    runs = toy.keys("runs")
    assert "recorded 3 training runs" in str(result.skip_message)
    event = toy.event(toy.runs, runs[2])
    assert next(iter(event.metadata)) == "status"
    assert str(event.metadata["status"].value).startswith("finished after")
    assert event.metadata["arg rate"].value == 0.3
    assert isinstance(event.metadata["last loss"], dg.FloatMetadataValue), (
        "numbers stay numbers: Dagster plots them"
    )
    assert event.metadata["iterations"].value == "epoch: 3, step: 12"
    tags = event.tags or {}
    assert tags["flor/status"] == "finished"
    assert tags["flor/origin"] == "script"
    assert tags["flor/dirty"] == "false"
    assert str(event.metadata["commit"].value).startswith(tags["flor/commit"])
    assert len(tags["flor/commit"]) == 12
    assert "dagster/code_version" not in tags
    again = toy.tick("recorded_runs", result.cursor)
    assert again.asset_events == []
    assert str(again.skip_message) == "nothing new"


def test_many_runs_arrive_in_bounded_ticks(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "MAX_EVENTS", 2)
    first = toy.tick("recorded_runs")
    assert len(first.asset_events) == 2
    second = toy.tick("recorded_runs", first.cursor)
    assert len(second.asset_events) == 1
    assert len(toy.keys("runs")) == 3


def test_more_cells_than_allowed_are_refused_with_both_counts(toy: Toy) -> None:
    small = FlorProject("toy", repo=toy.project.root, max_cells=5)
    register(toy.instance, small, ["a", "b", "c"])
    with pytest.raises(
        TooManyCellsError, match=r"3 training runs by 2 open questions are 6 cells; 5 are allowed"
    ):
        register(toy.instance, small, [], ["loss", "gap"])
    assert toy.keys("statements") == []


def test_a_question_that_is_closed_loses_its_key_and_keeps_its_values(tmp_path: Path) -> None:
    folder = toy_project.make_project(tmp_path / "toy")
    project = FlorProject("toy", repo=folder, entrypoints=["train.py"])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance)
        runs, _ = toy.open_questions()
        toy.ask([runs[0]], ["gap"])
        with project.workspace() as workspace:
            workspace.close_question("gap")
        result = toy.tick("recorded_runs")
        assert "closed gap" in str(result.skip_message)
        assert toy.keys("statements") == ["size", "bias_size"]
        with project.workspace() as workspace:
            assert workspace.store.dataframe("gap")["gap"].notna().sum() == 12


def test_a_cell_that_a_later_run_recorded_itself_is_green_without_a_replay(tmp_path: Path) -> None:
    folder = toy_project.make_project(tmp_path / "toy")
    project = FlorProject("toy", repo=folder, entrypoints=["train.py"])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance)
        toy.open_questions()
        toy_project.train(folder)
        toy.tick("recorded_runs")
        newest = toy.keys("runs")[-1]
        assert toy.colours()[f"{newest}|gap"] == "green"
        event = toy.cell(newest, "gap")
        assert (event.tags or {})["flor/status"] == "recorded"
        assert "recorded by the run itself" in str(event.metadata["answer"].value)
        check = instance.get_latest_asset_check_evaluation_record(
            dg.AssetCheckKey(toy.hindsight, "replay_fidelity")
        )
        assert check is not None, (
            "the verdict goes with the newest event; Dagster calls an older one unevaluated"
        )
        assert toy.replays() == 0


def test_what_the_command_line_answered_is_green_as_well(tmp_path: Path) -> None:
    from flor_dagster.replay.model import Question

    folder = toy_project.make_project(tmp_path / "toy")
    project = FlorProject("toy", repo=folder, entrypoints=["train.py"])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance)
        runs, _ = toy.open_questions()
        with project.workspace() as workspace:
            workspace.answer(Question(("gap",), runs=(runs[0],)))
        toy.tick("recorded_runs")
        assert toy.colours()[f"{runs[0]}|gap"] == "green"
        assert toy.colours()[f"{runs[1]}|gap"] == "grey"


def test_the_train_job_records_its_own_run_and_a_failed_one_is_visible_as_such(tmp_path: Path) -> None:
    folder = toy_project.make_project(tmp_path / "toy")
    project = FlorProject("toy", repo=folder, entrypoints=["train.py"])
    job = build_flor_definitions(project).resolve_job_def("toy_train")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance)
        filled_in = {
            "train_toy": {"config": {"entrypoint": "train.py", "args": {}, "ref": "", "portable": False}}
        }
        assert (job.run_config or {})["ops"] == filled_in, "what the launchpad opens with"
        given = {"ops": {"train_toy": {"config": {"entrypoint": "train.py", "args": {"rate": 0.5}}}}}
        assert job.execute_in_process(instance=instance, run_config=given).success
        event = toy.event(toy.runs, toy.keys("runs")[-1])
        assert event.metadata["arg rate"].value == 0.5
        assert (event.tags or {})["flor/origin"] == "dagster"

        given["ops"]["train_toy"]["config"]["args"] = {"broken": True}
        result = job.execute_in_process(instance=instance, run_config=given, raise_on_error=False)
        assert not result.success
        event = toy.event(toy.runs, toy.keys("runs")[-1])
        assert (event.tags or {})["flor/status"] == "failed"
        assert "told to fail" in str(event.metadata["status"].value)

        given["ops"]["train_toy"]["config"] = {"entrypoint": "train.py", "args": {}, "ref": "HEAD~1"}
        assert job.execute_in_process(instance=instance, run_config=given).success
        event = toy.event(toy.runs, toy.keys("runs")[-1])
        assert event.metadata["commit"].value == toy_project.git(folder, "rev-parse", "HEAD~1")
