"""The oracle on torch: warm and cold, one and two segments, both depths: always the bits that the training would have logged."""

from __future__ import annotations

import sqlite3

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab
from tests.replay.test_torch import INNER, OUTER, column, files

pytest.importorskip("torch", reason="torch is not installed: `pip install --group torch` runs these tests")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_every_way_to_replay_gives_the_bits_of_the_oracle(lab: Lab, workers: int) -> None:
    lab.commit(files(workers=workers))
    lab.train(seed=5)
    lab.train(seed=6)
    oracle = Lab(lab.root.parent / "oracle")
    oracle.commit(files(outer=OUTER, inner=INNER, workers=workers))
    oracle.train(seed=5)
    oracle.train(seed=6)
    lab.write(files(outer=OUTER, inner=INNER, workers=workers))
    for name in ("outer", "inner"):
        wanted = column(oracle, name)
        for warm in (True, False):
            for segments in (1, 2):
                with lab.open() as workspace:
                    report = workspace.answer(Question((name,), warm=warm, segments=segments, workers=2))
                    for answer in report.cells:
                        assert answer.cell.fidelity == "exact", answer.cell.sentence
                        assert answer.cell.detail["segments"] == segments
                    assert workspace.backend(2).unsafe == {}
                assert column(lab, name) == wanted, (name, warm, segments)
                with sqlite3.connect(lab.root / ".flor" / "flor.db") as connection:
                    connection.execute("delete from cells")
