"""Which rows, or which training runs, fulfil a condition: three-valued, in arrays, the same whatever database the values lie in."""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from flor_dagster.store.conditions import (
    TIMES,
    Aggregate,
    Among,
    Arithmetic,
    ColumnOf,
    Compare,
    Condition,
    Constant,
    Is,
    Not,
    OfRun,
    Several,
    written,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flor_dagster.store.conditions import Node

    Mask = NDArray[np.bool_]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip
_COMPUTE: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv, "%": operator.mod,
}  # fmt: skip
_EXACT = 1 << 53
_SAFE = float(1 << 62)


class Values(NamedTuple):
    """A value for each row: `data[i]` where `present[i]`; of one row where it is the same for all of them."""

    data: NDArray[Any]
    present: Mask


class Truth(NamedTuple):
    """For each row, whether a condition holds, and whether it does not; neither where that is unknown."""

    yes: Mask
    no: Mask


class Source(Protocol):
    """Where the values are."""

    def column(self, condition: Condition, node: ColumnOf) -> Values:
        """A column of the view."""
        ...

    def of_run(self, condition: Condition, node: OfRun | Aggregate) -> Values:
        """Something of the training run."""
        ...


def fulfilled(condition: Condition, source: Source, count: int) -> Mask:
    """Which of so many rows fulfil a condition; what is unknown does not.

    Raises:
        ConditionError: its parts don't fit each other; the message points at the character.
    """
    yes = _Judge(condition, source).truth(condition.tree).yes
    return np.array(np.broadcast_to(yes, (count,)))


class _Judge:
    def __init__(self, condition: Condition, source: Source) -> None:
        self.condition = condition
        self.source = source

    def truth(self, node: Node) -> Truth:
        match node:
            case Several():
                parts = [self.truth(part) for part in node.parts]
                every, some = (0, 1) if node.op == "and" else (1, 0)
                all_of = _reduce(operator.and_, [part[every] for part in parts])
                any_of = _reduce(operator.or_, [part[some] for part in parts])
                return Truth(all_of, any_of) if node.op == "and" else Truth(any_of, all_of)
            case Not():
                inner = self.truth(node.of)
                return Truth(inner.no, inner.yes)
            case Compare():
                return self._compare(node, node.op, node.left, node.right)
            case Among():
                found = [self._compare(node, "=", node.value, item) for item in node.items]
                return Truth(
                    _reduce(operator.or_, [one.yes for one in found]),
                    _reduce(operator.and_, [one.no for one in found]),
                )
            case Is():
                value = self.value(node.value)
                if node.what == "null":
                    return Truth(~value.present, value.present)
                yes = is_nan(value.data) & value.present
                return Truth(yes, ~yes & value.present)
            case _:
                value = self.value(node)
                data = value.data
                if data.dtype.kind != "b":
                    odd = next(
                        (one for one in data[value.present].tolist() if not isinstance(one, bool)), None
                    )
                    if odd is not None:
                        raise self.condition.wrong(
                            node,
                            f"{written(node)} is {odd!r}, which is no yes or no: compare it with something",
                        )
                    data = np.array([one is True for one in data.tolist()], dtype=bool)
                return Truth(data & value.present, ~data & value.present)

    def value(self, node: Node) -> Values:
        match node:
            case Constant():
                return _constant(node.value)
            case ColumnOf():
                return self.source.column(self.condition, node)
            case OfRun() | Aggregate():
                return self.source.of_run(self.condition, node)
            case Arithmetic():
                return self._compute(node)
            case _:
                truth = self.truth(node)
                return Values(truth.yes, truth.yes | truth.no)

    def _compare(self, node: Node, op: str, left: Node, right: Node) -> Truth:
        a, b = self._fitting(left, right), self._fitting(right, left)
        present = a.present & b.present
        if _is_numeric(a.data) and _is_numeric(b.data) and _exact(a.data, b.data):
            found = _COMPARE[op](a.data, b.data)
        else:
            found = self._one_by_one(node, op, left, right, a, b, present)
        return Truth(found & present, ~found & present)

    def _fitting(self, node: Node, other: Node) -> Values:
        """A value; a text as the time that it is compared with."""
        if isinstance(node, Constant) and isinstance(node.value, str) and _is_time(other):
            return _constant(self._moment(node, node.value))
        return self.value(node)

    def _moment(self, node: Constant, text: str) -> datetime:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise self.condition.wrong(
                node, f"{text!r} is no time; write it as '2026-03-01' or '2026-03-01T12:00'"
            ) from None
        return (moment if moment.tzinfo is not None else moment.astimezone()).astimezone(UTC)

    def _one_by_one(
        self, node: Node, op: str, left: Node, right: Node, a: Values, b: Values, present: Mask
    ) -> Mask:
        found = np.zeros(present.shape, dtype=bool)
        one = np.broadcast_to(a.data, present.shape)
        other = np.broadcast_to(b.data, present.shape)
        compare = _COMPARE[op]
        for place in np.flatnonzero(present).tolist():
            x, y = _plain(one[place]), _plain(other[place])
            kinds = _family(x), _family(y)
            if "" in kinds:
                what, odd = (left, x) if not kinds[0] else (right, y)
                raise self.condition.wrong(
                    node, f"{written(what)} is a {type(odd).__name__}, which can't be compared"
                )
            if kinds[0] == kinds[1]:
                found[place] = compare(x, y)
            elif op in ("=", "!="):
                found[place] = op == "!="
            else:
                raise self.condition.wrong(
                    node,
                    f"{written(left)} is {x!r}, a {kinds[0]}, which can't be compared with {y!r}, a {kinds[1]}",
                )
        return found

    def _compute(self, node: Arithmetic) -> Values:
        a, b = self.value(node.left), self.value(node.right)
        present = a.present & b.present
        compute = _COMPUTE[node.op]
        if _is_numeric(a.data) and _is_numeric(b.data):
            x, y = (one.astype(np.int64) if one.dtype.kind == "b" else one for one in (a.data, b.data))
            if node.op in ("/", "//", "%"):
                # What is divided by zero is unknown.
                present = present & (y != 0)
                y = np.where(y == 0, np.ones_like(y), y)
            with np.errstate(all="ignore"):
                found = compute(x, y)
                large = (
                    found.dtype.kind == "i"
                    and (np.abs(compute(x.astype(float), y.astype(float))) >= _SAFE).any()
                )
            if not large and (found.dtype.kind == "f" or _exact(x, y)):
                return Values(found, present)
        return self._compute_one_by_one(node, a, b, present)

    def _compute_one_by_one(self, node: Arithmetic, a: Values, b: Values, present: Mask) -> Values:
        found = np.empty(present.shape, dtype=object)
        one, other = np.broadcast_to(a.data, present.shape), np.broadcast_to(b.data, present.shape)
        there = np.array(present)
        for place in np.flatnonzero(present).tolist():
            x, y = _plain(one[place]), _plain(other[place])
            if _family(x) != "number" or _family(y) != "number":
                what, odd = (node.left, x) if _family(x) != "number" else (node.right, y)
                raise self.condition.wrong(
                    node, f"{written(what)} is {odd!r}, and {node.op!r} computes with numbers"
                )
            if node.op in ("/", "//", "%") and y == 0:
                there[place] = False
                continue
            try:
                found[place] = _COMPUTE[node.op](x, y)
            except ArithmeticError as error:
                raise self.condition.wrong(node, f"{node.op!r} can't be computed: {error}") from error
        return Values(found, there)


def _constant(value: Any) -> Values:
    kind = type(value)
    if kind in (bool, float) or (kind is int and abs(value) < _EXACT):
        return Values(np.array([value]), np.array([True]))
    data = np.empty(1, dtype=object)
    data[0] = value
    return Values(data, np.array([True]))


def _is_time(node: Node) -> bool:
    return isinstance(node, OfRun) and node.kind == "run" and node.name in TIMES


def _is_numeric(data: NDArray[Any]) -> bool:
    return data.dtype.kind in "iufb"


def _exact(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether whole numbers stay what they are when they meet these others."""
    kinds = {a.dtype.kind, b.dtype.kind}
    if "f" not in kinds or kinds == {"f"}:
        return True
    whole = a if a.dtype.kind != "f" else b
    return whole.dtype.kind == "b" or not whole.size or bool((np.abs(whole.astype(float)) < _EXACT).all())


def is_nan(data: NDArray[Any]) -> Mask:
    """Which of these are NaN."""
    if data.dtype.kind == "f":
        return np.isnan(data)
    if data.dtype.kind != "O":
        return np.zeros(data.shape, dtype=bool)
    return np.array([isinstance(one, float) and one != one for one in data.tolist()], dtype=bool)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _family(value: Any) -> str:
    """What can be compared with each other; empty for what can be compared with nothing."""
    if isinstance(value, bool | int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "time" if isinstance(value, datetime) else ""


def _reduce(op: Callable[[Any, Any], Any], masks: list[Mask]) -> Mask:
    found = masks[0]
    for mask in masks[1:]:
        found = op(found, mask)
    return found
