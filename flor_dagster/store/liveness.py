"""Does the process of a training run still live? A live run holds a POSIX record lock on a file in its folder."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Any

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
    if any(_held(lock) for lock in locks):
        return True
    silence = time.time() - written
    if header.get("host") not in (None, socket.gethostname()):
        return silence < SILENT_SECONDS
    return not locks and silence < YOUNG_SECONDS


def _is_this_process(header: dict[str, Any]) -> bool:
    # A process loses all its record locks on a file when it closes any descriptor of it, so that the lock of a run
    # that this very process records must never be touched.
    if header.get("pid") != os.getpid() or header.get("host") != socket.gethostname():
        return False
    born = _born()
    return born is None or header.get("started", 0) / 1e9 >= born - 1.0


def _born() -> float | None:
    """When this process began, in seconds since the epoch; None where the system does not say."""
    try:
        fields = (
            Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
        ticks = int(fields[19])
        up = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")


def _held(lock: Path) -> bool:
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
