"""Which process something belongs to, as a mark in a name, and whether that process is known to be gone.

A process is known by its number, its start, and the machine (with its boot and its namespace of process numbers) on which the
number means it. Of a process of another machine nothing is known from here.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
from pathlib import Path

_MARK = re.compile(r"own-(\d{1,10})-(\d{1,20})-([0-9a-f]{12})(?![0-9a-z])")


def own_mark() -> str:
    """The mark of this process, in letters that any name may hold."""
    return _own_mark(os.getpid())


@functools.cache
def _own_mark(pid: int) -> str:
    return f"own-{pid}-{_start_of(pid) or 0}-{_space()}"


def mark_of(pid: int) -> str:
    """The mark of another process; empty where it has ended, or can't be seen."""
    start = _start_of(pid)
    return "" if start is None else f"own-{pid}-{start}-{_space()}"


def is_gone(text: str) -> bool:
    """Whether the process whose mark is in a text is known to have ended; not where there is none, or it is of another machine."""
    found = _MARK.search(text)
    if found is None or found[3] != _space():
        return False
    pid, start = int(found[1]), int(found[2])
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass  # somebody else's: it lives, or the number was given again
    now = _start_of(pid)
    return now != start if now is not None and start else now is None and _has_proc()


def is_here(text: str) -> bool:
    """Whether a text has the mark of a process of this machine, so that it can be told whether it lives."""
    found = _MARK.search(text)
    return found is not None and found[3] == _space()


def number_of(text: str) -> int:
    """The number of the process whose mark is in a text; 0 where there is none."""
    found = _MARK.search(text)
    return 0 if found is None else int(found[1])


def _has_proc() -> bool:
    return Path("/proc/self/stat").exists()


def _start_of(pid: int) -> int | None:
    """When a process began, in the system's own ticks; None where it has ended, waited for or not, or where that can't be seen."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
        return None if fields[0] in ("Z", "X", "x") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


@functools.cache
def _space() -> str:
    """Where a process number means the same process."""
    parts = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        lambda: str(Path("/proc/self/ns/pid").readlink()),
    ):
        try:
            parts.append(read())
        except OSError:
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
