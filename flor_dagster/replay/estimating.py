"""What will a replay cost? Recorded times, and what past replays of the project really took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from flor_dagster.store.models import ReplayRow

RESTORE_SECONDS = 0.02
START_SECONDS = 1.0
LATELY = 30
"""So many of the youngest replays tell how good estimates are."""

_ENOUGH = 3
_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Rates:
    """What replays cost in a project.

    Args:
        start: seconds until a child begins with the training's own work (interpreter, checkout, imports).
        work: seconds that take a second of the recorded run.
        restore: seconds to put an end state back.
        error: the share of a replay's real time that four of five estimates were within, None where nothing is known.
        replays: from how many replays that is known.
    """

    start: float = START_SECONDS
    work: float = 1.0
    restore: float = RESTORE_SECONDS
    error: float | None = None
    replays: int = 0

    def seconds(self, work: float, restores: float) -> float:
        """What a replay should take.

        Args:
            work: seconds that the recorded run took for what is executed again.
            restores: how many end states are put back.
        """
        return self.start + self.work * work + self.restore * restores

    @property
    def sentence(self) -> str:
        """How good estimates have been, in words; empty where nothing is known."""
        if self.error is None:
            return ""
        return f"estimates were within ±{self.error:.0%} lately ({self.replays} replays)"


UNMEASURED = Rates()


def rates_of(replays: Iterable[ReplayRow]) -> Rates:
    """Learn from finished replays.

    The start is the median of what came on top of the work; where replays re-executed much, the median of how much faster or
    slower that went than in the recorded runs corrects the work. A replay's row carries its parts in `plan["cost"]`.

    Args:
        replays: of one project, in the order of their start.
    """
    known = [(r.seconds, r.estimated_seconds, r.plan.get("cost")) for r in replays
             if r.status == "finished" and r.seconds and r.estimated_seconds is not None][-LATELY:]  # fmt: skip
    errors = sorted(abs(estimate - seconds) / seconds for seconds, estimate, _ in known)
    error = errors[min(int(len(errors) * _SHARE), len(errors) - 1)] if len(errors) >= _ENOUGH else None
    parts = [(s, float(c["work"]), float(c["restores"])) for s, _, c in known if isinstance(c, dict)]
    short = [max(s - w - RESTORE_SECONDS * n, 0.05) for s, w, n in parts if w <= max(s / 2, 1.0)]
    start = min(median(short), 120.0) if len(short) >= _ENOUGH else START_SECONDS
    long = [(s - start - RESTORE_SECONDS * n) / w for s, w, n in parts if w >= max(2.0, 2 * start)]
    work = min(max(median(long), 0.2), 5.0) if len(long) >= _ENOUGH else 1.0
    return Rates(start, work, RESTORE_SECONDS, error, len(errors))
