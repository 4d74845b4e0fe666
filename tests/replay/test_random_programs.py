"""Whatever a program does with its objects, an exact answer about all of them is the right one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.replay.batch_lab import Batch, Case
from tests.replay.program_lab import HELPERS, write

pytestmark = pytest.mark.ci


def _ask(folder: Path, seeds: range) -> Counter[str]:
    cases = {f"p{seed}": Case(write(seed), {"helpers.py": HELPERS}) for seed in seeds}
    found: Counter[str] = Counter()
    wrong: list[str] = []
    with Batch(folder, "numpy", "orjson") as batch:
        for name, answers in batch.ask(cases).items():
            for asked, answer in answers.items():
                found[answer.fidelity or "refused"] += 1
                found["skipped"] += not any(answer.steps.get(r, 0) for r in ("was", "was2"))
                if answer.fidelity == "exact" and not answer.right:
                    wrong.append(
                        f"{name} {asked}: {answer.values} instead of {answer.wanted}\n{cases[name].text}"
                    )
    assert not wrong, "\n".join(wrong)
    return found


def test_an_exact_answer_about_a_random_program_is_right(tmp_path: Path) -> None:
    found = _ask(tmp_path, range(8))
    assert found["exact"] > found.total() / 4, found
    assert found["skipped"], found


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1400, 50))
def test_an_exact_answer_about_any_random_program_is_right(tmp_path: Path, first: int) -> None:
    assert _ask(tmp_path, range(first, first + 50))["exact"]
