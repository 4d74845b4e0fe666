"""The locks of a run's folder.

That the run lives is said by a POSIX record lock, which forked children do not inherit. That its version is still being made
is said by a lock of the open file (flock), which the child that makes it inherits: there is no moment between the death of
the training and the word of the child at which nobody holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path

from flor_dagster.recording.descriptors import close_own, identity, open_apart

# Whoever looks whether the run lives holds its lock for a moment.
_TRIES = 100


def hold_lock(path: Path) -> int:
    """Hold the lock of a run; its descriptor, or -1 where the file system has none."""
    fd = -1
    with contextlib.suppress(OSError):
        fd = open_apart(path, os.O_RDWR | os.O_CREAT)
        _take(fd, fcntl.lockf)
    return fd


def _take(fd: int, lock: Callable[[int, int], object]) -> None:
    for _ in range(_TRIES):
        try:
            lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.005)


def release_lock(fd: int, path: Path) -> None:
    """Let it go; not what the program opened by the same number."""
    with contextlib.suppress(OSError):
        status = path.stat()
        close_own(fd, (status.st_dev, status.st_ino))


def is_held(lock: Path) -> bool:
    """Whether another process holds a lock. Never for a lock of this process: looking would let it go."""
    return _is_taken(lock, fcntl.lockf)


def _is_taken(path: Path, lock: Callable[[int, int], object]) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # also where nothing can be written
    except OSError:
        return False
    try:
        lock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def pending_lock(version: Path) -> Path:
    """The file whose lock is held while this version file is being made."""
    return version.with_name("version.lock")


@contextlib.contextmanager
def held_for_child(version: Path) -> Generator[int]:
    """Hold the lock of a version that a child is about to make; the descriptor that it is to inherit, -1 where there is none."""
    path = pending_lock(version)
    fd, own = -1, None
    with contextlib.suppress(OSError):
        fd = open_apart(path, os.O_RDWR | os.O_CREAT)
        own = identity(fd)
        _take(fd, fcntl.flock)
    try:
        yield fd
    finally:
        close_own(fd, own)


def hold_inherited(fd: int) -> None:
    """In the child: where a lock of an open file is not inherited (NFS), take it anew. -1 is none."""
    if fd < 0:
        return
    with contextlib.suppress(OSError):
        _take(fd, fcntl.flock)


def is_pending(version: Path) -> bool:
    """Whether a process makes this version file now. Look before the file itself is read."""
    return _is_taken(pending_lock(version), fcntl.flock)
