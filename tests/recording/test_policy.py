"""The time that checkpoints cost stays in its budget at every prefix of a run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.policy import CHECKPOINTS, STEPS, Virtual, iterations, simulate
from flor_dagster.recording.policy import FLOOR_SECONDS, CheckpointPolicy, choose_policy
from flor_dagster.recording.settings import CheckpointSettings, checkpoint_settings

SECONDS = st.floats(1e-4, 50.0)
ITERATIONS = st.lists(st.tuples(SECONDS, SECONDS, SECONDS), min_size=1, max_size=40)


@given(
    ITERATIONS, st.integers(1, 10), st.sampled_from([0.0, 0.3, 1.0]), st.floats(0.0, 3.0), st.floats(0.0, 0.2)
)
@settings(max_examples=80, deadline=None)
def test_the_budget_holds_at_every_prefix_whatever_steps_and_checkpoints_cost(
    iterations: list[tuple[float, float, float]], times: int, share: float, floor: float, overhead: float
) -> None:
    steps = ((work, cost / 20, writing / 5) for work, cost, writing in iterations * times)
    seen = simulate(steps, floor=floor, overhead=overhead, share=share)
    assert seen.excess <= 1e-6


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("costs", CHECKPOINTS)
def test_the_budget_holds_and_is_used_over_the_kinds_of_trainings_that_there_are(
    steps: str, costs: str
) -> None:
    for share in (0.0, 1.0):
        trained = iterations(random.Random(1), STEPS[steps], CHECKPOINTS[costs], 8.0, 300)
        seen = simulate(trained, floor=1.0, overhead=0.015, share=share)
        assert seen.excess <= 1e-9
        assert seen.taken or costs == "larger than the floor"


def test_a_checkpoint_that_turns_out_too_dear_is_given_up_and_estimated_by_what_it_would_have_cost() -> None:
    clock = Virtual()
    policy = CheckpointPolicy(clock=clock, floor=1.0)
    policy.expect(0.1, "site")
    assert policy.allows(1.0, "site")
    with policy.paying("site") as allowance:
        for done in range(1, 100):
            clock.seconds += 0.15
            allowance.check(done / 100)
    assert policy.given_up == 1
    assert policy.spent == pytest.approx(1.05)
    assert policy.estimate("site") == pytest.approx(15.0)
    assert not policy.allows(100.0, "site")


def test_a_writer_without_a_core_of_its_own_waits_until_the_budget_has_grown() -> None:
    clock = Virtual(share=1.0)
    used = [0.0]
    policy = CheckpointPolicy(clock=clock, floor=1.0, background=lambda: used[0])
    assert policy.allows(1.0, "site")
    policy.hand_over("site")
    used[0] = 1.2
    assert not policy.may_write()
    clock.seconds += 100.0
    assert policy.may_write()


def test_what_costs_more_than_it_saves_is_not_taken_beyond_the_floor() -> None:
    clock = Virtual()
    policy = CheckpointPolicy(clock=clock)
    with policy.paying():
        clock.seconds += FLOOR_SECONDS
    policy.expect(0.5, "site")
    clock.seconds = 10_000.0
    assert not policy.allows(0.1, "site")
    assert policy.allows(1.0, "site")


def test_time_in_which_another_process_had_the_core_is_not_charged() -> None:
    clock = Virtual()
    policy = CheckpointPolicy(clock=clock)
    with policy.paying("site"):
        clock.seconds += 30.0
        clock.others += 29.9
    assert policy.spent == pytest.approx(0.1)
    assert policy.estimate("site") == pytest.approx(0.1)


def test_the_writers_time_counts_where_no_core_is_idle_for_it() -> None:
    clock = Virtual()
    used = [3.0]
    policy = CheckpointPolicy(clock=clock, background=lambda: used[0])
    policy.expect(0.01, "site")
    clock.seconds = 100.0
    assert policy.allows(1.0, "site")
    clock.share = 1.0
    used[0] += 3.0
    assert policy.spent == 3.0  # what it did while a core was idle for it has cost the training nothing
    assert not policy.allows(1.0, "site")


def test_restore_points_leave_enough_for_the_next_end_of_a_nested_loop() -> None:
    clock = Virtual()
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
