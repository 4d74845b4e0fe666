"""The time that checkpoints cost stays in its budget at every prefix of a run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from flor_dagster.recording.policy import FLOOR_SECONDS, OVERHEAD, CheckpointPolicy, Clock, choose_policy
from flor_dagster.recording.settings import CheckpointSettings, checkpoint_settings


class Simulated(Clock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.others = 0.0
        self.share = 0.0

    def now(self) -> float:
        return self.seconds

    def waited(self) -> float:
        return self.others

    def contention(self, background: float) -> float:
        return self.share


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("cost", [0.001, 0.05, 0.4])
def test_the_budget_holds_at_every_prefix(seed: int, cost: float) -> None:
    choice = random.Random(seed)
    clock = Simulated()
    policy = CheckpointPolicy(clock=clock)
    spent = 0.0
    policy.expect(cost, "site")
    for _ in range(3000):
        work = choice.uniform(0.01, 2.0)
        clock.seconds += work
        if policy.allows(work, "site"):
            real = cost * choice.uniform(0.85, 1.0)
            with policy.paying("site"):
                clock.seconds += real
            spent += real
        assert spent <= max(FLOOR_SECONDS, OVERHEAD * (clock.seconds - spent)) + 1e-9
    assert policy.taken > 2


def test_what_costs_more_than_it_saves_is_not_taken_beyond_the_floor() -> None:
    clock = Simulated()
    policy = CheckpointPolicy(clock=clock)
    with policy.paying():
        clock.seconds += FLOOR_SECONDS
    policy.expect(0.5, "site")
    clock.seconds = 10_000.0
    assert not policy.allows(0.1, "site")
    assert policy.allows(1.0, "site")


def test_time_in_which_another_process_had_the_core_is_not_charged() -> None:
    clock = Simulated()
    policy = CheckpointPolicy(clock=clock)
    with policy.paying("site"):
        clock.seconds += 30.0
        clock.others += 29.9
    assert policy.spent == pytest.approx(0.1)
    assert policy.estimate("site") == pytest.approx(0.1)


def test_the_writers_time_counts_where_no_core_is_idle_for_it() -> None:
    clock = Simulated()
    policy = CheckpointPolicy(clock=clock, background=lambda: 3.0)
    policy.expect(0.01, "site")
    clock.seconds = 100.0
    assert policy.allows(1.0, "site")
    clock.share = 1.0
    assert policy.spent == 3.0
    assert not policy.allows(1.0, "site")


def test_restore_points_leave_enough_for_the_next_end_of_a_nested_loop() -> None:
    clock = Simulated()
    policy = CheckpointPolicy(clock=clock, floor=0.0)
    policy.expect(1.0, "inner")
    policy.expect(1.0, "outer")
    clock.seconds = 100.0  # a budget of 1.5 s: one checkpoint
    assert not policy.allows(10.0, "outer", spare="inner")
    assert policy.allows(10.0, "inner")
    clock.seconds = 200.0
    assert policy.allows(10.0, "outer", spare="inner")


def test_the_policy_can_be_set_to_all_or_none_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOR_CHECKPOINTS", "all")
    policy = choose_policy(checkpoint_settings(None))
    policy.charge(1000.0)
    assert policy.allows(0.0)
    monkeypatch.setenv("FLOR_CHECKPOINTS", "none")
    policy = choose_policy(checkpoint_settings(None))
    assert not policy.allows(1000.0)
    assert not policy.takes
    monkeypatch.setenv("FLOR_CHECKPOINTS", "some")
    with pytest.raises(ValueError, match="auto, all or none"):
        checkpoint_settings(None)


def test_a_project_sets_its_budgets_and_the_environment_overrules_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checkpoint_settings(tmp_path) == CheckpointSettings()
    file = tmp_path / "pyproject.toml"
    file.write_text('[tool.flor.checkpoints]\noverhead = 0.05\nrun_bytes = "1.5 GiB"\n')
    assert checkpoint_settings(tmp_path) == CheckpointSettings(overhead=0.05, run_bytes=1610612736)
    monkeypatch.setenv("FLOR_CHECKPOINT_OVERHEAD", "0.2")
    assert checkpoint_settings(tmp_path).overhead == 0.2
    for line, words in (
        ("overhed = 1", "no setting 'overhed'"),
        ("floor_seconds = -1", "number from 0 on"),
        ('project_bytes = "much"', "a size like 500 MB"),
        ("take = 3", "auto, all or none"),
    ):
        file.write_text(f"[tool.flor.checkpoints]\n{line}\n")
        with pytest.raises(ValueError, match=words):
            checkpoint_settings(tmp_path)
