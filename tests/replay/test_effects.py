"""SEMANTICS.md 20: an expression that changes what it observes is refused, whatever it changes; the others are answered."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec

import pytest

from tests.replay.batch_lab import Batch, Case
from tests.replay.oracle_lab import Asked

pytestmark = pytest.mark.ci

NUMPY = """
import functools, random
import numpy as np
import flor_dagster as flor

random.seed(3)
x, history, table, array = 0.0, [], {}, np.ones(5)

class Meter:
    def __init__(self):
        self.values = [0.0]
        self.asked = 0
    def mean(self):
        found = sum(self.values) / len(self.values)
        self.values = self.values[-1:]
        return found
    @property
    def value(self):
        self.asked += 1
        return self.asked

meter = Meter()

def grow_list():
    history.append(1)
    return len(history)

def grow_table():
    return table.setdefault(len(table), 1)

def write_array():
    array[0] += 1
    return 1

def draw():
    return random.random()

def print_options():
    np.seterr(divide="raise")
    return 1

def harmless():
    return sum(sorted(history, reverse=True)) + len(table)

for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        x += random.random()
        meter.values.append(x)
        history.append(0)
        flor.log("x", x)
    #? flor.log("ASKED_list", grow_list())
    #? flor.log("ASKED_table", grow_table())
    #? flor.log("ASKED_array", write_array())
    #? flor.log("ASKED_draw", draw())
    #? flor.log("ASKED_mean", meter.mean())
    #? flor.log("ASKED_property", meter.value)
    #? flor.log("ASKED_setting", print_options())
    #? flor.log("ASKED_harmless", harmless())
    #? flor.log("ASKED_pure", x * 2)
    flor.log("e", x)
"""
TORCH = """
import torch
import flor_dagster as flor

torch.manual_seed(1)
net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.2))
x = torch.randn(8, 3)
optimizer = torch.optim.SGD(net.parameters(), 0.1)

def flags():
    net.eval()
    return float(net(x).sum().detach())

def buffers():
    return net[1](x).sum().item()

def in_place():
    with torch.no_grad():
        net[0].weight.mul_(1.0)
    return 1

def by_data():
    net[0].weight.data.add_(0.001)
    return 1

def mode():
    torch.set_grad_enabled(False)
    return 1

def draws():
    return float(torch.rand(1))

def evaluated():
    was = net.training
    net.eval()
    with torch.no_grad():
        found = float(net(x).sum())
    net.train(was)
    return found

with flor.checkpointing(net=net, optimizer=optimizer):
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(2)):
            optimizer.zero_grad()
            loss = (net(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            flor.log("loss", loss.item())
        #? flor.log("ASKED_flags", flags())
        #? flor.log("ASKED_buffers", buffers())
        #? flor.log("ASKED_inplace", in_place())
        #? flor.log("ASKED_data", by_data())
        #? flor.log("ASKED_mode", mode())
        #? flor.log("ASKED_draws", draws())
        #? flor.log("ASKED_evaluated", evaluated())
        #? flor.log("ASKED_norm", net[0].weight.norm())
        flor.log("e", loss.item())
"""

CHANGED = {
    "numpy": {
        "list": "changes `history`", "table": "changes `table`", "array": "changes `array`", "draw": "draws random numbers",
        "mean": "changes `meter`", "property": "changes `meter`", "setting": "the setting numpy",
    },
    "torch": {
        "flags": "changes `net`", "buffers": "changes `net`", "inplace": "changes `net`", "data": "changes `net`",
        "mode": "the setting torch.grad", "draws": "draws random numbers",
    },
}  # fmt: skip
HARMLESS = {"numpy": ("harmless", "pure"), "torch": ("evaluated", "norm")}
SCRIPTS = {name: text for name, text in (("numpy", NUMPY), ("torch", TORCH)) if find_spec(name) is not None}


def only(text: str, names: tuple[str, ...]) -> str:
    """The script with the harmless statements alone: its own oracle, which the others would change."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if "#? " not in line or any(f"ASKED_{n}" in line for n in names))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Asked]]]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("FLOR_")]:
            patch.delenv(name)
        folder = tmp_path_factory.mktemp("effects")
        patch.setenv("FLOR_CACHE", str(folder / "cache"))
        scripts = {f"on_{name}": Case(text, oracle=False) for name, text in SCRIPTS.items()}
        scripts |= {f"only_{name}": Case(only(text, HARMLESS[name])) for name, text in SCRIPTS.items()}
        with Batch(folder, *SCRIPTS) as batch:
            yield batch.ask(scripts)


def cases(table: Mapping[str, Iterable[str]]) -> pytest.MarkDecorator:
    """A test for each name of a table, by its script; of a library that is not there, skipped."""
    there = {
        name: pytest.mark.skipif(name not in SCRIPTS, reason=f"{name} is not installed: these tests need it")
        for name in table
    }
    found = [pytest.param(s, n, marks=there[s], id=f"{s}-{n}") for s, names in table.items() for n in names]
    return pytest.mark.parametrize(("script", "name"), found)


@cases(CHANGED)
def test_an_expression_that_changes_what_the_program_sees_is_refused(
    asked: dict[str, dict[str, Asked]], script: str, name: str
) -> None:
    one = asked[f"on_{script}"][f"asked_{name}"]
    assert one.answer.cell.status == "refused", one.sentence
    assert CHANGED[script][name] in one.sentence
    assert one.values == []


@cases(HARMLESS)
def test_the_statements_beside_it_are_answered_exactly(
    asked: dict[str, dict[str, Asked]], script: str, name: str
) -> None:
    one, alone = asked[f"on_{script}"][f"asked_{name}"], asked[f"only_{script}"][f"asked_{name}"]
    assert (one.fidelity, alone.fidelity) == ("exact", "exact"), one.sentence
    assert alone.right, (alone.values, alone.wanted)
    assert one.values == alone.values
    assert len(one.values) == 3
