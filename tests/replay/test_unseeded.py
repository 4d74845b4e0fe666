"""A training that nobody seeded is replayed with the numbers that it drew, its first weights included."""

from __future__ import annotations

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab, bits

pytestmark = pytest.mark.ci

TRAIN = """\
{first}
import {library}
{second}

weight = {draw}
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(4)):
        weight = weight * 0.9 + {draw}
        flor.log("loss", weight)
    flor.log("truth", weight + {draw} * 0){ask}
"""

PYTHON = ("random", "random.gauss(0, 1)")
NUMPY = ("numpy as np", "float(np.random.standard_normal())")
TORCH = ("torch", "torch.randn(()).item()")


@pytest.mark.parametrize("first", [True, False], ids=["flor imported first", "flor imported last"])
@pytest.mark.parametrize("kind", [PYTHON, NUMPY, TORCH], ids=["random", "numpy", "torch"])
def test_what_the_setup_drew_is_drawn_again(lab: Lab, kind: tuple[str, str], first: bool) -> None:
    library, draw = kind
    if library == "torch":
        pytest.importorskip(
            "torch", reason="torch is not installed: `pip install --group torch` runs these tests"
        )
    flor = "import flor_dagster as flor"
    parts = {
        "library": library,
        "draw": draw,
        "first": flor if first else "",
        "second": "" if first else flor,
    }
    lab.commit({"train.py": TRAIN.format(**parts, ask="")})
    lab.train()
    lab.commit({"train.py": TRAIN.format(**parts, ask='\n    flor.log("asked", weight)')})

    with lab.open() as workspace:
        workspace.sync()
        workspace.ask("asked")
        report = workspace.answer(Question(("asked",)))
        assert report.complete, report.cells
        frame = workspace.store.dataframe("truth", "asked", provenance=True)

    assert list(frame["asked_fidelity"]) == ["exact"] * 3
    assert [bits(v) for v in frame["asked"]] == [bits(v) for v in frame["truth"]]


FUNCTION = """\
import random

import flor_dagster as flor


def train():
    weight = random.random()
    for epoch in flor.loop("epoch", range(3)):
        weight += random.random()
        flor.log("truth", weight){ask}
"""

SERVICE = """\
import random
from pathlib import Path

from flor_dagster.recording.process import recorded_run

random.random()
with recorded_run("train.py:train", root=Path.cwd(), module="train"):
    import train

    train.train()
"""


def test_a_function_begins_with_the_states_of_its_own_begin(lab: Lab) -> None:
    lab.commit({"train.py": FUNCTION.format(ask=""), "service.py": SERVICE})
    lab.train("service.py")
    lab.commit({"train.py": FUNCTION.format(ask='\n        flor.log("asked", weight)')})

    with lab.open() as workspace:
        workspace.sync()
        workspace.ask("asked")
        assert workspace.answer(Question(("asked",))).complete
        frame = workspace.store.dataframe("truth", "asked", provenance=True)

    assert list(frame["asked_fidelity"]) == ["exact"] * 3
    assert [bits(v) for v in frame["asked"]] == [bits(v) for v in frame["truth"]]


LATE = """\
import numpy as np
import flor_dagster as flor
w = 0.0
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(3)):
        w += float(np.random.rand())
        flor.log("m", w)
        #? flor.log("twice", w * 2)
"""


def test_a_generator_whose_library_a_warm_worker_has_too_early_stands_where_the_import_left_it(
    lab: Lab,
) -> None:
    """numpy imports its random numbers when they are first asked for: after the first flor call of this run."""
    lab.commit({"train.py": "".join(x for x in LATE.splitlines(True) if "#?" not in x)})
    for _ in range(2):
        lab.train()
    lab.write({"train.py": LATE.replace("#? ", "")})
    with lab.open() as workspace:
        answers = workspace.answer(Question(("twice",))).cells
        assert [a.cell.fidelity for a in answers] == ["exact", "exact"], [a.cell.sentence for a in answers]
        frame = workspace.store.dataframe("m", "twice")
        assert (frame["m"] * 2).tolist() == frame["twice"].tolist()
