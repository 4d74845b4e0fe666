"""Column chunks: a journal's values of one call site, packed. Derived from the rows and rebuilt from them at any time.

A chunk counts only while its journal's `chunked_upto` equals `upto`; else the rows are read.
"""

from __future__ import annotations

import array
import json
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, insert, select, update

from flor_dagster.store.database import insert_rows, slices
from flor_dagster.store.packing import BOOL, ERROR, FLOAT, INT, NULL, TEXT, UNSTORED, unpack
from flor_dagster.store.schema import chunks, contexts, journals, layouts, loops, records

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

MIXED = -1
_DTYPES = {FLOAT: "<f8", INT: "<i8", BOOL: "u1"}
_CODES = {FLOAT: "d", INT: "q", BOOL: "B"}
_FETCH = 100_000


@dataclass(frozen=True, slots=True)
class Part:
    """Values of one call site in one journal, in journal order: `values[i]` was logged in context `ctxs[i]`.

    `kind` is FLOAT, INT, BOOL or TEXT where all are, else MIXED (an array of objects).
    """

    journal: int
    site: int
    kind: int
    ctxs: Ints
    values: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """The loops and contexts of one rank of one run, as parallel arrays.

    `values` holds the loop values that differ from their index, by context.
    """

    names: tuple[str, ...]
    loop: Ints
    loop_parent: Ints
    loop_name: Ints
    loop_ordinal: Ints
    ctx: Ints
    ctx_loop: Ints
    index: Ints
    values: dict[int, Any]


class _Column:
    """The growing values of one call site."""

    __slots__ = ("ctxs", "data", "kind")

    def __init__(self, kind: int) -> None:
        self.kind = kind if kind in _CODES else MIXED
        self.ctxs = array.array("q")
        self.data = array.array(_CODES.get(kind, "B"))

    def add(self, ctx: int, kind: int, num: float | None, whole: int | None, text: str | None) -> None:
        if self.kind == MIXED:
            return
        if kind != self.kind or (text is not None and kind != FLOAT):
            self.kind = MIXED
            return
        self.ctxs.append(ctx)
        if kind != FLOAT:
            self.data.append(whole or 0)
        else:
            self.data.append(num if text is None else _float(text))  # type: ignore[arg-type]


def _float(bits: str) -> float:
    return struct.unpack(">d", bytes.fromhex(bits))[0]


def pack_journal(connection: Connection, journal: int) -> None:
    """Make the chunks of a journal from its rows, and the layout of its run; nothing where they are up to date."""
    j = journals.c
    run, rank, upto, packed, replay = connection.execute(
        select(j.run, j.rank, j.upto, j.chunked_upto, j.replay_id).where(j.journal == journal)
    ).one()
    if packed == upto:
        return
    connection.execute(delete(chunks).where(chunks.c.journal == journal))
    columns: dict[int, _Column] = {}
    r = records.c
    rows = connection.execute(
        select(r.site, r.ctx, r.kind, r.num, r.whole, r.text)
        .where(r.journal == journal)
        .order_by(r.at)
        .execution_options(stream_results=True)
    )
    while batch := rows.fetchmany(_FETCH):
        for site, ctx, kind, num, whole, text in batch:
            column = columns.get(site)
            if column is None:
                column = columns[site] = _Column(kind)
            column.add(ctx, kind, num, whole, text)
    insert_rows(
        connection,
        chunks,
        ("journal", "site", "kind", "n", "ctxs", "data"),
        [(journal, site, *_packed(column)) for site, column in columns.items()],
    )
    connection.execute(update(journals).where(j.journal == journal).values(chunked_upto=upto))
    if replay is None:
        pack_layout(connection, run, rank)


def _packed(column: _Column) -> tuple[int, int, bytes, bytes]:
    if column.kind == MIXED:
        return MIXED, 0, b"", b""
    ctxs, count = column.ctxs, len(column.ctxs)
    small = bool(count) and min(ctxs) >= -(1 << 31) and max(ctxs) < 1 << 31
    return (
        column.kind,
        count,
        _little(array.array("i", ctxs) if small else ctxs),
        _little(column.data),
    )


def _little(values: array.array[Any]) -> bytes:
    """The bytes of numbers, lowest first on every machine."""
    if sys.byteorder == "big":
        values = array.array(values.typecode, values)
        values.byteswap()
    return values.tobytes()


def pack_layout(connection: Connection, run: int, rank: int) -> None:
    """Make the packed layout of one rank of a run from its rows."""
    j = journals.c
    upto = connection.execute(
        select(j.upto).where(j.run == run, j.rank == rank, j.replay_id.is_(None))
    ).scalar_one_or_none()
    connection.execute(delete(layouts).where(layouts.c.run == run, layouts.c.rank == rank))
    connection.execute(
        insert(layouts).values(
            run=run, rank=rank, upto=upto or 0, data=_dump(*_layout_rows(connection, run, rank))
        )
    )


def _dump(names: Sequence[str], arrays: Sequence[array.array[int]], values: dict[int, Any]) -> bytes:
    head = {
        "names": names,
        "loops": len(arrays[0]),
        "contexts": len(arrays[-1]),
        "values": [[ctx, value] for ctx, value in values.items()],
    }
    text = json.dumps(head).encode("ascii")
    # Padded so that the arrays behind it are aligned.
    text += b" " * (-(len(text) + 1) % 8) + b"\n"
    return text + b"".join(map(_little, arrays))


def load_layout(data: bytes) -> Layout:
    """A layout from its packed form."""
    import numpy as np

    cut = data.index(b"\n") + 1
    head = json.loads(data[:cut])
    flat: Ints = np.frombuffer(data, dtype="<i8", offset=cut)
    n_loops, n = head["loops"], head["contexts"]
    edges = np.cumsum([n_loops] * 4 + [n] * 2)
    parts = np.split(flat, edges)
    return Layout(tuple(head["names"]), *parts, values=dict(head["values"]))  # type: ignore[misc]


def layout_of_rows(connection: Connection, run: int, rank: int) -> Layout:
    """A layout from the rows."""
    import numpy as np

    names, arrays, values = _layout_rows(connection, run, rank)
    return Layout(names, *(np.frombuffer(part, dtype=np.int64) for part in arrays), values=values)  # type: ignore[misc]


def _layout_rows(
    connection: Connection, run: int, rank: int
) -> tuple[tuple[str, ...], list[array.array[int]], dict[int, Any]]:
    """A layout's names, its arrays in the order of its fields, its values."""
    old, ctx = loops.c, contexts.c
    loop_rows = connection.execute(
        select(old.loop, old.parent_ctx, old.name, old.ordinal)
        .where(old.run == run, old.rank == rank)
        .order_by(old.loop)
    ).all()
    ctx_rows = connection.execute(
        select(ctx.ctx, ctx.loop, ctx.idx, ctx.value)
        .where(ctx.run == run, ctx.rank == rank)
        .order_by(ctx.ctx)
    ).all()
    known: dict[str, int] = {}
    names = [known.setdefault(row[2], len(known)) for row in loop_rows]
    arrays = [
        array.array("q", [row[0] for row in loop_rows]),
        array.array("q", [row[1] for row in loop_rows]),
        array.array("q", names),
        array.array("q", [row[3] for row in loop_rows]),
        array.array("q", [row[0] for row in ctx_rows]),
        array.array("q", [row[1] for row in ctx_rows]),
        array.array("q", [row[2] for row in ctx_rows]),
    ]
    values = {
        row[0]: value
        for row in ctx_rows
        if row[3] is not None and (value := _shown(json.loads(row[3]))) is not None
    }
    return tuple(known), arrays, values


def _shown(raw: Any) -> Any:
    """A loop value worth a column: not what could only be described, like a batch of data."""
    return None if isinstance(raw, dict) and raw.get("$") == "unstored" else raw


def read_layouts(connection: Connection, run_numbers: Sequence[int], rank: int) -> dict[int, Layout]:
    """The layouts of runs: packed where that is up to date, else from the rows."""
    found: dict[int, Layout] = {}
    j, packed = journals.c, layouts.c
    for some in slices(run_numbers):
        rows = connection.execute(
            select(packed.run, packed.data)
            .join(journals, (j.run == packed.run) & (j.rank == packed.rank) & j.replay_id.is_(None))
            .where(packed.rank == rank, packed.run.in_(some), packed.upto == j.upto)
        )
        for run, data in rows:
            found[run] = load_layout(bytes(data))
    for run in run_numbers:
        if run not in found:
            found[run] = layout_of_rows(connection, run, rank)
    return found


def read_parts(
    connection: Connection, sites: Sequence[int], numbers: dict[int, bool], few: bool
) -> list[Part]:
    """The values of call sites in journals.

    Args:
        connection: a reading transaction.
        sites: the call sites.
        numbers: journal → whether its chunks are up to date.
        few: whether these are few of all journals, so that the search begins with them.
    """
    import numpy as np

    parts: list[Part] = []
    rows_wanted: list[tuple[int, int]] = []
    c = chunks.c
    columns = (c.journal, c.site, c.kind, c.n, c.ctxs, c.data)
    wanted = set(sites)
    queries = (
        [
            select(*columns).where(c.journal.in_(some))
            for some in slices([n for n, fresh in numbers.items() if fresh])
        ]
        if few
        else [select(*columns).where(c.site.in_(some)) for some in slices(sites)]
    )
    if few and len(wanted) <= 500:
        queries = [query.where(c.site.in_(sites)) for query in queries]
    for query in queries:
        for journal, site, kind, n, ctxs, data in connection.execute(query):
            if site not in wanted or not numbers.get(journal, False):
                continue
            if kind == MIXED:
                rows_wanted.append((journal, site))
            else:
                width = "<i4" if len(ctxs) == 4 * n else "<i8"
                parts.append(
                    Part(journal, site, kind, np.frombuffer(ctxs, width), np.frombuffer(data, _DTYPES[kind]))
                )
    for journal, fresh in numbers.items():
        if not fresh:
            rows_wanted.extend((journal, site) for site in _sites_of(connection, journal) & wanted)
    parts.extend(part for pair in rows_wanted if (part := part_of_rows(connection, *pair)) is not None)
    return parts


def _sites_of(connection: Connection, journal: int) -> set[int]:
    r = records.c
    return set(connection.execute(select(r.site).where(r.journal == journal).distinct()).scalars())


def part_of_rows(connection: Connection, journal: int, site: int) -> Part | None:
    """The same from the rows; expressions that failed are no values. None where nothing is left."""
    import numpy as np

    r = records.c
    rows = [
        row
        for row in connection.execute(
            select(r.ctx, r.kind, r.num, r.whole, r.text)
            .where(r.journal == journal, r.site == site)
            .order_by(r.at)
        )
        if row[1] not in (ERROR, NULL)
    ]
    if not rows:
        return None
    kinds = {row[1] if not (row[1] == INT and row[4] is not None) else UNSTORED for row in rows}
    kind = kinds.pop() if len(kinds) == 1 else MIXED
    values = [unpack(row[1], row[2], row[3], row[4]) for row in rows]
    if kind in _DTYPES:
        data: NDArray[Any] = np.array(values, dtype=_DTYPES[kind])
    else:
        kind = kind if kind == TEXT else MIXED
        data = np.empty(len(values), dtype=object)
        # One by one: a slice assignment would unpack values that are lists.
        for place, value in enumerate(values):
            data[place] = value
    return Part(journal, site, kind, np.fromiter((row[0] for row in rows), dtype=np.int64), data)
