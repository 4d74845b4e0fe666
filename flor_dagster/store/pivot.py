"""Long to wide for one training run: pure functions on arrays, no database and no pandas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from flor_dagster.store.chunks import MIXED, Layout, Part
from flor_dagster.store.packing import BOOL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]
Keep = Literal["last", "first", "all"]


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
    """One run's part of the view.

    Attributes:
        rows: how many.
        loops: outermost first.
        columns: by name.
        several: name → how many values stand in one place with a later one, which is shown.
        elsewhere: name → how many values lie where no row is.
        ordinal: the number of each row among those of one place, where it may have several.
    """

    rows: int
    loops: dict[str, LoopColumn]
    columns: dict[str, ValueColumn | None]
    several: dict[str, int] = field(default_factory=dict[str, int])
    elsewhere: dict[str, int] = field(default_factory=dict[str, int])
    ordinal: Ints | None = None


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

    def ranks(self, positions: Ints) -> Ints:
        """Positions as numbers in the order of execution."""
        some = np.unique(positions)
        found: Ints = np.zeros(len(self.parent), dtype=np.int64)
        found[self._in_order(some)] = np.arange(len(some))
        return found[positions]

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


@dataclass(frozen=True, slots=True)
class _Given:
    """A name's values in one run: value i stands at position `at[i]`; `order` lists them so that a later one wins."""

    kind: int
    values: NDArray[Any]
    at: Ints
    order: Ints
    source: Ints


def widen(
    layout: Layout,
    columns: Mapping[str, Sequence[Part]],
    always: bool,
    keep: Keep = "last",
    at: str | None = None,
) -> Wide:
    """One run's rows: a row per innermost context that has a value, outer values repeated in it.

    An outer value that every row within hides, by a nearer one of its name, has a row of its own.

    Args:
        layout: the run's loops and contexts.
        columns: each name's parts; a later part wins over an earlier one.
        always: whether a run without any value has one row all the same (its arguments were asked for).
        keep: which of several values of one place: the last, the first, or all of them, in a row each.
        at: a loop whose iterations are the rows, `run` for one row; what is logged within an iteration counts as logged at it, and
            what is logged elsewhere than in it and around it is left out and counted.
    """
    tree = Tree(layout)
    level = None if at is None else _Level(tree, at)
    several = {name: _several(parts) for name, parts in columns.items()} if level is None else {}
    given: dict[str, _Given] = {}
    elsewhere: dict[str, int] = {}
    for name, parts in columns.items():
        if parts:
            given[name], left_out = _given(tree, parts, keep, level)
            if left_out:
                elsewhere[name] = left_out
    found = [one.at for one in given.values() if one.at.size]
    if not found and not always:
        return Wide(0, {}, dict.fromkeys(columns), several, elsewhere)
    rows = tree.leaves([one + tree.low for one in found]) if found else np.array([tree.root])
    if level is not None and found:
        rows = rows[level.rows[rows]]
    if not rows.size:
        return Wide(0, {}, dict.fromkeys(columns), several, elsewhere)
    counts = _counts(tree, given.values()) if keep == "all" else None
    if counts is not None and level is None:
        rows = tree.with_outer(rows, np.flatnonzero((counts > 1) & tree.known))
    made = {name: _column(tree, rows, given.get(name)) for name in columns}
    unseen = [some for _, some in made.values() if some.size]
    if unseen and level is None:
        rows = tree.with_outer(rows, np.unique(np.concatenate(unseen)))
        made = {name: _column(tree, rows, given.get(name)) for name in columns}
    ordinal = None
    if counts is not None:
        times = np.maximum(counts[rows], 1)
        ordinal = np.arange(int(times.sum())) - np.repeat(np.cumsum(times) - times, times)
        rows = np.repeat(rows, times)
        made = {
            name: (
                None if column is None else _nth(tree, rows, ordinal, given[name], column, times),
                _NOWHERE,
            )
            for name, (column, _) in made.items()
        }
    shown = {name: column for name, (column, _) in made.items()}
    return Wide(len(rows), tree.loop_columns(rows), shown, several, elsewhere, ordinal)


class _Level:
    """The iterations of one loop as the rows of the view; `run` is the run itself.

    Attributes:
        rows: which positions are rows.
        up: the row that a position lies in, itself where it encloses rows, -1 elsewhere.
    """

    def __init__(self, tree: Tree, at: str) -> None:
        size = len(tree.parent)
        if at == "run":
            self.rows = np.zeros(size, dtype=bool)
            self.rows[tree.root] = True
            self.up: Ints = np.full(size, tree.root, dtype=np.int64)
            return
        named = np.array([name == at for name in tree.layout.names], dtype=bool)
        inside = tree.known & (tree.loop >= 0)
        self.rows = np.zeros(size, dtype=bool)
        if named.size:
            self.rows[inside] = named[tree.layout.loop_name[tree.loop[inside]]]
        self.up = np.full(size, -1, dtype=np.int64)
        here: Ints = np.arange(size)
        while True:
            hit = self.rows[here] & (self.up < 0)
            self.up[hit] = here[hit]
            if not (here != tree.root).any():
                break
            here = np.where(here == tree.root, tree.root, tree.parent[here])
        around = np.flatnonzero(self.rows)
        while around.size:
            around = np.unique(tree.parent[around[around != tree.root]])
            # Of loops of one name within each other the inner one's iterations are the rows.
            outer = around[self.up[around] < 0]
            self.up[outer] = outer


def _given(tree: Tree, parts: Sequence[Part], keep: Keep, level: _Level | None) -> tuple[_Given, int]:
    """A name's values at their places, and how many are left out."""
    kind, values = _joined(parts)
    lengths = [len(part.ctxs) for part in parts]
    source = np.repeat(np.arange(len(parts)), lengths)
    origin = np.concatenate([part.ctxs for part in parts]).astype(np.int64) - tree.low
    at, left_out = origin, 0
    if level is not None:
        at = level.up[origin]
        there = at >= 0
        left_out = int((~there).sum())
        kind, values, source, origin, at = kind, values[there], source[there], origin[there], at[there]
    if level is None and keep != "first":
        return _Given(kind, values, at, np.arange(len(at)), source), left_out
    sequence = np.arange(len(at))
    when = origin if tree.root == 0 else tree.ranks(origin)
    if keep == "first":
        sequence, when = -sequence, -when
    # What is logged at the place itself wins over what is logged within it, then the later one over the earlier one.
    return _Given(kind, values, at, np.lexsort((sequence, source, when, at == origin)), source), left_out


def _counts(tree: Tree, given: Iterable[_Given]) -> Ints:
    """For each position, how many values the name has there that has most."""
    most: Ints = np.zeros(len(tree.parent), dtype=np.int64)
    for one in given:
        np.maximum(most, np.bincount(one.at, minlength=len(most)), out=most)
    return most


def _several(parts: Sequence[Part]) -> int:
    """How many values of one call site stand in one context with a later one of it, which is shown."""
    found = 0
    for part in parts:
        if part.ctxs.size and not (part.ctxs[1:] > part.ctxs[:-1]).all():
            found += len(part.ctxs) - len(np.unique(part.ctxs))
    return found


_NOWHERE: Ints = np.empty(0, dtype=np.int64)


def _column(tree: Tree, rows: Ints, given: _Given | None) -> tuple[ValueColumn | None, Ints]:
    """A column, and the contexts whose values no row shows."""
    if given is None or not given.at.size:
        return None, _NOWHERE
    if len(given.at) == len(rows) and np.array_equal(given.at, rows):
        return ValueColumn(given.kind, given.values, np.ones(len(rows), dtype=bool), given.source), _NOWHERE
    chosen = _chosen(tree, given)
    pick, above = _nearest(tree, rows, chosen)
    unseen = chosen >= 0
    unseen[above[pick >= 0]] = False
    unseen &= tree.known
    column = ValueColumn(given.kind, given.values[pick], pick >= 0, given.source[pick])
    return column, np.flatnonzero(unseen)


def _chosen(tree: Tree, given: _Given) -> Ints:
    """For each position the one of its values that is shown; -1 where it has none."""
    chosen: Ints = np.full(len(tree.parent), -1, dtype=np.int64)
    chosen[given.at[given.order]] = given.order
    return chosen


def _nearest(tree: Tree, rows: Ints, chosen: Ints) -> tuple[Ints, Ints]:
    """What each row shows, and where it stands: at the row, or at the nearest place around it."""
    pick = chosen[rows]
    above = rows
    while True:
        empty = (pick < 0) & (above != tree.root)
        if not empty.any():
            return pick, above
        above = np.where(empty, tree.parent[above], above)
        pick = np.where(empty, chosen[above], pick)


def _nth(
    tree: Tree, rows: Ints, ordinal: Ints, given: _Given, column: ValueColumn, times: Ints
) -> ValueColumn:
    """A column whose several values of one place stand in rows of their own; what is outside is repeated."""
    order = given.order[np.argsort(given.at[given.order], kind="stable")]
    places = given.at[order]
    first = np.searchsorted(places, rows, side="left")
    count = np.searchsorted(places, rows, side="right") - first
    own = count > 0
    pick = np.where(own & (ordinal < count), order[np.minimum(first + ordinal, len(order) - 1)], -1)
    outer = np.repeat(_nearest(tree, rows[ordinal == 0], _chosen(tree, given))[0], times)
    pick = np.where(own, pick, outer)
    return ValueColumn(column.kind, given.values[pick], pick >= 0, given.source[pick])


def filled(column: ValueColumn) -> ValueColumn:
    """A column whose empty rows show what the nearest row before them has; where they do, the source is -1."""
    nearest = np.maximum.accumulate(np.where(column.present, np.arange(len(column.present)), -1))
    return ValueColumn(
        column.kind, column.values[nearest], nearest >= 0, np.where(column.present, column.source, -1)
    )


def _joined(parts: Sequence[Part]) -> tuple[int, NDArray[Any]]:
    if len(parts) == 1:
        return parts[0].kind, parts[0].values
    kinds = {part.kind for part in parts}
    if len(kinds) == 1:
        return parts[0].kind, np.concatenate([part.values for part in parts])
    return MIXED, np.concatenate([_objects(part.values, part.kind) for part in parts])


def _objects(values: NDArray[Any], kind: int) -> NDArray[Any]:
    return (values.astype(bool) if kind == BOOL else values).astype(object)
