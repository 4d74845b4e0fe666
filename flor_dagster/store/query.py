"""Read-only SQL over the store, for people."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flor_dagster.errors import QueryError

if TYPE_CHECKING:
    import pandas as pd

    from flor_dagster.store.database import Database

Params = Sequence[Any] | Mapping[str, Any]

MAX_SECONDS = 120.0

_COMMENTS = re.compile(r"\s+|--[^\n]*(\n|$)|/\*.*?\*/", re.DOTALL)
_READING = re.compile(r"(select|with|values|table|explain)\b", re.IGNORECASE)
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, 33}  # 33: SQLITE_RECURSIVE
_FORBIDDEN_FUNCTIONS = {"load_extension", "writefile", "readfile", "edit", "fts3_tokenizer"}


def read_only(database: Database, sql: str, params: Params = ()) -> pd.DataFrame:
    """The result of one reading SQL statement.

    Raises:
        QueryError: when it is not one reading statement, is wrong, or takes too long.
    """
    import pandas as pd

    rest = sql
    while (blank := _COMMENTS.match(rest)) is not None:
        rest = rest[blank.end() :]
    if not _READING.match(rest):
        raise QueryError(
            "Only reading is allowed here: the query must begin with SELECT, WITH, VALUES or EXPLAIN."
        )
    names, rows = (_sqlite if database.sqlite else _postgresql)(database, sql, params)
    return pd.DataFrame(rows, columns=names)


def _sqlite(database: Database, sql: str, params: Params) -> tuple[list[str], list[tuple[Any, ...]]]:
    # Three locks: the file is opened for reading, the connection refuses writes, the authorizer refuses anything else.
    uri = f"file:{quote(str(database.url.database))}?mode=ro"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=30.0)
    except sqlite3.Error as error:
        raise QueryError(f"The log store {database.place} can't be opened for reading: {error}") from error
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.set_authorizer(_authorize)
        deadline = time.monotonic() + MAX_SECONDS
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 100_000)
        cursor = connection.execute(sql, params)
        return [column[0] for column in cursor.description or ()], cursor.fetchall()
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        if "interrupted" in str(error):
            raise QueryError(f"The query took longer than {MAX_SECONDS:.0f} s and was stopped.") from error
        raise QueryError(f"The query failed: {error}. Try: SELECT * FROM log_view_long LIMIT 10") from error
    finally:
        connection.close()


def _authorize(
    action: int, _first: str | None, second: str | None, _database: str | None, _trigger: str | None
) -> int:
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _postgresql(database: Database, sql: str, params: Params) -> tuple[list[str], list[tuple[Any, ...]]]:
    import psycopg

    with database.engine.connect() as connection:
        raw: Any = connection.connection.driver_connection
        try:
            with raw.cursor() as cursor:
                cursor.execute("SET TRANSACTION READ ONLY")
                cursor.execute(f"SET LOCAL statement_timeout = {int(MAX_SECONDS * 1000)}")
                # Prepared: the server then takes one statement only, so that none can end the transaction for the next.
                cursor.execute(sql, params or None, prepare=True)
                return [column.name for column in cursor.description or ()], cursor.fetchall()
        except psycopg.Error as error:
            raise QueryError(
                f"The query failed: {str(error).strip()}. Try: SELECT * FROM log_view_long LIMIT 10"
            ) from error
        finally:
            raw.rollback()
