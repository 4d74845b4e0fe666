"""Replays: begun, committed in one transaction, or failed. A replay is a recording whose records were replayed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, func, insert, select, update

from flor_dagster.computed import fits
from flor_dagster.errors import StoreError, UnknownNameError
from flor_dagster.store.chunks import pack_journal, pack_layout
from flor_dagster.store.database import insert_one, insert_rows, slices
from flor_dagster.store.lines import Lines, read_lines
from flor_dagster.store.loop_paths import child_path
from flor_dagster.store.models import CellRow, ReplayRow
from flor_dagster.store.packing import label, pack, to_json
from flor_dagster.store.rows import moment, nanoseconds, run_number
from flor_dagster.store.schema import (
    call_sites,
    cells,
    chunks,
    contexts,
    journal_calls,
    journals,
    loops,
    records,
    replays,
    runs,
)
from flor_dagster.store.sites import site_id
from flor_dagster.store.statements import ids_by_key, keep_cell, names_by_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_Kept = tuple[int, int, Any, int, int]  # statement, call, raw value, context (the run's), byte offset


def save_replay(connection: Connection, replay: ReplayRow) -> None:
    """Write a replay's row, new or again."""
    values: dict[str, Any] = {
        "run": run_number(connection, replay.run_id),
        "started": nanoseconds(replay.started),
        "seconds": replay.seconds,
        "estimated_seconds": replay.estimated_seconds,
        "status": replay.status,
        "fidelity": replay.fidelity,
        "compared_records": replay.compared_records,
        "compared_digests": replay.compared_digests,
        "sentence": label(replay.sentence),
        "plan": to_json(replay.plan),
    }
    if not connection.execute(update(replays).where(replays.c.id == replay.id).values(**values)).rowcount:
        connection.execute(insert(replays).values(id=replay.id, **values))


def fail(connection: Connection, replay_id: str, sentence: str) -> None:
    """Mark a replay as failed; what it had written never becomes visible.

    Raises:
        UnknownNameError: when no replay of that id was begun.
    """
    row = update(replays).where(replays.c.id == replay_id).values(status="failed", sentence=label(sentence))
    if not connection.execute(row).rowcount:
        raise UnknownNameError(f"No replay with the id {replay_id!r} was begun.")


def replay_rows(
    connection: Connection, run_id: str | None = None, status: str | None = None
) -> list[ReplayRow]:
    """Replays in the order of their start; all, or a run's, or those of a status."""
    query = select(replays, runs.c.id.label("run_id")).join(runs, runs.c.run == replays.c.run)
    if status is not None:
        query = query.where(replays.c.status == status)
    if run_id is not None:
        query = query.where(runs.c.id == run_id)
    return [
        ReplayRow(
            id=row.id,
            run_id=row.run_id,
            started=moment(row.started),
            seconds=row.seconds,
            estimated_seconds=row.estimated_seconds,
            status=row.status,
            fidelity=row.fidelity,
            compared_records=row.compared_records,
            compared_digests=row.compared_digests,
            sentence=row.sentence,
            plan=json.loads(row.plan),
        )
        for row in connection.execute(query.order_by(replays.c.started, replays.c.id))
    ]


def journals_with_values(connection: Connection) -> set[str]:
    """The journals of replays that values came from, as paths below the home."""
    j = journals.c
    there = select(records.c.at).where(records.c.journal == j.journal).exists()
    return set(connection.execute(select(j.name).where(j.replay_id.is_not(None), there)).scalars())


def commit(
    connection: Connection,
    replay: ReplayRow,
    paths: Sequence[Path],
    answers: Sequence[CellRow],
    renamed: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Make a replay's values and cells visible, all within the caller's transaction.

    Kept are the records of the lines that the journals' headers name as statements. What the run itself recorded is
    never replaced; what an earlier replay said about the same cell is: all of it where the cell is settled, else in the
    contexts that were answered again.

    Args:
        connection: the writing transaction.
        replay: its row.
        paths: its journals.
        answers: its cells.
        renamed: keys of statements in the journals → their keys in this store, where they are others.

    Returns:
        File name of each journal → how many of its values were taken.

    Raises:
        StoreError: when a journal belongs to another replay or run.
    """
    save_replay(connection, replay)
    run = run_number(connection, replay.run_id)
    _forget_journals(connection, replay.id)
    keys = ids_by_key(connection)
    keys |= {old: keys[new] for old, new in (renamed or {}).items() if new in keys}
    names = names_by_id(connection)
    recorded = _recorded(connection, run)
    maps: dict[int, RunPlaces] = {}
    taken: list[tuple[int, Path, Lines, list[_Kept]]] = []
    answered: dict[int, set[tuple[int, int]]] = {}
    for path in paths:
        lines = read_lines(path)
        header = _checked(lines, path, replay)
        rank = int(header.get("rank") or 0)
        places = maps.setdefault(rank, RunPlaces(connection, run, rank))
        kept = [
            one
            for one in places.take(lines, _statements_of(header, keys, names, path))
            if one[0] not in recorded
        ]
        for statement, _, _, context, _ in kept:
            answered.setdefault(statement, set()).add((rank, context))
        taken.append((rank, path, lines, kept))
    settled = {
        cell.statement_id: frozenset[str]((cell.coverage or {}).get("replays", ()))
        for cell in answers
        if cell.run_id == replay.run_id and cell.settled and cell.statement_id not in recorded
    }
    _forget_values(connection, run, replay.id, settled, answered)
    for places in maps.values():
        places.save()
    for rank, path, lines, kept in taken:
        _write(connection, run, rank, replay.id, path, lines, kept)
    for cell in answers:
        parts = (cell.coverage or {}).get("replays", ())
        keep_cell(
            connection, replace(cell, rows=_values_of(connection, run, cell)) if len(parts) > 1 else cell
        )
    return {path.name: len(kept) for _, path, _, kept in taken}


def _values_of(connection: Connection, run: int, cell: CellRow) -> int:
    """How many values of a cell there are, those of earlier replays included."""
    j, s, r = journals.c, call_sites.c, records.c
    query = select(func.count()).select_from(records).join(journals, j.journal == r.journal)
    query = query.join(call_sites, s.site == r.site).where(j.run == run, s.statement_id == cell.statement_id)
    return int(connection.execute(query).scalar_one())


def _checked(lines: Lines, path: Path, replay: ReplayRow) -> dict[str, Any]:
    header = lines.header
    if header is None:
        raise StoreError(f"The replay journal {path} has no header; replay {replay.id} was not taken in.")
    if header.get("run") != replay.run_id or header.get("replay", replay.id) != replay.id:
        raise StoreError(
            f"{path} belongs to replay {header.get('replay')} of run {header.get('run')}, "
            f"not to replay {replay.id} of run {replay.run_id}; nothing was taken in."
        )
    return header


def _statements_of(
    header: dict[str, Any], keys: Mapping[str, int], names: Mapping[int, str], path: Path
) -> dict[tuple[str, int], tuple[int, str]]:
    """(file, line) → statement id and the name or pattern that it logs, from the header."""
    found: dict[tuple[str, int], tuple[int, str]] = {}
    for file, by_line in (header.get("statements") or {}).items():
        for line, key in by_line.items():
            if key not in keys:
                raise StoreError(f"{path} answers the statement {key!r}, which the store does not know.")
            found[file, int(line)] = keys[key], names[keys[key]]
    return found


def _recorded(connection: Connection, run: int) -> set[int]:
    """The statements that this run answered itself: nothing replayed goes in their place."""
    c = cells.c
    own = connection.execute(select(c.statement_id).where(c.run == run, c.status == "recorded")).scalars()
    j, s = journals.c, call_sites.c
    logged = connection.execute(
        select(s.statement_id)
        .join(journal_calls, journal_calls.c.site == s.site)
        .join(journals, j.journal == journal_calls.c.journal)
        .where(j.run == run, j.replay_id.is_(None), s.statement_id.is_not(None))
        .where(select(records.c.at).where(records.c.journal == j.journal, records.c.site == s.site).exists())
    ).scalars()
    return {*own, *(statement for statement in logged if statement is not None)}


def _forget_journals(connection: Connection, replay_id: str) -> None:
    """A replay that is committed again replaces itself."""
    mine = select(journals.c.journal).where(journals.c.replay_id == replay_id)
    for table in (chunks, records, journal_calls):
        connection.execute(delete(table).where(table.c.journal.in_(mine)))
    connection.execute(delete(journals).where(journals.c.replay_id == replay_id))


def _forget_values(
    connection: Connection,
    run: int,
    replay_id: str,
    settled: Mapping[int, frozenset[str]],
    answered: Mapping[int, set[tuple[int, int]]],
) -> None:
    """Take away what earlier replays said about the cells that this one answers.

    Args:
        connection: in the caller's transaction.
        run: the run's number.
        replay_id: this replay.
        settled: statement whose cell this settles → the earlier replays that answered a part of it.
        answered: statement → rank and context of what this replay answered.
    """
    j, s, r = journals.c, call_sites.c, records.c
    touched: set[int] = set()
    for statement in set(settled) | set(answered):
        rows = connection.execute(
            select(r.journal, r.site, j.rank, j.replay_id)
            .join(journals, j.journal == r.journal)
            .join(call_sites, s.site == r.site)
            .where(
                j.run == run, j.replay_id.is_not(None), j.replay_id != replay_id, s.statement_id == statement
            )
            .distinct()
        ).all()
        for journal, site, rank, other in rows:
            old = (r.journal == journal) & (r.site == site)
            touched.add(journal)
            if statement in settled and other not in settled[statement]:
                connection.execute(delete(records).where(old))
                continue
            again = [context for of_rank, context in answered.get(statement, ()) if of_rank == rank]
            for some in slices(again):
                connection.execute(delete(records).where(old, r.ctx.in_(some)))
    for journal in touched:
        connection.execute(update(journals).where(j.journal == journal).values(chunked_upto=-1))
        pack_journal(connection, journal)


def _write(
    connection: Connection,
    run: int,
    rank: int,
    replay_id: str,
    path: Path,
    lines: Lines,
    kept: Sequence[_Kept],
) -> None:
    number = insert_one(
        connection,
        journals,
        run=run,
        rank=rank,
        replay_id=replay_id,
        name=f"replays/{replay_id}/{path.name}",
        upto=lines.end,
        chunked_upto=-1,
        end_status=None if lines.last is None else str(lines.last[0]),
        end_reason="",
    )
    sites: dict[int, int] = {}
    for statement, call, _, _, _ in kept:
        if call not in sites:
            name, file, function, line, column = lines.calls[call]
            scope = f"replay/{replay_id}"
            sites[call] = site_id(connection, scope, name, (file, function, line, column), statement)
    insert_rows(
        connection,
        journal_calls,
        ("journal", "call", "site"),
        [(number, call, site) for call, site in sites.items()],
    )
    insert_rows(
        connection,
        records,
        ("journal", "at", "ctx", "site", "kind", "num", "whole", "text"),
        [(number, at, context, sites[call], *pack(value)) for _, call, value, context, at in kept],
    )
    pack_journal(connection, number)


class RunPlaces:
    """A run's loops and contexts by path, and a replay's journal mapped onto them.

    A replay numbers its contexts in its own way; what is the same place is the same path of (loop, ordinal, index).
    A place that the record has not interned (nothing was logged there) gets a number below zero: it can never be the
    number of a line of the run's own journal.
    """

    def __init__(self, connection: Connection, run: int, rank: int) -> None:
        self.connection = connection
        self.run = run
        self.rank = rank
        old, ctx = loops.c, contexts.c
        self.loops: dict[tuple[int, str, int], int] = {}
        for loop, parent, name, ordinal in connection.execute(
            select(old.loop, old.parent_ctx, old.name, old.ordinal).where(old.run == run, old.rank == rank)
        ):
            self.loops[parent, name, ordinal] = loop
        self.contexts: dict[tuple[int, int], int] = {}
        self.paths: dict[int, str] = {0: ""}
        for number, loop, index, path in connection.execute(
            select(ctx.ctx, ctx.loop, ctx.idx, ctx.path).where(ctx.run == run, ctx.rank == rank)
        ):
            self.contexts[loop, index] = number
            self.paths[number] = path[1:-1]
        self.last_loop = min(0, min(self.loops.values(), default=0))
        self.last_context = min(0, min(self.contexts.values(), default=0))
        self.new_loops: list[tuple[Any, ...]] = []
        self.new_contexts: list[tuple[Any, ...]] = []

    def take(self, lines: Lines, asked: Mapping[tuple[str, int], tuple[int, str]]) -> list[_Kept]:
        """The records of asked statements, at the run's own contexts."""
        wanted = {
            call: asked[file, line][0]
            for call, (name, file, _, line, _) in lines.calls.items()
            if (file, line) in asked and fits(asked[file, line][1], label(name))
        }
        there: dict[int, int] = {0: 0}
        kept: list[_Kept] = []
        for call, context, value, at in lines.records:
            statement = wanted.get(call)
            if statement is not None:
                place = self._context(lines, context, there)
                if place is not None:
                    kept.append((statement, call, value, place, at))
        return kept

    def _context(self, lines: Lines, context: int, there: dict[int, int]) -> int | None:
        found = there.get(context)
        if found is not None:
            return found
        line = lines.contexts.get(context)
        opened = None if line is None else lines.loops.get(line[0])
        if line is None or opened is None:
            return None
        parent = self._context(lines, opened[0], there)
        if parent is None:
            return None
        name, ordinal = label(str(opened[1])), opened[2]
        loop = self.loops.get((parent, name, ordinal))
        if loop is None:
            loop = self._new_loop(parent, name, opened)
        found = self.contexts.get((loop, line[1]))
        if found is None:
            found = self._new_context(parent, name, ordinal, loop, line)
        there[context] = found
        return found

    def _new_loop(self, parent: int, name: str, opened: list[Any]) -> int:
        self.last_loop -= 1
        loop = self.last_loop
        _, _, ordinal, file, function, line, column, t = opened
        self.loops[parent, name, ordinal] = loop
        place = (label(file), label(function), line, column)
        self.new_loops.append((self.run, self.rank, loop, parent, name, ordinal, *place, t, "open", 0, None))
        return loop

    def _new_context(
        self, parent: int, name: str, ordinal: int, loop: int, line: tuple[int, int, Any]
    ) -> int:
        self.last_context -= 1
        number = self.last_context
        _, index, value = line
        self.contexts[loop, index] = number
        self.paths[number] = path = child_path(self.paths.get(parent, ""), name, ordinal, index)
        text = None if type(value) is int and value == index else to_json(value)
        self.new_contexts.append((self.run, self.rank, number, loop, index, text, "{" + path + "}"))
        return number

    def save(self) -> None:
        """Write the places that only the replay has seen."""
        insert_rows(
            self.connection,
            loops,
            ("run", "rank", "loop", "parent_ctx", "name", "ordinal", "file", "function", "line", "col", "opened", "how",
             "iterations", "ended"),
            self.new_loops,
        )  # fmt: skip
        columns = ("run", "rank", "ctx", "loop", "idx", "value", "path")
        insert_rows(self.connection, contexts, columns, self.new_contexts)
        if self.new_loops or self.new_contexts:
            pack_layout(self.connection, self.run, self.rank)
