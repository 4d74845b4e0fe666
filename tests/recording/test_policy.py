"""The time that checkpoints cost stays in its budget at every prefix of a run."""

from __future__ import annotations

import random

import pytest

from flor_dagster.recording.policy import FLOOR_SECONDS, OVERHEAD, CheckpointPolicy, choose_policy


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("cost", [0.001, 0.05, 0.4])
def test_the_budget_holds_at_every_prefix(seed: int, cost: float) -> None:
    choice = random.Random(seed)
    now = [0.0]
    policy = CheckpointPolicy(clock=lambda: now[0])
    spent = 0.0
    policy.expect(cost, "site")
    for _ in range(3000):
        work = choice.uniform(0.01, 2.0)
        now[0] += work
        if policy.allows(work, "site"):
            real = cost * choice.uniform(0.85, 1.0)
            now[0] += real
            spent += real
            policy.charge(real, "site")
        assert spent <= max(FLOOR_SECONDS, OVERHEAD * (now[0] - spent)) + 1e-9
    assert policy.taken > 2


def test_what_costs_more_than_it_saves_is_not_taken_beyond_the_floor() -> None:
    now = [0.0]
    policy = CheckpointPolicy(clock=lambda: now[0])
    policy.spend(FLOOR_SECONDS)
    policy.expect(0.5, "site")
    now[0] = 10_000.0
    assert not policy.allows(0.1, "site")
    assert policy.allows(1.0, "site")


def test_the_policy_can_be_set_to_all_or_none_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOR_CHECKPOINTS", "all")
    policy = choose_policy()
    policy.charge(1000.0)
    assert policy.allows(0.0)
    monkeypatch.setenv("FLOR_CHECKPOINTS", "none")
    assert not choose_policy().allows(1000.0)
    monkeypatch.setenv("FLOR_CHECKPOINTS", "some")
    with pytest.raises(ValueError, match="auto, all or none"):
        choose_policy()
