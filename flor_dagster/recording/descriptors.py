"""Descriptors that a training does not know of, and may close: `os.closerange` in a launcher, or whatever turns into a daemon.

The number of a closed one goes to the next file that is opened, and what was meant for ours would land in it. Ours have
numbers that no file comes to by itself, and what they lead to is looked at before anything else than a line is done to them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from pathlib import Path

Identity = tuple[int, int]
"""Device and inode."""

_MOST = 1024


def open_apart(path: str | Path, flags: int, mode: int = 0o600) -> int:
    """As `os.open`, with a high number that is not inherited.

    Raises:
        OSError: as `os.open`.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    least = (_MOST if limit < 0 else min(limit, _MOST)) * 3 // 4
    try:
        apart = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)
    except OSError:
        return fd  # no number up there is free
    os.close(fd)
    return apart


def identity(fd: int) -> Identity | None:
    """The file that a descriptor leads to; None where it leads nowhere."""
    try:
        status = os.fstat(fd)
    except (OSError, OverflowError):
        return None
    return status.st_dev, status.st_ino


def close_own(fd: int, own: Identity | None) -> None:
    """Close a descriptor, unless it leads to a file of somebody else by now."""
    if fd >= 0 and own is not None and identity(fd) == own:
        with contextlib.suppress(OSError):
            os.close(fd)
