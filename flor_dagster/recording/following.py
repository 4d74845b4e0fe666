"""Following a plan: do live objects have the form that it says, and what are their numbers? See `plans`."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress, count, repeat
from operator import is_, is_not
from typing import Any

from flor_dagster.recording.capture import Buffer, is_scalar
from flor_dagster.recording.plans import Changed, Group, Level, Plan, keyed_values
from flor_dagster.recording.spans import MemorySpans
from flor_dagster.recording.tensorfacts import OtherTensors

_attributes = object.__getattribute__


@dataclass(slots=True)
class Match:
    """Live objects that have the form of a plan.

    Args:
        plan: the plan.
        live: the objects, in the plan's order.
        numbers: their identities.
        patches: nodes that have other numbers.
        buffers: the memory of arrays.
        spans: where it lies.
        storages: the storages, in the plan's order.
        addresses: of them.
        laid_out: nodes whose objects hold more or other numbers than the plan says, so that their steps may be others.
    """

    plan: Plan
    live: list[Any]
    numbers: list[int]
    patches: dict[int, list[Any]]
    buffers: list[Buffer]
    spans: MemorySpans
    storages: Sequence[Any]
    addresses: Sequence[int]
    laid_out: Collection[int] = ()


class Matcher:
    """Compares live objects with a plan.

    Args:
        plan: the plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._shim = plan.shim
        self._shim.functions = []
        self._shim.spans = MemorySpans()
        self._patches: dict[int, list[Any]] = {}
        self._buffers: list[Buffer] = []
        self._redone: dict[int, list[Any]] = {}
        self._learned = plan.learned

    def match(self, roots: Mapping[str, Any]) -> Match:
        """What a plan's roots lead to now.

        Args:
            roots: root name → value; others than the plan's may be there too.

        Raises:
            Changed: it has another form.
        """
        try:
            return self._match(roots)
        except (OtherTensors, TypeError, AttributeError, KeyError, ValueError, RuntimeError) as error:
            raise Changed from error
        finally:
            self._shim.let_go()

    def _match(self, roots: Mapping[str, Any]) -> Match:
        plan = self._plan
        live: list[Any] = []
        values: Sequence[Any] = [roots[name] for name in plan.names]
        objects = plan.top.follow(values, live)
        tensors: list[Any] = []
        for level in plan.levels:
            if not all(map(is_, map(type, objects), level.types)):
                raise Changed
            values = self._values(level, objects, tensors)
            scalars = level.edges.pick_scalars(values)
            if not all(map(is_, scalars, level.old)):
                self._numbers_changed(level, objects, values, scalars)
            objects = level.edges.follow(values, live)
        numbers = list(map(id, live))
        if len(set(numbers)) != len(numbers):
            raise Changed
        return self._end(live, numbers, tensors)

    def _end(self, live: list[Any], numbers: list[int], tensors: Sequence[Any]) -> Match:
        plan = self._plan
        storages, addresses = plan.tensors.compare(tensors)
        functions = self._shim.functions
        if [(f.__code__, id(f.__globals__)) for f in functions] != plan.codes:
            raise Changed
        return Match(
            plan,
            live,
            numbers,
            self._patches,
            self._buffers,
            self._shim.spans,
            storages,
            addresses,
            self._redone.keys(),
        )

    def _values(self, level: Level, objects: Sequence[Any], tensors: list[Any]) -> list[Any]:
        """Everything that a level's objects refer to."""
        values: list[Any] = []
        for group in level.groups:
            some = objects[group.start : group.end]
            if group.way in ("tensor", "result"):
                tensors += some
            values += getattr(self, _LOOKS[group.way])(level, group, some)
        return values

    def look_at_attributes(self, level: Level, group: Group, some: Sequence[Any]) -> Iterable[Any]:
        """Objects that are nothing but their attributes."""
        dicts = list(map(_attributes, some, repeat("__dict__")))
        if not all(map(is_, map(type, dicts), repeat(dict))):
            raise Changed
        return self._of_dicts(level, group, some, dicts)

    def look_at_own(self, level: Level, group: Group, some: Sequence[Any]) -> Iterable[Any]:
        """The same, of the repository's classes, which are state themselves."""
        return chain(self.look_at_attributes(level, group, some), map(type, some))

    def look_at_dicts(self, level: Level, group: Group, some: Sequence[Any]) -> Iterable[Any]:
        """Plain dicts with texts as keys."""
        return self._of_dicts(level, group, some, some)

    def look_at_keyed(self, level: Level, group: Group, some: Sequence[Any]) -> Iterable[Any]:
        """Dicts whose keys are objects, default dicts too."""
        del level
        values = list(map(keyed_values, some))
        if list(map(len, values)) != group.lengths:
            raise Changed
        return chain.from_iterable(values)

    def look_at_ordered(self, level: Level, group: Group, some: Sequence[Any]) -> Iterable[Any]:
        """Ordered dicts, which have an order of their own."""
        del level
        keys = list(chain.from_iterable(map(OrderedDict.keys, some)))
        if any(map(_attributes, some, repeat("__dict__"))) or keys != group.keys or not _texts(keys):
            raise Changed
        if list(map(len, some)) != group.lengths:
            raise Changed
        return chain.from_iterable(map(OrderedDict.values, some))

    def look_at_items(self, level: Level, group: Group, some: Sequence[Any]) -> Iterable[Any]:
        """Lists, or tuples."""
        iterate: Any = list.__iter__ if group.way == "list" else tuple.__iter__
        if list(map(len, some)) == group.lengths:
            return chain.from_iterable(map(iterate, some))
        values: list[Any] = []
        for place, item in enumerate(some):
            same = len(item) == group.lengths[place]
            values += iterate(item) if same else self._laid_out(level, group.start + place, item)
        return values

    def look_at_empty(self, level: Level, group: Group, some: Sequence[Any]) -> Iterable[Any]:
        """Containers that hold nothing."""
        del level
        ordered = group.way == "empty ordered"
        if any(map(len, some)) or (ordered and any(map(_attributes, some, repeat("__dict__")))):
            raise Changed
        return ()

    def look_at_tensors(self, level: Level, group: Group, some: Sequence[Any]) -> Iterable[Any]:
        """Tensors: their gradients; the rest is asked of all at once."""
        del level, group
        return self._plan.tensors.gradients(some)

    def look_at_results(self, level: Level, group: Group, some: Sequence[Any]) -> Iterable[Any]:
        """Tensors with a graph behind them, of which a checkpoint holds the values: a loss."""
        del level, group
        self._plan.tensors.check_graphs(some)
        return ()

    def look_at_others(self, level: Level, group: Group, some: Sequence[Any]) -> Iterable[Any]:
        """What its adapter describes anew."""
        values: list[Any] = []
        for number, item in zip(level.numbers[group.start : group.end], some, strict=True):
            self._patches[number] = self._again(number, item)
            self._buffers += self._shim.pending
            values += self._shim.children
        return values

    def _of_dicts(
        self, level: Level, group: Group, some: Sequence[Any], dicts: Sequence[dict[str, Any]]
    ) -> Iterable[Any]:
        keys = list(chain.from_iterable(dicts))
        if keys == group.keys and list(map(len, dicts)) == group.lengths and _texts(keys):
            return chain.from_iterable(map(dict.values, dicts))
        values: list[Any] = []
        start = 0
        for place, (item, found) in enumerate(zip(some, dicts, strict=True)):
            length = group.lengths[place]
            mine = list(found)
            if mine == group.keys[start : start + length] and _texts(mine):
                values += found.values()
            else:
                values += self._laid_out(level, group.start + place, item)
            start += length
        return values

    def _again(self, number: int, item: Any) -> list[Any]:
        known = iter(self._plan.children[number])

        def find(_: Any) -> int:
            found = next(known, -1)
            if found < 0:
                raise Changed
            return found

        node = self._shim.again(item, find)
        if next(known, -1) >= 0:
            raise Changed
        return node

    def _laid_out(self, level: Level, place: int, item: Any) -> list[Any]:
        """The children of an object whose scalars are others or more, at the places where the plan has them."""
        number = level.numbers[place]
        functions = len(self._shim.functions)
        self._patches[number] = self._redone[number] = self._again(number, item)
        del self._shim.functions[functions:]
        self._learned.add(number)
        children = iter(self._shim.children[1:] if self._has_class(level, place) else self._shim.children)
        start = level.starts[place]
        end = level.ends[place]
        scalars = set(level.edges.scalars)
        return [_SCALAR if at in scalars else next(children) for at in range(start, end)]

    def _has_class(self, level: Level, place: int) -> bool:
        return self._plan.nodes[level.numbers[place]][0] == "object" and bool(
            isinstance(self._plan.nodes[level.numbers[place]][2], int)
        )

    def _numbers_changed(
        self, level: Level, objects: Sequence[Any], values: Sequence[Any], scalars: Sequence[Any]
    ) -> None:
        """Describe those objects anew that have other scalars."""
        places = {
            bisect_right(level.starts, level.edges.scalars[k]) - 1
            for k in compress(count(), map(is_not, scalars, level.old))
        }
        for place in places:
            number = level.numbers[place]
            if number in self._redone:
                continue
            item = objects[place]
            functions = len(self._shim.functions)
            node = self._again(number, item)
            del self._shim.functions[functions:]
            children = self._shim.children[1:] if self._has_class(level, place) else self._shim.children
            start, end = level.starts[place], level.ends[place]
            inside = [v for v in values[start:end] if not is_scalar(v)]
            if len(inside) != len(children) or not all(map(is_, inside, children)):
                raise Changed
            self._patches[number] = node
            self._learned.add(number)
        level.old = scalars


_LOOKS = {
    "attributes": "look_at_attributes", "own": "look_at_own", "dict": "look_at_dicts", "ordered": "look_at_ordered",
    "keyed": "look_at_keyed", "list": "look_at_items", "tuple": "look_at_items", "empty": "look_at_empty", "empty ordered": "look_at_empty",
    "tensor": "look_at_tensors", "result": "look_at_results", "described": "look_at_others",
}  # fmt: skip

_SCALAR: Any = None
"""Stands where a plan has a scalar and the live object is described anew."""


def _texts(keys: list[Any]) -> bool:
    return all(map(is_, map(type, keys), repeat(str)))
