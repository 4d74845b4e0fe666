"""Only versions that no training run needs are let go of, never others."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flor_dagster.versions.collecting import drop_versions, shared_lock
from flor_dagster.versions.repository import Repository
from flor_dagster.versions.snapshot import snapshot


@pytest.fixture
def home(repo):
    home = repo.root / ".flor"
    home.mkdir()
    (home / ".gitignore").write_text("*\n")
    (home / "versions.lock").touch()
    return home


def version(repo, text):
    repo.write("train.py", text)
    return snapshot(repo.root).commit


def kept(repo):
    return set(repo.git("for-each-ref", "--format=%(objectname)", "refs/flor/versions").split())


def test_versions_without_a_run_go_and_their_objects_with_gits_own_gc(repo, home):
    needed, unneeded = version(repo, "needed\n"), version(repo, "unneeded\n")
    before = repo.fingerprint()
    assert drop_versions(Repository(repo.root), home, [needed], dry_run=True).dropped == (unneeded,)
    assert kept(repo) == {needed, unneeded}
    done = drop_versions(Repository(repo.root), home, [needed])
    assert (done.dropped, done.kept, done.refusal) == ((unneeded,), 1, "")
    assert repo.fingerprint() == before
    repo.git("gc", "-q", "--prune=now")
    assert repo.tree(needed)["train.py"][1] == b"needed\n"
    assert not Repository(repo.root).has(unneeded)


def test_a_run_that_the_store_does_not_know_yet_keeps_its_version(repo, home):
    young = version(repo, "just begun\n")
    run = home / "runs/abc"
    run.mkdir(parents=True)
    (run / "version.json").write_text(json.dumps({"commit": young}))
    assert drop_versions(Repository(repo.root), home, []).dropped == ()


def child(repo, out, **variables):
    command = [
        sys.executable,
        "-m",
        "flor_dagster.versions.snapshot",
        "--root",
        str(repo.root),
        "--out",
        str(out),
    ]
    environment = os.environ | variables
    return subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, check=True)


def test_the_versions_of_a_moved_home_stay_and_where_it_is_gone_nothing_goes(repo, home, tmp_path):
    moved = tmp_path / "elsewhere"
    out = moved / "runs/abc/version.json"
    out.parent.mkdir(parents=True)
    repo.write("train.py", "recorded elsewhere\n")
    child(repo, out, FLOR_HOME=str(moved))
    theirs = json.loads(out.read_text())["commit"]
    unneeded = version(repo, "unneeded\n")
    assert drop_versions(Repository(repo.root), home, []).dropped == (unneeded,)
    assert kept(repo) == {theirs}
    moved.rename(tmp_path / "unmounted")
    done = drop_versions(Repository(repo.root), home, [])
    assert done.dropped == ()
    assert "elsewhere" in done.refusal
    repo.git("gc", "-q", "--prune=now")  # the note of the home outlives it, too


def test_the_own_home_keeps_what_a_collection_for_a_moved_one_does_not_know(repo, home, tmp_path):
    run = home / "runs/abc"
    run.mkdir(parents=True)
    ours = version(repo, "ours\n")
    (run / "version.json").write_text(json.dumps({"commit": ours}))
    (tmp_path / "moved").mkdir()
    assert drop_versions(Repository(repo.root), tmp_path / "moved", []).dropped == ()


def test_a_collection_waits_for_snapshots_that_are_being_taken(repo, home):
    unneeded = version(repo, "unneeded\n")
    done = []
    with shared_lock(home):
        thread = threading.Thread(target=lambda: done.append(drop_versions(Repository(repo.root), home, [])))
        thread.start()
        thread.join(0.3)
        assert not done
        assert kept(repo) == {unneeded}
    thread.join(20)
    assert done[0].dropped == (unneeded,)
