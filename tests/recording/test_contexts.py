"""A run belongs to its context: threads, tasks and processes of a pool have each their own, and lose nothing to each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from flor_dagster.recording.journal import read_journal
from tests.recording.record_lab import Project, Run

TRIALS = """
import asyncio, sys, threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import flor_dagster as flor
def trial(k):
    with flor.run(f"trial-{k}", args={"k": k}):
        for epoch in flor.loop("epoch", range(3)):
            time.sleep(0.02)
            flor.log("v", flor.arg("k", 0) * 10 + epoch)
async def task(k):
    with flor.run(f"trial-{k}", args={"k": k}):
        for epoch in flor.loop("epoch", range(3)):
            await asyncio.sleep(0.02)
            flor.log("v", flor.arg("k", 0) * 10 + epoch)
async def gather():
    await asyncio.gather(*map(task, (1, 2, 3)))
if __name__ == "__main__":
    flor.log("begun", 1.5)
    how = sys.argv[1]
    if how == "tasks":
        asyncio.run(gather())
    else:
        with (ThreadPoolExecutor if how == "threads" else ProcessPoolExecutor)(3) as pool:
            list(pool.map(trial, (1, 2, 3)))
"""


def runs_of(project: Project) -> dict[str, Run]:
    found: dict[str, Run] = {}
    for path in project.journals:
        run = Run(project, "", "")
        run.entries = [entry.parts for entry in read_journal(path)]
        found[run.of("flor")[0][2]["name"] or run.of("flor")[0][2]["run"]] = run
    return found


@pytest.mark.parametrize("how", ["threads", "tasks", "processes"])
def test_trials_side_by_side_are_runs_of_their_own(tmp_path: Path, how: str) -> None:
    project = Project(tmp_path / "p")
    project.run(TRIALS, how)
    runs = runs_of(project)
    trials = {name: run for name, run in runs.items() if name.startswith("trial")}
    outer = next(run for name, run in runs.items() if not name.startswith("trial"))

    assert len(trials) == 3
    for k in (1, 2, 3):
        assert trials[f"trial-{k}"].records() == [("v", f"epoch[{i}]", k * 10 + i) for i in range(3)]
        assert trials[f"trial-{k}"].status == "finished"
        parent = trials[f"trial-{k}"].of("flor")[0][2]["parent"]
        assert parent == (outer.of("flor")[0][2]["run"] if how == "processes" else "")
    assert [name for name, _, _ in outer.records()] == ["begun"]


SERVICE = """
import sys, threading, time
import flor_dagster as flor
sys.setswitchinterval(1e-5)
def request(k):
    for n in range(5):
        with flor.iteration("request", k, k):
            time.sleep(0.001 * (k % 3))
            flor.log("answer", k * 100 + n)
        flor.commit()
        flor.log("between", k * 100 + n)
threads = [threading.Thread(target=request, args=(k,)) for k in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
"""


def test_what_one_thread_commits_takes_nothing_from_another(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    project.run(SERVICE)
    records = [record for run in runs_of(project).values() for record in run.records()]
    wanted = sorted(k * 100 + n for k in range(6) for n in range(5))

    assert sorted(v for name, _, v in records if name == "answer") == wanted
    assert all(v // 100 == int(c[8:-1]) for name, c, v in records if name == "answer")
    assert sorted(v for name, _, v in records if name == "between") == wanted
    assert not any(run.of("w") for run in runs_of(project).values())


def test_a_thread_that_works_for_the_main_threads_block_logs_into_it(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    project.run("""
import threading
import flor_dagster as flor
with flor.run("one"):
    thread = threading.Thread(target=lambda: flor.log("helped", 1.5))
    thread.start(); thread.join()
    flor.log("mine", 2.5)
""")
    (run,) = runs_of(project).values()
    assert [name for name, _, _ in run.records()] == ["helped", "mine"]


def test_a_killed_process_ends_every_run_that_is_open(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    project.run(
        """
import os, signal, threading, time
import flor_dagster as flor
def trial(k):
    with flor.run(f"trial-{k}"):
        flor.log("v", k)
        ready.wait()
        time.sleep(60)
ready = threading.Barrier(3)
for k in range(2):
    threading.Thread(target=trial, args=(k,), daemon=True).start()
flor.log("main", 0)
ready.wait()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
""",
        status=-15,
    )
    assert [run.status for run in runs_of(project).values()] == ["interrupted"] * 3
