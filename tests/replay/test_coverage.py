"""What was asked and answered is remembered: a later question computes the rest, and the values are those of one question."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flor_dagster.replay.coverage import Coverage, common_of, covered_by_asking
from flor_dagster.replay.model import Question
from flor_dagster.replay.record import read_record
from flor_dagster.replay.workspace import Workspace
from tests.replay.conftest import Lab, bits

SCRIPT = """\
import flor_dagster as flor

total = 0.0
{before}
for epoch in flor.loop("epoch", range(6)):
    for step in flor.loop("step", range(3)):
        total = total * 0.5 + step
        {inner}
        flor.log("step_total", total)
    {outer}
    flor.log("epoch_total", total)
{after}
flor.log("end_total", total)
"""
PLAIN = SCRIPT.format(before="pass", inner="pass", outer="pass", after="pass")
OUTER = SCRIPT.format(before="pass", inner="pass", outer='flor.log("asked", total * 2)', after="pass")
INNER = SCRIPT.format(before="pass", inner='flor.log("asked", total * 2)', outer="pass", after="pass")


@pytest.fixture
def trained(lab: Lab) -> Lab:
    lab.commit({"train.py": PLAIN})
    lab.train()
    return lab


def ask(workspace: Workspace, *epochs: int | str, name: str = "asked", **more: object) -> tuple[str, int]:
    """The cell's status, and how often the replay executed the end of an epoch."""
    iterations = {"epoch": epochs} if epochs else None
    report = workspace.answer(Question((name,), iterations=iterations, **more))  # type: ignore[arg-type]
    lab = workspace.root
    emitted = sum(Lab.emitted(_At(lab), replay.id, "epoch_total") for replay in report.replays)
    assert [a.cell.fidelity for a in report.cells] == ["exact"], report.cells[0].cell.sentence
    return report.cells[0].cell.status, emitted


class _At(Lab):
    """A project that is there already."""

    def __init__(self, root: Path) -> None:
        self.root = root


def values(workspace: Workspace, name: str = "asked") -> list[tuple[object, ...]]:
    frame = workspace.store.dataframe(name).drop(columns="run")
    frame = frame[frame[name].notna()]
    return [tuple(bits(v) for v in row) for row in frame.itertuples(index=False)]


def in_one(lab: Lab, text: str) -> list[tuple[object, ...]]:
    """The values where all was asked at once."""
    other = Lab(lab.root.parent / "other")
    other.commit({"train.py": PLAIN})
    other.train()
    other.write({"train.py": text})
    with other.open() as workspace:
        workspace.answer(Question(("asked",), warm=False))
        return values(workspace)


@pytest.mark.parametrize("text", [OUTER, pytest.param(INNER, marks=pytest.mark.slow)], ids=["outer", "inner"])
def test_what_was_asked_before_is_not_computed_again(trained: Lab, text: str) -> None:
    trained.write({"train.py": text})
    with trained.open() as workspace:
        assert ask(workspace, 0, 1) == ("open", 2)
        assert ask(workspace, 1) == ("open", 0), "it was answered before"
        assert ask(workspace, "0:4") == ("open", 2), "only epochs 2 and 3"
        status, emitted = ask(workspace)
        assert (status, emitted) == ("replayed", 2), "only epochs 4 and 5"
        assert values(workspace) == in_one(trained, text)
        (cell,) = workspace.store.cells()
        assert cell.rows == len(values(workspace))
        assert ask(workspace) == ("replayed", 0)


def test_the_last_missing_iterations_settle_the_cell(trained: Lab) -> None:
    trained.write({"train.py": OUTER})
    with trained.open() as workspace:
        assert ask(workspace, "3:") == ("open", 3)
        status, _ = ask(workspace, "0:3")
        assert status == "replayed"
        assert values(workspace) == in_one(trained, OUTER)


def test_a_statement_that_also_stands_behind_the_loop_stays_open(lab: Lab) -> None:
    function = "def tell(total):\n    {body}\n    return total\n\n\n"
    text = PLAIN.replace("total = 0.0\n", "total = tell(0.0)\n").replace(
        "import flor_dagster as flor\n\n", "import flor_dagster as flor\n\n\n" + function, 1
    )
    text = text.replace('    pass\n    flor.log("epoch_total"', '    tell(total)\n    flor.log("epoch_total"')
    lab.commit({"train.py": text.format(body="pass")})
    lab.train()
    lab.write({"train.py": text.format(body='flor.log("asked", total * 2)')})
    with lab.open() as workspace:
        assert ask(workspace, "0:6")[0] == "open", "the call before the loop was not asked for"
        assert ask(workspace)[0] == "replayed"
        assert workspace.store.cells()[0].rows == 7


def test_who_distrusts_checkpoints_has_everything_computed(trained: Lab) -> None:
    trained.write({"train.py": OUTER})
    with trained.open() as workspace:
        ask(workspace, "0:4")
        assert ask(workspace, without_checkpoints=True) == ("replayed", 6)
        assert values(workspace) == in_one(trained, OUTER)


def test_a_failed_question_forgets_nothing(trained: Lab) -> None:
    trained.write({"train.py": OUTER})
    with trained.open() as workspace:
        ask(workspace, "0:3")
        first = values(workspace)
        broken = workspace.answer(Question(("asked",), timeout_seconds=1e-3))
        assert broken.cells[0].cell.status == "failed"
        assert values(workspace) == first
        assert ask(workspace, 2) == ("open", 0)
        assert ask(workspace) == ("replayed", 3)
        assert values(workspace) == in_one(trained, OUTER)


coverages = st.dictionaries(
    st.sampled_from(["epoch#0", "epoch#0[1]/step#0", "epoch#0[2]/step#0", "epoch#1"]),
    st.frozensets(st.integers(0, 4)),
).map(Coverage)
PLACES = [
    (path, i) for path in ("epoch#0", "epoch#0[1]/step#0", "epoch#0[2]/step#0", "epoch#1") for i in range(5)
]


@given(coverages, coverages)
def test_coverage_is_a_set_of_iterations(one: Coverage, other: Coverage) -> None:
    for place in PLACES:
        assert one.with_(other).covers(*place) == (one.covers(*place) or other.covers(*place))
        assert one.common(other).covers(*place) == (one.covers(*place) and other.covers(*place))
    assert one.holds(other) == all(one.covers(p, i) for p, some in other.loops.items() for i in some)
    assert common_of([]).count == 0


def test_only_the_innermost_named_loops_are_covered(trained: Lab) -> None:
    with trained.open() as workspace:
        workspace.sync()
        run = workspace.runs()[0]
    record = read_record(trained.root / ".flor" / "runs" / run.id / "journal.0.jsonl")
    assert covered_by_asking(record, {"epoch": (1, "last")}).loops == {"epoch#0": {1, 5}}
    nested = covered_by_asking(record, {"epoch": (1,), "step": (0, 2)})
    assert nested.loops == {"epoch#0[1]/step#0": {0, 2}}
    assert nested.covers("epoch#0[1]/step#0", 2)
    assert not nested.covers("epoch#0", 1)


def test_two_that_ask_for_the_same_iterations_at_once_compute_them_once(trained: Lab) -> None:
    """And what one of them computed is not forgotten by the other, which had planned before it was known."""
    trained.write({"train.py": OUTER})
    with trained.open() as one, trained.open() as other:
        same = Question(("asked",), iterations={"epoch": (2,)}, warm=False)
        late = Question(("asked",), iterations={"epoch": (4,)}, warm=False)
        earlier: list[int] = []

        def answer_first(_: object) -> None:  # the other one has planned, and has not begun
            earlier.append(one.answer(same).children)

        assert other.answer(same, on_plan=answer_first).children == 0
        assert other.answer(late, on_plan=lambda _: one.answer(Question(("asked",), iterations={"epoch": (3,)}, warm=False))).children == 1  # fmt: skip
        assert earlier == [1]
        assert ask(one, 2, 3, 4, warm=False) == ("open", 0)
