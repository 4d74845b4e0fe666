"""The remaining time is honest: it comes from the estimates, corrected by what the finished part really took."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

from flor_dagster.cli.progress import Remaining
from flor_dagster.replay.model import Plan


def planned(*seconds: float, workers: int = 1) -> Remaining:
    runs = [
        SimpleNamespace(run=SimpleNamespace(id=str(n)), todo=("a", "b"), estimated_seconds=s)
        for n, s in enumerate(seconds)
    ]
    remaining = Remaining(workers)
    remaining.planned(cast("Plan", cast("Any", SimpleNamespace(runs=runs))))
    return remaining


def test_at_first_it_is_the_estimate_and_it_runs_down() -> None:
    remaining = planned(10, 20, 30)
    begun = time.monotonic()
    assert 59 < remaining.seconds(begun) <= 60
    assert 49 < remaining.seconds(begun + 10) <= 50
    assert "0 of 3 training runs, about 60 s left" in remaining.sentence


def test_what_took_twice_as_long_doubles_what_is_left() -> None:
    remaining = planned(10, 20, 30)
    begun = time.monotonic()
    remaining.told("0")
    remaining.told("0")
    assert remaining.finished == 1
    assert 99 < remaining.seconds(begun + 20) < 101


def test_workers_share_and_an_overrun_is_admitted() -> None:
    remaining = planned(10, 10, workers=2)
    begun = time.monotonic()
    assert 9 < remaining.seconds(begun) <= 10
    assert remaining.seconds(begun + 50) == 0
    remaining._begun -= 50  # pyright: ignore[reportPrivateUsage]
    assert remaining.sentence.endswith("longer than estimated")
