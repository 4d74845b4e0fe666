"""`flor doctor --deep` finds every kind of damage, names the command that mends it, and says nothing of what is whole."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from flor_dagster.cli import cli
from flor_dagster.replay.health import Check, check_health
from flor_dagster.replay.model import Question
from flor_dagster.replay.wholeness import check_deeply
from flor_dagster.replay.workspace import Workspace
from tests.replay.conftest import Lab

SCRIPT = """\
import numpy as np
import flor_dagster as flor

flor.arg("n", 3)
state = np.zeros(30_000)
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        state = state * 0.5 + np.arange(30_000) + epoch
    {statement}
    flor.log("total", float(state[-1]))
"""


def flip(path: Path, at: int = -20) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def in_database(change: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        with contextlib.closing(sqlite3.connect(root / ".flor/flor.db")) as connection, connection:
            assert connection.execute(change).rowcount

    return plant


def first(root: Path, pattern: str, least: int = 0) -> Path:
    return next(path for path in sorted(root.glob(pattern)) if path.stat().st_size > least)


def damage_ledger(root: Path) -> None:
    path = root / ".flor/ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[-1] = b"#" * (len(lines[-1]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))


def damage_journal(root: Path) -> None:
    path = first(root, ".flor/runs/*/journal.0.jsonl")
    text, count = re.subn(rb"(\n\[\d+,\d+,)\d", rb"\g<1>7", path.read_bytes(), count=1)
    assert count
    path.write_bytes(text)


def lose_version_object(root: Path) -> None:
    for path in list(root.glob(".git/objects/??/*")):
        path.unlink()


PLANTED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a value in the database": (in_database("UPDATE records SET num = 1 WHERE at = (SELECT min(at) FROM records)"), "values", "flor rebuild"),
    "a cell in the database": (in_database("UPDATE cells SET fidelity = 'unverified'"), "ledger", "flor rebuild"),
    "a line of a journal": (damage_journal, "values", "flor rebuild"),
    "a journal": (lambda root: first(root, ".flor/runs/*/journal.0.jsonl").unlink(), "log store", "Put them back"),
    "a run": (lambda root: shutil.rmtree(next(root.glob(".flor/runs/*"))), "log store", "Put them back"),
    "a journal of a replay": (lambda root: first(root, ".flor/replays/*/journal*.jsonl").unlink(), "values", "flor rebuild"),
    "a line of the ledger": (damage_ledger, "ledger", "mv "),
    "a manifest": (lambda root: flip(first(root, ".flor/checkpoints/manifests/*/*.json")), "checkpoints", "Put the files back"),
    "a buffer": (lambda root: flip(first(root, ".flor/checkpoints/objects/*/*", 100_000)), "checkpoints", "Put the files back"),
    "a buffer that is gone": (lambda root: first(root, ".flor/checkpoints/objects/*/*", 100_000).unlink(), "checkpoints", "Put the files back"),
    "a git object": (lambda root: flip(first(root, ".git/objects/??/*")), "versions", "Fetch the objects"),
    "all git objects": (lose_version_object, "versions", "the log store has the objects of every version"),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a run and an answered question."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOR_CACHE", str(folder / "cache"))
        lab = Lab(folder / "project")
        lab.commit({"train.py": SCRIPT.format(statement="pass")})
        lab.train()
        lab.commit({"train.py": SCRIPT.format(statement='flor.log("first", float(state[1]))')})
        with lab.open() as workspace:
            (answer,) = workspace.answer(Question(("first",))).cells
            assert answer.cell.fidelity == "exact", answer.cell.sentence
        yield lab.root


def looked_at(root: Path) -> list[Check]:
    with Workspace.open(root) as workspace:
        return [*check_health(workspace), *check_deeply(workspace)]


def test_what_is_whole_is_said_to_be(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert [check.sentence for check in looked_at(whole) if check.level == "problem"] == []


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_damage_is_found_and_what_mends_it_is_named(whole: Path, tmp_path: Path, kind: str) -> None:
    root = tmp_path / "project"
    shutil.copytree(whole, root, symlinks=True)
    plant, name, words = PLANTED[kind]
    plant(root)
    found = [check for check in looked_at(root) if check.level != "ok" and check.name == name]
    assert found, [check.sentence for check in looked_at(root)]
    assert any(words in check.sentence for check in found), [check.sentence for check in found]


@pytest.mark.parametrize(
    ("kind", "mend"),
    [
        ("a value in the database", "rebuild"),
        ("a cell in the database", "rebuild"),
        ("a line of the ledger", "mv"),
    ],
)
def test_what_is_named_mends_it(whole: Path, tmp_path: Path, kind: str, mend: str) -> None:
    root = tmp_path / "project"
    shutil.copytree(whole, root, symlinks=True)
    PLANTED[kind][0](root)
    if mend == "rebuild":
        result = CliRunner().invoke(cli, ["rebuild", "--accept-loss", "--project", str(root)])
        assert result.exit_code == 0, result.output
    else:
        os.rename(root / ".flor/ledger.jsonl", root / ".flor/ledger.jsonl.away")
        with Workspace.open(root) as workspace:
            workspace.ask("first")
    assert [check.sentence for check in looked_at(root) if check.level == "problem"] == []


def test_a_version_that_is_kept_beside_the_repository_is_read_there(lab: Lab) -> None:
    lab.commit(
        {
            "train.py": SCRIPT.format(statement="pass"),
            "pyproject.toml": "[tool.flor.snapshot]\nbeside = true\n",
        }
    )
    lab.write({"train.py": SCRIPT.format(statement="pass  # uncommitted")})
    lab.train()
    assert not [check.sentence for check in looked_at(lab.root) if check.level == "problem"]
    flip(first(lab.root, ".flor/versions.git/objects/??/*"))
    found = [check.sentence for check in looked_at(lab.root) if check.name == "versions"]
    assert "damage" in found[0], found
