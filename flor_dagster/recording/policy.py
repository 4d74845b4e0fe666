"""When to take a checkpoint: what they cost the training stays in its budget at every moment of the run."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path

from flor_dagster.recording.settings import CheckpointSettings

OVERHEAD = CheckpointSettings().overhead
FLOOR_SECONDS = CheckpointSettings().floor_seconds
MARGIN = 1.25
MEMORY = 8


def choose_policy(settings: CheckpointSettings, clock: Clock | None = None) -> CheckpointPolicy:
    """The policy that the settings ask for."""
    clock = clock or Clock()
    if settings.take == "all":
        return CheckpointPolicy(overhead=settings.overhead, floor=math.inf, clock=clock)
    if settings.take == "none":
        return CheckpointPolicy(overhead=-1.0, floor=-math.inf, clock=clock)
    return CheckpointPolicy(overhead=settings.overhead, floor=settings.floor_seconds, clock=clock)


class Clock:
    """The time that passes for the training, and what of it others take away.

    A checkpoint costs what the training would not have spent without it. That is time by the clock, but not the time in
    which another process had the core: it would have had it during the training, too.
    """

    def __init__(self) -> None:
        self._cores = _cores()
        self._began = time.perf_counter(), time.process_time()

    def now(self) -> float:
        """Seconds by the clock."""
        return time.perf_counter()

    def waited(self) -> float:
        """Seconds that this thread has waited for a core, in all; 0 where the system does not say."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
        return 0.0

    def contention(self, background: float) -> float:
        """Which share of the work behind the training takes a core from it: 0 where one is idle, 1 where none is.

        Args:
            background: the CPU seconds of that work so far.
        """
        wall = time.perf_counter() - self._began[0]
        busy = (time.process_time() - self._began[1] - background) / wall if wall > 0 else 0.0
        return min(1.0, max(0.0, busy + 1.0 - self._cores))


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


class CheckpointPolicy:
    """Holds the time that checkpoints cost the training within a budget.

    The budget is 1.5 % of the run so far, or 1 s in all where that is more. A checkpoint is charged in advance with its
    estimate (the most that one of its place has cost lately) and a safety margin, so that the budget holds at every
    prefix of the run. Beyond the floor, one that costs more than the work it saves is not taken. The writer's CPU time
    counts where no core is idle for it.

    The ends of loop executions come first: a statement behind a nested loop is answered without executing it where each
    of them has a checkpoint, and every one that lacks it is executed whole. Restore points at the ends of iterations are
    taken from what is left.

    Args:
        overhead: the share of the run that checkpoints may cost.
        floor: seconds that they may cost in any case.
        clock: the time, another one in tests.
        background: CPU seconds that the writer has used so far.
    """

    def __init__(
        self,
        *,
        overhead: float = OVERHEAD,
        floor: float = FLOOR_SECONDS,
        clock: Clock | None = None,
        background: Callable[[], float] = float,
    ) -> None:
        self._clock = clock or Clock()
        self._started = self._clock.now()
        self._overhead = overhead
        self._floor = floor
        self._costs: dict[str, deque[float]] = {}
        self.background = background
        self.stalled = 0.0
        self.taken = 0
        self.declined = 0

    @property
    def takes(self) -> bool:
        """Whether it may ever allow a checkpoint."""
        return self._floor > 0 or self._overhead > 0

    @property
    def spent(self) -> float:
        """Seconds that checkpoints have cost the training."""
        background = self.background()
        return self.stalled + (background * self._clock.contention(background) if background else 0.0)

    @contextlib.contextmanager
    def paying(self, place: str = "") -> Generator[None]:
        """Charge what the block costs: a checkpoint of a place, or something else that serves them."""
        begin, waited = self._clock.now(), self._clock.waited()
        try:
            yield
        finally:
            seconds = self._clock.now() - begin - (self._clock.waited() - waited)
            if place:
                self.charge(max(seconds, 0.0), place)
            else:
                self.stalled += max(seconds, 0.0)

    def allows(self, work_seconds: float, place: str = "", *, spare: str = "") -> bool:
        """Whether the next checkpoint may be taken.

        Args:
            work_seconds: the work that it would save a replay.
            place: where in the program; checkpoints of one place cost alike.
            spare: a place whose next checkpoint must still be affordable.
        """
        estimate = self.estimate(place)
        after = self.spent + (estimate + (self.estimate(spare) if spare else 0.0)) * MARGIN
        if after <= self._floor:
            return True
        elapsed = self._clock.now() - self._started - self.stalled
        if after <= self._overhead * elapsed and estimate <= work_seconds:
            return True
        self.declined += 1
        return False

    def estimate(self, place: str) -> float:
        """What a checkpoint of a place should cost, in seconds; of an unknown one, as much as the dearest of all."""
        costs = self._costs.get(place)
        if costs:
            return max(costs)
        return max((max(c) for c in self._costs.values() if c), default=0.0)

    def expect(self, seconds: float, place: str) -> None:
        """A first guess for a place, before one was taken there."""
        if place not in self._costs:
            self._costs[place] = deque([seconds], MEMORY)

    def charge(self, seconds: float, place: str = "") -> None:
        """A checkpoint held the training up for this long."""
        self.stalled += seconds
        self.taken += 1
        self._costs.setdefault(place, deque(maxlen=MEMORY)).append(seconds)
