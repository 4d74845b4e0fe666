"""`flor gc` beside questions: what was planned from checkpoints that are gone by then is answered all the same, exactly."""

from __future__ import annotations

import threading

import pytest

from flor_dagster.replay.collecting import Collection
from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab, lab

__all__ = ["lab"]

SCRIPT = """\
import time
import flor_dagster as flor
state = [0.0] * 2000
for epoch in flor.loop("epoch", range(10)):
    for step in flor.loop("step", range(3)):
        state = [value + 0.5 * (step + i) for i, value in enumerate(state)]
        time.sleep(0.02)
        {inner}
    flor.log("loss", state[0])
    {outer}
"""


@pytest.fixture
def trained(lab: Lab) -> Lab:
    lab.commit({"train.py": SCRIPT.format(inner="pass", outer="pass")})
    lab.train()
    return lab


def test_a_question_that_was_planned_before_the_checkpoints_went_is_answered_exactly(trained: Lab) -> None:
    trained.write({"train.py": SCRIPT.format(inner="pass", outer='flor.log("total", sum(state))')})
    with trained.open() as asking, trained.open() as collecting:
        question = Question(("total",))
        assert asking.plan(question).runs[0].todo
        gone: list[Collection] = []

        def collect(_: object) -> None:
            gone.append(collecting.collect(0))

        report = asking.answer(question, on_plan=collect)
        assert [part.kind for part in gone[0].parts] == ["checkpoints"]
        assert gone[0].parts[0].count >= 6
        assert {answer.cell.fidelity for answer in report.cells} == {"exact"}, report.cells
        assert len(asking.store.dataframe("total").dropna()) == 10


def test_collecting_all_the_time_while_replays_go_on_takes_nothing_that_they_need(trained: Lab) -> None:
    trained.write(
        {
            "train.py": SCRIPT.format(
                inner='flor.log("inner", max(state))', outer='flor.log("total", sum(state))'
            )
        }
    )
    done = threading.Event()
    said: list[Collection] = []
    failures: list[BaseException] = []

    def collect() -> None:
        try:
            with trained.open() as workspace:
                while not done.is_set():
                    said.append(workspace.collect(0))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=collect)
    with trained.open() as workspace:
        key = workspace.sync().runs[0].key
        thread.start()
        try:
            reports = [workspace.answer(Question((name,))) for name in ("total", "inner")]
        finally:
            done.set()
            thread.join(60)
        assert failures == []
        for report in reports:
            assert {answer.cell.fidelity for answer in report.cells} == {"exact"}
        assert len(workspace.store.dataframe("inner").dropna()) == 30
        assert len(workspace.store.dataframe("total").dropna()) == 10
        workspace.collect(0)
        rebuilt = workspace.store.rebuild()
        assert (rebuilt.missing, rebuilt.problems) == ((), ())
    assert any(f"{key} is being replayed: everything of it stays" in one.kept for one in said)
