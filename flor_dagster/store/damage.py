"""A SQLite file that can't be read: found, and put away."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from flor_dagster.errors import StoreError


def is_damaged(path: Path) -> bool:
    """Whether a file is there and is no whole SQLite database.

    Raises:
        StoreError: it can't be looked at: another process keeps it busy, the disk is full, it may not be read.
    """
    if not path.exists():
        return False
    try:
        connection = sqlite3.connect(path, timeout=30)
        try:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        # The extended codes of one kind end in its byte.
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return True
        if "locked" in str(error):
            raise StoreError(f"The log store {path} is busy: another process keeps writing to it.") from error
        raise StoreError(
            f"The log store {path} can't be looked at ({error}), so it was left as it is. Make room on its disk, or make "
            "it readable, and try again."
        ) from error
    return found is None or found[0] != "ok"


def put_away(path: Path) -> Iterator[Path]:
    """Rename a database and its side files; nothing is deleted."""
    moment = time.strftime("%Y%m%dT%H%M%S")
    for side in ("-wal", "-shm", ""):
        file = path.with_name(path.name + side)
        if file.exists():
            yield file.rename(path.with_name(f"{path.name}.damaged-{moment}{side}"))
