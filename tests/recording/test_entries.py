"""What a loop has changed is found along a plan as two whole surveys find it, whatever changed."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from flor_dagster.recording.capture import Capturer  # noqa: E402
from flor_dagster.recording.entries import Entry  # noqa: E402
from flor_dagster.recording.footprints import look  # noqa: E402
from flor_dagster.recording.memory import KnownMemory  # noqa: E402
from flor_dagster.recording.retracing import Place  # noqa: E402
from flor_dagster.recording.surveying import Survey, by_node, survey  # noqa: E402
from tests.recording import test_plans  # noqa: E402
from tests.recording.test_plans import MUTATIONS, Node, is_own, rebound, uses_a_global, walked  # noqa: E402

MOVES: dict[str, Callable[[Node, Node], Any]] = {
    "an old list in a new one": lambda a, b: rebound(a, "pair", ([a.items], "two")),
    "an old tensor in a new list": lambda a, b: rebound(a, "pair", ([a.plain], "two")),
    "a list moves": lambda a, b: (rebound(a, "items", a.pair[0]), rebound(a, "pair", ([1], "two"))),
    "an item goes before an object": lambda a, b: a.ordered.update(y=[1, *a.ordered["y"]]),
    "a number goes before lists": lambda a, b: b.items.insert(0, 0.5),
    "two tensors change memory": lambda a, b: _swap(a, b),
    "a tensor is made anew on its memory": lambda a, b: rebound(a, "plain", a.plain.detach()),
    "a tensor is replaced": lambda a, b: rebound(a, "plain", torch.zeros(4)),
    "tensors change places": lambda a, b: _change(a, b, "plain"),
    "arrays change places": lambda a, b: _change(a, b, "array"),
    "a default of a library's function": lambda a, b: rebound(
        types.resolve_bases, "__defaults__", ([a.items],)
    ),
    "another default of it": lambda a, b: rebound(types.resolve_bases, "__defaults__", ([],)),
    "a key of another kind": lambda a, b: rebound(a, "counts", type(a.counts)(list, {2: a.items})),
}


def _swap(a: Node, b: Node) -> None:
    a.plain.data, b.plain.data = b.plain.data, a.plain.data


def _change(a: Node, b: Node, name: str) -> None:
    one, other = getattr(a, name), getattr(b, name)
    rebound(a, name, other)
    rebound(b, name, one)


ALL = MUTATIONS | MOVES


@pytest.fixture(autouse=True)
def _as_before() -> Any:
    code, before = uses_a_global.__code__, dict(test_plans.counter)
    counter = test_plans.counter
    yield
    uses_a_global.__code__, Node.shared = code, None
    counter.update(before)
    test_plans.counter = counter
    types.resolve_bases.__defaults__ = None


class Program:
    """A made-up program, its checkpoints, and what two whole surveys say beside them."""

    def __init__(self) -> None:
        a, b = Node(), Node()
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
        model(torch.ones(2, 3)).sum().backward()
        optimizer = torch.optim.AdamW(model.parameters())
        optimizer.step()
        self.a, self.b, self.model, self.optimizer = a, b, model, optimizer
        a.plain_view = b.plain_view = None
        b.items += [[1], [2]]
        del a.view, b.view
        self.known = KnownMemory(most=1 << 24)
        self.roots = {
            "object:model": model, "object:optimizer": optimizer, "name:a": a, "name:b": [b, a.items], "name:f": uses_a_global,
            "name:lib": types.resolve_bases, "name:loss": 0.1, "name:array": a.array[1:],
        }  # fmt: skip
        self.place = Place(is_own, "", self.known)
        self.along = 0

    def enter(self) -> tuple[Entry, Survey]:
        match = self.place.glance(lambda _: self.roots)
        before = survey(self.roots, is_own)
        return Entry(before if match is None else look(match, self.roots, is_own)), before

    def end(self, entry: Entry, before: Survey) -> None:
        """Take a checkpoint; what it says of the changes is what the two surveys say."""
        capturer = self.place.capture(self.roots)
        if capturer is None:
            capturer = walked(self.roots, self.known)
            self.place.walked(capturer, self.roots)
        match = capturer.match
        after = survey(self.roots, is_own)
        wanted = by_node(before, after, dict(capturer.identities()))
        now = after if match is None else look(match, self.roots, is_own)
        self.along += match is not None
        found = entry.changes(now, capturer)
        nodes = capturer.state.nodes
        assert _plain(found, nodes) == _plain(wanted, nodes)
        capturer.copy()

    def train(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.ones(2, 3)).sum().backward()
        self.optimizer.step()


def _plain(changes: dict[str, Any], nodes: list[Any]) -> Any:
    """The changes without storages that only new tensors have: whether their numbers were in use makes no difference."""
    fresh = set(changes["fresh"])
    old = {n[2] for k, n in enumerate(nodes) if n[0] == "tensor" and k not in fresh}
    return (
        [n for n in changes["fresh"] if nodes[n][0] != "storage" or n in old],
        sorted(changes["displaced"], key=repr),
        changes["unseen"],
    )


def warm() -> Program:
    program = Program()
    for _ in range(3):
        program.end(*program.enter())
    assert program.place.glance(lambda _: program.roots) is not None
    return program


@pytest.mark.parametrize("mutation", ALL)
def test_what_a_loop_changed_is_found(mutation: str) -> None:
    program = warm()
    entry, before = program.enter()
    for _ in range(2):  # the ends of two iterations of one execution
        program.train()
        _mutate(program, mutation)
        program.end(entry, before)
    program.end(entry, before)
    program.end(*program.enter())


@given(
    st.lists(st.tuples(st.sampled_from(sorted(ALL)), st.booleans(), st.booleans()), min_size=1, max_size=8)
)
@settings(max_examples=6, deadline=None)
def test_what_a_loop_changed_is_what_two_surveys_say(changes: list[tuple[str, bool, bool]]) -> None:
    program = warm()
    entry, before = program.enter()
    for name, swapped, over in changes:
        program.train()
        _mutate(program, name, swapped=swapped)
        program.end(entry, before)
        if over:
            entry, before = program.enter()
    program.end(entry, before)


def _mutate(program: Program, name: str, *, swapped: bool = False) -> None:
    one, other = (program.b, program.a) if swapped else (program.a, program.b)
    with contextlib.suppress(RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError):
        ALL[name](one, other)  # some can't happen behind the others


def test_a_loop_that_began_before_there_was_a_plan_is_compared_along_the_later_ones() -> None:
    program = Program()
    entry, before = program.enter()
    for _ in range(8):
        program.train()
        program.end(entry, before)
    assert program.along >= 4


def test_what_a_training_replaces_is_fresh_and_nothing_else_is() -> None:
    program = warm()
    entry, _ = program.enter()
    program.train()
    capturer = program.place.capture(program.roots)
    assert isinstance(capturer, Capturer)
    assert capturer.match is not None
    memo = capturer.identities()
    grads = {memo[id(p.grad)] for p in program.model.parameters()}
    found = entry.changes(look(capturer.match, program.roots, is_own), capturer)
    tensors = {n for n in found["fresh"] if capturer.state.nodes[n][0] == "tensor"}
    assert tensors <= grads
    assert not found["displaced"]
