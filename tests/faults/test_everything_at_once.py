"""Trainings, questions, readers, sensors and housekeepers on one store at once, killed at random: nothing lost, hidden, doubled or wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.soak import Soak

pytestmark = pytest.mark.ci


def test_nothing_is_lost_or_wrong(tmp_path: Path) -> None:
    found = Soak(tmp_path / "project", None, 1, trainings=2, askers=1).run(25)
    assert found.faults == []
    assert found.counts["acknowledged values"] > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_nothing_is_lost_or_wrong_in_five_minutes(
    tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    new_database: Callable[[], str] | None = None
    if database == "postgresql":
        new_database = request.getfixturevalue("new_database")
    found = Soak(
        tmp_path / "project", new_database() if new_database else None, 2, trainings=8, askers=4
    ).run(300)
    assert found.faults == []
    assert found.counts["cells replayed exact"] > 0
