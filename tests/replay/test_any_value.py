"""Whatever can be logged can be asked: no value ends a question."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from flor_dagster.orchestration.metadata import metadata_value
from flor_dagster.recording.values import decode, encode
from flor_dagster.replay.cells import summarise
from flor_dagster.replay.model import Question
from flor_dagster.store.packing import pack, to_json, unpack
from tests.replay.conftest import Lab, bits

VALUES = st.one_of(
    st.floats(), st.integers(), st.integers().map(lambda n: n * 10**4400), st.text(), st.booleans(), st.none(), st.binary(),
    st.complex_numbers(), st.lists(st.floats()), st.dictionaries(st.text(), st.one_of(st.floats(), st.integers())),
    st.datetimes(), st.decimals(), st.uuids(),
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_a_cells_summary_of_any_values_is_strict_json_and_metadata(values: list[object]) -> None:
    decoded = [decode(json.loads(encode(value))) for value in values]
    summary = summarise(decoded)

    assert json.loads(to_json(summary)) == summary
    for value in summary.values():
        if value is not None:
            metadata_value(value)
    for value in values:
        unpack(*pack(json.loads(encode(value))))


SCRIPT = """\
import flor_dagster as flor

VALUES = [float("nan"), float("inf"), -float("inf"), -0.0, 10**5000, "\\ud800\\x00", [float("nan"), 1.0], {{"a": float("inf")}}]
for epoch in flor.loop("epoch", range(8)):
    flor.log("done", epoch)
    {0}
"""


def test_values_that_json_does_not_have_are_asked_as_they_are_recorded(lab: Lab) -> None:
    asked = 'flor.log("asked", VALUES[epoch])'
    lab.commit({"train.py": SCRIPT.format("")})
    lab.train()
    lab.commit({"train.py": SCRIPT.format(asked)})
    lab.train()

    with lab.open() as workspace:
        workspace.sync()
        old = workspace.runs()[0]
        (cell,) = workspace.answer(Question(("asked",), runs=(old.key,))).cells
        origins = zip(workspace.runs(), ("replayed", "recorded"), strict=True)
        frames = [workspace.store.records(run.id, names=["asked"], origin=origin) for run, origin in origins]

    assert cell.cell.status == "replayed", cell.cell.sentence
    replayed, new = [[_text(row[3]) for row in rows] for rows in frames]
    assert len(new) == 8
    assert new == replayed


def _text(value: object) -> str:
    return hex(value) if isinstance(value, int) else repr(bits(value))
