"""With `beside = true` versions lie in a repository of our own: the user's is not written to, and publishes none of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flor_dagster.replay.model import Question
from flor_dagster.replay.workspace import Workspace
from flor_dagster.versions import Clone, Repository
from flor_dagster.versions.archive import take_out
from flor_dagster.versions.collecting import drop_versions
from flor_dagster.versions.settings import read_settings
from flor_dagster.versions.snapshot import snapshot
from tests.versions.conftest import UserRepo
from tests.versions.test_version_untouched import CASES, on_disk

PACKAGE = Path(__file__).parents[2]
ON = "[tool.flor.snapshot]\nbeside = true\n"
TRAINING = """
import flor_dagster as flor
state = [0.0] * 500
with flor.checkpointing(state=state):
    for epoch in flor.loop("epoch", range(3)):
        state = [value + epoch for value in state]
        flor.log("loss", state[0])
"""
ASKED = TRAINING + '        flor.log("last", state[-1] * 2)\n'


@pytest.fixture
def own(repo: UserRepo) -> UserRepo:
    """The setting is on, and committed; a commit lies before it, too."""
    repo.write("pyproject.toml", ON)
    repo.write(".gitignore", "__pycache__/\n")
    repo.commit("settings")
    return repo


def beside(repo: UserRepo) -> Path:
    return repo.root / ".flor/versions.git"


def git_files(repo: UserRepo) -> dict[str, str]:
    """Every file of the user's `.git`, with the digest of its bytes."""
    files = (path for path in (repo.root / ".git").rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def is_sound(git_dir: Path) -> None:
    """git finds nothing amiss in it."""
    done = subprocess.run(
        ["git", "--git-dir", str(git_dir), "fsck", "--full", "--strict", "--no-dangling"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = [
        line for line in done.stderr.splitlines() if not line.startswith("notice: ")
    ]  # it has no branches
    assert (done.returncode, done.stdout, said) == (0, "", [])


def train(repo: UserRepo, **variables: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")} | variables
    done = subprocess.run(
        [sys.executable, "-B", "train.py"], cwd=repo.root, capture_output=True, text=True, check=False,
        env=environment | {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0", "FLOR_CHECKPOINTS": "all"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def child(repo: UserRepo, out: Path) -> subprocess.Popen[bytes]:
    arguments = ["--root", str(repo.root), "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "flor_dagster.versions.snapshot", *arguments],
        cwd=PACKAGE,
        start_new_session=True,
    )


@pytest.mark.parametrize("home", ["", pytest.param("elsewhere", marks=pytest.mark.slow)])
def test_a_training_writes_nothing_to_the_users_repository_and_outlives_its_history(
    own: UserRepo, tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOR_CACHE", str(tmp_path / "cache"))
    if home:
        monkeypatch.setenv("FLOR_HOME", str(tmp_path / home))
    variables = {"FLOR_HOME": str(tmp_path / home)} if home else {}
    own.write("train.py", "print('to be amended')\n")
    own.commit("to be amended")
    own.write("train.py", TRAINING)
    before = git_files(own)
    train(own, **variables)
    assert git_files(own) == before
    mirror = tmp_path / "mirror.git"
    own.git("init", "-q", "--bare", str(mirror))
    own.git("push", "-q", "--mirror", str(mirror))
    assert "refs/flor" not in own.git("for-each-ref", cwd=mirror)
    blob = own.git("hash-object", "train.py").strip()
    assert blob not in own.git("cat-file", "--batch-all-objects", "--batch-check", cwd=mirror)

    own.write("train.py", ASKED)
    own.git("commit", "-qa", "--amend", "-m", "amended")
    own.git("reflog", "expire", "--expire=now", "--all")
    own.git("gc", "-q", "--prune=now")
    before = git_files(own)
    with Workspace.open(own.root) as workspace:
        workspace.sync()
        (run,) = workspace.store.runs()
        assert workspace.repository.describe(str(run.commit))[0] == "to be amended + uncommitted changes"
        (answer,) = workspace.answer(Question(("last",))).cells
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence
        assert workspace.store.dataframe("last")["last"].tolist() == [0.0, 2.0, 6.0]
    assert git_files(own) == before


OFTEN = ("unborn", "linked_work_tree", "submodule", "partial_clone")
SELDOM = ("clean", "shallow_clone", "borrowed_objects", "sparse_checkout", "odd_names")


@pytest.mark.parametrize("name", [*OFTEN, *(pytest.param(name, marks=pytest.mark.slow) for name in SELDOM)])
def test_whatever_the_repository_is_like_the_version_comes_back_from_beside_it(
    repo: UserRepo, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = CASES[name](repo) or repo.root
    (place / "pyproject.toml").write_text(ON)
    if name == "clean":
        repo.commit("settings")
    repository = Repository.find(place)
    inner = UserRepo(repository.root)
    before = git_files(repo)
    version = snapshot(place)
    assert version.beside
    assert version.warnings == version.approximate == ()
    assert git_files(repo) == before
    assert version.commit in repository.kept_versions()
    assert repository.own_versions() == ()
    for folder in (repo.root / ".git").rglob("objects"):
        if name not in ("linked_work_tree", "shallow_clone", "partial_clone", "borrowed_objects"):
            shutil.rmtree(folder)  # what the version needs of them lies beside
            folder.mkdir()
    checkout = Clone.open(place, tmp_path / "cache").checkout(version.commit, tmp_path / "out")
    assert checkout.missing == ()
    there = on_disk(inner.root, set())
    assert on_disk(checkout.path, set()) == {n: f for n, f in there.items() if not n.startswith(".flor/")}
    is_sound(repository.beside.root)


def test_versions_of_both_ways_are_read_whatever_the_setting_is_now(own: UserRepo) -> None:
    own.write("pyproject.toml", "")
    own.write("train.py", "kept in the repository\n")
    old = snapshot(own.root)
    own.write("pyproject.toml", ON)
    own.write("train.py", "kept beside it\n")
    before = git_files(own)
    new = snapshot(own.root)
    own.write("train.py", "kept in the repository\n")
    own.write("pyproject.toml", "")
    assert git_files(own) == before
    repository = Repository(own.root)
    assert (old.beside, new.beside) == (False, True)
    assert set(repository.kept_versions()) == {old.commit, new.commit}
    assert repository.read(old.commit, "train.py") == "kept in the repository\n"
    assert repository.read(new.commit, "train.py") == "kept beside it\n"
    assert not take_out(repository, new.commit, lambda _: set()).left_out
    again = snapshot(
        own.root
    )  # off again: it takes nothing for being in the user's repository that lies beside
    assert again.commit == old.commit
    own.write("pyproject.toml", ON)
    own.write("train.py", "kept beside it\n")
    own.git("add", "-A")
    own.git("fsck", "--full")
    is_sound(beside(own))


def test_collecting_drops_what_no_run_needs_and_its_objects(own: UserRepo) -> None:
    own.write("train.py", "needed\n")
    needed = snapshot(own.root).commit
    own.write("train.py", "unneeded\n")
    unneeded = snapshot(own.root).commit
    (own.root / ".flor/.versions-left").mkdir()
    for name in ("packed-refs.lock", "shallow.lock"):  # of a collection that was killed
        (beside(own) / name).touch()
        os.utime(beside(own) / name, (0, 0))
    home, repository = own.root / ".flor", Repository(own.root)
    assert drop_versions(repository, home, [needed], dry_run=True).dropped == (unneeded,)
    assert repository.has(unneeded)
    done = drop_versions(repository, home, [needed])
    assert (done.dropped, done.kept, done.refusal) == ((unneeded,), 1, "")
    assert not repository.has(unneeded)
    assert repository.read(needed, "train.py") == "needed\n"
    assert not list(home.glob(".versions-*"))
    is_sound(beside(own))
    own.write("train.py", "unneeded\n")
    assert snapshot(own.root).commit == unneeded
    is_sound(beside(own))


def test_trainings_at_once_make_one_repository(own: UserRepo, tmp_path: Path) -> None:
    own.write("train.py", "at once\n")
    outs = [tmp_path / f"{number}.json" for number in range(3)]
    for process in [child(own, out) for out in outs]:
        assert process.wait(60) == 0
    (commit,) = {json.loads(out.read_text())["commit"] for out in outs}
    assert Repository(own.root).kept_versions() == (commit,)
    there = {path.name for path in (own.root / ".flor").iterdir()}
    assert there - {"versions.lock"} == {".gitignore", "versions.git"}  # and none that lost the race
    is_sound(beside(own))


def test_killed_at_any_moment_it_leaves_nothing_wrong(own: UserRepo, tmp_path: Path) -> None:
    for number in range(300):
        own.write(f"many/{number}.py", f"# {number}\n" * 200)
    own.commit("many")
    began = time.monotonic()
    assert child(own, tmp_path / "whole.json").wait(60) == 0
    whole = time.monotonic() - began
    shutil.rmtree(beside(own))
    before = git_files(own)
    for part in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        process = child(own, tmp_path / "killed.json")
        time.sleep(whole * part)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if beside(own).exists():
            for commit in Repository(own.root).beside.versions():
                assert Repository(own.root).beside.holds(commit)
            is_sound(beside(own))
    version = snapshot(own.root)
    is_sound(beside(own))
    assert git_files(own) == before
    drop_versions(Repository(own.root), own.root / ".flor", [version.commit])
    assert not list((own.root / ".flor").glob("**/tmp_*"))
    is_sound(beside(own))


def test_objects_that_are_lost_there_are_taken_in_again(own: UserRepo) -> None:
    version = snapshot(own.root)
    for pack in (beside(own) / "objects/pack").iterdir():
        pack.unlink()
    assert snapshot(own.root).commit == version.commit
    is_sound(beside(own))


def test_old_code_that_asks_git_is_told_the_commit_that_it_began_at(own: UserRepo, tmp_path: Path) -> None:
    own.write("train.py", "committed\n")
    base = own.commit("gone later")
    own.write("train.py", "uncommitted\n")
    version = snapshot(own.root)
    own.git("reset", "-q", "--hard", "HEAD~2")
    own.git("reflog", "expire", "--expire=now", "--all")
    own.git("gc", "-q", "--prune=now")
    checkout = Clone.open(own.root, tmp_path / "cache").checkout(version.commit, tmp_path / "out")
    assert own.git("rev-parse", "HEAD", cwd=checkout.path).strip() == base
    assert own.git("log", "--format=%s", cwd=checkout.path) == "gone later\n"


def test_what_can_not_be_read_of_the_setting_publishes_nothing(own: UserRepo) -> None:
    for text in (
        '[tool.flor.snapshot]\nbeside = "yes"\n',
        "[tool.flor.snapshot]\nbesides = true\n",
        "[tool.flor]\nsnapshot = 1\n",
    ):
        own.write("pyproject.toml", text)
        version = snapshot(own.root)
        assert version.beside
        assert "tool.flor.snapshot" in version.warnings[0]
    own.write("pyproject.toml", "not toml [")
    assert snapshot(own.root).beside  # it was on before
    own.write("pyproject.toml", "[tool.flor.snapshot]\nbeside = false\n")
    assert read_settings(own.root).beside is False
    assert not snapshot(own.root).beside


def test_git_that_takes_no_bare_repository_it_was_not_named_does_not_stop_it(own: UserRepo) -> None:
    own.git("config", "--global", "safe.bareRepository", "explicit")
    version = snapshot(own.root)
    assert Repository(own.root).kept_versions() == (version.commit,)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it may not")
def test_a_repository_that_can_not_be_written_is_no_hindrance(own: UserRepo) -> None:
    own.write("train.py", "changed\n")
    subprocess.run(["chmod", "-R", "a-w", str(own.root / ".git")], check=True)
    try:
        assert snapshot(own.root).beside
        is_sound(beside(own))
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(own.root / ".git")], check=True)
