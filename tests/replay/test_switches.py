"""A replay that skips a loop goes on with the settings that the loop's code had turned."""

from __future__ import annotations

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab

pytestmark = pytest.mark.ci

NUMPY = """\
import os
import numpy as np
import flor_dagster as flor

weights = np.ones(3)
for epoch in flor.loop("epoch", range(4)):
    for step in flor.loop("step", range(2)):
        weights += 0.5
        flor.log("w", float(weights[0]))
        np.seterr(divide="raise" if epoch % 2 else "ignore")
        os.environ["MODE"] = f"m{epoch}"
    try:
        quotient = float((weights / np.zeros(3))[0])
    except FloatingPointError:
        quotient = -1.0
    flor.log("quotient", quotient)
    # more
"""
TORCH = """\
import torch
import flor_dagster as flor

def grow(module, given, out):
    return out * 1.5

def shift(module, given, out):
    return out + 1

torch.manual_seed(1)
net = torch.nn.Linear(2, 1)
for epoch in flor.loop("epoch", range(4)):
    for step in flor.loop("step", range(2)):
        flor.log("w", step)
        torch.set_grad_enabled(epoch % 2 == 0)
        torch.set_default_dtype(torch.float64 if epoch % 2 else torch.float32)
        net.register_forward_hook(grow)
    net.register_forward_hook(shift)
    flor.log("out", float(net(torch.ones(2, dtype=torch.float32))[0]))
    # more
"""
SPOILED = """\
import decimal
import flor_dagster as flor

total = 0.0
for epoch in flor.loop("epoch", range(4)):
    for step in flor.loop("step", range(2)):
        flor.log("w", step)
        total += 1
        decimal.getcontext().prec = 5 + epoch
    flor.log("third", str(decimal.Decimal(1) / 3))
    # more
"""


def asked_of(lab: Lab, script: str, statement: str) -> tuple[list[object], int]:
    """The exact answers to a statement behind the nested loop, and how many steps were executed for them."""
    lab.commit({"train.py": script})
    lab.train()
    lab.write({"train.py": script.replace("# more", f'flor.log("asked", {statement})')})
    with lab.open() as workspace:
        answer = workspace.answer(Question(("asked",), warm=False, max_seconds=None))
        rows = list(workspace.store.dataframe("asked")["asked"])
    (cell,) = (cell.cell for cell in answer.cells)
    assert cell.fidelity == "exact", cell.sentence
    assert cell.replay_id is not None
    return rows, lab.emitted(cell.replay_id, "w")


def test_numpys_errors_and_the_environment_are_what_the_skipped_loop_left(lab: Lab) -> None:
    values, steps = asked_of(lab, NUMPY, '[np.geterr()["divide"], os.environ["MODE"]]')
    assert values == [["ignore", "m0"], ["raise", "m1"], ["ignore", "m2"], ["raise", "m3"]]
    assert steps == 0


def test_torchs_modes_and_its_counter_of_hooks_are_what_the_skipped_loop_left(lab: Lab) -> None:
    pytest.importorskip("torch")
    statement = "[torch.is_grad_enabled(), str(torch.get_default_dtype()), len(net._forward_hooks)]"
    values, steps = asked_of(lab, TORCH, statement)
    assert values == [
        [epoch % 2 == 0, "torch.float64" if epoch % 2 else "torch.float32", 3 * (epoch + 1)]
        for epoch in range(4)
    ]
    assert steps == 0


def test_a_loop_that_changes_what_can_not_be_put_back_is_executed(lab: Lab) -> None:
    values, steps = asked_of(lab, SPOILED, "decimal.getcontext().prec")
    assert values == [5, 6, 7, 8]
    assert steps == 8
