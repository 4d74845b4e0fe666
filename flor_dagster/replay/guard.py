"""The guard of one unit: starts its child, keeps its first and last lines, and leaves nothing of it behind.

A guard is forked from a worker for every unit. It adopts whatever the old code forks, ends all of it when the child is
over, when its time is up or when the worker is gone, and tells the worker how it ended. The standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from flor_dagster.recording.masking import Masker, masker_of
from flor_dagster.replay.processes import STACK_SIGNAL, adopt_orphans, die_with_parent, end_family

FIRST_BYTES = 16_384
LAST_BYTES = 65_536
STACK_SECONDS = 1.0

Request = dict[str, Any]


def guard(
    request: Request, parent: int, child: Callable[[Request], int], foreign: Sequence[int], report: int
) -> dict[str, Any]:
    """Carry out one unit in a child of this process.

    Args:
        request: the unit, as a JSON object.
        parent: the worker's process id.
        child: runs in the child process and gives its exit status; it may also never return.
        foreign: file descriptors of the worker that are none of the unit's business.
        report: the guard's own descriptor, which no child may hold open.

    Returns:
        How it ended: the fields of `units.Ended`.
    """
    adopt_orphans()
    os.setpgid(0, 0)
    waking, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waking, False)
    stopped: list[int] = []
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGTERM:
            stopped.append(number)

    signal.signal(signal.SIGCHLD, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    die_with_parent(signal.SIGTERM, parent)
    printed, printing = os.pipe()
    begin = time.monotonic()
    guard_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_the_child(request, guard_pid, child, printing, [*foreign, report, waking, wake, printed])
    os.close(printing)
    for fd in foreign:
        with contextlib.suppress(OSError):
            os.close(fd)
    os.set_blocking(printed, False)
    kept = _Kept()
    status, why = _watch(pid, parent, printed, waking, kept, stopped, begin + float(request["timeout"]))
    seconds = time.monotonic() - begin
    end_family(pid)
    kept.take(printed)
    if why == "timeout":
        kept.say(f"\nflor_dagster: stopped after {seconds:.0f} s\n")
    kept.write(request["output"], masker_of(request["environment"], request["late"]))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "status": status, "seconds": seconds, "why": why, "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * unit,
    }  # fmt: skip


def _watch(
    pid: int, parent: int, printed: int, waking: int, kept: _Kept, stopped: list[int], deadline: float
) -> tuple[int, str]:
    """Wait for the child's end, or bring it about; its status and why it was ended."""
    poll = select.poll()
    poll.register(printed, select.POLLIN)
    poll.register(waking, select.POLLIN)
    why = ""
    open_end = True
    asked = 0.0
    while True:
        ended, raw = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(raw), why
        now = time.monotonic()
        if not why and (stopped or os.getppid() != parent):
            why = "stopped"
            os.kill(pid, signal.SIGKILL)
        elif not why and now >= deadline:
            why = "timeout"
            asked = now
            os.kill(pid, STACK_SIGNAL)
        if why == "timeout" and now - asked >= STACK_SECONDS:
            os.kill(pid, signal.SIGKILL)
        wait = STACK_SECONDS if why else min(max(deadline - now, 0.01), STACK_SECONDS)
        for fd, _ in poll.poll(wait * 1000):
            if fd == waking:
                with contextlib.suppress(BlockingIOError):
                    os.read(waking, 4096)
            elif open_end and not kept.take(printed):
                open_end = False
                poll.unregister(printed)


def _be_the_child(
    request: Request, parent: int, child: Callable[[Request], int], printing: int, foreign: Sequence[int]
) -> None:
    """The rest of the child's life; never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        die_with_parent(signal.SIGKILL, parent)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(printing, 1)
        os.dup2(printing, 2)
        for fd in {nothing, printing, *foreign} - {0, 1, 2}:
            with contextlib.suppress(OSError):
                os.close(fd)
        os.chdir(request["folder"])
        status = child(request)
    except BaseException as error:  # noqa: BLE001 - nothing may come back into the guard's own code
        with contextlib.suppress(Exception):
            sys.stderr.write(
                f"flor_dagster: the child could not be started: {type(error).__name__}: {error}\n"
            )
            sys.stderr.flush()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(status)


class _Kept:
    """The first and the last of what a child prints, however much that is."""

    def __init__(self) -> None:
        self.first = b""
        self.last = b""
        self.left_out = 0

    def take(self, fd: int) -> bool:
        """Read what is there; False at the end."""
        while True:
            try:
                data = os.read(fd, 65_536)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self.add(data)
            if len(data) < 65_536:
                return True

    def add(self, data: bytes) -> None:
        room = FIRST_BYTES - len(self.first)
        self.first += data[:room]
        self.last += data[room:] if room > 0 else data
        surplus = len(self.last) - LAST_BYTES
        if surplus > 0:
            self.left_out += surplus
            self.last = self.last[surplus:]

    def say(self, text: str) -> None:
        self.add(text.encode())

    def write(self, path: str, mask: Masker) -> None:
        gap = f"\n… {self.left_out} bytes left out …\n".encode() if self.left_out else b""
        text = (self.first + gap + self.last).decode("utf-8", errors="surrogateescape")
        with open(path, "wb") as file:  # noqa: PTH123 - a worker needs no paths
            file.write(mask(text).encode("utf-8", errors="surrogateescape"))
