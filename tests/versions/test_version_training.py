"""Whatever the user's repository is like, a whole training in it is recorded with its version, and touches nothing of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.versions.conftest import UserRepo
from tests.versions.test_version_untouched import CASES

PACKAGE = Path(__file__).parents[2]
TRAINING = """
import flor_dagster as flor
state = [0.0] * 500
with flor.checkpointing(state=state):
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(2)):
            state = [value + step for value in state]
        flor.log("loss", state[0])
"""
WITHOUT_HOOKS = ("-c", f"core.hooksPath={os.devnull}")
OFTEN = ("unborn", "linked_work_tree", "rebase_that_stopped", "index_lock", "bare_beside")


def _bare_beside(repo: UserRepo) -> Path:
    """A bare repository with a work tree beside it."""
    bare, beside = repo.root.parent / "bare.git", repo.root.parent / "beside"
    repo.git("clone", "-q", "--bare", str(repo.root), str(bare))
    repo.git("worktree", "add", "-q", "-b", "work", str(beside), cwd=bare)
    (beside / "train.py").write_text("in the work tree beside\n")
    return beside


ALL = CASES | {"bare_beside": _bare_beside}


def files(*roots: Path) -> dict[str, tuple[int, int]]:
    """Every file that is the user's, with its size and time: all but objects, our refs and our own folders."""
    found: dict[str, tuple[int, int]] = {}
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name != ".flor"]
            if Path(folder).name == "objects" or folder.endswith("refs/flor"):
                folders.clear()
                continue
            for name in names:
                if not name.startswith("sharedindex."):  # git's own readers freshen its time
                    status = (Path(folder) / name).lstat()
                    found[str(Path(folder) / name)] = (status.st_size, status.st_mtime_ns)
    return found


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in ALL]
)
def test_a_training_is_recorded_with_its_version_and_nothing_else_changes(repo: UserRepo, name: str) -> None:
    place = ALL[name](repo) or repo.root
    (place / "zz_train.py").write_text(TRAINING)
    if name == "index_lock":
        repo.write(".git/index.lock", "")
    everything = repo.root.parent
    state = (
        ("status", "--porcelain"),
        ("stash", "list"),
        ("for-each-ref", "refs/heads", "refs/tags", "refs/remotes", "refs/stash"),
        ("ls-files", "-s"),
    )
    said = [
        repo.git(*WITHOUT_HOOKS, *command, cwd=place) for command in state
    ]  # which may write the index itself
    before = files(everything)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    done = subprocess.run(
        [sys.executable, "-B", "zz_train.py"], cwd=place, capture_output=True, text=True, check=False,
        env=environment | {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0", "FLOR_CHECKPOINTS": "all"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    after = files(everything)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == set()
    assert [repo.git(*WITHOUT_HOOKS, *command, cwd=place) for command in state] == said
    (version,) = everything.glob("**/.flor/runs/*/version.json")
    document = json.loads(version.read_text())
    assert "error" not in document
    top = Path(repo.git("rev-parse", "--show-toplevel", cwd=place).strip())
    script = (place / "zz_train.py").relative_to(top).as_posix()
    assert repo.git("show", f"{document['commit']}:{script}", cwd=place) == TRAINING
    (journal,) = version.parent.glob("journal.*")
    assert journal.read_text().count('"finished"') == 1
