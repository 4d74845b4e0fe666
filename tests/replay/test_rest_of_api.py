"""Blocks, commits, told iterations, threads and tasks in hindsight: right, or refused with a sentence that says why; never wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flor_dagster.replay.model import Question
from tests.replay.batch_lab import Batch, Case, rows
from tests.replay.conftest import PACKAGE, Lab, lab
from tests.replay.oracle_lab import Asked, with_asked, without_asked

pytestmark = pytest.mark.ci

__all__ = ["lab"]

CALLED_BACK = """\
import random
import flor_dagster as flor
random.seed(1)
class Engine:
    def __init__(self, steps): self.steps = steps; self.total = 0.0
    def fit(self, callback):
        for n in range(self.steps):
            self.total += random.random()
            callback(self, n)
def on_step(engine, n):
    with flor.iteration("step", n):
        #? flor.log("ASKED_told", engine.total * 2)
        flor.log("loss", engine.total)
def main():
    for epoch in flor.loop("epoch", range(4)):
        engine = Engine(3)
        engine.fit(on_step)
        #? flor.log("ASKED_epoch", engine.total * 3)
        flor.log("mean", engine.total / 3)
main()
"""
TOLD = """\
import random
import flor_dagster as flor
random.seed(1)
total, seen = 0.0, []
for n in range(4):
    with flor.iteration("epoch", n, f"e{n}"):
        for step in flor.loop("step", range(3)):
            total += random.random()
            seen.append(step)
            #? flor.log("ASKED_step", total * 2)
            flor.log("loss", total)
        #? flor.log("ASKED_epoch", [total, len(seen)])
        flor.log("mean", total / 3)
    flor.log("outside", n)
flor.log("end", total)
"""
THREAD = """\
import random, threading
import flor_dagster as flor
out = []
def train(seed):
    rng = random.Random(seed)
    total = 0.0
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(3)):
            total += rng.random()
            #? flor.log("ASKED_step", total * 2)
            flor.log("loss", total)
        #? flor.log("ASKED_epoch", total)
        flor.log("mean", total / 3)
    out.append(total)
for seed in (3, 4):
    thread = threading.Thread(target=train, args=(seed,))
    thread.start()
    thread.join()
flor.log("end", sum(out))
"""
POOL = """\
import concurrent.futures, random
import flor_dagster as flor
def score(x):
    flor.log("scored", x)
    #? flor.log("ASKED_score", x * 2)
    return x * 2
random.seed(1)
total = 0.0
with concurrent.futures.ThreadPoolExecutor(1) as pool:
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(3)):
            total += random.random()
            flor.log("loss", total)
        got = list(pool.map(score, [epoch, epoch + 1]))
        #? flor.log("ASKED_epoch", total + sum(got))
        flor.log("mean", total / 3)
"""
BESIDE = """\
import threading
import flor_dagster as flor
state, stop, more = {"ticks": 0}, threading.Event(), threading.Event()
def tick():
    while not stop.is_set():
        state["ticks"] += 1
        more.set()
def look(total):
    more.clear()
    more.wait()
    return total
thread = threading.Thread(target=tick, daemon=True)
thread.start()
total = 0
for epoch in flor.loop("epoch", range(3)):
    total += epoch
    #? flor.log("ASKED_harmless", total * 3)
    #? flor.log("ASKED_calling", look(total))
    flor.log("total", total)
stop.set()
thread.join()
"""
TASKS = """\
import asyncio, random
import flor_dagster as flor
out = {}
async def train(number):
    rng = random.Random(number)
    total = 0.0
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(2)):
            total += rng.random()
            await asyncio.sleep(0)
            #? flor.log("ASKED_step", total * 2)
            flor.log("loss", total)
        #? flor.log("ASKED_epoch", total * 3)
        flor.log("mean", total / 3)
    out[number] = total
async def main():
    await asyncio.gather(train(1), train(2))
asyncio.run(main())
#? flor.log("ASKED_after", sum(out.values()))
flor.log("end", sum(out.values()))
"""
AWAITED = """\
import asyncio, random
import flor_dagster as flor
rng = random.Random(1)
async def batch(n):
    await asyncio.sleep(0)
    return rng.random()
async def main():
    total = 0.0
    for epoch in flor.loop("epoch", range(4)):
        got = await batch(epoch)
        for step in flor.loop("step", range(3)):
            total += rng.random() * got
            #? flor.log("ASKED_step", total * 2)
            flor.log("loss", total)
        #? flor.log("ASKED_epoch", total * 3)
        flor.log("mean", total / 3)
asyncio.run(main())
"""
SCRIPTS = {
    "called_back": CALLED_BACK, "told": TOLD, "thread": THREAD, "pool": POOL, "tasks": TASKS, "awaited": AWAITED,
}  # fmt: skip
STOPPED = ("told", "thread", "awaited")
SECOND = {"iterations": {"epoch": (1,)}}
CASES = {name: Case(text) for name, text in SCRIPTS.items()} | {
    f"{name}_second": Case(SCRIPTS[name], how=SECOND) for name in STOPPED
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Asked]]]:
    folder = tmp_path_factory.mktemp("rest")
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("FLOR_")]:
            patch.delenv(name)
        patch.setenv("FLOR_CACHE", str(folder / "cache"))
        with Batch(folder) as batch:
            yield batch.ask({**CASES, "beside": Case(BESIDE)})


@pytest.mark.parametrize("case", SCRIPTS)
def test_every_value_is_there_with_its_bits(asked: dict[str, dict[str, Asked]], case: str) -> None:
    for name, one in asked[case].items():
        assert (one.answer.cell.status, one.fidelity) == ("replayed", "exact"), (name, one.sentence)
        assert one.right, (name, one.values, one.wanted)
        assert one.values


@pytest.mark.parametrize("case", STOPPED)
def test_some_iterations_have_the_same_bits(asked: dict[str, dict[str, Asked]], case: str) -> None:
    for name, one in asked[f"{case}_second"].items():
        assert one.fidelity == "exact", (name, one.sentence)
        wanted = [row for row in one.wanted if "epoch#0[1]" in str(row[0])]
        assert [row for row in one.values if "epoch#0[1]" in str(row[0])] == wanted, name
        assert set(one.values) <= set(one.wanted)


def test_what_a_thread_changes_beside_an_expression_is_not_laid_at_its_door(
    asked: dict[str, dict[str, Asked]],
) -> None:
    harmless, calling = (asked["beside"][f"asked_{name}"] for name in ("harmless", "calling"))
    assert harmless.right
    assert calling.right
    assert {harmless.fidelity, calling.fidelity} == {"unverified"}
    assert "`state` changed while 'beside_asked_calling' was evaluated" in calling.sentence
    assert "the thread `Thread-1 (tick)` runs" in calling.sentence


BLOCKS = """\
import random
import flor_dagster as flor
def train(seed):
    random.seed(seed)
    total = 0.0
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(2)):
            total += random.random()
            #? flor.log("asked_step", total * 2)
            flor.log("loss", total)
        #? flor.log("asked_epoch", total * 3)
        flor.log("mean", total / 2)
    return total
with flor.run("first", args={"seed": 1}):
    train(flor.arg("seed", 0))
    #? flor.log("asked_behind", 5)
with flor.run("second", args={"seed": 2}):
    got = train(flor.arg("seed", 0))
    flor.log("end", got)
train(3)
flor.commit()
train(4)
"""


def test_each_block_and_each_commit_is_answered_by_itself(lab: Lab) -> None:
    oracle = Lab(lab.root.parent / "oracle")
    lab.commit({"train.py": without_asked(BLOCKS)})
    oracle.commit({"train.py": with_asked(BLOCKS)})
    time.sleep(0.05)
    lab.train()
    oracle.train()
    lab.write({"train.py": with_asked(BLOCKS)})
    names = ("asked_step", "asked_epoch", "asked_behind")
    ways: list[list[dict[str, Any]]] = [[SECOND, {}], [{}], [], [SECOND]]
    with lab.open() as workspace, oracle.open() as truth:
        workspace.sync()
        truth.sync()
        pairs = list(zip(workspace.runs(), truth.runs(), strict=True))
        assert len(pairs) == 4
        for number, (run, true) in enumerate(pairs):
            for how in ways[number]:
                report = workspace.answer(Question(names, runs=(run.key,), **how))
                assert {a.cell.fidelity for a in report.cells} == {"exact"}, report.cells[0].cell.sentence
                for name in names:
                    mine = rows(workspace, run.key, name, "replayed")
                    wanted = rows(truth, true.key, name, "recorded")
                    assert set(mine) <= set(wanted), (number, name)
                    assert how or sorted(mine) == sorted(wanted), (number, name)
                    assert {row for row in wanted if "epoch#0[1]" in str(row[0])} <= set(mine), (number, name)


def test_a_run_whose_code_lies_in_no_file_is_refused_in_words(lab: Lab) -> None:
    text = "import flor_dagster as flor\ndef step(x):\n    #? flor.log('asked', x)\n    return x\n"
    lab.commit({"helper.py": without_asked(text)})
    code = "import flor_dagster as flor, helper\nfor epoch in flor.loop('epoch', range(2)):\n    flor.log('loss', helper.step(epoch))\n"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    subprocess.run([sys.executable, "-"], input=code, text=True, cwd=lab.root, env=environment, check=True)
    lab.write({"helper.py": with_asked(text)})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",))).cells
    assert (answer.cell.status, answer.cell.fidelity) == ("refused", None), answer.cell.sentence
    assert "notebook or an interactive session" in answer.cell.sentence


FIRST = """\
import flor_dagster as flor
class Model:
    def __init__(self): self.weights = [0.0]
def main():
    model = Model()
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(2)):
            model.weights.append(epoch + step)
        flor.log("total", sum(model.weights))
if __name__ == "__main__":
    main()
"""
TUNED = """\
import flor_dagster as flor
from train import Model
base = flor.arg("base", "")
model = flor.load(base, 1)["model"]
flor.log("begin", sum(model.weights))
for epoch in flor.loop("epoch", range(3)):
    again = flor.load(base, epoch)["model"]
    for step in flor.loop("step", range(2)):
        model.weights.append(len(again.weights) * step)
        flor.log("loss", sum(model.weights))
    #? flor.log("asked", [sum(model.weights), sum(again.weights)])
    #? flor.log("later", len(model.weights))
    flor.log("over", epoch)
"""


def test_what_a_script_loads_of_another_run_is_loaded_by_its_replay_or_missed_by_name(lab: Lab) -> None:
    lab.commit({"train.py": FIRST, "tune.py": without_asked(TUNED)})
    lab.train()
    (base,) = (path.name for path in (lab.root / ".flor/runs").iterdir())
    lab.train("tune.py", base=base)
    lab.write({"tune.py": with_asked(TUNED)})
    with lab.open() as workspace:
        workspace.sync()
        tuned = next(run.key for run in workspace.runs() if run.entrypoint == "tune.py")
        (answer,) = workspace.answer(Question(("asked",), runs=(tuned,))).cells
        assert answer.cell.fidelity == "exact", answer.cell.sentence
        got = rows(workspace, tuned, "asked", "replayed")
        for path in (lab.root / ".flor/checkpoints/manifests" / base).iterdir():
            path.unlink()
        (answer,) = workspace.answer(Question(("later",), runs=(tuned,))).cells
    assert answer.cell.status == "failed"
    assert f"training run {base} has no checkpoint" in answer.cell.sentence
    lab.train()
    (other,) = (
        path.name
        for path in (lab.root / ".flor/runs").iterdir()
        if "train.py" in _head(path) and path.name != base
    )
    lab.train("tune.py", base=other)
    with lab.open() as workspace:
        workspace.sync()
        last = [run.key for run in workspace.runs() if run.entrypoint == "tune.py"][-1]
        assert got == rows(workspace, last, "asked", "recorded")


def _head(folder: Path) -> str:
    return (folder / "journal.0.jsonl").read_text().partition("\n")[0]
