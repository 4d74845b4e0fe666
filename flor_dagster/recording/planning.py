"""Making a plan of what a walk has found; see `plans`."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from flor_dagster.recording import shape
from flor_dagster.recording.adapters import instances, registry
from flor_dagster.recording.capture import Capturer, is_scalar
from flor_dagster.recording.hulls import storage_hulls
from flor_dagster.recording.plans import Changed, Edges, Group, Level, Plan, Shim, keyed_values
from flor_dagster.recording.tensorfacts import TensorFacts, is_ordinary

_EMPTY = frozenset({dict, list, tuple, set, frozenset, OrderedDict})
_UNPLANNABLE = frozenset({"view", "oarray", "memmap", "wrapper", "sparse", "weak", "proxy"})
_WAYS = (
    "attributes", "own", "dict", "keyed", "ordered", "list", "tuple", "empty", "empty ordered", "tensor", "result", "described",
)  # fmt: skip
Walk = Callable[[list[str]], Capturer]


def make_plan(walked: Capturer, walk: Walk, shim: Shim, volatile: set[int]) -> Plan | None:
    """The plan of a walk, before its memory is copied; None where there is nothing that a plan can follow.

    Args:
        walked: the walk.
        walk: walks some of its roots alone, by their names.
        shim: describes single objects.
        volatile: nodes of the plan's walk that change in their numbers each time.
    """
    try:
        return _plan(walked, walk, shim, volatile)
    finally:
        shim.let_go()


def _plan(walked: Capturer, walk: Walk, shim: Shim, volatile: set[int]) -> Plan | None:
    names = [name for name, ref in walked.state.roots.items() if isinstance(ref, int)]
    fine = _Reader(walked, shim, set()).followable(names)
    if not fine:
        return None
    only = walk(fine)
    if [name for name, ref in only.state.roots.items() if isinstance(ref, int)] != fine:
        return None
    reader = _Reader(only, shim, volatile)
    return reader.plan(fine) if reader.followable(fine) == fine else None


class _Reader:
    """Reads a walk's objects, level by level."""

    def __init__(self, walked: Capturer, shim: Shim, volatile: set[int]) -> None:
        self._objects = walked.objects
        self._nodes = walked.state.nodes
        self._roots = walked.state.roots
        self._memo = walked.memo
        self._shim = shim
        self._volatile = volatile
        self._ways: list[str] = []
        self._values: list[list[Any]] = []
        self._children: list[tuple[int, ...]] = []

    def followable(self, names: list[str]) -> list[str]:
        """The roots that lead to nothing that a plan can't follow."""
        parents: dict[int, list[int]] = {}
        open_nodes: list[int] = []
        self._shim.functions = []
        for number in range(len(self._nodes)):
            way, values, children = self._read(number)
            self._ways.append(way)
            self._values.append(values)
            self._children.append(children)
            if not way:
                open_nodes.append(number)
            for child in children:
                parents.setdefault(child, []).append(number)
        bad = set(open_nodes)
        while open_nodes:
            for parent in parents.get(open_nodes.pop(), ()):
                if parent not in bad:
                    bad.add(parent)
                    open_nodes.append(parent)
        return [name for name in names if self._roots[name] not in bad]

    def _read(self, number: int) -> tuple[str, list[Any], tuple[int, ...]]:
        """How a node's object is looked at, the values in it, and the nodes that it refers to."""
        node, item = self._nodes[number], self._objects[number]
        try:
            way = self._way(number, node, item)
            match way:
                case "attributes" | "own":
                    values = list(shape.own_dict(item).values())
                case "dict":
                    values = list(dict.values(item))
                case "keyed":
                    values = keyed_values(item)
                case "ordered":
                    values = list(OrderedDict.values(item))
                case "list":
                    values = list(list.__iter__(item))
                case "tuple":
                    values = list(tuple.__iter__(item))
                case "tensor":
                    return way, [item.grad], () if item.grad is None else (self._number(item.grad),)
                case "described":
                    return self._described(item, node)
                case _:
                    values = []
            children = [self._number(v) for v in values if not is_scalar(v)]
        except (Changed, KeyError):
            return "", [], ()
        return way, values, tuple([self._number(type(item)), *children] if way == "own" else children)

    def _described(self, item: Any, node: list[Any]) -> tuple[str, list[Any], tuple[int, ...]]:
        functions = len(self._shim.functions)
        again = self._shim.again(item, self._number)
        del self._shim.functions[functions:]
        if again != node:
            raise Changed
        return "described", list(self._shim.children), tuple(self._shim.numbers)

    def _number(self, value: Any) -> int:
        return self._memo[id(value)]

    def _way(self, number: int, node: list[Any], item: Any) -> str:
        kind: Any = type(item)
        if node[0] == "storage":
            return "storage"
        if node[0] == "tensor":
            return "" if not is_ordinary(item) else "tensor" if item.grad_fn is None else "result"
        if node[0] in _UNPLANNABLE or (node[0] == "array" and not _owns(item)):
            return ""
        if kind in _EMPTY and not len(item):
            if kind is not OrderedDict:
                return "empty"
            return "described" if node[3] else "empty ordered"
        if number in self._volatile:
            return "described"
        if kind is OrderedDict:
            return "described" if node[3] or not _texts(item) else "ordered"
        if kind in (dict, defaultdict) and not any(map(is_scalar, item)):
            return "keyed"
        if node[0] == "object":
            if node[4] is not None or not _is_simple(item):
                return "described"
            return "attributes" if node[2] is None else "own"
        if kind is dict and _texts(item):
            return "dict"
        return kind.__name__ if kind in (list, tuple) else "described"

    # The plan -------------------------------------------------------------------------------------------------------

    def plan(self, names: list[str]) -> Plan:
        """The plan of these roots."""
        where: dict[int, int] = {}
        order: list[int] = []
        top = Edges()
        numbers = self._sort([(self._roots[name], False) for name in names], top, where, order)
        levels: list[Level] = []
        tensors = TensorFacts()
        codes: list[tuple[Any, Any]] = []
        while numbers:
            level, edges = self._level(numbers)
            levels.append(level)
            for group in level.groups:
                for number in numbers[group.start : group.end]:
                    if group.way in ("tensor", "result"):
                        tensors.add(self._objects[number], self._nodes[number][2])
                    elif group.way == "described":
                        codes += self._codes(number)
            numbers = self._sort(edges, level.edges, where, order)
            level.old = level.edges.pick_scalars([v for _, v in self._pairs(level)])
        nodes = [list(n) if n and n[0] in ("storage", "array") else n for n in self._nodes]
        return Plan(
            names, [self._roots[name] for name in names], nodes, top, levels, order, self._children, tensors,
            storage_hulls(nodes), codes, self._shim,
        )  # fmt: skip

    def _codes(self, number: int) -> list[tuple[Any, Any]]:
        self._shim.functions = []
        self._shim.again(self._objects[number], self._number)
        return [(f.__code__, id(f.__globals__)) for f in self._shim.functions]

    def _pairs(self, level: Level) -> list[tuple[int, Any]]:
        """All values of a level, in the order in which `Matcher` meets them, with the place of their object."""
        pairs: list[tuple[int, Any]] = []
        for group in level.groups:
            places = range(group.start, group.end)
            for place in places:
                pairs += [(place, value) for value in self._values[level.numbers[place]]]
            if group.way == "own":
                pairs += [(place, type(self._objects[level.numbers[place]])) for place in places]
        return pairs

    def _level(self, numbers: list[int]) -> tuple[Level, list[tuple[int, bool]]]:
        """The level of these objects, and what their values lead to: (node, whether it is a scalar)."""
        groups: list[Group] = []
        for place, number in enumerate(numbers):
            way, item = self._ways[number], self._objects[number]
            if not groups or groups[-1].way != way:
                groups.append(Group(way, place, place))
            group = groups[-1]
            group.end = place + 1
            if way not in ("empty", "empty ordered", "tensor", "result", "described"):
                group.lengths.append(len(self._values[number]))
            if way in ("attributes", "own"):
                group.keys += shape.own_dict(item)
            elif way in ("dict", "ordered"):
                group.keys += item
        level = Level(numbers, [type(self._objects[n]) for n in numbers], groups, [], [], Edges())
        at = 0
        for group in groups:
            for number in numbers[group.start : group.end]:
                level.starts.append(at)
                at += len(self._values[number])
                level.ends.append(at)
            at += group.end - group.start if group.way == "own" else 0
        values = [value for _, value in self._pairs(level)]
        return level, [(-1, True) if is_scalar(v) else (self._number(v), False) for v in values]

    def _sort(
        self, values: list[tuple[int, bool]], edges: Edges, where: dict[int, int], order: list[int]
    ) -> list[int]:
        """Say what values are; the nodes that are met first, in the order of their level."""
        first: dict[int, int] = {}
        again: list[tuple[int, int]] = []
        for place, (number, scalar) in enumerate(values):
            if scalar:
                edges.scalars.append(place)
            elif number in where or number in first:
                again.append((place, number))
            else:
                first[number] = place
        numbers = sorted(first, key=lambda n: (_WAYS.index(self._ways[n]), first[n]))
        for number in numbers:
            where[number] = len(order)
            order.append(number)
        edges.first = [first[number] for number in numbers]
        edges.again = [place for place, _ in again]
        edges.targets = [where[number] for _, number in again]
        edges.seal()
        return numbers


def _texts(item: Mapping[Any, Any]) -> bool:
    return all(type(key) is str for key in item)


def _is_simple(item: Any) -> bool:
    """Whether an object is nothing but its `__dict__`."""
    kind: Any = type(item)
    return (
        registry.describer(kind) is instances.describe_object
        and not shape.all_slots(kind)
        and not issubclass(kind, BaseException | threading.local)
        and type(getattr(item, "__dict__", None)) is dict
        and type(object.__getattribute__(item, "__dict__")) is dict
        and _texts(object.__getattribute__(item, "__dict__"))
    )


def _owns(array: Any) -> bool:
    """Whether an array's memory is its own: nothing else of numpy leads to it."""
    return array.base is None
