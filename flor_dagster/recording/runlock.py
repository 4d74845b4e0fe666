"""The lock that says that a run lives: a POSIX record lock, which forked children do not inherit."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from flor_dagster.recording.descriptors import close_own, open_apart

# Whoever looks whether the run lives holds its lock for a moment.
_TRIES = 100


def hold_lock(path: Path) -> int:
    """Hold the lock of a run; its descriptor, or -1 where the file system has none."""
    fd = -1
    with contextlib.suppress(OSError):
        fd = open_apart(path, os.O_RDWR | os.O_CREAT)
        for _ in range(_TRIES):
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.005)
    return fd


def release_lock(fd: int, path: Path) -> None:
    """Let it go; not what the program opened by the same number."""
    with contextlib.suppress(OSError):
        status = path.stat()
        close_own(fd, (status.st_dev, status.st_ino))


def is_held(lock: Path) -> bool:
    """Whether another process holds a lock. Never for a lock of this process: looking would let it go."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)  # also where nothing can be written
    except OSError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
