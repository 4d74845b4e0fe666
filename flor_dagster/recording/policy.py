"""When to take a checkpoint: what they cost the training stays in its budget at every moment of the run."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Generator

from flor_dagster.recording.clock import Clock
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


class TooDear(Exception):  # noqa: N818 - a signal to let a checkpoint be, not an error for anyone
    """A checkpoint that is being taken would exceed the budget.

    Args:
        whole: the seconds that all of it would have taken, as far as that can be said.
    """

    def __init__(self, whole: float) -> None:
        super().__init__(f"it would have held the training up for {whole:.3f} s")
        self.whole = whole


class Allowance:
    """How long what is under way may still hold the training up.

    Args:
        clock: the time.
        seconds: how long, from now on.
    """

    __slots__ = ("_began", "_clock", "_until")

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._began = clock.now()
        self._until = self._began + seconds

    def check(self, done: float = 0.0) -> None:
        """Ask between its pieces.

        Args:
            done: the share of the work that is behind, 0 where that is not known.

        Raises:
            TooDear: it is used up.
        """
        now = self._clock.now()
        if now > self._until:
            taken = now - self._began
            raise TooDear(taken / done if done > 0 else 2 * taken)


class CheckpointPolicy:
    """Holds the time that checkpoints cost the training within a budget.

    The budget is 1.5 % of the run so far, or 1 s in all where that is more. A checkpoint is charged in advance with its
    estimate (the most that one of its place has cost lately) and a safety margin. One that takes longer than the budget allows is given up between two of its pieces
    (`Allowance`), so that the budget holds at every prefix of the run but for the length of one piece, whatever the
    costs are. Beyond the floor, one that costs more than the work it saves is not taken.

    The writer's CPU time counts where no core is idle for it: in advance with its estimate, then as it is; while it
    has taken more than the budget allows, it waits (`may_write`).

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
        self._behind: dict[str, deque[float]] = {}
        self._due: dict[str, float] = {}
        self._open = 0.0
        self._seen = 0.0
        self._share = 0.0
        self._hindered = 0.0
        self.background = background
        self.stalled = 0.0
        self.taken = 0
        self.declined = 0
        self.given_up = 0

    @property
    def takes(self) -> bool:
        """Whether it may ever allow a checkpoint."""
        return self._floor > 0 or self._overhead > 0

    @property
    def spent(self) -> float:
        """Seconds that checkpoints have cost the training, and those that the writer still has to do will cost."""
        background = self.background()
        self._share = self._clock.contention(background)
        self._hindered += (background - self._seen) * self._share
        self._seen = background
        return self.stalled + self._hindered + self._open * self._share

    @property
    def limit(self) -> float:
        """Seconds that they may cost by now."""
        return max(self._floor, self._overhead * self._worked)

    @property
    def _worked(self) -> float:
        """Seconds in which the training went on."""
        return self._clock.now() - self._started - self.stalled - self._hindered

    @contextlib.contextmanager
    def paying(self, place: str = "") -> Generator[Allowance]:
        """Charge what the block costs: a checkpoint of a place, or something else that serves them.

        One that finds itself too dear raises `TooDear` and is left; its next one is estimated by what it would have cost.
        """
        left = self.limit - self.spent - self._later(place)
        begin, waited, used = self._clock.now(), self._clock.waited(), self._clock.used()
        whole = 0.0
        try:
            yield Allowance(self._clock, left)
        except TooDear as problem:
            self.given_up += 1
            whole = problem.whole
        finally:
            elsewhere = self._clock.waited() - waited
            seconds = max(self._clock.now() - begin - elsewhere, self._clock.used() - used)
            if place:
                self.charge(seconds, place, whole)
            else:
                self.stalled += seconds

    def may_write(self) -> bool:
        """Whether the writer may go on; for its own thread, so that nothing is changed here."""
        more = (self.background() - self._seen) * self._share
        limit = max(self._floor, self._overhead * (self._worked - more))
        return self.stalled + self._hindered + more <= limit

    def may(self, place: str) -> bool:
        """Whether something that serves checkpoints, and that saves no work by itself, is in the budget."""
        return self.spent + self.estimate(place) * MARGIN <= self.limit

    def allows(self, work_seconds: float, place: str = "", *, spare: str = "") -> bool:
        """Whether the next checkpoint may be taken.

        Args:
            work_seconds: the work that it would save a replay.
            place: where in the program; checkpoints of one place cost alike.
            spare: a place whose next checkpoint must still be affordable.
        """
        if self._clock.now() < self._due.get(place, -math.inf):
            self.declined += 1
            return False
        spent, estimate = self.spent, self.estimate(place)
        needed = estimate + self._later(place)
        if spare:
            needed += self.estimate(spare) + self._later(spare)
        after = spent + needed * MARGIN
        if after <= self._floor:
            return True
        if after <= self._overhead * self._worked:
            if estimate <= work_seconds:
                return True
        elif self._overhead > 0:
            # Until the budget has grown so far there is nothing to ask for: short iterations must not pay for the question.
            self._due[place] = self._clock.now() + after / self._overhead - self._worked
        self.declined += 1
        return False

    def estimate(self, place: str) -> float:
        """What a checkpoint of a place should cost, in seconds; of an unknown one, as much as the dearest of all."""
        costs = self._costs.get(place)
        if costs:
            return max(costs)
        return max((max(c) for c in self._costs.values() if c), default=0.0)

    def expect(self, seconds: float, place: str, behind: float = 0.0) -> None:
        """A first guess for a place, before one was taken there; `behind` are CPU seconds of the writer."""
        self._costs.setdefault(place, deque([seconds], MEMORY))
        self._behind.setdefault(place, deque([behind], MEMORY))

    def charge(self, seconds: float, place: str = "", whole: float = 0.0) -> None:
        """Something of a place held the training up; all of it would have for `whole` seconds, where it was given up."""
        self.stalled += seconds
        self._costs.setdefault(place, deque(maxlen=MEMORY)).append(max(seconds, whole))
        self._due.clear()

    def hand_over(self, place: str) -> Callable[[float], None]:
        """A checkpoint of a place goes to the writer; call what is returned with the CPU seconds that it took there."""
        costs = self._behind.get(place)
        expected = max(costs) if costs else 0.0
        self._open += expected
        self.taken += 1

        def written(seconds: float) -> None:
            self._open = max(self._open - expected, 0.0)
            self._behind.setdefault(place, deque(maxlen=MEMORY)).append(seconds)

        return written

    def _later(self, place: str) -> float:
        """What the writer's work for a checkpoint of a place should cost the training."""
        costs = self._behind.get(place)
        return max(costs) * self._share if costs else 0.0
