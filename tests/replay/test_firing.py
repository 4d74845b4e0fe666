"""How often a statement was to be expected to fire, and why it did not: never a green answer without a sign."""

from __future__ import annotations

import pytest

from flor_dagster.replay.firing import Company, Firing, company_of, why_not
from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab

NEWEST = """\
import flor_dagster as flor
state = [1.0]
for epoch in flor.loop("epoch", range(4)):
    state[0] *= 0.5
    flor.log("loss", state[0])
    {statement}
"""


@pytest.mark.parametrize(
    ("between", "company"),
    [
        ("pass", Company(("loss",), True)),
        ("for i in range(3):\n        if i: break", Company(("loss",), True)),
        ("if epoch: continue", Company((), False)),
        ("def f():\n        return 1", Company(("loss",), True)),
        ("assert epoch", Company((), False)),
    ],
)
def test_what_stands_in_one_block_comes_as_often_unless_something_between_leaves_it(
    between: str, company: Company
) -> None:
    source = NEWEST.format(statement=f'{between}\n    flor.log("asked", 1)')
    line = source.splitlines().index('    flor.log("asked", 1)') + 1
    assert company_of(source, line, "asked") == company


def test_what_stands_under_a_condition_of_its_own_is_expected_as_often_as_nothing() -> None:
    source = NEWEST.format(statement='if epoch:\n        flor.log("asked", 1)')
    assert company_of(source, 7, "asked") == Company((), False)


def test_a_firing_that_is_as_expected_says_nothing_and_any_other_says_so() -> None:
    assert Firing(4, 4).sentence == ""
    assert Firing(3).sentence == "", "nothing tells how often it was to be expected"
    assert Firing(0, why="it stands under `if debug`").sentence == "never fired: it stands under `if debug`"
    assert Firing(1, 4, "as many as of `loss`", "…").sentence == (
        "fired 1 time where 4 were to be expected (as many as of `loss`): …"
    )


def test_why_a_statement_did_not_fire_names_what_stands_around_it_by_the_old_versions_lines() -> None:
    text = """\
import flor_dagster as flor
import math
for epoch in flor.loop("epoch", range(4)):
    if epoch > 5:
        continue
    try:
        pass
    except ValueError:
        while epoch:
            flor.log("asked", 1)
"""
    said = why_not(text, "train.py", 10, [2])
    assert said.index("in `while epoch` (train.py, line 8)") < said.index("in an `except`")
    assert "behind `if epoch > 5:`, which may leave the block (train.py, line 3)" in said
    assert why_not(text, "train.py", 7, []).startswith("it stands behind")
    assert why_not("f = 1\n", "train.py", 1, []) == "the run never came to train.py, line 1"


def test_a_statement_that_its_old_version_never_reaches_is_answered_with_a_sign(lab: Lab) -> None:
    lab.commit({"train.py": NEWEST.format(statement="pass")})
    lab.train()
    lab.write({"train.py": NEWEST.format(statement='if state[0] > 5:\n        flor.log("asked", 1)')})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",))).cells
        assert (answer.cell.status, answer.cell.rows) == ("replayed", 0)
        assert answer.cell.sentence.startswith("never fired: it stands under `if state[0] > 5`")
        assert answer.cell.detail["firing"]["fired"] == 0
        assert "never fired" in workspace.store.why_empty(answer.run.id, "asked")


def test_a_statement_that_comes_more_seldom_than_its_neighbours_is_answered_with_a_sign(lab: Lab) -> None:
    under = NEWEST.replace("    state[0] *= 0.5\n", "    state[0] *= 0.5\n    if epoch == 1: continue\n")
    moved = under.replace('    flor.log("loss", state[0])\n', "").replace(
        "    if epoch == 1: continue\n",
        '    flor.log("loss", state[0])\n    half = state[0] / 2\n    if epoch == 1: continue\n    print(half)\n',
    )
    lab.commit({"train.py": moved.format(statement="pass")})
    lab.train()
    newest = moved.replace("    if epoch == 1: continue\n", "")
    lab.write(
        {
            "train.py": newest.replace("print(half)", 'print(half)\n    flor.log("asked", half)').format(
                statement="pass"
            )
        }
    )
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",))).cells
        assert (answer.cell.status, answer.cell.rows) == ("replayed", 3)
        assert answer.cell.sentence.startswith(
            "fired 3 times where 4 were to be expected (as many as of `loss`, beside which it stands in the newest version): "
        )
        assert "behind `if epoch == 1:`, which may leave the block (train.py, line 7)" in answer.cell.sentence
        assert answer.cell.detail["firing"]["expected"] == 4
