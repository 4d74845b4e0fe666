"""Statements that were registered twice: found, and merged into the one that is meant.

Two processes that asked at once could each register a statement that neither had seen: rows alike in every part, of which one
alone is what the identity means. The other would own the name, and show nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Select, delete, func, select, update

from flor_dagster.store.chunks import pack_journal
from flor_dagster.store.schema import (
    call_sites,
    cells,
    confirmations,
    journals,
    placements,
    records,
    statement_forms,
    statements,
)
from flor_dagster.store.statements import add_form, merged_key

# Which of two cells of a run is kept: what it recorded itself, a person's word, an answer, a refusal.
_BEST_FIRST = ("recorded", "excluded", "replayed", "refused", "failed", "open")


def find_duplicates(connection: Connection) -> Iterator[tuple[str, str]]:
    """Keys of statements that no identity means, each with the key of the one like it that has the identity."""
    s, f = statements.c, statement_forms.c
    alike = (s.name_id, s.expression, s.file, s.function, s.loops, s.ordinal)
    twice = select(*alike).group_by(*alike).having(func.count() > 1)
    known = select(f.identity).where(f.statement_id == s.id).exists()
    for group in connection.execute(twice).all():
        here = [column == value for column, value in zip(alike, group, strict=True)]
        rows = connection.execute(select(s.key, known).where(*here).order_by(s.id)).all()
        meant = [key for key, has_identity in rows if has_identity]
        if meant:
            yield from ((key, meant[0]) for key, has_identity in rows if not has_identity)


def merge(connection: Connection, other: int, other_key: str, first: int) -> None:
    """Make two statements one: what is known of the other is known of the first from here on, and its key means that."""
    for journal in _choose_values(connection, other, first):
        pack_journal(connection, journal)
    connection.execute(
        update(call_sites).where(call_sites.c.statement_id == other).values(statement_id=first)
    )
    connection.execute(
        update(statement_forms).where(statement_forms.c.statement_id == other).values(statement_id=first)
    )
    for table in (placements, confirmations):
        _move(connection, table, other, first)
    asked = select(func.max(statements.c.question)).where(statements.c.id.in_((other, first)))
    question = connection.execute(asked).scalar_one()
    connection.execute(update(statements).where(statements.c.id == first).values(question=question))
    connection.execute(delete(statements).where(statements.c.id == other))
    add_form(connection, first, merged_key(other_key))


def _move(connection: Connection, table: Any, other: int, first: int) -> None:
    """Rows of the other become the first's where that has none of the same key."""
    keys = [column for column in table.primary_key.columns if column.name != "statement_id"]
    mine = {tuple(row) for row in connection.execute(select(*keys).where(table.c.statement_id == first))}
    for row in connection.execute(select(*keys).where(table.c.statement_id == other)).all():
        here = [table.c.statement_id == other, *(key == value for key, value in zip(keys, row, strict=True))]
        if tuple(row) in mine:
            connection.execute(delete(table).where(*here))
        else:
            connection.execute(update(table).where(*here).values(statement_id=first))


def _choose_values(connection: Connection, other: int, first: int) -> set[int]:
    """Of two cells of a run keep the better one with its values; the journals that values were taken out of."""
    c = cells.c
    found: dict[int, dict[int, str]] = {}
    both = select(c.run, c.statement_id, c.status).where(c.statement_id.in_((other, first)))
    for run, statement, status in connection.execute(both).all():
        found.setdefault(run, {})[statement] = status
    touched: set[int] = set()
    for run, of in found.items():
        if other not in of:
            continue
        if first in of:
            worse = other if _BEST_FIRST.index(of[first]) <= _BEST_FIRST.index(of[other]) else first
            connection.execute(delete(cells).where(c.run == run, c.statement_id == worse))
            touched |= _forget(connection, run, worse)
            if worse == other:
                continue
        connection.execute(
            update(cells).where(c.run == run, c.statement_id == other).values(statement_id=first)
        )
    return touched


def _forget(connection: Connection, run: int, statement: int) -> set[int]:
    """Take away what replays of a run said of a statement; their journals."""
    j, s, r = journals.c, call_sites.c, records.c
    sites: Select[Any] = select(s.site).where(s.statement_id == statement)
    of_run = select(j.journal).where(j.run == run, j.replay_id.is_not(None))
    here = r.journal.in_(of_run) & r.site.in_(sites)
    touched = set(connection.execute(select(r.journal).where(here).distinct()).scalars())
    connection.execute(delete(records).where(here))
    connection.execute(update(journals).where(j.journal.in_(touched)).values(chunked_upto=-1))
    return touched
