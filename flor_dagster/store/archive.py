"""The git objects of versions: kept once, whichever versions have them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from flor_dagster.store.database import insert_rows, slices
from flor_dagster.store.packing import to_json
from flor_dagster.store.schema import version_archives, version_objects, versions

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flor_dagster.store.database import Database


def unarchived(database: Database) -> list[str]:
    """The versions that can't be rebuilt from the store yet."""
    query = select(versions.c.commit_id).where(
        versions.c.commit_id.not_in(select(version_archives.c.commit_id))
    )
    with database.read() as connection:
        return list(connection.execute(query).scalars())


def known_objects(database: Database, ids: Collection[str]) -> set[str]:
    """Which of some objects are kept."""
    found: set[str] = set()
    with database.read() as connection:
        for some in slices(list(ids)):
            query = select(version_objects.c.id).where(version_objects.c.id.in_(some))
            found.update(connection.execute(query).scalars())
    return found


def keep(
    database: Database, commit: str, objects: Mapping[str, bytes | None], left_out: Mapping[str, str]
) -> None:
    """Keep the objects of a version; what another process kept meanwhile stays."""
    with database.write() as connection:
        have: set[str] = set()
        for some in slices(list(objects)):
            query = select(version_objects.c.id).where(version_objects.c.id.in_(some))
            have.update(connection.execute(query).scalars())
        fresh = [(name, data) for name, data in objects.items() if name not in have]
        insert_rows(connection, version_objects, ("id", "data"), fresh)
        there = select(version_archives.c.commit_id).where(version_archives.c.commit_id == commit)
        if connection.execute(there).one_or_none() is None:
            row = {"commit_id": commit, "left_out": to_json(dict(left_out)), "saved": time.time_ns()}
            connection.execute(insert(version_archives).values(**row))


def read_object(database: Database, name: str) -> bytes | None:
    """One object, or None where it is not kept."""
    with database.read() as connection:
        return connection.execute(
            select(version_objects.c.data).where(version_objects.c.id == name)
        ).scalar_one_or_none()
