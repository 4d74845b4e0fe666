"""A schedule's tick settles open cells by itself, within its time, and launches nothing where nothing is open."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from flor_dagster.orchestration import (
    FlorProject,
    build_flor_definitions,
    build_hindsight_schedule,
    build_training_schedule,
)
from tests.orchestration import toy_project
from tests.orchestration.conftest import Toy


def test_a_tick_settles_open_cells_newest_run_first_and_the_next_tick_has_nothing_to_do(
    tmp_path: Path,
) -> None:
    folder = toy_project.make_project(tmp_path / "toy")
    project = FlorProject("toy", repo=folder, entrypoints=["train.py"])
    schedule = build_hindsight_schedule(
        project, cron_schedule="* * * * *", runs=2, statements=["gap"], max_seconds=60
    )
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance, build_flor_definitions(project, schedules=[schedule]))
        runs, _ = toy.open_questions()
        tick = schedule.evaluate_tick(
            dg.build_schedule_context(instance=instance, repository_def=toy.repository)
        )
        request = (tick.run_requests or [])[0]
        job = toy.definitions.resolve_job_def("toy_hindsight")
        assert job.execute_in_process(instance=instance, run_config=request.run_config).success
        colours = toy.colours()
        assert [colours[f"{run}|gap"] for run in runs] == ["grey", "green", "green"]
        assert {colours[f"{run}|size"] for run in runs} == {"grey"}
        again = schedule.evaluate_tick(
            dg.build_schedule_context(instance=instance, repository_def=toy.repository)
        )
        assert not again.run_requests
        assert again.skip_message == "no open cell to answer"


def test_no_time_means_no_child(tmp_path: Path) -> None:
    folder = toy_project.make_project(tmp_path / "toy")
    project = FlorProject("toy", repo=folder, entrypoints=["train.py"])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance)
        runs, _ = toy.open_questions()
        job = toy.definitions.resolve_job_def("toy_hindsight")
        short = {"ops": {"answer_toy": {"config": {"max_seconds": 0.0001}}}}
        assert job.execute_in_process(instance=instance, run_config=short).success, (
            "open cells are no failure"
        )
        assert toy.replays() == 0
        assert toy.colours()[f"{runs[0]}|gap"] == "grey"


def test_a_training_schedule_trains(project: FlorProject, toy: Toy) -> None:
    schedule = build_training_schedule(project, cron_schedule="0 5 * * 1", args={"rate": 0.5})
    definitions = build_flor_definitions(project, schedules=[schedule])
    dg.Definitions.validate_loadable(definitions)
    tick = schedule.evaluate_tick(dg.build_schedule_context(instance=toy.instance))
    request = (tick.run_requests or [])[0]
    assert request.run_config["ops"]["train_toy"]["config"]["args"] == {"rate": 0.5}
    assert (
        definitions.resolve_job_def("toy_train")
        .execute_in_process(instance=toy.instance, run_config=request.run_config)
        .success
    )
