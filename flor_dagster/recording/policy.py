"""When to take a checkpoint: the stall stays in its budget at every moment of the run."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable

OVERHEAD = 0.015
FLOOR_SECONDS = 1.0
MARGIN = 1.25
MEMORY = 8


def choose_policy() -> CheckpointPolicy:
    """The policy of this process: `FLOR_CHECKPOINTS` is `auto` (the default), `all` or `none`.

    Raises:
        ValueError: when it is anything else.
    """
    chosen = os.environ.get("FLOR_CHECKPOINTS", "auto")
    if chosen not in ("auto", "all", "none"):
        raise ValueError(f"FLOR_CHECKPOINTS is {chosen!r}; it may be auto, all or none")
    floor = {"auto": FLOOR_SECONDS, "all": math.inf, "none": -math.inf}[chosen]
    return CheckpointPolicy(floor=floor, overhead=-1.0 if chosen == "none" else OVERHEAD)


class CheckpointPolicy:
    """Holds the time that checkpoints cost the training within a budget.

    The budget is 1.5 % of the run so far, or 1 s in all where that is more. A checkpoint is charged in advance with its
    estimate (the most that one of its place has cost lately) and a safety margin, so that the budget holds at every
    prefix of the run. Beyond the floor, one that costs more than the work it saves is not taken.

    Args:
        overhead: the share of the run that checkpoints may cost.
        floor: seconds that they may cost in any case.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        *,
        overhead: float = OVERHEAD,
        floor: float = FLOOR_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._started = clock()
        self._overhead = overhead
        self._floor = floor
        self._costs: dict[str, deque[float]] = {}
        self.spent = 0.0
        self.taken = 0
        self.declined = 0

    @property
    def takes(self) -> bool:
        """Whether it may ever allow a checkpoint."""
        return self._floor > 0 or self._overhead > 0

    def allows(self, work_seconds: float, place: str = "") -> bool:
        """Whether the next checkpoint may be taken.

        Args:
            work_seconds: the work that it would save a replay.
            place: where in the program; checkpoints of one place cost alike.
        """
        estimate = self.estimate(place)
        after = self.spent + estimate * MARGIN
        if after <= self._floor:
            return True
        elapsed = self._clock() - self._started - self.spent
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

    def spend(self, seconds: float) -> None:
        """Something else that serves the checkpoints held the training up for this long."""
        self.spent += seconds

    def charge(self, seconds: float, place: str = "") -> None:
        """A checkpoint held the training up for this long."""
        self.spent += seconds
        self.taken += 1
        self._costs.setdefault(place, deque(maxlen=MEMORY)).append(seconds)
