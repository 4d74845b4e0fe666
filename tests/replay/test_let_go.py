"""What a loop changed in place and then let go of is seen through whoever else holds it, however the loop is skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.replay.batch_lab import Batch, Case

pytestmark = pytest.mark.ci

HEAD = """\
import numpy as np
import flor_dagster as flor

class Thing:
    def __init__(self):
        self.x, self.items = 0.0, []
    def __repr__(self):
        return f"{self.x} {self.items}"

def change(kind, value, by):
    if kind == "list":
        value.append(by)
    elif kind == "dict":
        value[by] = by
    elif kind == "array":
        value += by
    elif kind == "thing":
        value.x += by
    return value

MAKE = {"list": list, "dict": dict, "array": lambda: np.zeros(2), "thing": Thing}
"""
LOOP = """\
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(3)):
        change(kind, {now}, step + epoch + 1)
        if (epoch, step) == (0, 1):
            {now} = MAKE[kind]()
        flor.log("was", step)
    #? flor.log("ASKED", [str(first), str({now})])
    flor.log("size", epoch)
#? flor.log("ASKED_end", [str(first), str({now})])
"""


def _in(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


PLACES = {
    "a module's names": 'kind = "{kind}"\nnow = first = MAKE[kind]()\n' + LOOP.format(now="now"),
    "a caller's name": 'def go(kind, first, now):\n' + _in(LOOP.format(now="now").replace("str(first)", "str(FIRST)")).replace("first", "unused")
    + '\nFIRST = MAKE["{kind}"]()\ngo("{kind}", 0, FIRST)\n',
    "an attribute": 'kind = "{kind}"\nholder = Thing()\nholder.it = first = MAKE[kind]()\n' + LOOP.format(now="holder.it"),
    "an item of a list that has no name here": 'kind = "{kind}"\nholder = Thing()\nfirst = [MAKE[kind]()]\nholder.it = first[0]\n' + LOOP.format(now="holder.it"),
    "an item": 'kind = "{kind}"\nholder = dict()\nholder["it"] = first = MAKE[kind]()\n' + LOOP.format(now='holder["it"]'),
}  # fmt: skip
KINDS = ("list", "dict", "array", "thing")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, object]]:
    cases = {
        f"{place.replace(' ', '_').replace(chr(39), '')}_{kind}": (place, kind)
        for place in PLACES
        for kind in KINDS
    }
    texts = {
        name: Case(HEAD + PLACES[place].replace("{kind}", kind)) for name, (place, kind) in cases.items()
    }
    with Batch(tmp_path_factory.mktemp("let_go"), "numpy", "orjson") as batch:
        found = batch.ask(texts)
    return {cases[name]: dict(asked) for name, asked in found.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_who_else_holds_it_sees_it_as_the_training_left_it(
    answers: dict[tuple[str, str], dict[str, object]], place: str, kind: str
) -> None:
    for asked in answers[place, kind].values():
        assert asked.fidelity == "exact", asked.sentence  # type: ignore[attr-defined]
        assert asked.right, (asked.values, asked.wanted)  # type: ignore[attr-defined]
        executed = asked.steps.get("was", 0)  # type: ignore[attr-defined]
        # What can be found again is captured; else all is executed.
        assert executed == 0 or (place == "an item of a list that has no name here" and kind != "thing"), (
            executed
        )


TENSOR = """\
import torch
import flor_dagster as flor

now = torch.zeros(3)
first = {alias}
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(3)):
        now += step + epoch + 1
        if (epoch, step) == (0, 1):
            now = torch.zeros(3)
        flor.log("was", step)
    #? flor.log("ASKED", [str(first), str(now)])
    flor.log("size", epoch)
#? flor.log("ASKED_end", [str(first), str(now)])
"""
ALIASES = ("now", "now.detach()", "now[:2]", "now.numpy()", "now.clone()")


def test_who_else_holds_a_tensors_memory_sees_it_as_the_training_left_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    cases = {f"t{n}": Case(TENSOR.format(alias=alias)) for n, alias in enumerate(ALIASES)}
    with Batch(tmp_path, "torch", "numpy", "orjson") as batch:
        for name, answers in batch.ask(cases).items():
            alias = ALIASES[int(name[1:])]
            for asked in answers.values():
                assert (asked.fidelity, asked.right) == ("exact", True), (alias, asked)
                # An object is captured; of memory alone nothing is known but that something uses it.
                assert bool(asked.steps["was"]) == (alias not in ("now", "now.clone()")), (alias, asked.steps)
