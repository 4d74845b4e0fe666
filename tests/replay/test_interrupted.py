"""A run that was interrupted is replayed up to where its record ends: its completed iterations are as exact as any others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import PACKAGE, Lab

pytestmark = pytest.mark.ci

SCRIPT = """\
import os, signal, sys, time
import flor_dagster as flor

how = os.environ.get("PYTEST_FLOR_HOW", "")
if how == "exit":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if how == "at once":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
w = [1.0]
with flor.checkpointing(w=w):
    for epoch in flor.loop("epoch", range(30)):
        for step in flor.loop("step", range(3)):
            w[0] *= 0.99
            time.sleep(0.01)
            if how and epoch == 3 and step == 1:
                print("here", flush=True)
                time.sleep(60)
        flor.log("end", w[0])
        {0}
"""


@pytest.mark.parametrize(
    "how",
    ["signal", pytest.param("exit", marks=pytest.mark.slow), pytest.param("at once", marks=pytest.mark.slow)],
)
def test_completed_iterations_of_an_interrupted_run_are_exact(lab: Lab, how: str) -> None:
    lab.commit({"train.py": SCRIPT.format("")})
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment |= {
        "PYTHONPATH": str(PACKAGE),
        "PYTHONHASHSEED": "0",
        "FLOR_CHECKPOINTS": "all",
        "PYTEST_FLOR_HOW": how,
    }
    with subprocess.Popen(
        [sys.executable, "train.py"], cwd=lab.root, env=environment, stdout=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "here\n"
        training.send_signal(signal.SIGINT if how == "signal" else signal.SIGTERM)
    begun = time.monotonic()
    while not list(lab.root.glob(".flor/runs/*/version.json")) and time.monotonic() - begun < 60:
        time.sleep(0.05)  # a process that leaves at once does not wait for what keeps its code
    lab.commit({"train.py": SCRIPT.format('flor.log("square", w[0] ** 2)')})

    with lab.open() as workspace:
        workspace.sync()
        (answer,) = workspace.answer(Question(("square",))).cells
        frame = workspace.store.dataframe("end", "square", fidelity="any").dropna()

    assert answer.cell.fidelity == "exact", answer.cell.sentence
    assert list(frame["square"]) == [end**2 for end in frame["end"]]
    assert len(frame) == 3


PLACES = """\
import os, time
import flor_dagster as flor

here = os.environ.get("PYTEST_FLOR_HERE", "")
def at(place):
    if here == place:
        print("here", flush=True)
        time.sleep(2)

flor.tags(a="b")
at("before an argument")
n = flor.arg("n", 2)
at("before a record")
flor.log("n", n)
at("before a loop")
total = 0
for epoch in flor.loop("epoch", range(n)):
    total += epoch
    flor.log("total", total)
    {0}
at("between loops")
for late in flor.loop("late", range(n)):
    total += late
    flor.log("late_total", total)
at("behind the loops")
flor.log("last", total)
"""


@pytest.mark.parametrize(
    ("place", "values", "fidelity"),
    [
        ("before an argument", [], "unverified"),
        pytest.param("before a record", [], "unverified", marks=pytest.mark.slow),
        pytest.param("before a loop", [], "exact", marks=pytest.mark.slow),
        ("between loops", [0, 2], "exact"),
        pytest.param("behind the loops", [0, 2], "exact", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_killed_outside_of_its_loops_is_replayed_as_far_as_it_came(
    lab: Lab, place: str, values: list[int], fidelity: str
) -> None:
    lab.commit({"train.py": PLACES.format("")})
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment |= {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0", "PYTEST_FLOR_HERE": place}
    with subprocess.Popen(
        [sys.executable, "train.py"], cwd=lab.root, env=environment, stdout=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "here\n"
        training.kill()
    begun = time.monotonic()
    while not list(lab.root.glob(".flor/runs/*/version.json")) and time.monotonic() - begun < 60:
        time.sleep(0.05)
    lab.write({"train.py": PLACES.format('flor.log("double", total * 2)')})
    with lab.open() as workspace:
        workspace.sync()
        workspace.ask("double")
        (answer,) = workspace.answer(Question(("double",))).cells
        shown = workspace.store.dataframe("double") if values else None
    assert answer.cell.status == "replayed", answer.cell.sentence
    assert answer.cell.fidelity == fidelity, answer.cell.sentence
    assert (list(shown["double"]) if shown is not None else []) == values
