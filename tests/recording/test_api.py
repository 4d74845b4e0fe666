"""The parts of the API for those who do not own a plain loop in a plain script."""

from __future__ import annotations

import json
from pathlib import Path

from flor_dagster.recording.journal import read_journal
from flor_dagster.store import LogStore
from tests.recording.record_lab import Project, Run

ITERATIONS = """
import flor_dagster as flor
def callback(epoch, step):
    with flor.iteration("epoch", epoch), flor.iteration("step", step, f"b{step}"):
        flor.log("loss", epoch * 10 + step)
for epoch in range(2):
    for step in range(3):
        callback(epoch, step)
for fold in flor.loop("fold", range(2)):
    for i in range(2):
        with flor.iteration("fit", i):
            flor.log("x", i)
    with flor.iteration("fit", 0):
        flor.log("x", "again")
try:
    with flor.iteration("bad", 0):
        raise KeyError
except KeyError:
    flor.log("after", 1)
"""


def test_told_iterations_are_loop_contexts(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run(ITERATIONS)
    records = run.records()
    losses = [(c, v) for n, c, v in records if n == "loss"]
    assert losses == [(f"epoch[{e}]/step[{s}]", e * 10 + s) for e in range(2) for s in range(3)]
    assert [(c, v) for n, c, v in records if n == "x" and c.startswith("fold[1]")] == [
        ("fold[1]/fit[0]", 0), ("fold[1]/fit[1]", 1), ("fold[1]/fit[0]", "again"),
    ]  # fmt: skip
    assert ("after", "", 1) in records
    assert [(p[3], p[4]) for p in run.of("l")].count(("epoch", 0)) == 1
    assert {(p[3], p[4]) for p in run.of("l") if p[3] == "fit"} == {("fit", 0), ("fit", 1)}
    assert ("bad", "raise", 1) in run.ends()
    assert ("epoch", "exhausted", 2) in run.ends()
    assert "told by" in run.reasons()


RUNS = """
import flor_dagster as flor
flor.log("before", 0)
for lr in (0.1, 0.2):
    with flor.run("sweep", tags={"k": lr}, args={"lr": lr}) as run:
        print(run.run_id, flor.arg("lr", 1.0))
        flor.log("x", lr)
try:
    with flor.run():
        raise ValueError("no")
except ValueError:
    pass
flor.log("after", 1)
first = flor.commit()
flor.log("second", 2)
for i in flor.loop("i", range(2)):
    assert flor.commit() != first
    flor.log("y", i)
"""


def runs_of(project: Project) -> list[Run]:
    runs: list[Run] = []
    for path in project.journals:
        run = Run(project, "", "")
        run.entries = [entry.parts for entry in read_journal(path)]
        runs.append(run)
    return sorted(runs, key=lambda run: run.of("flor")[0][2]["nth"])


def test_blocks_and_commits_are_runs_of_their_own(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    out = project.run(RUNS).out.splitlines()
    runs = runs_of(project)
    assert [[r[0] for r in run.records()] for run in runs] == [
        ["before"], ["x"], ["x"], [], ["after"], ["second", "y", "y"],
    ]  # fmt: skip
    assert [run.status for run in runs] == [
        "finished",
        "finished",
        "finished",
        "failed",
        "finished",
        "finished",
    ]
    header = runs[2].of("flor")[0][2]
    assert header["tags"] == {"flor/name": "sweep", "k": "0.2"}
    assert out[1] == f"{header['run']} 0.2"


def test_a_block_inside_a_block_or_a_loop_is_refused(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run("""
import flor_dagster as flor
def refused(block=flor.run):
    try:
        with block("inner"):
            print("begun")
    except RuntimeError as error:
        print("refused", "inside" in str(error))
with flor.run("outer"):
    refused()
    flor.log("x", 1)
for i in flor.loop("i", range(1)):
    refused()
""")
    assert run.out == "refused True\nrefused True\n"


CAPTURE = """
import logging, sys
import flor_dagster as flor
print("unseen")
flor.tags(stage="one", lr=1)
with flor.capture():
    print("a", 1, sep="-")
    print("to err", file=sys.stderr)
    print("to a file", file=open("out.txt", "w"))
    for i in flor.loop("i", range(2)):
        logging.getLogger("lib").warning("w %s", i)
print("unseen")
quiet = flor.capture(print=False)
print("unseen"); logging.error("seen")
quiet.stop()
logging.error("unseen")
flor.tags(stage="two")
"""


def test_what_is_printed_and_logged_is_kept_where_asked_and_out_of_the_metrics(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    run = project.run(CAPTURE)
    assert [p[3:] for p in run.of("o")] == [
        ["print", "stdout", "a-1"], ["print", "stderr", "to err"], ["logging", "WARNING:lib", "w 0"],
        ["logging", "WARNING:lib", "w 1"], ["logging", "ERROR:root", "seen"],
    ]  # fmt: skip
    assert run.out == "unseen\na-1\nunseen\nunseen\n"
    assert (project.root / "out.txt").read_text() == "to a file\n"
    with LogStore.open(tmp_path / "store.db") as store:
        (row,) = store.ingest_all(project.root / ".flor")
        assert row.tags == {"stage": "two", "lr": "1"} | {k: v for k, v in row.tags.items() if "/" in k}
        lines = store.output(row.id)
        assert [(line["path"], line["text"]) for line in lines][2] == ("i=0", "w 0")
        assert store.names() == []


def test_asyncio_tasks_have_their_own_loop_context(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run("""
import asyncio
import flor_dagster as flor
async def work(k):
    for i in flor.loop(f"t{k}", range(20)):
        flor.log("v", k + 0.5)
        await asyncio.sleep(0)
        flor.log("v", k + 0.5)
async def main():
    await asyncio.gather(*(work(k) for k in range(4)))
asyncio.run(main())
""")
    for k in range(4):
        mine = [c for n, c, v in run.records() if v == k + 0.5]
        assert mine == [f"t{k}[{i}]" for i in range(20) for _ in range(2)]


def test_threads_that_open_loops_at_once_have_contexts_of_their_own_and_the_journal_tells_them_apart(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path / "p")
    run = project.run("""
import sys, threading
import flor_dagster as flor
sys.setswitchinterval(1e-6)
start = threading.Barrier(4)
def work(k):
    start.wait()
    for epoch in flor.loop("epoch", range(20)):
        for step in flor.loop("step", range(2)):
            flor.log("mine", k)
threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
for last in flor.loop("last", range(1)):
    flor.log("end", 1)
""")
    parts = run.entries
    outermost = {p[1]: (p[3], p[4]) for p in parts if p[0] == "l" and p[2] == 0}
    assert sorted(outermost.values()) == [*(("epoch", n) for n in range(4)), ("last", 0)]
    threads = {p[1]: p[2] for p in parts if p[0] == "p"}
    assert {outermost[loop][0] for loop in threads} == {"epoch"}
    assert len(set(threads.values())) == 4
    loops = {p[1]: p for p in parts if p[0] == "l"}
    contexts = {p[1]: p[2] for p in parts if p[0] == "c"}

    def outer(context: int) -> int:
        loop = contexts[context]
        around = loops[loop][2]
        return loop if around == 0 else outer(around)

    calls = {p[1]: p[2] for p in parts if p[0] == "n"}
    mine = {(outer(p[1]), p[2]) for p in parts if isinstance(p[0], int) and calls[p[0]] == "mine"}
    assert len(mine) == 4


def test_any_alias_of_the_import_records(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run("""
from flor_dagster import log, loop as over
import flor_dagster
import flor_dagster as whatever
record = log
for i in over("i", range(2)):
    log("a", 1.5); flor_dagster.log("b", 2.5); whatever.log("a", 3.5); record("c", 4.5)
""")
    assert json.dumps([v for _, _, v in run.records()]) == json.dumps([1.5, 2.5, 3.5, 4.5] * 2)


def test_one_name_from_many_places_keeps_each_call_site(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run("""
import flor_dagster as flor
def a(x): flor.log("v", x)
def b(x):
    flor.log("v", x)
    flor.log("v", x)
for i in flor.loop("i", range(50)):
    a(i + 0.25); b(i + 0.5); flor.log("v", i + 0.75); [flor.log(n, 1.0) for n in ("v", "w")]
""")
    lines = {p[1]: p[5] for p in run.of("n")}
    values = [(lines[p[0]], p[2]) for p in run.entries if type(p[0]) is int]
    expected = [
        [(3, i + 0.25), (5, i + 0.5), (6, i + 0.5), (8, i + 0.75), (8, 1.0), (8, 1.0)] for i in range(50)
    ]
    assert values == [pair for group in expected for pair in group]
    assert len(run.of("n")) == 6
