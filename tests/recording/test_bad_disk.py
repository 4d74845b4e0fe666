"""A disk that is full, read-only or gone never stops a training: it is said once, and the loss is counted in the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result

from flor_dagster.cli import cli
from flor_dagster.recording import trouble
from flor_dagster.replay.workspace import Workspace
from flor_dagster.store.models import RunRow
from tests.recording.disk_lab import on_read_only_disk, on_small_disk
from tests.recording.record_lab import Project, environment

TRAINING = """
import os, resource, shutil, sys
import flor_dagster as flor
what = sys.argv[1]
state = {"w": [0.0]}
with flor.checkpointing(state=state):
    for epoch in flor.loop("epoch", range(6)):
        for step in flor.loop("step", range(20)):
            state["w"] = [float(epoch * 100 + step)] * (20_000 if what == "checkpoints" else 3)
            flor.log("text", "y" * (2_000 if what == "journal" else 10))
        flor.log("epoch_value", epoch + 0.5)
        if epoch == 2 and what == "delete":
            os.rename(".flor", "gone")
            shutil.rmtree("gone", ignore_errors=True)
        if epoch == 2 and what == "refuse":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print("done")
sys.exit(7)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "p", git=True)
    project.commit({"train.py": TRAINING})
    return project


def flor(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("flor_dagster:")]


def the_run(project: Project, values: int) -> RunRow:
    """The only run, and what `flor runs --json` says of it; at least so many of its epochs' values are there."""
    shown = flor("runs", "--project", str(project.root))
    document = flor("runs", "--project", str(project.root), "--json")
    (row,) = json.loads(document.stdout)["runs"]
    with Workspace.open(project.root) as workspace:
        (run,) = workspace.runs()
        frame = workspace.store.dataframe("epoch_value")
        assert (
            frame["epoch_value_logged"].dropna().tolist() == [epoch + 0.5 for epoch in range(6)][: len(frame)]
        )
        assert len(frame) >= values
    assert row["lost"] == run.lost
    assert ("could not be written" in shown.stdout) == bool(run.lost)
    return run


@pytest.mark.parametrize("what", ["journal", "checkpoints"])
def test_a_disk_that_fills_up_is_said_once_and_the_loss_is_counted(project: Project, what: str) -> None:
    done = on_small_disk(project.root, 150, "train.py", what, FLOR_CHECKPOINTS="all")
    assert (done.returncode, done.stdout) == (7, "done\n"), done.stderr
    assert len(told(done)) == 1
    run = the_run(project, 1)
    assert (run.status, run.reason) == ("failed", "SystemExit: 7")
    if what == "journal":
        assert run.lost > 20
    else:
        assert "checkpoints stopped" in told(done)[0] or run.lost


def test_a_disk_that_is_full_at_the_start_leaves_the_training_alone(project: Project) -> None:
    done = on_small_disk(project.root, 4, "train.py", "journal")
    assert (done.returncode, done.stdout) == (7, "done\n"), done.stderr
    assert len(told(done)) == 1
    with Workspace.open(project.root) as workspace:  # what it may have left disturbs nobody
        workspace.sync()
        assert workspace.store.problems == {}


def test_a_read_only_home_leaves_the_training_alone(project: Project) -> None:
    done = on_read_only_disk(project.root, "train.py", "journal")
    assert (done.returncode, done.stdout) == (7, "done\n"), done.stderr
    assert [("not recorded" in line) for line in told(done)] == [True]


def test_a_disk_that_refuses_everything_from_the_middle_on_leaves_what_was_written(project: Project) -> None:
    done = subprocess.run(
        [sys.executable, "train.py", "refuse"], cwd=project.root, env=environment(FLOR_CHECKPOINTS="all"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "done\n"), done.stderr
    assert len(told(done)) == 1
    run = the_run(project, 3)
    assert run.status == "lost"


def test_two_threads_that_meet_the_full_disk_at_once_say_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Journal:
        def entry(self, *_: object) -> None:
            pass

    said: list[str] = []

    def slowly(message: str) -> None:
        time.sleep(0.05)  # the other thread comes in while this one is still speaking
        said.append(message)

    monkeypatch.setattr(trouble, "warn", slowly)
    troubles = trouble.Troubles(cast(Any, Journal()))
    threads = [
        threading.Thread(target=troubles.tell, args=(f"{what}: no space left", True))
        for what in ("records", "checkpoints")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 1


def test_a_home_that_is_deleted_is_made_anew_with_every_record(project: Project) -> None:
    done = subprocess.run(
        [sys.executable, "train.py", "delete"], cwd=project.root, env=environment(FLOR_CHECKPOINTS="all"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "done\n"), done.stderr
    assert len(told(done)) == 1  # of a checkpoint that was being written, or of the folder
    run = the_run(project, 6)
    assert (run.status, run.lost) == ("failed", 1)
    with Workspace.open(project.root) as workspace:
        assert any("made anew" in message for _, message in workspace.store.warnings(run.id))
    assert run.commit is not None
    assert (
        subprocess.run(
            ["git", "status", "--porcelain"], cwd=project.root, capture_output=True, check=True
        ).stdout
        == b""
    )


def test_code_that_cannot_be_kept_is_said_once_and_the_run_stands_without_a_version(project: Project) -> None:
    project.write({"big.py": os.urandom(300_000).hex()})
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh", sys.executable, "train.py", "none"], cwd=project.root,
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "done\n"), done.stderr
    (line,) = told(done)
    with Workspace.open(project.root) as workspace:
        workspace.sync()
        (run,) = workspace.runs()
        assert line.endswith(run.tags["flor/version_error"]) or "big.py" in str(workspace.store.versions())


def test_ingest_on_a_full_disk_says_so_and_goes_on_when_there_is_room(project: Project) -> None:
    command = [sys.executable, "train.py", "journal"]
    subprocess.run(command, cwd=project.root, env=environment(), capture_output=True, check=False)
    full = on_small_disk(project.root, 700, "-m", "flor_dagster.cli", "runs")
    assert full.returncode == 1, full.stdout
    assert "the log store" in full.stderr.lower(), full.stderr
    assert "Traceback" not in full.stderr
    run = the_run(project, 6)
    assert (run.status, run.lost) == ("failed", 0)
