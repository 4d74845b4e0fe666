"""Files that are known by their content and shared by runs: used while somebody else may be collecting them.

Who refers to a file that is there already makes it young first. Who collects takes it out of its place, looks at its age
only then, and puts it back if it became young: so a file is never taken from a run that has just found it.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

YOUNG_SECONDS = 24 * 3600.0
"""A file that was written or found so lately may be one that a run is about to refer to."""

_TAKEN = ".collected"


def found(path: Path) -> bool:
    """Whether a shared file is there; if so it stays for the time in which the reference to it is written."""
    try:
        os.utime(path)
    except PermissionError:
        pass  # a replay may not touch it; nothing is collected while one is going on
    except OSError:
        return False
    return path.exists()


def is_old(path: Path) -> bool:
    """Whether a file was neither written nor found lately; False where it is not there."""
    try:
        return time.time() - path.stat().st_mtime > YOUNG_SECONDS
    except OSError:
        return False


def take_away(path: Path) -> bool:
    """Delete a shared file, unless somebody has found it meanwhile; whether it is gone."""
    aside = path.with_name(f".{path.name}{_TAKEN}")
    try:
        path.rename(aside)
    except OSError:
        return False
    if not is_old(aside):
        # Written anew meanwhile it has the same content: then replacing it does no harm.
        with contextlib.suppress(OSError):
            aside.rename(path)
        return False
    with contextlib.suppress(OSError):
        aside.unlink()
    return True
