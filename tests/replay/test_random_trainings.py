"""Whatever a training is made of, an exact answer about it is the right one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.replay.batch_lab import Batch, Case
from tests.replay.training_lab import write_training

pytest.importorskip("torch")
pytestmark = pytest.mark.ci


def _ask(folder: Path, seeds: range) -> Counter[str]:
    made = {f"t{seed}": write_training(seed) for seed in seeds}
    cases = {
        name: Case(
            one.text,
            one.files,
            fails=one.fails,
            data=one.data,
            between=one.between,
        )
        for name, one in made.items()
    }
    found: Counter[str] = Counter()
    wrong: list[str] = []
    with Batch(folder, "numpy", "orjson", "torch") as batch:
        for name, answers in batch.ask(cases).items():
            for asked, answer in answers.items():
                found[answer.fidelity or answer.answer.cell.status] += 1
                changed = cases[name].between is not None
                alarm = answer.fidelity == "diverged" and not changed
                if (answer.fidelity == "exact" and not answer.right) or alarm:
                    found["wrong"] += not alarm
                    wrong.append(
                        f"{name} {asked} {answer.fidelity}: {answer.sentence}\n{answer.values}\ninstead of {answer.wanted}\n"
                        f"{cases[name].text}"
                    )
    assert not wrong, "\n".join(wrong)
    return found


def test_an_exact_answer_about_a_random_training_is_right(tmp_path: Path) -> None:
    found = _ask(tmp_path, range(8))
    assert found["exact"] > found.total() / 2, found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(1000, 2000, 50))
def test_an_exact_answer_about_any_random_training_is_right(tmp_path: Path, first: int) -> None:
    assert _ask(tmp_path, range(first, first + 50))["exact"]
