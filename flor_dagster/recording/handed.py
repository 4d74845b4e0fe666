"""Files that other code than Python's reads: those that are handed to other programs, and those that this process holds.

What a program reads that the training starts (`subprocess.run(["cat", path])`, `os.system("gunzip data.gz")`) is not seen; that a file is
named to it is. What a C library reads (HDF5, Arrow, LMDB, `torch.from_file`) is not seen either; while it holds the file open or
mapped, the system tells (Linux: `/proc/self`).
"""

# ruff: noqa: PTH100, PTH109, PTH111, PTH115, PTH116, PTH118, PTH123, PTH208 - called where a training starts programs: texts, not Path objects

from __future__ import annotations

import contextlib
import json
import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from flor_dagster.recording.descriptors import Identity, close_own, identity, move_apart


class Spool:
    """A file in memory, in which forked processes say something to the one that they were forked from.

    They write behind one another: the place in the file is theirs together.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._identity: Identity | None = None
        if hasattr(os, "memfd_create"):
            with contextlib.suppress(OSError):
                self._fd = move_apart(os.memfd_create("flor_dagster"))
                self._identity = identity(self._fd)

    def say(self, *parts: Any) -> None:
        """Add a line, where the program has not closed the file."""
        with contextlib.suppress(OSError):
            if self._fd >= 0 and identity(self._fd) == self._identity:
                os.write(self._fd, json.dumps(parts).encode() + b"\n")

    def heard(self) -> list[list[Any]]:
        """What was said so far."""
        with contextlib.suppress(OSError):
            if self._fd >= 0 and identity(self._fd) == self._identity:
                said = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
                return [json.loads(line) for line in said.split(b"\n") if line]
        return []

    def close(self) -> None:
        """Nothing more is said."""
        if self._fd >= 0:
            close_own(self._fd, self._identity)
            self._fd = -1


MAX_MAPS = 16_000_000
"""So many bytes of the table of mappings are read."""


def named_in(arguments: Any, folder: Any = None) -> list[str]:
    """The regular files that a command names, as whole arguments or behind `=`, as absolute paths.

    Args:
        arguments: as `subprocess.Popen` or `os.system` take them: a sequence, or the text of a shell command.
        folder: the working directory that it is given; None takes the process's.
    """
    with contextlib.suppress(Exception):
        base = os.path.abspath(os.fsdecode(folder)) if folder is not None else os.getcwd()
        found: dict[str, None] = {}
        for word in _words(arguments):
            for text in {word, word.rpartition("=")[2], word.lstrip("<>@")}:
                path = os.path.normpath(os.path.join(base, os.path.expanduser(text)))
                if text and _is_file(path):
                    found[path] = None
        return list(found)
    return []


def _words(arguments: Any) -> Iterable[str]:
    if isinstance(arguments, str | bytes):
        text = os.fsdecode(arguments)
        try:
            return shlex.split(text, comments=False)
        except ValueError:
            return text.split()
    if isinstance(arguments, os.PathLike):
        return [os.fsdecode(arguments)]  # pyright: ignore[reportUnknownArgumentType]
    found: list[str] = []
    for one in arguments:
        text = os.fsdecode(one)
        # The text behind `sh -c`.
        found += _words(text) if " " in text and not os.path.lexists(text) else [text]
    return found


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) or stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def held() -> Iterator[str]:
    """Files that this process has mapped, or open for reading; none where the system does not tell."""
    seen: set[str] = set()
    with contextlib.suppress(OSError), open("/proc/self/maps", "rb") as maps:
        for line in maps.read(MAX_MAPS).split(b"\n"):
            parts = line.split(None, 5)
            if len(parts) == 6 and parts[5].startswith(b"/") and not parts[5].endswith(b" (deleted)"):
                seen.add(os.fsdecode(parts[5]))
    with contextlib.suppress(OSError):
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                path = os.readlink(f"/proc/self/fd/{number}")
                if path.startswith("/") and path not in seen and _may_read(number):
                    seen.add(path)
    yield from sorted(seen)


def _may_read(number: str) -> bool:
    with open(f"/proc/self/fdinfo/{number}", "rb") as facts:
        flags = next(line for line in facts.read(4096).split(b"\n") if line.startswith(b"flags:"))
    return int(flags.split()[1], 8) & os.O_ACCMODE != os.O_WRONLY
