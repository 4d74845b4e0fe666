"""The time that checkpoints cost stays in its budget at every prefix of a run."""

from __future__ import annotations

import random

import pytest

from flor_dagster.recording.policy import FLOOR_SECONDS, OVERHEAD, CheckpointPolicy


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
