"""Two verdicts: the place of a statement and its replay. A likely place is answered once a person confirmed it."""

from __future__ import annotations

from dataclasses import replace

import pytest

import flor_dagster as flor
from flor_dagster.placecheck import PlaceVerdict, Spot
from flor_dagster.propagation import Placement, Statement
from flor_dagster.replay.model import Question
from flor_dagster.replay.places import CONTRADICTED, Judged, digest_of
from flor_dagster.replay.placing import PlacedVersion
from flor_dagster.replay.rebuilding import rebuild_project
from tests.replay.conftest import Lab
from tests.replay.test_places import row

NEWEST = """\
import flor_dagster as flor
state = [1.0]
for epoch in flor.loop("epoch", range(4)):
    state[0] *= 0.9
    flor.log("loss", state[0])
    {statement}
"""
ROUNDED = NEWEST.replace("    flor.log", "    state[0] = round(state[0], 2)\n    flor.log", 1)
ASKED = 'flor.log("asked", state[0] * 2)'


def test_a_likely_place_is_not_answered_before_a_person_confirmed_it_and_its_values_say_so(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.commit({"train.py": ROUNDED.format(statement="pass")})
    lab.train()
    lab.write({"train.py": NEWEST.format(statement=ASKED)})
    monkeypatch.chdir(lab.root)
    report = flor.hindsight("asked")
    (answer,) = report.cells
    assert (answer.cell.status, answer.cell.place, report.children) == ("open", "likely", 0)
    assert report.unconfirmed == (answer,)
    assert not report.complete
    assert "`state = …` comes before the place" in answer.cell.sentence
    assert "--accept-likely" in answer.cell.sentence
    assert f"+    {ASKED}" in answer.cell.detail["diff"]
    (part,) = flor.plan("asked").runs
    ((statement, likely),) = part.likely
    assert (part.todo, part.settled, statement.key, likely.waits) == ((), (), "asked", True)
    with lab.open() as workspace:
        assert "its place" in workspace.store.why_empty(answer.run.id, "asked")

    report = flor.hindsight("asked", accept_likely=True)
    (answer,) = report.cells
    assert (answer.cell.status, answer.cell.fidelity, answer.cell.place) == ("replayed", "exact", "confirmed")
    assert answer.cell.sentence.startswith("4 values, exact, place confirmed: ")
    assert "its place is likely, confirmed by " in answer.cell.sentence
    frame = flor.dataframe("loss", "asked", provenance=True)
    assert list(frame["asked"]) == [2 * loss for loss in frame["loss"]]
    assert set(frame["asked_place"]) == {"confirmed"}
    assert set(frame["loss_place"]) == {"certain"}, "a run's own statement stands where its author put it"
    assert {run: set(said) for run, said in frame.attrs["places"].items()} == {answer.run.key: {"asked"}}
    with lab.open() as workspace:
        shown = workspace.store.query("SELECT DISTINCT name, place FROM log_view_long ORDER BY name")
        assert list(shown["place"]) == ["confirmed", "certain"]

    rebuild_project(lab.root)
    with lab.open() as workspace:
        before = len(workspace.store.replays())
        (again,) = workspace.answer(Question(("asked",))).cells
        assert (again.cell.place, len(workspace.store.replays())) == ("confirmed", before), (
            "it stays confirmed"
        )
        (known,) = workspace.store.placements(again.statement.id)
        moved = replace(known, place="of a later release", confirmed=None, confirmed_by="")
        workspace.store.save_placement(moved)
        (part,) = workspace.plan(Question(("asked",))).runs
        assert part.settled == (), "values of a place that was found anew are no answer"


def test_a_certain_place_stands_beside_the_fidelity(lab: Lab) -> None:
    lab.commit({"train.py": NEWEST.format(statement="pass")})
    lab.train()
    lab.write({"train.py": NEWEST.format(statement=ASKED)})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",), accept_likely=True)).cells
        assert (answer.cell.fidelity, answer.cell.place) == ("exact", "certain")
        assert answer.cell.sentence.startswith("4 values, exact, place certain: ")
        assert answer.placement is not None
        assert (answer.placement.said, answer.placement.confirmed) == ("certain", None), "nothing to confirm"
        (recorded,) = workspace.answer(Question(("loss",))).cells
        assert (recorded.cell.fidelity, recorded.cell.place) == ("recorded", "certain")


def test_a_contradicted_place_is_a_refusal_with_the_second_opinions_sentence() -> None:
    statement = Statement("asked", "state[0]", (5, 5), "<module>", ("epoch",), 0)
    placement = Placement(statement, "placed", (6, 6), 12.0, (), (), "+ flor.log(…)")
    verdict = PlaceVerdict("contradicted", ("`state = …` comes before it",))
    asked = row("a" * 40, "train.py", NEWEST.format(statement='flor.log("slope", slope)'))
    placed = PlacedVersion(
        placements={asked.id: ("train.py", placement)}, judged={asked.id: Judged(verdict, "a digest")}
    )
    found = placed.row(asked, "b" * 40)
    assert (found.status, found.kind, found.said) == ("refused", CONTRADICTED, "contradicted")
    assert found.sentence == (
        "the place found for it, train.py:6, is not its own: `state = …` comes before it"
    )


CLIPPED = """\
import flor_dagster as flor


def clip(value):
    return min(value, 1.0)


class Model:
    def __init__(self):
        self.w = 2.0

    def slope(self):
        return 4.0 * self.w

    def clipped(self):
        slope = self.slope()
        slope = clip(slope)
        return slope

    def fit(self):
        for epoch in flor.loop("epoch", range(3)):
            slope = self.clipped()
            self.w = self.w - 0.1 * slope
            flor.log("w", self.w)


Model().fit()
"""
RAW = CLIPPED.replace(
    "            slope = self.clipped()\n",
    '            slope = self.slope()\n            flor.log("raw", slope)\n            slope = clip(slope)\n',
)


def test_a_value_that_the_old_version_has_only_after_it_was_changed_is_no_answer(lab: Lab) -> None:
    lab.commit({"train.py": CLIPPED})
    lab.train()
    lab.write({"train.py": RAW})
    with lab.open() as workspace:
        report = workspace.answer(Question(("raw",)))
        (answer,) = report.cells
        assert answer.cell.status != "replayed", answer.cell.sentence
        assert (answer.cell.rows, report.children) == (0, 0)


def test_a_place_is_told_from_others_by_where_it_stands_and_not_by_what_else_was_put_there() -> None:
    text = 'a = 1\nflor.log("x", a)\nb = 2\n'
    alone = digest_of(text, [2], Spot("t.py", (2, 2)))
    beside = 'a = 1\nflor.log("y", a)\nflor.log("x", a)\nb = 2\n'
    assert digest_of(beside, [2, 3], Spot("t.py", (3, 3))) == alone
    others = {
        digest_of('a = 1\nb = 2\nflor.log("x", a)\n', [3], Spot("t.py", (3, 3))),
        digest_of(text.replace('"x", a', '"x", b'), [2], Spot("t.py", (2, 2))),
        digest_of(text, [2], Spot("other.py", (2, 2))),
        digest_of('a = 1\nif a:\n    flor.log("x", a)\nb = 2\n', [2, 3], Spot("t.py", (3, 3))),
        digest_of('a = 1\nif b:\n    flor.log("x", a)\nb = 2\n', [2, 3], Spot("t.py", (3, 3))),
    }
    assert len(others | {alone}) == 6


TWO = """\
import flor_dagster as flor
state = [1.0]
for epoch in flor.loop("epoch", range(4)):
    state[0] *= 0.6
    flor.log("loss", state[0])
    {statement}
"""
BRANCHES = """\
if state[0] > 0.5:
        flor.log("s", state[0])
    else:
        flor.log("s", 0)
        flor.log("s", 1)"""


def test_each_branch_of_an_if_that_logs_one_name_has_its_own_values_replayed(lab: Lab) -> None:
    lab.commit({"train.py": TWO.format(statement="pass")})
    lab.train()
    lab.write({"train.py": TWO.format(statement=BRANCHES)})
    with lab.open() as workspace:
        answers = workspace.answer(Question(("s",), accept_likely=True)).cells
        assert [answer.cell.rows for answer in answers] == [1, 3, 3], [a.cell.sentence for a in answers]
        frame = workspace.store.dataframe("loss", "s:1", "s:2", "s:3")
    assert frame["s:1"].fillna(-1).to_list() == [0.6, -1, -1, -1]
    assert frame["s:2"].fillna(-1).to_list() == [-1, 0, 0, 0]
    assert frame["s:3"].fillna(-1).to_list() == [-1, 1, 1, 1]


def test_each_branch_of_an_if_that_logs_one_name_has_its_own_values_recorded(lab: Lab) -> None:
    # Two calls on one line, in both kinds of branch, and one after the other.
    statement = 'flor.log("s", 1) if epoch else flor.log("s", 2)\n    flor.log("t", 3); flor.log("t", 4)'
    lab.commit({"train.py": TWO.format(statement=statement) + 'flor.log("u", 5); flor.log("u", 6)\n'})
    lab.train()
    lab.train()
    with lab.open() as workspace:
        workspace.sync()
        frame = workspace.store.dataframe("s:1", "s:2", "t:1", "t:2", "u:1", "u:2")
    assert frame["s:1"].fillna(-1).to_list() == [2, -1, -1, -1] * 2, "the first one that was reached"
    assert frame["s:2"].fillna(-1).to_list() == [-1, 1, 1, 1] * 2
    assert [set(frame[name]) for name in ("t:1", "t:2", "u:1", "u:2")] == [{3}, {4}, {5}, {6}]


def test_statements_that_share_a_line_are_refused_because_their_values_could_not_be_told_apart(
    lab: Lab,
) -> None:
    lab.commit({"train.py": TWO.format(statement="pass")})
    lab.train()
    statement = 'if epoch: flor.log("p", 1); flor.log("q", 2)\n    flor.log("r", 3); flor.log("r", 4)'
    lab.write({"train.py": TWO.format(statement=statement)})
    with lab.open() as workspace:
        report = workspace.answer(Question(("p", "q", "r")))
        assert {answer.cell.status for answer in report.cells} == {"refused"}
        assert len(report.cells) == 4
        assert all("shares its line with another" in answer.cell.sentence for answer in report.cells)
        assert report.children == 0
