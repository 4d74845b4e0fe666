"""A tolerance is declared by who asks, stored as such, and never called exact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flor_dagster.replay.model import Question
from flor_dagster.replay.reproducing import verify_run
from tests.replay.conftest import Lab

SCRIPT = """\
import flor_dagster as flor
total = 1.0
for epoch in flor.loop("epoch", range(3)):
    total *= 1.1
    flor.log("loss", total)
    flor.log("count", epoch)
    {more}
"""


@pytest.fixture
def altered(lab: Lab) -> Lab:
    """A run whose record is a little off, as another machine's would be."""
    lab.commit({"train.py": SCRIPT.format(more="")})
    lab.train()
    (journal,) = (lab.root / ".flor" / "runs").rglob("journal.0.jsonl")
    change(journal, lambda value: value * (1 + 1e-9) if isinstance(value, float) else value)
    lab.write({"train.py": SCRIPT.format(more='flor.log("asked", total * 2)')})
    return lab


def change(journal: Path, how: object) -> None:
    lines = journal.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line[1:2].isdigit():
            call, context, value = json.loads(line)
            lines[number] = json.dumps([call, context, how(value)], separators=(",", ":")) + "\n"  # type: ignore[operator]
    journal.write_text("".join(lines))


def test_it_is_within_what_was_declared_and_diverged_otherwise(altered: Lab) -> None:
    with altered.open() as workspace:
        for tolerance, status, fidelity in (
            (None, "failed", "diverged"),
            ({"*": 1e-12}, "failed", "diverged"),
            ({"count": 0.5}, "failed", "diverged"),
            ({"loss": 1e-6}, "replayed", "within tolerance"),
        ):
            (answer,) = workspace.answer(Question(("asked",), tolerance=tolerance)).cells
            assert (answer.cell.status, answer.cell.fidelity) == (status, fidelity), answer.cell.sentence
        assert "`loss` differs by 1e-09 at most, 1e-06 is declared" in answer.cell.sentence
        frame = workspace.store.dataframe("asked", fidelity="exact")
        assert frame["asked"].isna().all() if "asked" in frame else frame.empty
        assert verify_run(workspace, answer.run.id, tolerance={"*": 1e-6}).fidelity == "within tolerance"


def test_a_number_that_is_counted_is_compared_exactly(altered: Lab) -> None:
    (journal,) = (altered.root / ".flor" / "runs").rglob("journal.0.jsonl")
    change(journal, lambda value: value + 1 if isinstance(value, int) else value)
    with altered.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",), tolerance={"*": 0.9})).cells
        assert answer.cell.fidelity == "diverged", answer.cell.sentence
