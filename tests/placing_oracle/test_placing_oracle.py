"""No wrong value without a sign: random programs, refactored, with a statement written in the result and executed in the old one."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.placing_oracle.judging import Case, answer, case_of, other_places, right_place

SMALL, WHOLE = 60, 2000


def told(case: Case, values: object, placed: dict[str, str] | None) -> str:
    old = "\n".join(f"--- {name}\n{text}" for name, text in (placed or {}).items())
    new = "\n".join(f"--- {name}\n{text}" for name, text in case.new.items())
    return f"seed {case.seed} {case.done}: {values} for one of {case.right}\nNEWEST\n{new}\nPLACED\n{old}"


def judge(seeds: range, elsewhere: int) -> Counter[str]:
    """Judge cases; a wrong value under a certain place fails."""
    counted: Counter[str] = Counter()
    for seed in seeds:
        case = case_of(seed)
        if case is None:
            continue
        counted["cases"] += 1
        found = answer(case)
        counted[found.kind] += 1
        assert not (found.is_wrong(case) and found.passes()), told(case, found.values, found.placed)
        right = right_place(case)
        if right is not None:
            counted["right places"] += 1
            counted["doubted"] += not right.passes()
        for other in other_places(case, random.Random(seed), elsewhere):
            wrong = other.is_wrong(case)
            counted["wrong places"] += wrong
            assert not (wrong and other.passes()), told(case, other.values, other.placed)
    return counted


def test_no_wrong_value_comes_without_a_sign() -> None:
    counted = judge(range(SMALL), elsewhere=1)
    assert counted["cases"] >= SMALL // 2
    assert counted["wrong places"] >= SMALL // 3
    assert counted["doubted"] <= 0.1 * counted["right places"]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_no_wrong_value_comes_without_a_sign_in_two_thousand_programs(part: int) -> None:
    size = WHOLE // 20
    counted = judge(range(part * size, (part + 1) * size), elsewhere=4)
    assert counted["doubted"] <= 0.1 * counted["right places"]
