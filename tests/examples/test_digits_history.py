"""The example's history: what its versions promise to the demo and to the tests that use it."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from example_pipelines.digits.history import build_repository, load_history
from flor_dagster.propagation import find_statements

ROOT = Path(__file__).parents[2]
HISTORY = load_history()


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_every_build_has_the_same_commits(tmp_path: Path) -> None:
    first = build_repository(tmp_path / "first", newest=True)
    assert build_repository(tmp_path / "second", newest=True) == first
    assert len(set(first)) == len(HISTORY.versions) + 1


def test_the_repository_is_clean_and_as_the_manifest_says(tmp_path: Path) -> None:
    build_repository(tmp_path / "digits")
    assert not git(tmp_path / "digits", "status", "--porcelain")
    subjects = git(tmp_path / "digits", "log", "--reverse", "--format=%s").splitlines()
    assert subjects == [version.subject for version in HISTORY.versions]
    dates = [version.date for version in HISTORY.versions]
    assert dates == sorted(dates)
    assert all(version.trainings for version in HISTORY.versions)


def test_the_newest_version_only_adds_the_statements() -> None:
    last, newest = HISTORY.versions[-1].folder, HISTORY.newest.folder
    assert {path.name for path in last.iterdir()} == {path.name for path in newest.iterdir()}
    for path in last.iterdir():
        before, after = path.read_text().splitlines(), (newest / path.name).read_text().splitlines()
        changes = [line for line in difflib.ndiff(before, after) if line[:1] in "+-"]
        if path.name == HISTORY.script:
            assert len(changes) == len(HISTORY.statements)
            assert all(line.startswith("+") and "flor.log(" in line for line in changes)
        else:
            assert not changes


def test_no_old_version_logs_what_is_asked() -> None:
    for version in HISTORY.versions:
        names = {
            statement.name for statement in find_statements((version.folder / HISTORY.script).read_text())
        }
        assert not names & set(HISTORY.statements)


@pytest.mark.parametrize(
    "version", [*HISTORY.versions, HISTORY.newest], ids=lambda version: version.folder.name
)
def test_each_version_trains_the_same_again(version, tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        for path in version.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    small = {"FLOR_ARGS": '{"epochs": 2, "hidden": 16}', "OMP_NUM_THREADS": "1"}
    outputs = [
        subprocess.run(
            [sys.executable, HISTORY.script],
            cwd=tmp_path / name,
            env=os.environ | small | {"PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for name in ("one", "two")
    ]
    assert outputs[0] == outputs[1]
    assert [line.partition(":")[0] for line in outputs[0].splitlines()] == ["epoch 0", "epoch 1"]
