"""What only the operating system can do for a worker: die with the parent, adopt orphans, end whole families.

Imported by the worker process: the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform.startswith("linux")
_LIBC = ctypes.CDLL(None, use_errno=True) if _LINUX else None

STACK_SIGNAL = signal.SIGRTMIN + 7 if _LINUX else signal.SIGUSR2
"""Asks a child to write down where it stands."""


def die_with_parent(signum: int, parent: int) -> None:
    """Ask the kernel to send this process a signal when its parent is gone (Linux); at once if it is gone already."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signum)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none escapes by forking twice (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """The processes below one, children first. Empty where there is no `/proc`."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir() if _LINUX else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The second field, the command's name in brackets, may hold anything.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def end_family(main: int | None, seconds: float = 5.0) -> None:
    """Kill and reap everything below this process; the main child's group too, where orphans can't be adopted."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if main is not None:
            with contextlib.suppress(OSError):
                os.killpg(main, signal.SIGKILL)
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def native_threads() -> int:
    """How many threads this process has, those of C libraries included; 1 where that can't be seen."""
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - no need of a path each
    except OSError:
        return 1
