"""A capture along a plan is the capture that walking everything makes, whatever changed between two checkpoints."""

from __future__ import annotations

import random
import sys
import types
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.graft import Grafter
from flor_dagster.recording.memory import KnownMemory
from flor_dagster.recording.retracing import Place
from tests.recording.record_lab import Project

torch = pytest.importorskip("torch")

HERE = __name__


def is_own(module: str) -> bool:
    return module == HERE


class Node:
    """A part of a made-up program."""

    shared: Any = None

    def __init__(self) -> None:
        self.name = "node"
        self.best = 0.5
        self.items: list[Any] = []
        self.table: dict[Any, Any] = {"a": 1}
        self.ordered: OrderedDict[str, Any] = OrderedDict(x=1, y=[2])
        self.counts: defaultdict[str, list[int]] = defaultdict(list)
        self.nothing: dict[str, Any] = {}
        self.pair = ([1], "two")
        self.seen = {1, 2}
        self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.plain = torch.zeros(4)
        self.view = self.plain[1:3]
        self.array = np.arange(5.0)
        self.random = random.Random(1)
        self.call = closure(self.items)
        self.watched = weakref.ref(self)
        self.result = (self.weight * 2).sum()


def closure(cell: Any) -> Callable[[], Any]:
    held = [cell]

    def inside(extra: Any = held) -> Any:
        return cell, extra

    return inside


def other_code() -> Any:
    return 2


counter: Any = {"steps": 0}


def uses_a_global() -> Any:
    return counter


def rebound(node: Any, name: str, value: Any) -> None:
    setattr(node, name, value)


def _train(node: Node) -> None:
    (node.weight * node.weight).sum().backward()


def _dead() -> Any:
    return weakref.ref(torch.zeros(1))


def _new_storage(node: Node) -> None:
    with torch.no_grad():
        node.weight.data = torch.ones(9)[3:].reshape(2, 3)


MUTATIONS: dict[str, Callable[[Node, Node], Any]] = {
    "nothing": lambda a, b: None,
    "a number": lambda a, b: rebound(a, "best", a.best + 1),
    "an equal number of another kind": lambda a, b: rebound(a, "best", True if a.best == 1 else 1),
    "minus zero": lambda a, b: rebound(a, "best", -0.0 if str(a.best) == "0.0" else 0.0),
    "a list in place of a number": lambda a, b: rebound(a, "best", [1]),
    "a text": lambda a, b: rebound(a, "name", a.name + "x"),
    "a list grows": lambda a, b: a.items.append(1.5),
    "a list of lists grows": lambda a, b: a.items.append([]),
    "a list shrinks": lambda a, b: a.items.clear(),
    "a key is added": lambda a, b: a.table.update(b=2),
    "a key is a number": lambda a, b: a.table.update({1: 2}),
    "a key is True": lambda a, b: a.table.pop(1, None) or a.table.update({True: 2}),
    "keys in another order": lambda a, b: a.table.update(a=a.table.pop("a")),
    "an ordered dict in another order": lambda a, b: a.ordered.move_to_end("x"),
    "an ordered dict gets an attribute": lambda a, b: rebound(a.ordered, "extra", 1),
    "an empty dict is filled": lambda a, b: a.nothing.update(k=1),
    "a count": lambda a, b: a.counts["k"].append(1),
    "an attribute is added": lambda a, b: rebound(a, f"more{len(vars(a))}", 1),
    "an attribute goes": lambda a, b: vars(a).pop("pair", None),
    "an alias is made": lambda a, b: rebound(a, "items", b.items),
    "an alias is broken": lambda a, b: rebound(a, "items", list(a.items)),
    "two objects change places": lambda a, b: (rebound(a, "table", b.table), rebound(b, "table", {"a": 1})),
    "a tensor's values": lambda a, b: a.plain.add_(1),
    "a gradient": lambda a, b: _train(a),
    "no gradient": lambda a, b: rebound(a.weight, "grad", None),
    "a tensor on another storage": lambda a, b: _new_storage(a),
    "a tensor shares another's storage": lambda a, b: rebound(a, "plain", b.plain[:4]),
    "a view of another part": lambda a, b: rebound(a, "view", a.plain[2:4]),
    "a view becomes a copy": lambda a, b: rebound(a, "view", a.view.clone()),
    "a storage grows": lambda a, b: a.plain.untyped_storage().resize_(
        a.plain.untyped_storage().nbytes() + 64
    ),
    "a tensor of another dtype": lambda a, b: rebound(a, "plain", torch.zeros(4, dtype=torch.int32)),
    "a tensor is frozen": lambda a, b: a.weight.requires_grad_(not a.weight.requires_grad),
    "a tensor's attribute": lambda a, b: rebound(a.weight, "tag", 3),
    "a tensor's hook": lambda a, b: a.weight.requires_grad and a.weight.register_hook(other_code),
    "a tensor with a graph": lambda a, b: rebound(a, "plain", a.weight.sum() * 2),
    "another result": lambda a, b: rebound(a, "result", (a.weight * 3).sum()),
    "a result of another shape": lambda a, b: rebound(a, "result", a.weight * 3),
    "a result is let go of its graph": lambda a, b: a.result.detach_(),
    "a result shares a tensor's storage": lambda a, b: rebound(a, "result", a.weight[0]),
    "a result's attribute": lambda a, b: rebound(a.result, "tag", [1]),
    "a result's hook": lambda a, b: a.result.requires_grad and a.result.register_hook(other_code),
    "a weak reference to another": lambda a, b: rebound(a, "watched", weakref.ref(b)),
    "a weak reference that is dead": lambda a, b: rebound(a, "watched", _dead()),
    "a weak reference to what nobody else has": lambda a, b: rebound(a, "watched", weakref.ref(Node())),
    "memory of numpy's": lambda a, b: rebound(a, "plain", torch.from_numpy(a.array)),
    "an array's values": lambda a, b: a.array.__iadd__(1),
    "an array's part": lambda a, b: rebound(a, "items", [a.array[1:]]),
    "an array of another shape": lambda a, b: rebound(a, "array", np.arange(7)),
    "a generator draws": lambda a, b: a.random.random(),
    "a class attribute": lambda a, b: rebound(Node, "shared", [1]),
    "a cell": lambda a, b: rebound(a.call.__closure__[0], "cell_contents", [9]),
    "a default": lambda a, b: rebound(a.call, "__defaults__", ([7],)),
    "other code": lambda a, b: rebound(uses_a_global, "__code__", other_code.__code__),
    "a global": lambda a, b: counter.update(steps=counter["steps"] + 1),
    "a global is bound anew": lambda a, b: setattr(sys.modules[HERE], "counter", {"steps": 5}),
    "a new global": lambda a, b: setattr(sys.modules[HERE], f"new{len(vars(sys.modules[HERE]))}", 1),
    "something that can't be captured": lambda a, b: rebound(a, "pair", iter([1])),
    "a library's class": lambda a, b: rebound(a, "pair", types.SimpleNamespace(x=[1])),
}


def walked(roots: dict[str, Any], known: KnownMemory) -> Capturer:
    capturer = Capturer(is_own, "", known)
    for name, value in roots.items():
        capturer.add(name, value)
    capturer.follow()
    return capturer


def facts(capturer: Capturer) -> Any:
    unavailable = dict(capturer.state.unavailable)
    state = capturer.finish()
    return sorted(state.roots), state.digests(), unavailable, sorted(state.buffers)


@pytest.fixture(autouse=True)
def _as_before() -> Any:
    code, before = uses_a_global.__code__, counter
    yield
    uses_a_global.__code__, Node.shared = code, None
    before["steps"] = 0
    sys.modules[HERE].counter = before


def _one() -> tuple[Place, dict[str, Any], KnownMemory]:
    a, b = Node(), Node()
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    model(torch.ones(2, 3)).sum().backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    known = KnownMemory(most=1 << 24)
    roots = {"object:model": model, "object:optimizer": optimizer, "name:a": a, "name:b": [b, a.items]}
    return Place(is_own, "", known), roots | {"name:f": uses_a_global, "name:loss": 0.1}, known


def _checkpoint(place: Place, roots: dict[str, Any], known: KnownMemory) -> bool:
    """Take one along the plan where there is one and compare; whether there was one."""
    capturer = place.capture(roots)
    planned = capturer is not None
    if capturer is None:
        capturer = walked(roots, known)
        place.walked(capturer, roots)
    capturer.copy()
    assert facts(capturer) == facts(walked(roots, known))
    return planned


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_changes_between_two_checkpoints_is_seen(mutation: str) -> None:
    place, roots, known = _one()
    a, b = roots["name:a"], roots["name:b"][0]
    for _ in range(3):
        _checkpoint(place, roots, known)
    for _ in range(2):
        MUTATIONS[mutation](a, b)
        roots["name:loss"] += 1
        for _ in range(2):
            _checkpoint(place, roots, known)


@given(st.lists(st.tuples(st.sampled_from(sorted(MUTATIONS)), st.booleans()), min_size=1, max_size=8))
@settings(max_examples=3, deadline=None)
@example([("a cell", False), ("something that can't be captured", True), ("a library's class", True)])
def test_a_capture_along_a_plan_is_the_capture_of_a_walk(changes: list[tuple[str, bool]]) -> None:
    place, roots, known = _one()
    a, b = roots["name:a"], roots["name:b"][0]
    for _ in range(3):
        _checkpoint(place, roots, known)
    for name, swapped in changes:
        try:
            MUTATIONS[name](*((b, a) if swapped else (a, b)))
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError):
            continue  # it can't happen behind the others
        _checkpoint(place, roots, known)


def test_a_training_whose_numbers_alone_change_is_walked_no_more() -> None:
    place, roots, known = _one()
    a, optimizer, model = roots["name:a"], roots["object:optimizer"], roots["object:model"]
    scheduler = roots["object:scheduler"] = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    planned: list[bool] = []
    for epoch in range(12):
        optimizer.zero_grad()
        roots["name:output"] = model(torch.randn(2, 3)).sum()
        roots["name:output"].backward()
        optimizer.step()
        scheduler.step()
        a.items.append(float(epoch))
        a.best = float(epoch)
        counter["steps"] += 1
        roots["name:loss"] = float(epoch)
        planned.append(_checkpoint(place, roots, known))
    assert all(planned[5:])
    capturer = place.capture(roots)
    assert capturer is not None
    assert capturer.match is not None
    assert {"object:scheduler", "object:optimizer", "name:output"} <= capturer.match.plan.roots


def test_what_was_captured_along_a_plan_is_put_back_in_place() -> None:
    place, roots, known = _one()
    a, model = roots["name:a"], roots["object:model"]
    for _ in range(3):
        _checkpoint(place, roots, known)
    with torch.no_grad():
        model[0].weight.add_(1)
    a.best, a.plain[:] = 7.0, torch.arange(4.0)
    capturer = place.capture(roots)
    assert capturer is not None
    state = capturer.finish()
    wanted = state.digests()
    with torch.no_grad():
        model[0].weight.zero_()
    a.best, a.plain[:] = 0.0, 0.0
    a.items.append(3)
    weight, view = model[0].weight, a.view
    Grafter(state.nodes, lambda digest: bytes(state.buffers[digest].data), "").restore(
        {name: (ref, roots[name]) for name, ref in state.roots.items() if name in roots}
    )
    assert model[0].weight is weight
    assert a.view is view
    assert (view.tolist(), a.best, a.items) == ([1.0, 2.0], 7.0, [])
    assert walked(roots, known).finish().digests() == wanted


def test_nothing_of_the_program_is_kept_alive_between_checkpoints() -> None:
    import gc

    place, roots, known = _one()
    for _ in range(4):
        _checkpoint(place, roots, known)
    gone = [weakref.ref(v) for v in (roots["object:model"], roots["name:a"], roots["name:a"].weight)]
    roots.clear()
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]


RESIZED = """\
import gc, sys
import numpy as np
import flor_dagster as flor
gc.disable()

class Thing:
    def __init__(self):
        self.x = np.zeros(5)

class Last:
    gone = 0
    def __del__(self):
        Last.gone += 1

def main():
    a, t, seen, made = np.zeros(1), Thing(), set(), 0
    for epoch in flor.loop("epoch", range(6)):
        for step in flor.loop("step", range(2)):
            a.resize(len(a) + 1)
            t.x.resize(len(t.x) + 1)
            t.inner, t.last, made = Thing(), Last(), made + 1
            held = [a, t, t.x, t.inner, t.inner.x, t.last]
            counts = [sys.getrefcount(o) for o in held]
            del held
            seen.add((*counts, made - Last.gone))
    print(seen)

main()
"""


def test_nothing_of_the_program_lives_on_for_a_checkpoint_and_arrays_can_be_resized(tmp_path: Path) -> None:
    said: list[str] = []
    for policy in ("all", "none"):
        project = Project(tmp_path / policy)
        said.append(project.run(RESIZED, FLOR_CHECKPOINTS=policy).out)
    assert said[0] == said[1]
    assert said[0].count("(") == 1, said
