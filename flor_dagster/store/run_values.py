"""What conditions read of training runs: their fields, their arguments, and what is made of all values that they have of a name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, select

from flor_dagster.errors import UnknownNameError
from flor_dagster.store.chunks import Part, read_layouts
from flor_dagster.store.columns import is_argument, is_loop, near_arguments, read_columns, resolve
from flor_dagster.store.conditions import RUN_FIELDS, Aggregate, ColumnOf, Condition, OfRun, written
from flor_dagster.store.judging import Values, fulfilled, is_nan
from flor_dagster.store.packing import BOOL, ERROR, NULL, unpack
from flor_dagster.store.pivot import Tree
from flor_dagster.store.schema import records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from flor_dagster.store.columns import Column
    from flor_dagster.store.models import RunRow


class RunSource:
    """Training runs as the rows of a condition.

    Args:
        connection: a reading transaction.
        numbers: the runs by their numbers in the store.
        rank: whose records.
    """

    def __init__(self, connection: Connection, numbers: Mapping[int, RunRow], rank: int) -> None:
        self._connection = connection
        self._numbers = dict(numbers)
        self._rank = rank
        self._series: dict[str, dict[int, NDArray[Any]]] = {}

    def column(self, condition: Condition, node: ColumnOf) -> Values:
        """Refused: a training run has no rows."""
        name = node.name
        if name in RUN_FIELDS:
            raise condition.wrong(node, f"a training run is asked, and it has no columns: write run.{name}")
        if any(name in run.args for run in self._numbers.values()):
            raise condition.wrong(node, f"a training run is asked, and it has no columns: write args.{name}")
        try:
            resolve(self._connection, name)
        except UnknownNameError as error:
            if not is_loop(self._connection, name):
                raise condition.unknown(node, str(error)) from None
        raise condition.wrong(
            node,
            f"a training run has many values of {name!r}: write last({name}), or first, min, max, mean, count",
        )

    def of_run(self, condition: Condition, node: OfRun | Aggregate) -> Values:
        """A value for each training run."""
        if isinstance(node, OfRun):
            if node.kind == "args" and not is_argument(self._connection, node.name):
                raise condition.unknown(
                    node,
                    f"no training run has an argument {node.name!r}{near_arguments(self._connection, node.name)}",
                )
            found = [_of_run(run, node) for run in self._numbers.values()]
        else:
            found = self._aggregated(condition, node)
        return packed(found)

    def _aggregated(self, condition: Condition, node: Aggregate) -> list[Any]:
        if node.name not in self._series:
            self._series[node.name] = self._values(condition, node)
        series = self._series[node.name]
        if node.function == "count":
            return [len(series.get(number, ())) for number in self._numbers]
        found: list[Any] = []
        for number, run in self._numbers.items():
            values = series.get(number)
            try:
                found.append(None if values is None or not len(values) else _made(node.function, values))
            except (TypeError, ValueError) as error:
                raise condition.wrong(
                    node, f"{written(node)} can't be computed for training run {run.key}: {error}"
                ) from None
        return found

    def _values(self, condition: Condition, node: Aggregate) -> dict[int, NDArray[Any]]:
        """Run → its values of a name or its iterations of a loop, in the order of the training."""
        if is_loop(self._connection, node.name):
            layouts = read_layouts(self._connection, list(self._numbers), self._rank)
            return {number: _iterations(layout, node.name) for number, layout in layouts.items()}
        try:
            column = resolve(self._connection, node.name)
        except UnknownNameError as error:
            raise condition.unknown(node, f"no training run logged `{node.name}`. {error}") from None
        if column.source != "log":
            raise condition.wrong(
                node,
                f"{node.name!r} is an argument, which a training run has one of: write args.{column.name}",
            )
        return series(self._connection, column, self._numbers, self._rank)


def runs_that_fulfil(
    connection: Connection, condition: Condition, numbers: Mapping[int, RunRow], rank: int
) -> dict[int, RunRow]:
    """The training runs that fulfil a condition, in their order.

    Raises:
        ConditionError: it can't be asked of training runs, or its parts don't fit each other.
    """
    mask = fulfilled(condition, RunSource(connection, numbers, rank), len(numbers))
    return {number: run for (number, run), yes in zip(numbers.items(), mask.tolist(), strict=True) if yes}


def packed(found: Sequence[Any]) -> Values:
    """Python values as an array of the narrowest kind that keeps them; None is what is not there."""
    present = np.array([value is not None for value in found], dtype=bool)
    kinds = {type(value) for value in found if value is not None}
    if kinds == {float}:
        return Values(np.array([math.nan if value is None else value for value in found]), present)
    if kinds == {bool}:
        return Values(np.array([value is True for value in found], dtype=bool), present)
    if kinds == {int} and all(-(1 << 62) < value < 1 << 62 for value in found if value is not None):
        return Values(np.array([value or 0 for value in found], dtype=np.int64), present)
    data = np.empty(len(found), dtype=object)
    for place, value in enumerate(found):
        data[place] = value
    return Values(data, present)


def _of_run(run: RunRow, node: OfRun) -> Any:
    if node.kind == "args":
        return run.args.get(node.name)
    if node.kind == "tags":
        return run.tags.get(node.name)
    return run_field(run, node.name)


def run_field(run: RunRow, name: str) -> Any:
    """A field of a training run by the name that people use."""
    return run.commit if name == "version" else getattr(run, name)


def series(
    connection: Connection, column: Column, numbers: Mapping[int, RunRow], rank: int
) -> dict[int, NDArray[Any]]:
    """Run → its values of a column, in the order in which they were logged."""
    read = read_columns(
        connection, [column], dict(numbers), all_runs=False, fidelity="default", rank=rank
    ).by_run
    found: dict[int, NDArray[Any]] = {}
    for number, parts in read.items():
        mine = parts[column.label]
        if len(mine) == 1:
            found[number] = _plain(mine[0])
        elif len({part.journal for part in mine}) == 1:
            found[number] = _in_journal_order(connection, mine)
        else:
            # Of several journals there is no common order but that of the places.
            tree = Tree(read_layouts(connection, [number], rank)[number])
            at = np.concatenate([part.ctxs for part in mine]).astype(np.int64) - tree.low
            order = np.argsort(tree.ranks(at), kind="stable")
            found[number] = np.concatenate([_plain(part).astype(object) for part in mine])[order]
    return found


def _in_journal_order(connection: Connection, parts: Sequence[Part]) -> NDArray[Any]:
    r = records.c
    rows = connection.execute(
        select(r.kind, r.num, r.whole, r.text)
        .where(r.journal == parts[0].journal, r.site.in_([part.site for part in parts]))
        .where(r.kind.not_in((NULL, ERROR)))
        .order_by(r.at)
    )
    return packed([unpack(*row) for row in rows]).data


def _plain(part: Part) -> NDArray[Any]:
    return part.values.astype(bool) if part.kind == BOOL else part.values


def _iterations(layout: Any, name: str) -> NDArray[Any]:
    if not layout.loop.size:
        return np.empty(0, dtype=np.int64)
    named = np.array([one == name for one in layout.names], dtype=bool)
    return layout.index[named[layout.loop_name[np.searchsorted(layout.loop, layout.ctx_loop)]]]


def _made(function: str, values: NDArray[Any]) -> Any:
    """One value of many. A NaN is no smallest and no largest number, where there are others; a mean with it is NaN."""
    match function:
        case "first":
            return _python(values[0])
        case "last":
            return _python(values[-1])
        case "mean":
            if values.dtype.kind == "O" and not all(isinstance(v, int | float) for v in values.tolist()):
                raise TypeError("not all of its values are numbers")
            return float(np.mean(values.astype(float)))
        case _:
            there = ~is_nan(values)
            some = values[there] if there.any() else values
            if some.dtype.kind != "O":
                return _python(some.min() if function == "min" else some.max())
            return _python(min(some.tolist()) if function == "min" else max(some.tolist()))


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
