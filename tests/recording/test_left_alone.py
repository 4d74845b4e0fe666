"""What a daemon, an exit hook or a signal handler logs is recorded, or counted; nothing of it vanishes, nothing is recorded twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flor_dagster.recording.journal import read_journal
from flor_dagster.replay.model import Question
from flor_dagster.store import LogStore
from tests.replay.conftest import Lab, lab

__all__ = ["lab"]

ROOT = Path(__file__).parents[2]


def run(folder: Path, script: str, **more: str) -> str:
    """Run a script in a repository of its own, as `python script`; what it said."""
    if not (folder / ".git").exists():
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / "train.py").write_text(script)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLOR_")}
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=folder, env={**kept, "PYTHONPATH": str(ROOT), **more},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def journals(folder: Path) -> list[list[list[Any]]]:
    """The entries of each run, in the order of their start."""
    found = [
        [entry.parts for entry in read_journal(path)] for path in folder.glob(".flor/runs/*/journal.0.jsonl")
    ]
    return sorted(found, key=lambda entries: entries[0][2]["started"])


def values(entries: list[list[Any]], name: str) -> list[Any]:
    calls = {parts[1] for parts in entries if parts[0] == "n" and parts[2] == name}
    return [parts[2] for parts in entries if isinstance(parts[0], int) and parts[0] in calls]


def end(entries: list[list[Any]]) -> str:
    return next((parts[1] for parts in reversed(entries) if parts[0] == "z"), "")


DAEMON = """\
import os, sys, time
import flor_dagster as flor
{before}
if os.fork():
    os.{wait}
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
for number in range(20):
    flor.log("x", number)
open("done", "w").close()
"""


@pytest.mark.parametrize("logs_before", [False, True])
def test_a_daemon_is_a_training_run_with_all_that_it_logs(tmp_path: Path, *, logs_before: bool) -> None:
    before = "flor.log('first', 1)" if logs_before else ""
    run(tmp_path, DAEMON.format(before=before, wait="wait()" if logs_before else "getpid()"))
    limit = time.monotonic() + 60
    while not (tmp_path / "done").exists() or not all(map(end, journals(tmp_path))):
        assert time.monotonic() < limit
        time.sleep(0.05)
    *outer, daemon = journals(tmp_path)
    assert values(daemon, "x") == list(range(20))
    assert daemon[0][2]["in_child"], "no replay begins there, and it says so"
    assert len(outer) == logs_before
    if logs_before:
        assert values(outer[0], "first") == [1]
        assert daemon[0][2]["parent"] == outer[0][0][2]["run"]


def test_a_forked_worker_records_nothing_and_a_left_one_counts_what_came_before(tmp_path: Path) -> None:
    run(tmp_path, """\
import os, time
import flor_dagster as flor
flor.log("own", 1)
if os.fork() == 0:
    for _ in range(3):
        flor.log("x", 1)
    open("three", "w").close()
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.01)
    flor.log("x", 2)
    open("done", "w").close()
    os._exit(0)
while not os.path.exists("three"):
    time.sleep(0.01)
""")  # fmt: skip
    limit = time.monotonic() + 60
    while not (tmp_path / "done").exists():
        assert time.monotonic() < limit
        time.sleep(0.05)
    outer, left = journals(tmp_path)
    assert values(outer, "own") == [1]
    assert values(outer, "x") == []
    assert values(left, "x") == [2]
    assert ["w", "lost", "3 values were logged before the process that forked this one had ended"] in left


HOOKS = """\
import atexit
{first}
import flor_dagster as flor
atexit.register(lambda: flor.log("early", 2))
flor.log("x", 1)
atexit.register(lambda: flor.log("late", 3))
"""


def test_what_exit_hooks_log_is_recorded_whenever_they_were_registered(tmp_path: Path) -> None:
    run(tmp_path, HOOKS.format(first=""))
    (entries,) = journals(tmp_path)
    assert [values(entries, name) for name in ("x", "early", "late")] == [[1], [2], [3]]
    assert end(entries) == "finished"


def test_what_a_hook_logs_behind_the_end_is_counted_and_said(tmp_path: Path) -> None:
    said = run(
        tmp_path, HOOKS.format(first="atexit.register(lambda: [flor.log('last', n) for n in range(4)])")
    )
    (entries,) = journals(tmp_path)
    assert values(entries, "early") == [2]
    assert said.count("logged after the run had ended") == 1
    with LogStore.open(tmp_path / "flor.db", home=tmp_path / ".flor") as store:
        store.ingest_all(tmp_path / ".flor")
        (found,) = store.runs()
    assert (found.status, found.lost) == ("finished", 4)


def test_a_signal_handler_that_logs_during_the_first_call_is_of_the_same_run(tmp_path: Path) -> None:
    said = run(tmp_path, """\
import signal, sys
import flor_dagster as flor
count = 0
def handle(*_):
    global count
    count += 1
    flor.log("signals", count)
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
flor.log("x", 1)
signal.setitimer(signal.ITIMER_REAL, 0)
print(count)
""")  # fmt: skip
    (entries,) = journals(tmp_path)
    assert end(entries) == "finished"
    assert values(entries, "x") == [1]
    count = int(said.split()[0])
    assert count > 0, "no signal came in time to try it"
    assert sorted(values(entries, "signals")) == list(range(1, count + 1))


def test_a_run_whose_exit_hook_logs_is_replayed_exactly(lab: Lab) -> None:
    script = HOOKS.format(first="") + "for epoch in flor.loop('epoch', range(2)):\n    flor.log('y', epoch)\n"
    lab.commit({"train.py": script})
    lab.train()
    lab.write({"train.py": script + "    flor.log('asked', epoch * 2)\n"})
    with lab.open() as workspace:
        workspace.sync()
        (answer,) = workspace.answer(Question(("asked",), without_checkpoints=True)).cells
    assert answer.cell.fidelity == "exact", answer.cell.sentence
