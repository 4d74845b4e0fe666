"""The role of a PostgreSQL server that people's SQL runs as: it may read the documented views and nothing else.

A transaction that is set read-only is no fence: a powerful role reads files, calls other servers and changes settings from within a
SELECT. So queries go over a connection of their own, made as a role that has nothing to be powerful with; it is looked at before each query.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import QueryError, StoreError
from flor_dagster.store.sql_views import VIEWS, query_of

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Connection

    from flor_dagster.store.database import Database

READER = "flor_reader"
READER_SCHEMA = "flor_views"
READER_URL = "FLOR_READER_URL"
"""The environment variable that says how to connect as the reader; else its name, and what libpq finds of a password."""

_POWERS = "rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls"
_HARMFUL = (
    "pg_read_file", "pg_read_binary_file", "pg_ls_dir", "pg_stat_file", "lo_import", "lo_export", "pg_execute_server_program",
    "pg_file_write", "pg_reload_conf", "pg_rotate_logfile",
)  # fmt: skip


def make_reader(connection: Connection, password: str | None) -> None:
    """Make the views, and the role that may read them; made anew where they are there.

    Args:
        connection: a writing transaction of a role that may make roles and schemas.
        password: the reader's; None leaves it without one, or as it is.
    """
    from psycopg import sql

    raw: Any = connection.connection.driver_connection
    tables = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    database = connection.exec_driver_sql("SELECT quote_ident(current_database())").scalar_one()
    run = connection.exec_driver_sql
    run(f"DROP SCHEMA IF EXISTS {READER_SCHEMA} CASCADE")
    run(f"CREATE SCHEMA {READER_SCHEMA}")
    for view in VIEWS:
        text = query_of(view, "postgresql", tables).replace("%", "%%")
        columns = ", ".join(f'"{column}"' for column in view.columns)
        run(f'CREATE VIEW {READER_SCHEMA}."{view.name}" AS SELECT {columns} FROM ({text}) AS behind')
    there = run(f"SELECT count(*) FROM pg_roles WHERE rolname = '{READER}'").scalar_one()
    plain = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT"
    run(f"{'ALTER' if there else 'CREATE'} ROLE {READER} {plain}")
    if password:
        with raw.cursor() as cursor:
            cursor.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(READER), sql.Literal(password))
            )
    run(f"GRANT CONNECT ON DATABASE {database} TO {READER}")
    run(f"GRANT USAGE ON SCHEMA {READER_SCHEMA} TO {READER}")
    run(f"GRANT SELECT ON ALL TABLES IN SCHEMA {READER_SCHEMA} TO {READER}")


@contextmanager
def connected(database: Database) -> Generator[psycopg.Connection[Any]]:
    """A connection of its own as the reader, of which nothing is left behind.

    Raises:
        QueryError: there is no such role here, or it may do more than read the views.
    """
    import psycopg

    given = os.environ.get(READER_URL)
    url = (
        given or database.url.set(drivername="postgresql", username=READER, password=None).render_as_string()
    )
    try:
        connection = psycopg.connect(url, connect_timeout=10)
    except (psycopg.Error, StoreError) as error:
        raise QueryError(_none_set_up(database, str(error).strip())) from error
    try:
        try:
            odd = _too_much(connection)
        except psycopg.Error as error:
            raise QueryError(_none_set_up(database, str(error).strip())) from error
        if odd:
            raise QueryError(
                f"SQL is refused on {database.place}: the role it would run as may do more than read the documented views ({odd}). "
                f"Take that from it, or make another one: `flor store init` with the owner's URL, then {READER_URL}"
            )
        yield connection
    finally:
        if connection.info.transaction_status == 1:
            connection.cancel()  # what still runs is ended
        connection.close()


def _none_set_up(database: Database, why: str) -> str:
    return (
        f"SQL on {database.place} needs a role that may read the documented views and nothing else, and none is set up: {why}. "
        f"The store's owner makes it once with `flor store init`; {READER_URL} says how to connect as it where it has a password."
    )


def _too_much(connection: psycopg.Connection[Any]) -> str:
    """What the connected role may do besides reading the views, in words; empty where that is nothing."""
    run: Any = connection.execute

    def ask(query: str) -> list[str]:
        return [str(row[0]) for row in run(query).fetchall()]

    views = ask(f"SELECT relname FROM pg_class WHERE relnamespace = '{READER_SCHEMA}'::regnamespace")
    if not {view.name for view in VIEWS} <= set(views):
        return "the views are those of another release: run `flor store init` again"
    powers = run(
        f"SELECT {', '.join(_POWERS)} FROM pg_roles WHERE rolname = current_user AND current_user = session_user"
    ).fetchone()
    if powers is None or any(powers):
        return "it is no plain role"
    if more := ask(
        "SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid "
        "WHERE m.member = (SELECT oid FROM pg_roles WHERE rolname = current_user)"
    ):
        return f"it is a member of {', '.join(more[:3])}"
    if more := ask(
        "SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND "
        f"((n.nspname <> '{READER_SCHEMA}' AND c.relkind <> 'S' AND has_table_privilege(c.oid, 'SELECT')) OR (c.relkind <> 'S' AND "
        "has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')) OR (c.relkind = 'S' AND has_sequence_privilege(c.oid, 'UPDATE, USAGE')))"
    ):
        return f"it may read or write {', '.join(more[:3])}"
    harmful = ", ".join(f"'{name}'" for name in _HARMFUL)
    if more := ask(
        "SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang "
        "WHERE has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE') AND "
        f"(p.proname IN ({harmful}) OR (n.nspname NOT IN ('pg_catalog', 'information_schema') AND "
        "(p.proname LIKE 'dblink%' OR p.prosecdef OR (NOT l.lanpltrusted AND l.lanname NOT IN ('c', 'internal')))))"
    ):
        return f"it may call {', '.join(more[:3])}"
    return ""
