"""Does the process of a training run still live? A live run holds a POSIX record lock on a file in its folder."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from flor_dagster.recording.modules import process_start
from flor_dagster.recording.runlock import is_held

#: A process that has just begun may not have its lock yet.
YOUNG_SECONDS = 10.0
#: Another machine's lock can't be trusted to be seen from here; its journal's silence is what counts.
SILENT_SECONDS = 3600.0


def run_is_alive(run_dir: Path, header: dict[str, Any], written: float) -> bool:
    """Whether somebody still writes to this run.

    Args:
        run_dir: the run's folder.
        header: its journal's header (`pid`, `host`, `started` in ns).
        written: when its journals were last written, in seconds since the epoch.
    """
    if _is_this_process(header):
        return True
    locks = sorted(run_dir.glob("lock*"))
    if any(is_held(lock) for lock in locks):
        return True
    silence = time.time() - written
    if is_elsewhere(header):
        return silence < SILENT_SECONDS
    return not locks and silence < YOUNG_SECONDS


def is_elsewhere(header: dict[str, Any]) -> bool:
    """Whether a run is another machine's, whose locks can't be trusted to be seen from here."""
    return header.get("host") not in (None, socket.gethostname())


def _is_this_process(header: dict[str, Any]) -> bool:
    # A process loses all its record locks on a file when it closes any descriptor of it, so that the lock of a run
    # that this very process records must never be touched.
    if header.get("pid") != os.getpid() or header.get("host") != socket.gethostname():
        return False
    born = process_start()
    return born is None or header.get("started", 0) / 1e9 >= born - 1.0
