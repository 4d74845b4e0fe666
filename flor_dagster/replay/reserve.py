"""Room that is kept for a full disk: a file that `flor gc` deletes, so that it can look at what there is, and makes anew."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

NAME = "reserve"
BYTES = 1 << 19


def keep_reserve(home: Path) -> None:
    """Keep room where there is plenty; nothing is said where that fails."""
    path = home / NAME
    with contextlib.suppress(OSError):
        if path.exists() or shutil.disk_usage(home).free < 400 * BYTES:
            return
        temporary = home / f".{NAME}.{os.getpid()}"
        try:
            # Zeros could take no room, where the file system packs.
            temporary.write_bytes(os.urandom(BYTES))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def use_reserve(home: Path) -> bool:
    """Give the room to whoever makes more where the disk has none; whether that was so."""
    try:
        if shutil.disk_usage(home).free >= BYTES:
            return False
        (home / NAME).unlink()
    except OSError:
        return False
    return True
