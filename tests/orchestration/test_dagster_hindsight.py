"""The matrix: grey is open, green is settled, red is failed; asking twice costs nothing."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.loader import LoadingContextForTest

from flor_dagster.orchestration import FlorProject, hindsight
from flor_dagster.orchestration.events import cell_materialization
from tests.orchestration import toy_project
from tests.orchestration.conftest import Toy

pytestmark = pytest.mark.ci


def text(event: dg.AssetMaterialization, name: str) -> str:
    return str(event.metadata[name].value)


def test_new_statements_of_a_commit_become_grey_columns_and_nothing_is_replayed(toy: Toy) -> None:
    runs, statements = toy.open_questions()
    assert statements == ["gap", "size", "bias_size"]
    assert len(runs) == 3
    with toy.project.workspace() as workspace:
        assert runs == [run.key for run in workspace.runs()], "in the order of their start"
    assert set(toy.colours().values()) == {"grey"}
    assert toy.replays() == 0


def test_a_dagster_run_settles_each_of_its_cells_and_the_refused_one_says_why(toy: Toy) -> None:
    runs, statements = toy.open_questions()
    result = toy.ask(runs, statements)
    assert result.success
    assert set(toy.colours().values()) == {"green"}
    assert toy.replays() == 3, "one child per training run answers all its statements"

    refused = toy.cell(runs[0], "bias_size")
    assert refused.tags is not None
    assert refused.tags["flor/status"] == "refused"
    assert next(iter(refused.metadata)) == "answer"
    assert "`bias`" in text(refused, "answer")
    assert "`bias` came with " in text(refused, "answer"), "the commit that brought it in is named"
    assert text(refused, "nearest place").startswith("train.py:")
    assert "diff" not in refused.metadata

    cell = toy.cell(runs[0], "gap")
    assert cell.tags is not None
    assert cell.tags["flor/fidelity"] == "exact"
    assert next(iter(cell.metadata)) == "answer"
    assert text(cell, "answer").startswith("12 values, exact")
    assert text(cell, "diff").startswith("```diff\n")
    assert '+        flor.log("gap", weight - noise)' in text(cell, "diff")
    assert text(cell, "place in this version").startswith("train.py:")
    check = result.get_asset_check_evaluations()[0]
    assert check.passed
    assert check.check_name == "replay_fidelity"


def test_the_check_is_current_after_dagster_runs_side_by_side(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, _ = toy.open_questions()
    waiting = ["size"]

    def while_the_other_runs(*arguments: Any) -> Any:
        if waiting:  # planned later and over sooner: Dagster shows its verdict, of before this one's cells
            assert toy.ask(runs, [waiting.pop()]).success
        return cell_materialization(*arguments)

    monkeypatch.setattr(hindsight, "cell_materialization", while_the_other_runs)
    assert toy.ask(runs, ["gap"]).success
    key = dg.AssetCheckKey(toy.hindsight, "replay_fidelity")
    shown = toy.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)[0]
    with ThreadPoolExecutor(1) as apart:  # another test's browser may have left a running loop in this thread
        current = shown.targets_latest_materialization(LoadingContextForTest(toy.instance))
        assert apart.submit(asyncio.run, current).result()
    assert shown.evaluation is not None
    assert shown.evaluation.passed


def test_what_is_settled_starts_no_child_again_and_is_told_again(toy: Toy) -> None:
    runs, statements = toy.open_questions()
    toy.ask(runs, statements)
    before = toy.replays()
    assert toy.ask(runs, statements).success
    assert toy.replays() == before
    assert set(toy.colours().values()) == {"green"}


def test_a_cell_has_as_many_values_as_its_run_has_loop_contexts_and_they_are_the_true_ones(toy: Toy) -> None:
    runs, statements = toy.open_questions()
    toy.ask(runs, statements)
    with toy.project.workspace() as workspace:
        frame = workspace.store.dataframe("loss", "gap", "size", runs=runs)
    assert len(frame) == 3 * 3 * 4
    assert [gap**2 for gap in frame["gap"]] == list(frame["loss"]), "bit for bit"
    for run in runs:
        assert text(toy.cell(run, "gap"), "rows") == "12"
        assert text(toy.cell(run, "size"), "rows") == "3"


def test_a_key_typed_by_hand_fails_alone_with_a_sentence(toy: Toy) -> None:
    runs, _ = toy.open_questions()
    toy.instance.add_dynamic_partitions("flor/toy/statements", ["sizes"])
    result = toy.ask([runs[0]], ["sizes"])
    assert not result.success
    failure = next(event for event in result.all_events if event.event_type_value == "STEP_FAILURE")
    assert "no statement logs `sizes`" in str(failure.step_failure_data.user_failure_data)
    assert "Did you mean `size`" in str(failure.step_failure_data.user_failure_data)
    assert toy.colours()[f"{runs[0]}|sizes"] == "red"
    toy.tick("recorded_runs")
    assert "sizes" not in toy.keys("statements"), "a key that is no open question is taken away again"


def test_another_definition_is_another_grey_column_and_the_first_one_keeps_its_answer(tmp_path: Path) -> None:
    folder = toy_project.make_project(tmp_path / "toy")
    project = FlorProject("toy", repo=folder, entrypoints=["train.py"])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance)
        runs, _ = toy.open_questions()
        toy_project.commit(folder, "another size", train=toy_project.REDEFINED)
        _, statements = toy.open_questions()
        assert statements == ["gap", "size", "bias_size", "size:2"]
        assert toy.ask([runs[0]], ["size"]).success
        assert toy.ask([runs[0]], ["size:2"]).success
        first, second = toy.cell(runs[0], "size"), toy.cell(runs[0], "size:2")
        assert math.isclose(float(text(first, "last")) + 100, float(text(second, "last")))


def test_a_version_that_fails_now_is_red_with_its_last_lines_and_the_others_are_green(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    toy_project.git(folder, "init", "-q", "-b", "main")
    needs = "open('data.txt').read()\n" + toy_project.V1
    (folder / ".gitignore").write_text("data.txt\n")
    (folder / "data.txt").write_text("1")
    toy_project.commit(folder, "reads a file", train=needs)
    toy_project.train(folder)
    toy_project.commit(folder, "reads nothing", train=toy_project.V2)
    toy_project.train(folder)
    toy_project.commit(folder, "questions", train=toy_project.NEWEST)
    (folder / "data.txt").unlink()
    project = FlorProject("toy", repo=folder, entrypoints=["train.py"])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance)
        runs, _ = toy.open_questions()
        result = toy.ask(runs, ["gap", "size", "bias_size"])
        assert not result.success
        assert toy.colours()[f"{runs[0]}|gap"] == "red"
        assert toy.colours()[f"{runs[1]}|gap"] == "green"
        failure = next(event for event in result.all_events if event.event_type_value == "STEP_FAILURE")
        said = str(failure.step_failure_data.user_failure_data)
        assert runs[0] in said
        assert "FileNotFoundError" in said
        assert runs[1] not in said
        with project.workspace() as workspace:
            assert len(workspace.store.replays()) == 2
        assert toy.definitions.resolve_job_def("toy_hindsight").execute_in_process(instance=instance).success
        with project.workspace() as workspace:
            tried = [replay for replay in workspace.store.replays() if replay.status == "failed"]
        assert len(tried) == 1, "what failed before is not tried again by itself"
