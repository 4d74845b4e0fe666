"""Numbered migrations: a fresh store is made as the newest schema; an older one is brought there step by step."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection, func, insert, inspect, select

from flor_dagster.errors import StoreError
from flor_dagster.store import schema

Migration = Callable[[Connection], None]


def _keep_output(connection: Connection) -> None:
    """Schema 2: what a training printed and logged elsewhere."""
    schema.outputs.create(connection, checkfirst=True)


def _archive_versions(connection: Connection) -> None:
    """Schema 3: the git objects of versions."""
    schema.version_objects.create(connection, checkfirst=True)
    schema.version_archives.create(connection, checkfirst=True)


def _count_losses(connection: Connection) -> None:
    """Schema 4: how many lines of a run's journals could not be written."""
    if "lost" not in {column["name"] for column in inspect(connection).get_columns("runs")}:
        connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN lost BIGINT DEFAULT '0' NOT NULL")


def _cover_cells(connection: Connection) -> None:
    """Schema 5: which iterations of a cell are answered."""
    if "coverage" not in {column["name"] for column in inspect(connection).get_columns("cells")}:
        connection.exec_driver_sql("ALTER TABLE cells ADD COLUMN coverage TEXT NOT NULL DEFAULT '{}'")


def _note_news(connection: Connection) -> None:
    """Schema 6: the runs whose news was not carried through."""
    schema.unsettled.create(connection, checkfirst=True)


def _keep_verdicts(connection: Connection) -> None:
    """Schema 7: what was thought of each place, which ones a person confirmed, and the places' column in the views."""
    schema.confirmations.create(connection, checkfirst=True)
    for table, column, kind in (
        ("placements", "verdict", "TEXT NOT NULL DEFAULT ''"),
        ("placements", "reasons", "TEXT NOT NULL DEFAULT '[]'"),
        ("placements", "place", "TEXT NOT NULL DEFAULT ''"),
        ("cells", "place", "TEXT"),
    ):
        if column not in {known["name"] for known in inspect(connection).get_columns(table)}:
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    _make_views_anew(connection)


def _make_views_anew(connection: Connection) -> None:
    """Schema 8: infinities and NaN are numbers in the views."""
    for name in ("log_view_long", "log_view_any"):
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
    for view in schema.views(connection.dialect.name):
        connection.exec_driver_sql(view)


def _know_approximate_runs(connection: Connection) -> None:
    """Schema 9: which training runs may have executed other code than their version's, instead of which versions."""
    if "approximate" in {known["name"] for known in inspect(connection).get_columns("runs")}:
        return
    connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN approximate TEXT NOT NULL DEFAULT ''")
    connection.exec_driver_sql(
        "UPDATE runs SET approximate = coalesce((SELECT approximate_reason FROM versions "
        "WHERE versions.commit_id = runs.commit_id), '')"
    )
    connection.exec_driver_sql("ALTER TABLE versions DROP COLUMN approximate_reason")


def _index_loops(connection: Connection) -> None:
    """Schema 10: whether any loop has a name is looked up for every frame."""
    connection.exec_driver_sql("CREATE INDEX IF NOT EXISTS loops_by_name ON loops (name)")


#: Migration n (counted from 1) takes a store of schema n to n + 1. The schema module is always the newest.
MIGRATIONS: tuple[Migration, ...] = (
    _keep_output,
    _archive_versions,
    _count_losses,
    _cover_cells,
    _note_news,
    _keep_verdicts,
    _make_views_anew,
    _know_approximate_runs,
    _index_loops,
)

NEWEST = len(MIGRATIONS) + 1


def migrate(connection: Connection) -> None:
    """Bring the store to the newest schema, inside the caller's transaction.

    Raises:
        StoreError: when the store was made by a later release.
    """
    if not inspect(connection).has_table(schema.schema_version.name):
        schema.metadata.create_all(connection)
        for view in schema.views(connection.dialect.name):
            connection.exec_driver_sql(view)
        _stamp(connection, NEWEST)
        return
    current = connection.execute(select(func.max(schema.schema_version.c.version))).scalar_one()
    if current > NEWEST:
        raise StoreError(
            f"The log store has schema {current}; this release knows up to {NEWEST}. Update flor-dagster to open it."
        )
    for number, migration in enumerate(MIGRATIONS[current - 1 :], start=current + 1):
        migration(connection)
        _stamp(connection, number)


def _stamp(connection: Connection, version: int) -> None:
    connection.execute(insert(schema.schema_version).values(version=version, applied=time.time_ns()))
