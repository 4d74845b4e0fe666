"""Open the database behind a store: SQLite in a file, or PostgreSQL; transactions and bulk rows."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, insert, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from flor_dagster.errors import StoreError
from flor_dagster.store.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

BUSY_SECONDS = 30.0
WAIT_SECONDS = 0.005

# One writer at a time, in PostgreSQL too: sequence numbers then become visible in their order, which cursors need.
_WRITER_LOCK = 0x666C6F72


class Database:
    """One engine and its transactions. Safe to share between threads.

    Args:
        url: a path of a SQLite file, `sqlite:///…` or `postgresql://…`.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = normalise(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        if self.sqlite:
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
        self.engine = _engine(self.url)
        try:
            with self.write() as connection:
                migrate(connection)
        except BaseException:
            self.engine.dispose()
            raise

    @property
    def place(self) -> str:
        """The store as messages name it, without a password."""
        return str(self.url.database) if self.sqlite else self.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Generator[Connection]:
        """One consistent look at the last committed state."""
        with _told(self), self.engine.connect() as connection:
            if not self.sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def write(self) -> Generator[Connection]:
        """One transaction of the only writer; all or nothing."""
        with (
            _told(self),
            self.engine.connect().execution_options(flor_write=True) as connection,
            connection.begin(),
        ):
            if not self.sqlite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")
            yield connection

    def close(self) -> None:
        """Give back every connection."""
        self.engine.dispose()


def normalise(url: str | Path) -> URL:
    """The URL of a store from what a person wrote.

    Raises:
        StoreError: for anything that is neither a file nor a PostgreSQL URL.
    """
    text = str(url)
    if isinstance(url, Path) or "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser().resolve()))
    try:
        parsed = make_url(text)
    except ArgumentError:
        raise StoreError(
            f"{text!r} is no database URL. Give a file, or postgresql://user@host/database."
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite")
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise StoreError(
        f"A log store can't be kept in {parsed.render_as_string(hide_password=True)}. "
        "Give a file for SQLite, or postgresql://user@host/database."
    )


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() != "sqlite":
            return create_engine(url, pool_pre_ping=True)
        engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    except ModuleNotFoundError as error:
        raise StoreError(
            f"{error.name} is not installed; PostgreSQL needs it: pip install 'flor-dagster[postgres]'."
        ) from None
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # Transactions are begun by us: the driver's own would not cover DDL and would begin as readers.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            break
        except Exception as error:
            # The switch to WAL does not wait for the busy timeout when two processes make it at once.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA cache_size = -65536")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    if not connection.get_execution_options().get("flor_write", False):
        connection.exec_driver_sql("BEGIN")
        return
    # SQLite's own waiting looks less and less often, so that newcomers go first and the oldest may wait for ever. Who waits
    # here looks as often as any other.
    deadline = time.monotonic() + BUSY_SECONDS
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.5, 1.5) * WAIT_SECONDS)
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")


@contextmanager
def _told(database: Database) -> Generator[None]:
    """Turn the database's errors into ours, with the place and what to do."""
    try:
        yield
    except DBAPIError as error:
        raise StoreError(_sentence(database.place, str(error.orig).strip())) from error
    except SQLAlchemyError as error:
        raise StoreError(f"The log store {database.place} failed: {error}") from error


def _sentence(place: str, cause: str) -> str:
    lowered = cause.lower()
    if "locked" in lowered:
        return (
            f"The log store {place} was busy for {BUSY_SECONDS:.0f} s: another process keeps writing to it. "
            "Try again when it is done."
        )
    if "not a database" in lowered or "malformed" in lowered:
        return (
            f"{place} is no readable SQLite database ({cause}). Run `flor rebuild`: it is put away and made anew: "
            "the journals hold everything that was recorded."
        )
    if "unable to open" in lowered or "readonly" in lowered:
        return f"The log store {place} can't be opened for writing ({cause}). Check the folder and its permissions."
    if "connect" in lowered:
        return f"The log store {place} can't be reached ({cause}). Check that the server runs and the URL is right."
    return f"The log store {place} failed: {cause}"


def insert_rows(
    connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Append many rows in the fastest way that the driver knows (tuples, not dicts: three times faster)."""
    if not rows:
        return
    named = ", ".join(f'"{column}"' for column in columns)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        connection.exec_driver_sql(f'INSERT INTO "{table.name}" ({named}) VALUES ({marks})', list(rows))
        return
    raw: Any = connection.connection.driver_connection
    with raw.cursor() as cursor, cursor.copy(f'COPY "{table.name}" ({named}) FROM STDIN') as copy:
        for row in rows:
            copy.write_row(row)


def slices(items: Sequence[Any], size: int = 500) -> Iterator[Sequence[Any]]:
    """Pieces short enough for one IN list."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def insert_one(connection: Connection, table: Table, **values: Any) -> int:
    """Insert a row and give back the id that the database gave it."""
    key = connection.execute(insert(table).values(**values)).inserted_primary_key
    assert key is not None
    return key[0]
