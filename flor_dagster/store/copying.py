"""A store that can't be written, as a copy of one's own: databases write even where one only looks."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from flor_dagster.errors import StoreError

DATABASE, LEDGER = "flor.db", "ledger.jsonl"

_TRIES = 20


def can_write(home: Path) -> bool:
    """Whether a home, and the database in it, can be written; for one that is not there yet, whether it can be made."""
    database = home / DATABASE
    if database.exists() and not os.access(database, os.W_OK):
        return False
    folder = next((one for one in (home, *home.parents) if one.exists()), home)
    return os.access(folder, os.W_OK | os.X_OK)


def copy_store(home: Path, folder: Path) -> None:
    """Copy the database and the ledger of a home as they stand at one moment.

    Args:
        home: the project's `.flor/`.
        folder: where the copies go.

    Raises:
        StoreError: they can't be read, or somebody writes them all the time.
    """
    # The ledger may be ahead of the database, which then takes in the rest.
    names = (DATABASE, f"{DATABASE}-wal", LEDGER)
    try:
        for _ in range(_TRIES):
            before = [_state(home / name) for name in names]
            for name, state in zip(names, before, strict=True):
                (folder / name).unlink(missing_ok=True)
                if state is not None:
                    shutil.copyfile(home / name, folder / name)
            if before == [_state(home / name) for name in names]:
                return
            time.sleep(0.1)
    except OSError as error:
        raise StoreError(f"the log store in {home} can't be read: {error}") from error
    raise StoreError(
        f"{home} can't be written from here, and somebody writes to it all the time: no copy of {DATABASE} was whole. "
        "Try again later"
    )


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns
