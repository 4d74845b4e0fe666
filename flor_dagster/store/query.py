"""Read-only SQL over the documented views, for people: nothing else is read, nothing is written, and it ends in time."""

from __future__ import annotations

import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flor_dagster.errors import QueryError
from flor_dagster.store.sql_views import NAMES, VIEWS, query_of

if TYPE_CHECKING:
    import pandas as pd

    from flor_dagster.store.database import Database

Params = Sequence[Any] | Mapping[str, Any]

MAX_SECONDS = 60.0
MAX_ROWS = 1_000_000
MAX_VALUE_BYTES = 1 << 26

_BATCH = 1000
_COMMENTS = re.compile(r"\s+|--[^\n]*(\n|$)|/\*.*?\*/", re.DOTALL)
_READING = re.compile(r"(select|with|values|table|explain)\b", re.IGNORECASE)
_HINT = f"Views are {', '.join(NAMES)}. Try: SELECT * FROM records LIMIT 10"

# What computes on values. Whatever reads files, loads code, looks into the database or makes large values out of nothing is not here.
_FUNCTIONS = frozenset(
    [
        "abs",
        "avg",
        "changes",
        "char",
        "coalesce",
        "concat",
        "concat_ws",
        "count",
        "cume_dist",
        "date",
        "datetime",
        "dense_rank",
        "exp",
        "first_value",
        "floor",
        "format",
        "glob",
        "group_concat",
        "hex",
        "ifnull",
        "iif",
        "instr",
        "json",
        "json_array",
        "json_array_length",
        "json_extract",
        "json_group_array",
        "json_group_object",
        "json_object",
        "json_patch",
        "json_quote",
        "json_remove",
        "json_type",
        "json_valid",
        "julianday",
        "lag",
        "last_value",
        "lead",
        "length",
        "like",
        "ln",
        "log",
        "log10",
        "log2",
        "lower",
        "ltrim",
        "max",
        "min",
        "mod",
        "nth_value",
        "ntile",
        "nullif",
        "percent_rank",
        "pi",
        "pow",
        "power",
        "printf",
        "quote",
        "radians",
        "rank",
        "replace",
        "round",
        "row_number",
        "rtrim",
        "sign",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "atan2",
        "sinh",
        "cosh",
        "tanh",
        "ceil",
        "ceiling",
        "trunc",
        "degrees",
        "sqrt",
        "string_agg",
        "strftime",
        "substr",
        "substring",
        "sum",
        "time",
        "timediff",
        "total",
        "trim",
        "typeof",
        "unicode",
        "unixepoch",
        "upper",
        "current_date",
        "current_time",
        "current_timestamp",
        "->",
        "->>",
    ]
)


@dataclass(frozen=True, slots=True)
class Rows:
    """The result of a query as it comes: the names of its columns, and its rows."""

    names: list[str]
    rows: Iterator[tuple[Any, ...]]


def read_only(
    database: Database, sql: str, params: Params = (), *, seconds: float = MAX_SECONDS, rows: int = MAX_ROWS
) -> pd.DataFrame:
    """The result of one reading SQL statement.

    Raises:
        QueryError: when it is not one reading statement, is wrong, reads something else than the views, takes too long, or gives too
            many rows.
    """
    import pandas as pd

    with streamed(database, sql, params, seconds=seconds) as result:
        found: list[tuple[Any, ...]] = []
        for row in result.rows:
            found.append(row)
            if len(found) > rows:
                raise QueryError(
                    f"The query gives more than {rows} rows. Narrow it, give a LIMIT, or raise the limit of rows."
                )
    return pd.DataFrame(found, columns=result.names)


@contextmanager
def streamed(
    database: Database, sql: str, params: Params = (), *, seconds: float = MAX_SECONDS
) -> Generator[Rows]:
    """The rows of one reading SQL statement, one by one as they are computed.

    Raises:
        QueryError: as `read_only`, also while rows are taken.
    """
    if not _READING.match(rest_of(sql)):
        raise QueryError(
            "Only reading is allowed here: the query must begin with SELECT, WITH, VALUES or EXPLAIN."
        )
    with (_sqlite if database.sqlite else _postgresql)(database, sql, params, seconds) as result:
        yield result


def rest_of(sql: str) -> str:
    """A statement without what stands before its first word."""
    while (blank := _COMMENTS.match(sql)) is not None and blank.end():
        sql = sql[blank.end() :]
    return sql


# SQLite ------------------------------------------------------------------------------------------------------------------


@contextmanager
def _sqlite(database: Database, sql: str, params: Params, seconds: float) -> Generator[Rows]:
    # Three locks: the file is opened for reading, the connection refuses writes, the authorizer refuses anything else.
    uri = f"file:{quote(str(database.url.database))}?mode=ro"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=30.0)
    except sqlite3.Error as error:
        raise QueryError(f"The log store {database.place} can't be opened for reading: {error}") from error
    try:
        token = _make_views(connection)
        connection.execute("PRAGMA query_only = ON")
        for limit, value in (
            (sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES),
            (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 200_000),
            (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
            (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
            (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
        ):
            connection.setlimit(limit, value)
        connection.set_authorizer(_Authorizer(token))
        deadline = time.monotonic() + seconds
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 10_000)
        with _told_sqlite(seconds):
            cursor = connection.execute(sql, params)
            names = [column[0] for column in cursor.description or ()]
        yield Rows(names, _fetched(cursor, deadline, seconds))
    finally:
        connection.close()


def _make_views(connection: sqlite3.Connection) -> str:
    """Make the views in this connection alone.

    Each stands on one whose name nobody can guess: what reads the tables is known by it. The authorizer is told the name of what a
    table is read for, and a query may call a part of its own as it likes.
    """
    token = f"flor_{secrets.token_hex(16)}_"
    for view in VIEWS:
        connection.execute(f'CREATE TEMP VIEW "{token}{view.name}" AS {query_of(view, "sqlite", "main")}')
        columns = ", ".join(f'"{column}"' for column in view.columns)
        connection.execute(
            f'CREATE TEMP VIEW "{view.name}" AS SELECT {columns} FROM temp."{token}{view.name}"'
        )
    return token


class _Authorizer:
    """Lets a query read the views, and the views what is behind them."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(
        self, action: int, first: str | None, second: str | None, database: str | None, within: str | None
    ) -> int:
        allowed = sqlite3.SQLITE_DENY
        inside = (within or "").startswith(self._token)
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE) or (
            action == sqlite3.SQLITE_FUNCTION and (inside or (second or "").lower() in _FUNCTIONS)
        ):
            allowed = sqlite3.SQLITE_OK
        elif action == sqlite3.SQLITE_READ:
            name = first or ""
            ours = database == "temp" and (
                name in NAMES or (name.startswith(self._token) and within in NAMES)
            )
            if inside or ours or (database is None and not second):  # the last: a part of the query itself
                allowed = sqlite3.SQLITE_OK
        return allowed


def _fetched(cursor: sqlite3.Cursor, deadline: float, seconds: float) -> Iterator[tuple[Any, ...]]:
    while True:
        with _told_sqlite(seconds):
            batch = cursor.fetchmany(_BATCH)
        if not batch:
            return
        if time.monotonic() > deadline:
            raise QueryError(_too_long(seconds))
        yield from batch


@contextmanager
def _told_sqlite(seconds: float) -> Generator[None]:
    try:
        yield
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        said = str(error)
        if "interrupted" in said:
            raise QueryError(_too_long(seconds)) from error
        if "prohibited" in said or "not authorized" in said:
            raise QueryError(
                f"The query was refused: it may read the documented views alone, and compute with them ({said}). {_HINT}"
            ) from error
        raise QueryError(f"The query failed: {said}. {_HINT}") from error


def _too_long(seconds: float) -> str:
    return f"The query took longer than {seconds:g} s and was stopped."


# PostgreSQL --------------------------------------------------------------------------------------------------------------


@contextmanager
def _postgresql(database: Database, sql: str, params: Params, seconds: float) -> Generator[Rows]:
    from flor_dagster.store.reader_role import READER_SCHEMA, connected

    with connected(database) as connection:
        cursor: Any = connection.cursor()  # its statements are a person's, not literals
        timer = threading.Timer(seconds, connection.cancel)  # the query may change its own settings
        timer.daemon = True
        timer.start()
        try:
            with _told_postgresql(seconds):
                cursor.execute("SET TRANSACTION READ ONLY")
                cursor.execute(f"SET LOCAL search_path = {READER_SCHEMA}, pg_catalog")
                cursor.execute("SET LOCAL TimeZone = 'UTC'")
                cursor.execute(f"SET LOCAL statement_timeout = {max(int(seconds * 1000), 1)}")
            if isinstance(params, Mapping):
                sql = _with_names(sql)
            explained = rest_of(sql).lower().startswith("explain")
            with _told_postgresql(seconds):
                # Prepared: the server then takes one statement only, so that none can end the transaction for the next.
                declared = sql if explained else f"DECLARE flor_rows NO SCROLL CURSOR FOR {sql}"
                cursor.execute(declared, params or None, prepare=True)
                if not explained:
                    cursor.execute(f"FETCH {_BATCH} FROM flor_rows")
            names = [column.name for column in cursor.description or ()]
            yield Rows(names, _taken(cursor, explained, seconds))
        finally:
            timer.cancel()


def _taken(cursor: Any, whole: bool, seconds: float) -> Iterator[tuple[Any, ...]]:
    while True:
        with _told_postgresql(seconds):
            batch = cursor.fetchall()
        yield from batch
        if whole or len(batch) < _BATCH:
            return
        with _told_postgresql(seconds):
            cursor.execute(f"FETCH {_BATCH} FROM flor_rows")


@contextmanager
def _told_postgresql(seconds: float) -> Generator[None]:
    import psycopg

    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        raise QueryError(_too_long(seconds)) from error
    except psycopg.Error as error:
        raise QueryError(f"The query failed: {str(error).strip()}. {_HINT}") from error


_PIECE = re.compile(
    r"""(?P<kept>'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ | ::)
      | :(?P<name>[A-Za-z_]\w*)
      | (?P<percent>%)""",
    re.VERBOSE | re.DOTALL,
)


def _with_names(sql: str) -> str:
    """`:name` as psycopg writes it; what only looks like that, in texts, names, comments and casts, is left."""

    def as_written(found: re.Match[str]) -> str:
        if found["name"]:
            return f"%({found['name']})s"
        return found[0].replace("%", "%%")

    return _PIECE.sub(as_written, sql)
