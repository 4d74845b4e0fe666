"""The time that passes for a training, and what of it others take away."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from flor_dagster.recording.descriptors import close_own, identity, open_apart

SAMPLE_SECONDS = 0.5
"""How long the training is watched to see how many cores it uses."""


class Clock:
    """The time that passes for the training, and what of it others take away.

    A checkpoint costs what the training would not have spent without it. That is time by the clock, but not the time in
    which another process had the core: it would have had it during the training, too.
    """

    def __init__(self) -> None:
        self._cores = _cores()
        self._sampled = time.perf_counter(), time.process_time(), 0.0
        self._share = 0.0
        self._schedule: _Schedule | None = None

    def now(self) -> float:
        """Seconds by the clock."""
        return time.perf_counter()

    def used(self) -> float:
        """Seconds of a core that this thread has used, in all."""
        return time.thread_time()

    def waited(self) -> float:
        """Seconds that this thread has waited for a core, in all; 0 where the system does not say."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            if self._schedule is None or self._schedule.thread != threading.get_ident():
                self._schedule = _Schedule()
            return int(os.pread(self._schedule.fd, 99, 0).split()[1]) / 1e9
        return 0.0

    def contention(self, background: float) -> float:
        """Which share of the work behind the training takes a core from it now: 0 where one is idle, 1 where none is.

        Args:
            background: the CPU seconds of that work so far.
        """
        wall, busy, behind = self._sampled
        passed = time.perf_counter() - wall
        if passed >= SAMPLE_SECONDS:
            cores = (time.process_time() - busy - (background - behind)) / passed
            self._share = min(1.0, max(0.0, cores + 1.0 - self._cores))
            self._sampled = time.perf_counter(), time.process_time(), background
        return self._share


class _Schedule:
    """What the kernel says of how this thread was scheduled: opened once, since it is read around every checkpoint."""

    __slots__ = ("_own", "fd", "thread")

    def __init__(self) -> None:
        self.fd = -1
        self.thread = threading.get_ident()
        self.fd = open_apart("/proc/thread-self/schedstat", os.O_RDONLY)
        self._own = identity(self.fd)

    def __del__(self) -> None:
        if self.fd >= 0:
            close_own(self.fd, self._own)


def _cores() -> float:
    """How many cores the process may use."""
    try:
        cores = float(len(os.sched_getaffinity(0)))
    except (AttributeError, OSError):
        cores = float(os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError, IndexError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, int(quota) / int(period))
    return cores
