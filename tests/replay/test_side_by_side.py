"""Loops that run side by side in threads: their order is nobody's record, and no answer among them is called exact."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from flor_dagster.replay.model import Question
from flor_dagster.replay.record import Execution, Record, RunRecord
from flor_dagster.replay.reproducing import verify_run
from flor_dagster.replay.strands import by_strand, loops_beside
from tests.replay.batch_lab import Batch, Case
from tests.replay.conftest import Lab
from tests.replay.oracle_lab import Asked

JITTER = """\
import os, random, threading, time
import flor_dagster as flor
def pause():
    time.sleep(int.from_bytes(os.urandom(1), "big") / 30000)
def together(*works):
    threads = [threading.Thread(target=work) for work in works]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
"""
APART = (
    JITTER
    + """
def one():
    rng, total = random.Random(1), 0.0
    for epoch in flor.loop("one", range(6)):
        pause()
        total += rng.random()
        #? flor.log("ASKED", total * 2)
        flor.log("loss", total)
def two():
    rng, total = random.Random(2), 0.0
    for epoch in flor.loop("two", range(6)):
        for step in flor.loop("step", range(2)):
            pause()
            total += rng.random()
            flor.log("part", total)
        flor.log("mean", total)
together(one, two)
#? flor.log("ASKED_after", 1)
flor.log("end", 1)
"""
)
SHARED = (
    JITTER
    + """
counter = {"n": 0}
def one():
    for epoch in flor.loop("one", range(6)):
        pause()
        counter["n"] += 1
        #? flor.log("ASKED", counter["n"])
        flor.log("mine", epoch)
def two():
    for epoch in flor.loop("two", range(6)):
        pause()
        counter["n"] += 1
        flor.log("others", epoch)
together(one, two)
"""
)
SEEN = SHARED.replace('flor.log("mine", epoch)', 'flor.log("mine", counter["n"])').replace(
    'flor.log("others", epoch)', 'flor.log("others", counter["n"])'
)
TASKS = """\
import asyncio
import flor_dagster as flor
counter = {"n": 0}
async def work(name):
    for epoch in flor.loop(name, range(4)):
        await asyncio.sleep(0)
        counter["n"] += 1
        #? flor.log("ASKED", counter["n"])
        flor.log("count", counter["n"])
async def main():
    await asyncio.gather(work("one"), work("two"))
asyncio.run(main())
"""


Answers = tuple[Batch, dict[str, dict[str, Asked]]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    folder = tmp_path_factory.mktemp("beside")
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("FLOR_")]:
            patch.delenv(name)
        patch.setenv("FLOR_CACHE", str(folder / "cache"))
        with Batch(folder) as batch:
            yield batch, batch.ask({
                "apart": Case(APART), "shared": Case(SHARED, oracle=False), "seen": Case(SEEN, oracle=False), "tasks": Case(TASKS),
            })  # fmt: skip


@pytest.fixture
def asked(answers: Answers) -> dict[str, dict[str, Asked]]:
    return answers[1]


def test_a_training_whose_threads_record_the_same_again_is_verified_exact(answers: Answers) -> None:
    with answers[0].lab.open() as workspace:
        run = next(r for r in workspace.runs() if r.entrypoint == "apart.py")
        done = verify_run(workspace, run.key)
    assert done.fidelity == "exact", done.sentence


def test_threads_that_share_nothing_are_answered_and_do_not_diverge_for_their_order(
    asked: dict[str, dict[str, Asked]],
) -> None:
    for one in asked["apart"].values():
        assert (one.answer.cell.status, one.fidelity) == ("replayed", "unverified"), one.sentence
        assert one.right
    assert "ran side by side in threads" in asked["apart"]["asked"].sentence
    assert "`one`" in asked["apart"]["asked"].sentence


def test_an_answer_that_hangs_on_the_order_of_threads_is_never_exact(
    asked: dict[str, dict[str, Asked]],
) -> None:
    one = asked["shared"]["asked"]
    assert one.fidelity == "unverified"
    assert "what they share may differ" in one.sentence


def test_records_that_hang_on_the_order_of_threads_diverge(asked: dict[str, dict[str, Asked]]) -> None:
    assert asked["seen"]["asked"].fidelity == "diverged", asked["seen"]["asked"].sentence


def test_tasks_of_one_thread_take_turns_by_the_programs_doing(asked: dict[str, dict[str, Asked]]) -> None:
    one = asked["tasks"]["asked"]
    assert one.fidelity == "exact", one.sentence
    assert one.right


def _record(*loops: tuple[str, int, int | None, int], outside: tuple[int, ...] = ()) -> RunRecord:
    """Outermost loops (name, opened, closed, thread), and positions of records that are in none."""
    executions = {
        number: Execution(number, f"{name}#0", name, None, None, "t.py", "f", 1, 0, opened, 0, closed=closed, thread=thread)
        for number, (name, opened, closed, thread) in enumerate(loops)
    }  # fmt: skip
    records = [Record(position, "", "x", "t.py", 1, 0) for position in outside]
    return RunRecord({}, executions, {}, records, [], {}, {}, {}, None)


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        (_record(("a", 1, 9, 7), ("b", 3, 12, 8)), "`a` and `b`"),
        (_record(("a", 1, 9, 7), ("b", 10, 12, 8)), ""),
        (_record(("a", 1, None, 7), ("b", 10, 12, 0)), "`a` and `b`"),
        (_record(("a", 1, 9, 0), ("b", 3, 12, 0)), ""),
        (_record(("a", 1, 9, 7), ("b", 3, 12, 7)), ""),
        (_record(("a", 1, 9, 7), outside=(0, 20)), ""),
        (_record(("a", 1, 9, 7), outside=(5,)), "`a`"),
        (_record(("a", 1, 9, 0), outside=(5,)), ""),
        (_record(("a", 1, 20, 7), ("b", 2, 3, 8), ("c", 4, 5, 9)), "`a`, `b` and `c`"),
    ],
)
def test_what_ran_beside_a_thread_is_seen_from_the_journal(record: RunRecord, wanted: str) -> None:
    assert loops_beside(record) == wanted


def test_records_keep_their_order_within_a_loop_and_what_only_one_side_has_is_kept() -> None:
    def of(*paths: str) -> list[Record]:
        return [Record(n, path, "x", "t.py", 1, n) for n, path in enumerate(paths)]

    pairs = by_strand(of("a#0[0]", "b#0[0]", "a#0[0]/s#0[1]", ""), of("b#0[0]", "a#0[0]", "c#0[0]"))
    assert [([r.path for r in one], [r.path for r in other]) for one, other in pairs] == [
        (["a#0[0]", "a#0[0]/s#0[1]"], ["a#0[0]"]), (["b#0[0]"], ["b#0[0]"]), ([""], []), ([], ["c#0[0]"]),
    ]  # fmt: skip


TRIALS = """\
import time
from concurrent.futures import {pool}

import flor_dagster as flor


def trial(k):
    with flor.run(f"trial-{{k}}", args={{"k": k}}):
        weight = float(k)
        for epoch in flor.loop("epoch", range(3)):
            weight += 0.5
            time.sleep(0.01)
            flor.log("weight", weight)
            {asked}


if __name__ == "__main__":
    with {pool}(3) as pool:
        list(pool.map(trial, (1, 2, 3)))
"""


def test_each_of_several_runs_that_ran_in_threads_is_asked_for_its_own_values(lab: Lab) -> None:
    lab.commit({"train.py": TRIALS.format(pool="ThreadPoolExecutor", asked="")})
    lab.train()
    lab.commit({"train.py": TRIALS.format(pool="ThreadPoolExecutor", asked='flor.log("twice", weight * 2)')})

    with lab.open() as workspace:
        workspace.sync()
        cells = workspace.answer(Question(("twice",))).cells
        frame = workspace.store.dataframe("weight", "twice", fidelity="any")

    assert [c.cell.fidelity for c in cells] == ["unverified"] * 3, cells
    assert all("other runs ran beside" in c.cell.sentence for c in cells)
    assert len(frame) == 9
    assert list(frame["twice"]) == [2 * weight for weight in frame["weight"]]


def test_a_run_of_a_pools_process_is_refused_and_the_reason_is_said(lab: Lab) -> None:
    lab.commit({"train.py": TRIALS.format(pool="ProcessPoolExecutor", asked="")})
    lab.train()
    lab.commit({"train.py": TRIALS.format(pool="ProcessPoolExecutor", asked='flor.log("twice", weight * 2)')})

    with lab.open() as workspace:
        workspace.sync()
        cells = workspace.answer(Question(("twice",))).cells

    assert [c.cell.status for c in cells] == ["refused"] * 3
    assert all("in a process that the script made" in c.cell.sentence for c in cells)
