"""The remaining time is honest: it comes from the estimates, corrected by what the finished part really took."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from flor_dagster.cli.progress import Remaining
from flor_dagster.replay.model import Plan


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def planned(clock: Clock, *seconds: float, workers: int = 1) -> Remaining:
    runs = [
        SimpleNamespace(run=SimpleNamespace(id=str(n)), todo=("a", "b"), estimated_seconds=s)
        for n, s in enumerate(seconds)
    ]
    remaining = Remaining(workers, clock)
    remaining.planned(cast("Plan", cast("Any", SimpleNamespace(runs=runs))))
    return remaining


def test_at_first_it_is_the_estimate_and_it_runs_down() -> None:
    clock = Clock()
    remaining = planned(clock, 10, 20, 30)
    assert remaining.seconds() == 60
    assert "0 of 3 training runs, about 60 s left" in remaining.sentence
    clock.now += 10
    assert remaining.seconds() == 50


def test_what_took_twice_as_long_doubles_what_is_left() -> None:
    clock = Clock()
    remaining = planned(clock, 10, 20, 30)
    remaining.told("0")
    remaining.told("0")
    assert remaining.finished == 1
    clock.now += 20
    assert remaining.seconds() == 100


def test_workers_share_and_an_overrun_is_admitted() -> None:
    clock = Clock()
    remaining = planned(clock, 10, 10, workers=2)
    assert remaining.seconds() == 10
    clock.now += 50
    assert remaining.seconds() == 0
    assert remaining.sentence.endswith("longer than estimated")
