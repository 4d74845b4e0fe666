"""Names and call sites: who is called what, and from where it was logged."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from flor_dagster.computed import fits, is_computed
from flor_dagster.store.database import insert_one
from flor_dagster.store.packing import label
from flor_dagster.store.schema import call_sites, names


def name_id(connection: Connection, name: str) -> int:
    """The id of a logged name; made when it is new."""
    kept = label(name)
    found = connection.execute(select(names.c.name_id).where(names.c.name == kept)).scalar_one_or_none()
    if found is not None:
        return found
    return insert_one(connection, names, name=kept, given=0)


def site_id(
    connection: Connection,
    scope: str,
    name: str,
    place: tuple[str, str, int, int],
    statement_id: int | None = None,
) -> int:
    """The id of a call site; made when it is new.

    Args:
        connection: the ingesting transaction.
        scope: the commit, `run/<id>` or `replay/<id>`.
        name: the logged name.
        place: file, function, line, column.
        statement_id: its statement, where it is known.
    """
    file, function, line, column = label(place[0]), label(place[1]), place[2], place[3]
    name_key = name_id(connection, name)
    sites = call_sites.c
    found = connection.execute(
        select(sites.site).where(
            sites.scope == scope,
            sites.file == file,
            sites.line == line,
            sites.col == column,
            sites.name_id == name_key,
        )
    ).scalar_one_or_none()
    if found is not None:
        return found
    row: dict[str, Any] = {
        "scope": scope,
        "name_id": name_key,
        "file": file,
        "function": function,
        "line": line,
        "col": column,
        "statement_id": statement_id
        if statement_id is not None
        else _linked(connection, scope, file, line, name, name_key),
    }
    return insert_one(connection, call_sites, **row)


def _linked(connection: Connection, scope: str, file: str, line: int, name: str, name_key: int) -> int | None:
    """The statement that was linked to this line before any run of the version had reached it.

    What is known of another column of the line is another statement's.
    """
    sites = call_sites.c
    known = connection.execute(
        select(sites.statement_id, sites.name_id, names.c.name)
        .join(names, names.c.name_id == sites.name_id)
        .where(sites.scope == scope, sites.file == file, sites.line == line)
        .where(sites.statement_id.is_not(None), sites.col == -1)
    ).all()
    if not known:
        return None
    same = [statement for statement, key, _ in known if key == name_key]
    fitting = [statement for statement, _, pattern in known if is_computed(pattern) and fits(pattern, name)]
    return next(iter(same or fitting), None)
