"""The example's history: what its versions promise to the demo and to the tests that use it."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from example_pipelines.digits.history import build_repository, load_history
from flor_dagster.propagation import find_statements

pytestmark = pytest.mark.ci

ROOT = Path(__file__).parents[2]
HISTORY = load_history()

SMALL = {"FLOR_ARGS": '{"epochs": 2, "hidden": 16}', "OMP_NUM_THREADS": "1"}


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


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each version prints in two epochs."""
    printed: dict[str, str] = {}
    for version in [*HISTORY.versions, HISTORY.newest]:
        folder = shutil.copytree(version.folder, tmp_path_factory.mktemp("versions") / version.folder.name)
        printed[version.folder.name] = subprocess.run(
            [sys.executable, HISTORY.script],
            cwd=folder,
            env=os.environ | SMALL | {"PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    return printed


def test_every_version_trains(losses: dict[str, str]) -> None:
    for version, printed in losses.items():
        assert [line.partition(":")[0] for line in printed.splitlines()] == ["epoch 0", "epoch 1"], version


def test_a_version_that_changes_the_code_alone_trains_the_same(losses: dict[str, str]) -> None:
    assert losses["v1"] != losses["v2"]
    assert losses["v2"] == losses["v3"] == losses["v4"] == losses["v5"]
    assert losses["v6"] == losses["v7"] == losses["newest"]
