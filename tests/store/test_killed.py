"""Killed at any moment while it ingests, keeps a version, collects or thins: everything is whole, and the next one goes on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.recording.collecting import collect, lease, thin_run
from flor_dagster.store import LogStore
from flor_dagster.versions import refs
from flor_dagster.versions.snapshot import snapshot
from tests.recording.test_collecting import read_all, write
from tests.store.store_lab import Journal, Lab

TIMES = pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.slow)])


def seconds_of(action: Callable[[], Any]) -> float:
    """How long a child takes for it."""
    begin = time.monotonic()
    status = os.waitpid(forked(action), 0)[1]
    assert status == 0, "it fails by itself"
    return time.monotonic() - begin


def forked(action: Callable[[], Any]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.setsid()
            action()
            status = 0
        os._exit(status)
    return pid


def kill_while(action: Callable[[], Any], seconds: float, *, group: bool = False) -> bool:
    """Kill a child that does it after some seconds, or it and all that it started; whether it was still at it."""
    pid = forked(action)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL) if group else os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@TIMES
def test_killed_while_it_ingests(tmp_path: Path, times: int) -> None:
    home = tmp_path / ".flor"
    with LogStore.open(tmp_path / "whole.db") as whole:
        lab = Lab(home, whole)
        for _ in range(3):
            journal = lab.journal()
            for epoch in journal.loop("epoch", 40):
                for step in journal.loop("step", 10):
                    journal.log("loss", epoch + step / 16)
            journal.end()
        whole.ingest_all(home)
        expected = whole.dataframe("loss")

    def action() -> None:
        with LogStore.open(home / "flor.db", home=home) as store:
            store.ingest_all(home)

    lasts = seconds_of(action)
    moments = random.Random(5)
    for _ in range(times):
        for path in home.glob("*"):
            if path.is_file() and moments.random() < 0.7:
                path.unlink()  # the database, its side files, the ledger: whatever mixture of old and new is left
        lasts *= 1.0 if kill_while(action, moments.uniform(0, lasts)) else 0.7  # it was faster than measured
        if (home / "flor.db").exists():
            with contextlib.closing(sqlite3.connect(home / "flor.db")) as database:
                assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        action()
        with LogStore.open(home / "flor.db", home=home) as store:
            assert store.dataframe("loss").equals(expected)
            assert len(store.runs_after(0, 10)) == 3


@TIMES
def test_killed_while_it_keeps_a_version(tmp_path: Path, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(refs, "WAIT_SECONDS", 1.0)  # for the lock that a killed git leaves

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    root = tmp_path / "p"
    root.mkdir()
    for arguments in (("init", "-q"), ("config", "user.name", "t"), ("config", "user.email", "t@t.invalid")):
        git(*arguments)
    for number in range(30):
        (root / f"m{number}.py").write_text(f"x = {number}\n")
    git("add", "-A")
    git("commit", "-qm", "one")
    (root / "staged.py").write_text("staged\n")
    git("add", "staged.py")
    before = (
        git("status", "--porcelain"),
        git("stash", "list"),
        git("rev-parse", "HEAD"),
        git("ls-files", "-s"),
    )
    lasts = 0.2
    moments = random.Random(6)
    for number in range(times):
        (root / "m0.py").write_text(f"x = {number + 100}\n")
        dead = kill_while(lambda: snapshot(root), moments.uniform(0, lasts), group=bool(number % 2))
        lasts *= 1.0 if dead else 0.7
        deadline = time.monotonic() + 30
        while [*(root / ".git").glob("*.lock")] and time.monotonic() < deadline:
            time.sleep(0.01)  # a git that it had started lives on, and ends by itself
        assert not [*(root / ".git").glob("*.lock")]
        version = snapshot(root)
        held = git("show", f"{version.commit}:m0.py")
        assert held == f"x = {number + 100}\n"
        assert git("show", f"{version.commit}:staged.py") == "staged\n"
        assert git("fsck", "--full", "--no-dangling", "--no-progress") == ""
    (root / "m0.py").write_text("x = 0\n")
    assert (
        git("status", "--porcelain"),
        git("stash", "list"),
        git("rev-parse", "HEAD"),
        git("ls-files", "-s"),
    ) == before


def checkpoints(store: CheckpointStore, run: str, count: int) -> None:
    for number in range(count):
        arrays = (np.full(4000, number % 3), np.full(4000, number + 10))
        write(store, run, f"1.{number}", *arrays, series="1", number=number)


def whole(store: CheckpointStore, *runs: str) -> int:
    """How many checkpoints there are; each can be read, with all of its parts."""
    names = [(run, name) for run in runs for name in store.names(run)]
    for run, name in names:
        read_all(store, run, name)
    return len(names)


@TIMES
def test_killed_while_it_collects(tmp_path: Path, times: int) -> None:
    store = CheckpointStore(tmp_path)

    def action() -> None:
        collect(store, ["a", "b"], 0)

    checkpoints(store, "a", 12)
    lasts = seconds_of(action)
    moments = random.Random(7)
    for _ in range(times):
        checkpoints(store, "a", 12)
        checkpoints(store, "b", 12)
        kill_while(action, moments.uniform(0, lasts))
        assert whole(store, "a", "b") >= 6
        collect(store, ["a", "b"], 0)
        assert whole(store, "a", "b") == 6, "the first and the last two of each"
        collect(store, [], 0, gone=["a", "b"])
        assert not list(tmp_path.glob("objects/*/[!.]*"))


@TIMES
def test_killed_while_it_records_and_thins(tmp_path: Path, times: int) -> None:
    store = CheckpointStore(tmp_path)

    def action() -> None:
        with lease(store, "a"):
            for number in range(24):
                arrays = (np.full(4000, number % 3), np.full(4000, number + 10))
                write(store, "a", f"1.{number}", *arrays, series="1", number=number)
                thin_run(store, "a", 150_000)

    lasts = seconds_of(action)
    moments = random.Random(8)
    for _ in range(times):
        collect(store, [], 0, gone=["a"])
        kill_while(action, moments.uniform(0, lasts))
        assert whole(store, "a") <= 24
        assert collect(store, ["a"], 150_000).unreadable == {}
        whole(store, "a")


def test_a_journal_that_grows_while_its_reader_is_killed_is_read_to_its_end(tmp_path: Path) -> None:
    home = tmp_path / ".flor"
    with LogStore.open(home / "flor.db", home=home) as store:
        journal: Journal = Lab(home, store).journal()
    for _ in range(3):
        for epoch in journal.loop("epoch", 200):
            journal.log("loss", epoch + 0.5)

        def action() -> None:
            with LogStore.open(home / "flor.db", home=home) as store:
                store.ingest_all(home)

        kill_while(action, 0.02)
    journal.end()
    with LogStore.open(home / "flor.db", home=home) as store:
        store.ingest_all(home)
        assert store.dataframe("loss")["loss"].tolist() == [epoch + 0.5 for epoch in range(200)] * 3
