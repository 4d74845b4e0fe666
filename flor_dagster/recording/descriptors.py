"""Descriptors that a training does not know of, and may close: `os.closerange` in a launcher, or whatever turns into a daemon.

The number of a closed one goes to the next file that is opened, and what was meant for ours would land in it. So ours have
high numbers that no file comes to by itself; none of them goes to another file of ours while its holder may write to it; and
what a number leads to is looked at before anything else than a line is done to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import sys
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

Identity = tuple[int, int]
"""Device and inode."""

_MOST = 1024

_held: set[int] = set()
"""Numbers that somebody here may still write to, though the program may have closed them."""
_after = 0
"""The last number that was given out: the next is a higher one, so that each comes back as late as can be."""


def open_apart(path: str | Path, flags: int, mode: int = 0o600) -> int:
    """As `os.open`, with a high number that is not inherited; let it go by `close_own`.

    Raises:
        OSError: as `os.open`.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = _MOST if limit < 0 else min(limit, _MOST)
    libc = _libc()
    if libc is None:
        fd = os.open(path, flags | os.O_CLOEXEC, mode)
        apart = _apart(fd, most, _duplicate)
        if apart != fd:
            os.close(fd)
    else:
        fd = libc.open(os.fsencode(path), flags | os.O_CLOEXEC, mode)
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
        apart = _apart(fd, most, libc.fcntl)
        if apart != fd:
            libc.close(fd)
    _held.add(apart)
    return apart


def move_apart(fd: int) -> int:
    """The same file behind such a number, and the given one closed; let it go by `close_own`."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    apart = _apart(fd, _MOST if limit < 0 else min(limit, _MOST), _duplicate)
    if apart != fd:
        os.close(fd)
    _held.add(apart)
    return apart


def _apart(fd: int, most: int, duplicate: Callable[[int, int, int], int]) -> int:
    """A copy of a descriptor with a number of its own up there; the same where none is free."""
    global _after
    least = most * 3 // 4
    for start in (_after + 1, least) if least <= _after + 1 < most else (least,):
        number = duplicate(fd, fcntl.F_DUPFD_CLOEXEC, start)
        while number in _held:  # the program closed it; who has it may not know that yet
            os.close(number)
            number = duplicate(fd, fcntl.F_DUPFD_CLOEXEC, number + 1)
        if number >= 0:
            _after = number
            return number
    return fd


def _duplicate(fd: int, command: int, least: int) -> int:
    try:
        return fcntl.fcntl(fd, command, least)
    except OSError:
        return -1


@cache
def _libc() -> Any:
    """The C library, called without letting another thread have the interpreter; None where its calls aren't known.

    Between opening a file and leaving its low number, the program could close that number and open a file of its own there.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.PyDLL(None, use_errno=True)
    libc.open.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_uint)
    libc.fcntl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long)
    libc.close.argtypes = (ctypes.c_int,)
    return libc


@contextlib.contextmanager
def reading_apart(path: Path) -> Generator[BinaryIO]:
    """A file to read, behind a descriptor of that kind: for what runs behind the training.

    Raises:
        OSError: it can't be read.
    """
    fd = open_apart(path, os.O_RDONLY)
    own = identity(fd)
    try:
        with open(fd, "rb", closefd=False) as file:
            yield file
    finally:
        close_own(fd, own)


def identity(fd: int) -> Identity | None:
    """The file that a descriptor leads to; None where it leads nowhere."""
    try:
        status = os.fstat(fd)
    except (OSError, OverflowError):
        return None
    return status.st_dev, status.st_ino


def close_own(fd: int, own: Identity | None) -> None:
    """Close a descriptor, unless it leads to a file of somebody else by now; its number is free for another of ours."""
    if fd >= 0 and own is not None and identity(fd) == own:
        with contextlib.suppress(OSError):
            os.close(fd)
    _held.discard(fd)
