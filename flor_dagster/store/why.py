"""Why one cell of the log view shows no value, or what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, select

from flor_dagster.errors import UnknownNameError
from flor_dagster.recording.values import decode
from flor_dagster.store.chunks import read_layouts
from flor_dagster.store.columns import read_columns, resolve
from flor_dagster.store.packing import BOOL, ERROR, NULL
from flor_dagster.store.pivot import Tree
from flor_dagster.store.reasons import covers, error_words, facts_for, reason
from flor_dagster.store.run_values import run_field
from flor_dagster.store.schema import journals, loops, records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flor_dagster.store.columns import Column
    from flor_dagster.store.database import Database
    from flor_dagster.store.models import RunRow
    from flor_dagster.store.pivot import Mask


@dataclass(frozen=True, slots=True)
class Why:
    """What a place of the log view shows, or why it is empty.

    Attributes:
        run: the training run's key.
        name: the column.
        at: the place within the run; empty for the whole of it.
        values: how many values are there.
        value: the last one of them.
        reason: why there is none, in words; empty where there is one.
    """

    run: str
    name: str
    at: dict[str, Any]
    values: int
    value: Any
    reason: str


def why(database: Database, number: int, run: RunRow, name: str, at: Mapping[str, Any], rank: int) -> Why:
    """See `LogStore.why`."""
    with database.read() as connection:
        column = resolve(connection, name)
        if not column.is_logged:
            value = run.args.get(column.name) if column.source == "args" else run_field(run, column.name)
            there = value is not None or column.name in run.args
            said = (
                ""
                if there
                else f"the training run has no {'argument ' if column.source == 'args' else ''}{column.name!r}"
            )
            return Why(run.key, name, dict(at), int(there), value, said)
        place = _Place(connection, number, run, rank, at)
        shown = _shown(connection, column, number, run, rank)
        here = place.shown(shown)
        if here:
            return Why(run.key, name, dict(at), len(here), here[-1], "")
        (facts,) = facts_for(connection, [(number, run, column)])
        if at:
            nones, raised = _unseen(connection, column, number, rank, place)
            cell = facts.cell
            facts = replace(
                facts, nones=nones, raised=raised, elsewhere=len(shown), here=place.words,
                other="" if shown else facts.other, covers=cell is not None and covers(cell.coverage, place.path),
            )  # fmt: skip
        return Why(run.key, name, dict(at), 0, None, reason(facts))


class _Place:
    """The iterations of a run that are meant, and what lies in them and around them.

    Raises:
        UnknownNameError: the run has no such loop, or no such iteration.
    """

    def __init__(
        self, connection: Connection, number: int, run: RunRow, rank: int, at: Mapping[str, Any]
    ) -> None:
        self._tree = Tree(read_layouts(connection, [number], rank)[number])
        self.words = ", ".join(f"{key}={value}" for key, value in at.items())
        inside = np.array(self._tree.known)
        chosen: list[tuple[str, Mask]] = []
        for key, value in at.items():
            loop, mask = self._iterations(connection, number, run, rank, key, value)
            chosen.append((loop, mask))
            inside &= self._in(mask)
        self._within = inside if at else np.ones_like(inside)
        # What is logged around an iteration is shown in it, too.
        self._around = np.zeros_like(inside)
        if at:
            heads = np.flatnonzero(inside & np.logical_or.reduce([mask for _, mask in chosen]))
            self.path = self._path(heads[0]) if heads.size else _by_name(at)
            while heads.size:
                heads = self._tree.parent[heads[heads != self._tree.root]]
                self._around[heads] = True
        else:
            self.path: Sequence[tuple[str, int]] = ()

    def holds(self, ctx: int) -> bool:
        """Whether what is logged in a context is shown at this place."""
        position = ctx - self._tree.low
        return bool(self._within[position] or self._around[position])

    def shown(self, values: Sequence[tuple[int, Any]]) -> list[Any]:
        """Of (context, value) what stands at this place; where nothing does, what the nearest iteration around it has."""
        low = self._tree.low
        within = [value for ctx, value in values if self._within[ctx - low]]
        around = [ctx for ctx, _ in values if self._around[ctx - low]]
        if within or not around:
            return within
        nearest = max(around, key=lambda ctx: len(self._path(ctx - low)))
        return [value for ctx, value in values if ctx == nearest]

    def _in(self, mask: Mask) -> Mask:
        """The contexts that are some of these, or lie in one."""
        found, at = np.array(mask), self._tree.parent
        while (at != self._tree.root).any():
            found |= mask[at]
            at = self._tree.parent[at]
        return found

    def _iterations(
        self, connection: Connection, number: int, run: RunRow, rank: int, key: str, value: Any
    ) -> tuple[str, Mask]:
        here = (loops.c.run == number) & (loops.c.rank == rank)
        rows = connection.execute(select(loops.c.name, loops.c.iterations).where(here)).all()
        counts: dict[str, int] = {}
        for name, count in rows:
            counts[name] = max(count, counts.get(name, 0))
        loop = key
        by_value = key not in counts and key.removesuffix("_value") in counts
        if by_value:
            loop = key.removesuffix("_value")
        if loop not in counts:
            has = ", ".join(sorted(counts)) or "none"
            raise UnknownNameError(f"training run {run.key} has no loop `{key}` (its loops: {has})")
        tree, layout = self._tree, self._tree.layout
        mask = np.zeros(len(tree.parent), dtype=bool)
        if layout.loop.size:
            names = np.array([name == loop for name in layout.names])
            mask = tree.known & (tree.loop >= 0) & names[layout.loop_name[tree.loop]]
        if by_value:
            chosen = mask & (tree.index == value) if isinstance(value, int) else np.zeros_like(mask)
            for ctx, raw in layout.values.items():
                chosen[ctx - tree.low] = _same(decode(raw), value)
            mask &= chosen
            if not mask.any():
                raise UnknownNameError(
                    f"training run {run.key} logged nothing in an iteration of `{loop}` whose value is {value!r}"
                )
            return loop, mask
        top = max(counts[loop] - 1, int(tree.index[mask].max()) if mask.any() else -1)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= top:
            has = f"0 to {top}" if top > 0 else "0" if top == 0 else "none"
            raise UnknownNameError(
                f"training run {run.key} has no iteration {loop}={value} (its iterations: {has})"
            )
        return loop, mask & (tree.index == value)

    def _path(self, position: int) -> list[tuple[str, int]]:
        """From the outside in: each loop execution's path, as coverage names it, and the iteration of it."""
        tree, layout = self._tree, self._tree.layout
        steps: list[tuple[str, int]] = []
        while position != tree.root:
            loop = int(tree.loop[position])
            steps.append(
                (
                    f"{layout.names[layout.loop_name[loop]]}#{layout.loop_ordinal[loop]}",
                    int(tree.index[position]),
                )
            )
            position = int(tree.parent[position])
        found: list[tuple[str, int]] = []
        path = ""
        for name, index in reversed(steps):
            path = f"{path}/{name}" if path else name
            found.append((path, index))
            path = f"{path}[{index}]"
        return found


def _same(one: Any, other: Any) -> bool:
    return one == other or str(one) == str(other)


def _by_name(at: Mapping[str, Any]) -> list[tuple[str, int]]:
    """An iteration in which nothing was logged: its loops as if each was executed once."""
    found: list[tuple[str, int]] = []
    path = ""
    for name, index in at.items():
        path = f"{path}/{name}#0" if path else f"{name}#0"
        found.append((path, index))
        path = f"{path}[{index}]"
    return found


def _shown(
    connection: Connection, column: Column, number: int, run: RunRow, rank: int
) -> list[tuple[int, Any]]:
    """(context, value) of everything that the column shows of the run."""
    parts = read_columns(connection, [column], {number: run}, all_runs=False, fidelity="default", rank=rank)
    return [
        (int(ctx), bool(value) if part.kind == BOOL else value)
        for part in parts.by_run.get(number, {}).get(column.label, ())
        for ctx, value in zip(part.ctxs.tolist(), part.values.tolist(), strict=True)
    ]


def _unseen(connection: Connection, column: Column, number: int, rank: int, place: _Place) -> tuple[int, str]:
    """How often None was logged at a place, and the error of an expression that failed there."""
    r, j = records.c, journals.c
    nones, raised = 0, ""
    rows: Any = connection.execute(
        select(r.ctx, r.kind, r.text)
        .join(journals, j.journal == r.journal)
        .where(j.run == number, j.rank == rank, r.site.in_((*column.sites, *column.others)))
        .where(r.kind.in_((NULL, ERROR)))
        .order_by(r.journal, r.at)
    )
    for ctx, kind, text in rows:
        if place.holds(ctx):
            nones += kind == NULL
            raised = error_words(text) if kind == ERROR else raised
    return nones, raised
