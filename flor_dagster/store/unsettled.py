"""Which training runs' news was not carried through yet: its statements linked, its version looked at, its cells settled.

Rows and this note are one transaction; what follows them takes git and is another process's when this one is killed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from flor_dagster.store.counting import next_number
from flor_dagster.store.schema import runs, unsettled

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def note_news(connection: Connection, run: int) -> None:
    """Something new of a run was taken in."""
    connection.execute(delete(unsettled).where(unsettled.c.run == run))
    connection.execute(insert(unsettled).values(run=run, news=next_number(connection, "news")))


def with_news(connection: Connection) -> dict[str, int]:
    """Run id → the number of its last news that was not carried through."""
    query = select(runs.c.id, unsettled.c.news).join(unsettled, unsettled.c.run == runs.c.run)
    return {row[0]: row[1] for row in connection.execute(query)}


def carried_through(connection: Connection, run_id: str, news: int) -> None:
    """A run's news is carried through, unless there is more by now."""
    run = select(runs.c.run).where(runs.c.id == run_id).scalar_subquery()
    connection.execute(delete(unsettled).where(unsettled.c.run == run, unsettled.c.news == news))
