"""Every version can be rebuilt from the log store alone."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from flor_dagster.errors import SnapshotError
from flor_dagster.replay.model import Question
from flor_dagster.versions.archive import needed, put_back, take_out
from flor_dagster.versions.repository import Repository
from flor_dagster.versions.snapshot import snapshot
from tests.replay.conftest import Lab

SCRIPT = """\
import flor_dagster as flor
import lib.inner
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        pass
    flor.log("a", lib.inner.VALUE + epoch)
    {more}
"""


def lose_history(lab: Lab) -> None:
    """Somebody deletes `.git` and begins anew; `.flor/` stays."""
    shutil.rmtree(lab.root / ".git")
    lab.git("init", "--quiet", "--initial-branch=main")
    lab.git("config", "user.name", "tests")
    lab.git("config", "user.email", "tests@flor-dagster.invalid")


def test_a_version_that_git_has_lost_is_replayed_from_the_store(lab: Lab) -> None:
    lab.commit({"train.py": SCRIPT.format(more=""), "lib/inner.py": "VALUE = 1\n", "lib/__init__.py": ""})
    lab.write({"lib/inner.py": "VALUE = 2\n"})
    lab.train()
    with lab.open() as workspace:
        workspace.sync()
    lose_history(lab)
    lab.write(
        {"train.py": SCRIPT.format(more='flor.log("b", lib.inner.VALUE * 10)'), "lib/inner.py": "VALUE = 3\n"}
    )
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("b",))).cells
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence
        frame = workspace.store.dataframe("a", "b")
    assert frame["b"].tolist() == [20, 20]
    assert lab.git("for-each-ref", "refs/flor/versions").count("\n") == 1  # the newest source's alone
    lab.git("fsck", "--full")


def test_objects_are_kept_once_over_all_versions(lab: Lab) -> None:
    lab.commit(
        {
            "train.py": SCRIPT.format(more=""),
            "lib/inner.py": "VALUE = 1\n",
            "lib/__init__.py": "",
            "data/big.txt": "x" * 50_000,
        }
    )
    for value in (2, 3):
        lab.write({"lib/inner.py": f"VALUE = {value}\n"})
        lab.train()
    with lab.open() as workspace:
        workspace.sync()
        assert workspace.store.unarchived_versions() == []
    with sqlite3.connect(lab.root / ".flor/flor.db") as database:
        ((count,),) = database.execute("select count(*) from version_objects").fetchall()
    # Two commits, two roots, two `lib`, one `data`; train, two inner, __init__, big.
    assert count == 2 + 2 + 2 + 1 + 5


def test_what_is_too_big_is_left_out_and_named_and_a_damaged_object_is_not_used(
    lab: Lab, tmp_path: Path
) -> None:
    lab.commit({"train.py": "x = 1\n", "big.bin": "y" * 2000})
    repository = Repository(lab.root)
    commit = snapshot(lab.root).commit
    taken = take_out(repository, commit, lambda _: set(), max_object=1000)
    assert list(taken.left_out) == ["big.bin"]
    objects = needed([commit], taken.objects.get)
    assert len(objects) == 3
    put_back(objects, tmp_path / "objects")
    name = next(iter(objects))
    with pytest.raises(SnapshotError, match="damaged"):
        put_back({"0" * 40: objects[name]}, tmp_path / "objects")


def test_submodules_travel_with_their_version(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    library = Lab(tmp_path / "library")
    library.commit({"inner.py": "VALUE = 1\n", "__init__.py": ""})
    lab.git("submodule", "add", "--quiet", str(library.root), "lib")
    lab.commit({"train.py": SCRIPT.format(more="")})
    (lab.root / "lib/inner.py").write_text("VALUE = 2\n")
    lab.train()
    with lab.open() as workspace:
        workspace.sync()
    lose_history(lab)
    shutil.rmtree(lab.root / "lib")
    lab.write({"train.py": SCRIPT.format(more='flor.log("b", lib.inner.VALUE * 10)')})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("b",))).cells
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence
        assert workspace.store.dataframe("b")["b"].tolist() == [20, 20]
