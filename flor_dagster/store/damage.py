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
        StoreError: another process keeps it busy.
    """
    if not path.exists():
        return False
    try:
        connection = sqlite3.connect(path, timeout=30)
        try:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise StoreError(f"The log store {path} is busy: another process keeps writing to it.") from error
        return True
    except sqlite3.DatabaseError:
        return True
    return found is None or found[0] != "ok"


def put_away(path: Path) -> Iterator[Path]:
    """Rename a database and its side files; nothing is deleted."""
    moment = time.strftime("%Y%m%dT%H%M%S")
    for side in ("-wal", "-shm", ""):
        file = path.with_name(path.name + side)
        if file.exists():
            yield file.rename(path.with_name(f"{path.name}.damaged-{moment}{side}"))
