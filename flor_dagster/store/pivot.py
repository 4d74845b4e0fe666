"""Long to wide for one training run: pure functions on arrays, no database and no pandas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flor_dagster.store.chunks import MIXED, Layout, Part

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LoopColumn:
    """One loop's column: where `present`, the iteration's index, the loop's ordinal and the iteration's value."""

    present: Mask
    index: Ints
    ordinal: Ints
    value: NDArray[Any] | None


@dataclass(frozen=True, slots=True)
class ValueColumn:
    """One name's column: `values[i]` where `present[i]`, taken from part `source[i]`."""

    kind: int
    values: NDArray[Any]
    present: Mask
    source: Ints


@dataclass(frozen=True, slots=True)
class Wide:
    """One run's part of the view. `loops` are outermost first; `several` counts the values behind which a later one stands."""

    rows: int
    loops: dict[str, LoopColumn]
    columns: dict[str, ValueColumn | None]
    several: dict[str, int] = field(default_factory=dict[str, int])


class Tree:
    """The loop contexts of a run as a tree over positions; position `root` is the run itself."""

    def __init__(self, layout: Layout) -> None:
        low = min(0, int(layout.ctx.min())) if layout.ctx.size else 0
        size = (max(0, int(layout.ctx.max())) if layout.ctx.size else 0) - low + 1
        self.low = low
        self.root = -low
        self.layout = layout
        at = layout.ctx - low
        self.loop: Ints = np.full(size, -1, dtype=np.int64)
        self.loop[at] = _slots(layout, layout.ctx_loop)
        self.index: Ints = np.zeros(size, dtype=np.int64)
        self.index[at] = layout.index
        self.known = np.zeros(size, dtype=bool)
        self.known[at] = True
        self.known[self.root] = True
        self.parent: Ints = np.full(size, self.root, dtype=np.int64)
        if layout.loop.size:
            self.parent[at] = layout.loop_parent[self.loop[at]] - low

    def leaves(self, ctxs: Sequence[Ints]) -> Ints:
        """The given contexts that enclose no other given one, in the order of execution."""
        given = np.zeros(len(self.parent), dtype=bool)
        for some in ctxs:
            given[some - self.low] = True
        given &= self.known
        outer = np.zeros(len(self.parent), dtype=bool)
        front = np.flatnonzero(given)
        while True:
            front = front[front != self.root]
            if not front.size:
                break
            mark = np.zeros(len(self.parent), dtype=bool)
            mark[self.parent[front]] = True
            outer |= mark
            front = np.flatnonzero(mark)
        rows = np.flatnonzero(given & ~outer)
        return rows if self.root == 0 else self._in_order(rows)

    def with_outer(self, rows: Ints, outer: Ints) -> Ints:
        """Rows with some that enclose others of them, each before the ones in it."""
        together = np.unique(np.concatenate([rows, outer]))
        return together if self.root == 0 else self._in_order(together)

    def _in_order(self, rows: Ints) -> Ints:
        """Numbers tell the order of what was recorded; what a replay has added is put in by its path."""
        levels = self.levels(rows)
        keys: list[Ints] = []
        for level in range(len(levels)):
            at = levels[level]
            inside = at != self.root
            loop = self.layout.loop[self.loop[at]] if self.layout.loop.size else at
            first = np.where(loop < 0, (1 << 60) - loop, loop)
            keys += [np.where(inside, first, -1), np.where(inside, self.index[at], -1)]
        return rows[np.lexsort(keys[::-1])] if keys else rows

    def levels(self, rows: Ints) -> list[Ints]:
        """For each depth from the outside in: the enclosing context of every row at it, the root where there is none."""
        upward: list[Ints] = []
        at = rows
        while (at != self.root).any():
            upward.append(at)
            at = self.parent[at]
        depth = np.zeros(len(rows), dtype=np.int64)
        for some in upward:
            depth += some != self.root
        found: list[Ints] = []
        for level in range(len(upward)):
            column = np.full(len(rows), self.root, dtype=np.int64)
            for step, some in enumerate(upward):
                here = depth - step - 1 == level
                column[here] = some[here]
            found.append(column)
        return found

    def loop_columns(self, rows: Ints) -> dict[str, LoopColumn]:
        """The columns of every loop around the rows, outermost first."""
        found: dict[str, LoopColumn] = {}
        names = self.layout.names
        for at in self.levels(rows):
            loop = self.loop[at]
            inside = at != self.root
            named = np.where(inside, self.layout.loop_name[loop], -1) if self.layout.loop.size else loop
            for name in np.unique(named[inside]).tolist():
                here = named == name
                value = self._values(at, here)
                ordinal = np.where(here, self.layout.loop_ordinal[loop], 0)
                _put(found, names[name], LoopColumn(here, np.where(here, self.index[at], 0), ordinal, value))
        return found

    def _values(self, at: Ints, here: Mask) -> NDArray[Any] | None:
        known = self.layout.values
        if not known:
            return None
        found = np.empty(len(at), dtype=object)
        hit = False
        for row in np.flatnonzero(here).tolist():
            ctx = int(at[row]) + self.low
            hit = hit or ctx in known
            found[row] = known.get(ctx, int(self.index[at[row]]))
        return found if hit else None


def _slots(layout: Layout, numbers: Ints) -> Ints:
    """Loop numbers as places in the layout's arrays."""
    if not layout.loop.size:
        return np.full(len(numbers), -1, dtype=np.int64)
    return np.searchsorted(layout.loop, numbers)


def _put(found: dict[str, LoopColumn], name: str, column: LoopColumn) -> None:
    """A loop of one name at two depths: in different rows one column; in the same row the inner one is `name.2`."""
    number, key = 1, name
    while key in found and bool((found[key].present & column.present).any()):
        number += 1
        key = f"{name}.{number}"
    old = found.get(key)
    if old is None:
        found[key] = column
        return
    here = column.present
    value = old.value
    if value is not None or column.value is not None:
        left = value if value is not None else old.index.astype(object)
        right = column.value if column.value is not None else column.index.astype(object)
        value = np.where(here, right, left)
    found[key] = LoopColumn(
        old.present | here,
        np.where(here, column.index, old.index),
        np.where(here, column.ordinal, old.ordinal),
        value,
    )


def widen(layout: Layout, columns: Mapping[str, Sequence[Part]], always: bool) -> Wide:
    """One run's rows: a row per innermost context that has a value, outer values repeated in it.

    An outer value that every row within hides, by a nearer one of its name, has a row of its own.

    Args:
        layout: the run's loops and contexts.
        columns: each name's parts; a later part wins over an earlier one, a later value over an earlier one.
        always: whether a run without any value has one row all the same (its arguments were asked for).
    """
    tree = Tree(layout)
    given = [part.ctxs.astype(np.int64, copy=False) for parts in columns.values() for part in parts]
    if not given and not always:
        return Wide(0, {}, dict.fromkeys(columns))
    rows = tree.leaves(given) if given else np.array([tree.root])
    if not rows.size:
        return Wide(0, {}, dict.fromkeys(columns))
    made = {name: _column(tree, rows, parts) for name, parts in columns.items()}
    unseen = [some for _, some in made.values() if some.size]
    if unseen:
        rows = tree.with_outer(rows, np.unique(np.concatenate(unseen)))
        made = {name: _column(tree, rows, parts) for name, parts in columns.items()}
    several = {name: _several(parts) for name, parts in columns.items()}
    return Wide(
        len(rows), tree.loop_columns(rows), {name: column for name, (column, _) in made.items()}, several
    )


def _several(parts: Sequence[Part]) -> int:
    """How many values of one call site stand in one context with a later one of it, which is shown."""
    found = 0
    for part in parts:
        if part.ctxs.size and not (part.ctxs[1:] > part.ctxs[:-1]).all():
            found += len(part.ctxs) - len(np.unique(part.ctxs))
    return found


_NOWHERE: Ints = np.empty(0, dtype=np.int64)


def _column(tree: Tree, rows: Ints, parts: Sequence[Part]) -> tuple[ValueColumn | None, Ints]:
    """A column, and the contexts whose values no row shows."""
    if not parts:
        return None, _NOWHERE
    if len(parts) == 1 and len(parts[0].ctxs) == len(rows) and np.array_equal(parts[0].ctxs - tree.low, rows):
        only = parts[0]
        whole = ValueColumn(
            only.kind, only.values, np.ones(len(rows), dtype=bool), np.zeros(len(rows), dtype=np.int64)
        )
        return whole, _NOWHERE
    kind, values = _joined(parts)
    source = np.repeat(np.arange(len(parts)), [len(part.ctxs) for part in parts])
    at = np.concatenate([part.ctxs for part in parts]).astype(np.int64) - tree.low
    chosen: Ints = np.full(len(tree.parent), -1, dtype=np.int64)
    # Of several values of one context the last one stays.
    chosen[at] = np.arange(len(at))
    pick = chosen[rows]
    above = rows
    while True:
        empty = (pick < 0) & (above != tree.root)
        if not empty.any():
            break
        above = np.where(empty, tree.parent[above], above)
        pick = np.where(empty, chosen[above], pick)
    unseen = chosen >= 0
    unseen[above[pick >= 0]] = False
    unseen &= tree.known
    return ValueColumn(kind, values[pick], pick >= 0, source[pick]), np.flatnonzero(unseen)


def _joined(parts: Sequence[Part]) -> tuple[int, NDArray[Any]]:
    kinds = {part.kind for part in parts}
    if len(kinds) == 1:
        return parts[0].kind, np.concatenate([part.values for part in parts])
    return MIXED, np.concatenate([_objects(part.values) for part in parts])


def _objects(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(object)
