"""Killed at any moment, a run loses nothing that `flor.log` had returned from."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flor_dagster.errors import CheckpointError
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.recording.journal import read_journal
from flor_dagster.store import LogStore
from tests.recording.record_lab import Project, Run, environment

# The pipe is written after each call has returned: what it says was returned from must be in the journal.
TRAINING = """
import os, sys, time
import flor_dagster as flor
pipe, pause = int(sys.argv[1]), float(sys.argv[2])
model = {"w": [0.0] * 500, "n": 0}
count = 0
with flor.checkpointing(model=model):
    for epoch in flor.loop("epoch", range(10 ** 6)):
        for step in flor.loop("step", range(20)):
            model["n"] += 1
            flor.log("count", count + 0.5)
            os.write(pipe, b"%d\\n" % count)
            count += 1
            flor.log("text", "t")
            if pause:
                time.sleep(pause)
"""


def killed_run(project: Project, pause: float, seconds: float) -> tuple[int, Path]:
    """Kill a training; the last number that it said was logged, and its journal."""
    (project.root / "train.py").write_text(TRAINING)
    before = set(project.journals)
    read, write = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "train.py", str(write), str(pause)], cwd=project.root, pass_fds=(write,),
        env=environment(FLOR_CHECKPOINTS="all"), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.readline()
        end = time.monotonic() + seconds
        while time.monotonic() < end and said:
            said = pipe.readline()
        child.send_signal(signal.SIGKILL)
        rest = pipe.read().split(b"\n")
        child.wait()
    whole = [line for line in [said.strip(), *rest[:-1]] if line]
    (journal,) = set(project.journals) - before
    return int(whole[-1]), journal


def check(project: Project, store: LogStore, last: int, journal: Path) -> None:
    run = Run(project, "", "")
    run.entries = [entry.parts for entry in read_journal(journal)]
    counts = [value for name, _, value in run.records() if name == "count"]
    assert counts[: last + 1] == [n + 0.5 for n in range(last + 1)]
    assert len(counts) <= last + 2
    store.ingest_all(project.root / ".flor")
    row = store.run(journal.parent.name)
    assert row.status == "lost"
    frame = store.dataframe("count", runs=[row.key])
    assert frame["count"].dropna().tolist() == counts
    checkpoints = CheckpointStore(project.root / ".flor" / "checkpoints")
    named = [parts[1]["name"] for parts in run.of("k")]
    for name in named:
        manifest = checkpoints.read(row.id, name)
        assert manifest.run == row.id
    for path in (project.root / ".flor" / "checkpoints" / "manifests" / row.id).glob("*.json"):
        assert checkpoints.read(row.id, path.stem).name == path.stem
    if named:  # a torn one is refused, whatever tore it
        path = checkpoints.manifest_path(row.id, named[-1])
        path.write_bytes(path.read_bytes()[:-7])
        with pytest.raises(CheckpointError):
            checkpoints.read(row.id, named[-1])


def kill_often(tmp_path: Path, times: int) -> None:
    project = Project(tmp_path / "p")
    moments = random.Random(7)
    with LogStore.open(tmp_path / "store.db") as store:
        for number in range(times):
            pause = 0.0 if number % 2 else 0.01  # two records a step: flat out, or 200 a second
            last, journal = killed_run(project, pause, moments.uniform(0.0, 0.8))
            check(project, store, last, journal)


def test_killed_at_random_moments_a_run_loses_nothing(tmp_path: Path) -> None:
    kill_often(tmp_path, 4)


@pytest.mark.slow
def test_killed_fifty_times_a_run_loses_nothing(tmp_path: Path) -> None:
    kill_often(tmp_path, 50)
