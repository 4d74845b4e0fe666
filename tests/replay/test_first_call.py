"""What runs before a run's first flor call is replayed with the generators' states of then, whoever calls flor there."""

from __future__ import annotations

import random

from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab
from tests.replay.oracle_lab import ask_each, with_asked, without_asked

SET_UP = """\
import random

import flor_dagster as flor


class Layer:
    def __init__(self):
        self.weight = random.gauss(0, 1)
        #? flor.log("made", self.weight)


random.seed(3)
layers = []
for _ in range(3):
    layers.append(Layer())
    #? flor.log("grown", layers[-1].weight)
#? flor.log("summed", [layer.weight for layer in layers])
flor.{first}
layers.append(Layer())
for epoch in flor.loop("epoch", range(2)):
    flor.log("loss", sum(layer.weight for layer in layers) + random.random())
"""


def test_a_statement_ahead_of_the_first_flor_call_sees_what_the_training_saw(lab: Lab) -> None:
    first = 'log("begun", random.random())'
    found = ask_each(lab, {"train.py": SET_UP.format(first=first)}, "made", "grown", "summed", together=True)

    for name, asked in found.items():
        assert asked.right, (name, asked)
        assert asked.fidelity in ("exact", "unverified"), (name, asked.sentence)


UNSEEDED = """\
import random

import numpy as np

noise = [float(np.random.rand()), random.random()]
import flor_dagster as flor

first = float(np.random.rand()) + random.random()
{first}
flor.log("truth", first)
for epoch in flor.loop("epoch", range(2)):
    flor.log("loss", float(np.random.rand()) + random.random())
{noise}
flor.log("end", noise[0] > 2)
"""


LATE = """\
import flor_dagster as flor

flor.arg("lr", 0.1)
import numpy as np


def spread(values):
    return float(np.std(values))


np.random.seed(1)
first = np.random.rand(4)
#? flor.log("spread", spread(first))
second = np.random.rand(4)
for epoch in flor.loop("epoch", range(2)):
    flor.log("loss", float(np.random.rand()) + float(second[0]))
#? flor.log("second", float(second[0]))
flor.log("end", float(second[1]))
"""


def test_a_look_at_the_program_puts_no_generator_where_it_was_later(lab: Lab) -> None:
    found = ask_each(lab, {"train.py": LATE}, "spread", "second", together=True)

    for name, asked in found.items():
        assert asked.right, (name, asked)
        assert asked.fidelity == "exact", (name, asked.sentence)


BLOCKS = """\
import random

import flor_dagster as flor

random.seed(5)
{between}
for trial in range(2):
    draw = random.random()
    {ahead}
    with flor.run(f"trial-{{trial}}"):
        for epoch in flor.loop("epoch", range(2)):
            flor.log("loss", draw + random.random())
            {inside}
"""


def test_a_statement_ahead_of_a_run_block_is_none_of_its_run(lab: Lab) -> None:
    lab.commit({"train.py": BLOCKS.format(between="", ahead="", inside="")})
    lab.train()
    ahead, inside = 'flor.log("ahead", draw)', 'flor.log("inside", draw)'
    lab.commit({"train.py": BLOCKS.format(between="", ahead=ahead, inside=inside)})

    with lab.open() as workspace:
        workspace.sync()
        report = workspace.answer(Question(("ahead", "inside")))
        frame = workspace.store.dataframe("ahead", "inside", "loss", fidelity="any")

    assert report.complete, report.cells
    inside_cells = [c.cell for c in report.cells if c.statement.name == "inside"]
    assert [c.fidelity for c in inside_cells] == ["exact", "exact"]
    assert frame["inside"].notna().all()
    assert frame["ahead"].isna().all()


COMMITS = """\
import random

import flor_dagster as flor

random.seed(7)
for trial in range(2):
    draw = random.random()
    #? flor.log("drawn", draw)
    flor.arg("trial", trial)
    for epoch in flor.loop("epoch", range(2)):
        flor.log("loss", draw + random.random())
    flor.commit()
"""


def test_between_two_runs_of_a_process_it_belongs_to_the_one_that_follows(lab: Lab) -> None:
    found = ask_each(lab, {"train.py": COMMITS}, "drawn")

    assert found["drawn"].right, found
    assert len(found["drawn"].values) == 2


MODULE = """\
import random

import flor_dagster as flor

scale = random.random()
{ahead}


def train():
    weight = random.random()
    {first}
    for epoch in flor.loop("epoch", range(2)):
        flor.log("loss", weight * random.random())
"""

SERVICE = """\
import random
from pathlib import Path

from flor_dagster.recording.process import recorded_run

import train

random.seed(11)
with recorded_run("train.py:train", root=Path.cwd(), module="train"):
    train.train()
"""


def test_what_a_functions_module_logs_is_none_of_its_run(lab: Lab) -> None:
    lab.commit({"train.py": MODULE.format(ahead="", first=""), "service.py": SERVICE})
    lab.train("service.py")
    asked = {"ahead": 'flor.log("scale", scale)', "first": 'flor.log("weight", weight)'}
    lab.commit({"train.py": MODULE.format(**asked)})

    with lab.open() as workspace:
        workspace.sync()
        workspace.answer(Question(("scale", "weight")))
        frame = workspace.store.dataframe("scale", "weight", fidelity="any")

    import random

    random.seed(11)
    assert frame["scale"].isna().all()
    assert list(frame["weight"].dropna()) == [random.random()]


ELSEWHERE = """\
import os, random
import flor_dagster as flor

class Box:
    pass

def go():
    random.seed(3)
    box = Box()
    weight = box.weight = random.random()
    #? flor.log("weight", box.weight)
    #? flor.log("shell", os.environ.get("PYTEST_ELSEWHERE", "none"))
    weight += random.random()
    for epoch in flor.loop("epoch", range(3)):
        weight += random.random()
        #? flor.log("twice", weight * 2)
        flor.log("loss", weight)
"""


def test_a_module_that_was_found_by_a_way_around_is_known_by_its_file(lab: Lab) -> None:
    """`sys.path.insert(0, "..")` gives frames of files like `jobs/../core.py`."""
    script = "import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), '..'))\nimport core\ncore.go()\n"
    recorded = {"jobs/train.py": script, "core.py": without_asked(ELSEWHERE)}
    lab.commit(recorded)
    lab.train("jobs/train.py")
    lab.write({"core.py": with_asked(ELSEWHERE)})
    with lab.open() as workspace:
        cells = {
            c.statement.name: c.cell for c in workspace.answer(Question(("weight", "shell", "twice"))).cells
        }
        assert cells["weight"].status == "replayed", cells["weight"].sentence
        assert cells["weight"].detail["values"]["last"] == random.Random(3).random()
        # What the recorded run would have read there, nobody knows.
        assert cells["shell"].fidelity == "unverified", cells["shell"].sentence
        assert "PYTEST_ELSEWHERE" in cells["shell"].sentence
