"""`FLOR_RUN_ID` names one training run, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from flor_dagster.errors import StoreError
from flor_dagster.recording.layout import is_name, path_in
from tests.recording.record_lab import Project

SOURCE = (
    "import flor_dagster as flor\nfor step in flor.loop('step', range(2)):\n    flor.log('x', float(step))\n"
)


@pytest.mark.parametrize("given", ["../../out", "/tmp/out", "a/b", "..", "a b", "x" * 300, ".hidden"])
def test_an_id_that_is_no_name_leads_nowhere(tmp_path: Path, given: str) -> None:
    project = Project(tmp_path / "project")
    run = project.run(SOURCE, FLOR_RUN_ID=given)
    assert len(project.journals) == 1
    assert project.journals[0].parent.parent == tmp_path / "project" / ".flor" / "runs"
    assert is_name(project.journals[0].parent.name)
    assert run.status == "finished"
    assert "is no id of a training run" in run.err
    assert any("is no id of a training run" in entry[2] for entry in run.of("w"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["project"]


def test_an_id_that_is_used_twice_makes_two_runs_and_the_second_says_so(tmp_path: Path) -> None:
    project = Project(tmp_path)
    first = project.run(SOURCE, FLOR_RUN_ID="mine")
    before = first.path.read_bytes()
    assert first.path.parent.name == "mine"
    second = project.run(SOURCE, FLOR_RUN_ID="mine")
    assert len(project.journals) == 2
    assert first.path.read_bytes() == before
    assert second.of("flor")[0][2]["run"] == second.path.parent.name != "mine"
    assert "FLOR_RUN_ID=mine is the id of a training run that was recorded before" in second.err
    assert len(second.records()) == 2


def test_two_launches_of_ranks_with_one_id_are_two_runs(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for _ in range(2):
        for rank in ("0", "1"):
            project.run(SOURCE, FLOR_RUN_ID="launch", RANK=rank, WORLD_SIZE="2")
    folders = {}
    for journal in project.journals:
        folders.setdefault(journal.parent.name, []).append(journal.name)
    assert len(folders) == 2
    assert all(sorted(names) == ["journal.0.jsonl", "journal.1.jsonl"] for names in folders.values())


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "./a", "a\0b", None, 7, "link/x"]
)
def test_a_path_out_of_a_file_stays_below_its_folder(tmp_path: Path, path: object) -> None:
    (tmp_path / "link").symlink_to("/tmp")
    with pytest.raises(StoreError):
        path_in(tmp_path, path, "a file")
    assert path_in(tmp_path, "a/b.c", "a file") == tmp_path / "a" / "b.c"
