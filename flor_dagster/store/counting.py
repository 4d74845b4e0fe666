"""Numbers that are given out once, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert, select, update

from flor_dagster.store.schema import counters

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def next_number(connection: Connection, name: str, again: int | None = None) -> int:
    """The next number of a counter. Only the one writer counts, so that numbers become visible in their order.

    Args:
        connection: the writing transaction.
        name: the counter's.
        again: a number that it gave before, and gives again.
    """
    here = counters.c.name == name
    value = connection.execute(select(counters.c.value).where(here)).scalar_one_or_none()
    number = (value or 0) + 1 if again is None else again
    if value is None:
        connection.execute(insert(counters).values(name=name, value=number))
    else:
        connection.execute(update(counters).where(here).values(value=max(value, number)))
    return number
