"""Segments are contiguous, complete, begin at restore points and are balanced; together they say what one replay says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flor_dagster.recording.journal import read_journal
from flor_dagster.replay.model import Question
from flor_dagster.replay.segments import Costs, choose, contiguous, divide, makespan
from tests.replay.conftest import Lab, bits

pytestmark = pytest.mark.ci


@st.composite
def some_costs(draw: st.DrawFn) -> Costs:
    count = draw(st.integers(1, 30))
    first = draw(st.integers(0, 5))
    seconds = draw(st.lists(st.floats(0.0, 10.0), min_size=count, max_size=count))
    entries = sorted(draw(st.sets(st.integers(first + 1, first + count), max_size=count)))
    wanted = draw(st.none() | st.frozensets(st.integers(first, first + count - 1), min_size=1))
    goes_on = draw(st.booleans())
    tail = draw(st.floats(0.0, 10.0)) if goes_on else 0.0
    entries = [e for e in entries if e <= first + count - 1]
    return Costs(draw(st.floats(0.0, 5.0)), tuple(seconds), tail, first, tuple(entries), wanted, goes_on)


@given(some_costs(), st.integers(1, 6))
def test_segments_hold_every_wanted_iteration_once_and_begin_where_they_may(costs: Costs, parts: int) -> None:
    for bounds in (contiguous(costs), divide(costs, parts)):
        for begin, end in bounds:
            assert costs.first <= begin <= end <= costs.last
            assert begin == costs.first or begin in costs.entries
        assert all(one[1] < other[0] for one, other in itertools.pairwise(bounds))
        inside = {i for begin, end in bounds for i in range(begin, end + 1)}
        wanted = set(range(costs.first, costs.last + 1)) if costs.wanted is None else costs.wanted
        assert wanted <= inside
        assert not costs.goes_on or bounds[-1][1] == costs.last, "what comes after the loop is left out"


@given(st.integers(2, 40), st.integers(2, 5))
def test_equal_iterations_are_shared_equally(count: int, parts: int) -> None:
    costs = Costs(0.1, (1.0,) * count, 0.0, 0, tuple(range(1, count)), None, goes_on=False)
    sizes = [end - begin + 1 for begin, end in divide(costs, parts)]
    assert sum(sizes) == count
    assert max(sizes) == -(-count // min(parts, count))


def test_one_worker_and_cheap_runs_are_not_split() -> None:
    cheap = Costs(1.0, (0.01,) * 20, 0.0, 0, tuple(range(1, 20)), None, goes_on=False)
    dear = Costs(1.0, (5.0,) * 20, 0.0, 0, tuple(range(1, 20)), None, goes_on=False)
    assert choose([dear], [0.0], 1) == [((0, 19),)]
    assert choose([cheap], [0.0], 4) == [((0, 19),)]
    assert len(choose([dear], [0.0], 2)[0] or ()) == 2
    assert choose([dear] * 4, [0.0] * 4, 2) == [((0, 19),)] * 4, "enough runs keep every worker busy"


def test_what_is_not_wanted_is_jumped_over_where_that_pays() -> None:
    costs = Costs(1.0, (5.0,) * 20, 0.0, 0, tuple(range(1, 20)), frozenset({0, 5, 6, 19}), goes_on=False)
    assert contiguous(costs) == ((0, 0), (5, 6), (19, 19))


def test_the_longest_unit_comes_first() -> None:
    assert makespan([1.0, 1.0, 2.0], 2) == 2.0


SCRIPT = """\
import random
import numpy as np
import flor_dagster as flor

random.seed(1)
weights = np.zeros(50)
flor.log("setup", 1)
def train():
    global weights
    best = None
    for epoch in flor.loop("epoch", range(6)):
        for step in flor.loop("step", range(3)):
            weights = weights + random.random() * np.arange(50)
            {inner}
            flor.log("first", float(weights[1]))
        {outer}
        best = max(best or 0.0, float(weights.sum()))
        flor.log("total", best)
    {tail}
    return best
flor.log("best", train())
"""
INNER = 'flor.log("spread", float(weights.max()) + random.getstate()[1][0])'
OUTER = 'flor.log("middle", float(np.median(weights)) + step)'
TAIL = 'flor.log("last", [float(weights[2]), epoch, best])'


def files(**added: str) -> dict[str, str]:
    blank = {"inner": "pass", "outer": "pass", "tail": "pass"}
    return {"train.py": SCRIPT.format(**{**blank, **added})}


def values(lab: Lab, name: str) -> list[object]:
    with lab.open() as workspace:
        workspace.sync()
        return [str(bits(v)) for v in workspace.store.dataframe(name)[name].dropna()]


@pytest.fixture
def trained(lab: Lab) -> Lab:
    lab.commit(files())
    lab.train()
    lab.write(files(inner=INNER, outer=OUTER, tail=TAIL))
    return lab


def test_segments_give_the_values_and_the_journal_of_one_replay(trained: Lab) -> None:
    oracle = Lab(trained.root.parent / "oracle")
    oracle.commit(files(inner=INNER, outer=OUTER, tail=TAIL))
    oracle.train()
    names = ("spread", "middle", "last")
    with trained.open() as workspace:
        report = workspace.answer(Question(names, segments=3, workers=2))
        for answer in report.cells:
            assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence
            assert answer.cell.detail["segments"] == 3
        assert report.children == 3
        (journal,) = trained.replay_journals(report.replays[0].id)
    emitted = [e.parts for e in read_journal(journal)]
    assert [p[0] for p in emitted].count("flor") == 1
    assert [p[0] for p in emitted].count("z") == 1
    assert trained.emitted(report.replays[0].id, "setup") == 1, "every segment's setup is in the journal"
    assert trained.emitted(report.replays[0].id, "first") == 18
    for name in names:
        assert values(trained, name) == values(oracle, name)


def test_wanted_iterations_that_lie_apart_are_segments_of_their_own(
    trained: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flor_dagster.replay.segments._before", lambda *_: -1e9)  # a start costs nothing
    with trained.open() as workspace:
        report = workspace.answer(Question(("spread",), iterations={"epoch": (0, 4)}, workers=1))
        cell = report.cells[0].cell
        assert cell.fidelity == "exact", cell.sentence
        assert cell.rows == 6
        assert trained.emitted(report.replays[0].id, "first") == 6


def test_a_segment_that_fails_leads_to_the_run_in_one_piece(
    trained: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody took away what a segment begins with: nothing is guessed."""
    for path in (trained.root / ".flor" / "checkpoints" / "manifests").rglob("1.*.json"):
        path.unlink()
    said: list[str] = []
    with trained.open() as workspace:
        report = workspace.answer(Question(("spread",), segments=3, workers=2), on_line=said.append)
    cell = report.cells[0].cell
    assert cell.status == "failed" or cell.fidelity == "exact", cell.sentence
    assert cell.status == "replayed" or "checkpoint" in cell.sentence
