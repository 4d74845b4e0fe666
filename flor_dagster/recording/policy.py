"""When to take a checkpoint: the stall stays in its budget at every moment of the run."""

from __future__ import annotations

import time

OVERHEAD = 0.015
FLOOR_SECONDS = 1.0
MARGIN = 1.25


class CheckpointPolicy:
    """Holds the time that checkpoints cost the training within a budget.

    The budget is 1.5 % of the run so far, or 1 s in all where that is more. A checkpoint is charged in advance with its
    estimate (an exponentially weighted mean of the last ones) and a safety margin, so that the budget holds at every
    prefix of the run. Beyond the floor, one that costs more than the work it saves is not taken.
    """

    def __init__(self, *, overhead: float = OVERHEAD, floor: float = FLOOR_SECONDS) -> None:
        self._started = time.perf_counter()
        self._overhead = overhead
        self._floor = floor
        self._estimate = 0.0
        self.spent = 0.0
        self.taken = 0
        self.declined = 0

    def allows(self, work_seconds: float) -> bool:
        """Whether the next checkpoint may be taken; `work_seconds` is the work that it would save a replay."""
        after = self.spent + self._estimate * MARGIN
        if after <= self._floor:
            return True
        elapsed = time.perf_counter() - self._started - self.spent
        if after <= self._overhead * elapsed and self._estimate <= work_seconds:
            return True
        self.declined += 1
        return False

    def charge(self, seconds: float) -> None:
        """A checkpoint held the training up for this long."""
        self.spent += seconds
        self.taken += 1
        self._estimate = seconds if self.taken == 1 else 0.5 * self._estimate + 0.5 * seconds
