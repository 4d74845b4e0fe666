"""Every empty cell has its reason, and the reason is the right one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flor_dagster.errors import UnknownNameError
from flor_dagster.recording.values import Failure
from flor_dagster.store import LogStore
from flor_dagster.store.reasons import Cell, Facts, reason
from tests.store.store_lab import COMMIT, Lab, cell_row, replay_row

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OPEN = Cell("open", None, "", {"epoch#0": [[0, 2], [5, 5]]})

CASES: dict[str, Facts] = {
    "failed: its expression raised ValueError: no at epoch=1": Facts(
        "x", raised="ValueError: no", here="epoch=1"
    ),
    "logged as None": Facts("x", known=True, nones=2),
    "diverged: loss was 1.0": Facts("x", cell=Cell("replayed", "diverged", "loss was 1.0", {})),
    "refused: no variable": Facts("x", cell=Cell("refused", None, "refused: refused: no variable", {})),
    "recorded: the statement was not reached at epoch=2; this run has 1 value of it in other places": Facts(
        "x", cell=Cell("recorded", "recorded", "1 value", {}), elsewhere=1, here="epoch=2"
    ),
    "replayed: the statement was never reached in this run. 0 values": Facts(
        "x", cell=Cell("replayed", "exact", "0 values", {})
    ),
    "still open: only epoch 0-2, 5 was asked so far": Facts("x", cell=OPEN, covered="epoch 0-2, 5"),
    "answered: the statement was not reached at epoch=1. Of this run only epoch 0-2, 5 was asked so far": Facts(
        "x", cell=OPEN, covered="epoch 0-2, 5", covers=True, here="epoch=1"
    ),
    "still open: waits": Facts("x", cell=Cell("open", None, "open: waits", {})),
    "another definition: this run's values of 'x' are under 'x:1'": Facts("x", known=True, other="x:1"),
    "not reached at epoch=2 so far; this run has 3 values of it in other places": Facts(
        "x", elsewhere=3, here="epoch=2", running=True
    ),
    "never reached: the run's version has the statement and the run did not come to it": Facts(
        "x", known=True, stands=True
    ),
    "still open: not replayed yet": Facts("x", known=True),
    "not logged so far: the run is still going": Facts("x", running=True),
    "not logged: no statement of that name ran in this run": Facts("x"),
}


@pytest.mark.parametrize("said", CASES)
def test_each_case_has_its_words(said: str) -> None:
    assert reason(CASES[said]) == said


def test_a_name_that_was_logged_only_as_none_says_so(lab: Lab) -> None:
    journal = lab.journal()
    for epoch in journal.loop("epoch", 2):
        journal.log("none", None)
        journal.log("loss", float(epoch))
    journal.end()
    run = lab.ingest(journal)
    statement = lab.store.add_statement("none", "a", file="train.py", identity="i1")
    lab.store.link_call_site(COMMIT, "train.py", 1, "none", statement.id)
    frame = lab.store.dataframe("loss", "none")
    assert frame.attrs["empty"] == {run.key: {"none": "logged as None"}}
    assert lab.store.why(run.key, "none", {"epoch": 1}).reason == "logged as None at epoch=1"


def test_a_statement_that_the_run_did_not_come_to_is_not_waiting_for_a_replay(lab: Lab) -> None:
    store = lab.store
    statement = store.add_statement("extra", "a", file="train.py", identity="i1", source="b" * 40)
    store.link_call_site(COMMIT, "train.py", 1, "extra", statement.id)
    for with_it in (True, False):
        journal = lab.journal()
        journal.log("loss", 1.0, line=2)
        if with_it:
            journal.log("extra", 2.0)
        journal.end()
        run = lab.ingest(journal)
    other = lab.journal(commit="c" * 40)
    other.log("loss", 1.0, line=2)
    other.end()
    older = lab.ingest(other)
    said = store.dataframe("loss", "extra").attrs["empty"]
    assert said[run.key]["extra"].startswith("never reached")
    assert said[older.key]["extra"] == "still open: not replayed yet"


def partly_replayed(lab: Lab) -> Any:
    """Epochs 1 and 3 of four were asked; the statement fires in epoch 1 and fails in epoch 3."""
    journal = lab.journal()
    for epoch in journal.loop("epoch", ["a", "b", "c", "d"]):
        for step in journal.loop("step", 2):
            journal.log("loss", epoch + str(step))
    journal.end()
    run = lab.ingest(journal)
    statement = lab.store.add_statement("norm", "w.norm()", file="train.py", question=True)
    replay = lab.replay(run.id, "rp1", {"train.py": {"20": "norm"}})
    for epoch in replay.loop("epoch", ["a", "b", "c", "d"]):
        if epoch == "b":
            for step in replay.loop("step", 2):
                if step:
                    replay.log("norm", 6.0, line=20)
        if epoch == "d":
            replay.log("norm", Failure("ZeroDivisionError", "division by zero", 20), line=20)
    replay.end()
    coverage = {"propagator": "x", "fidelity": "exact", "replays": ["rp1"], "loops": {"epoch#0": [[1, 1], [3, 3]]}}  # fmt: skip
    lab.store.begin_replay(replay_row(run.id, fidelity=None, status="running"))
    lab.store.commit_replay(
        replay_row(run.id), [replay.path], [cell_row(run.id, statement.id, "open", coverage=coverage)]
    )
    return run


def test_every_cell_of_a_partly_filled_column_has_its_own_reason(lab: Lab) -> None:
    run = partly_replayed(lab)
    why = lab.store.why
    assert (why(run.key, "norm").values, why(run.key, "norm").value) == (1, 6.0)
    assert why(run.key, "norm", {"epoch": 1}).value == 6.0
    assert why(run.key, "norm", {"epoch_value": "b"}).value == 6.0
    assert why(run.key, "norm", {"epoch": 1, "step": 1}).value == 6.0
    assert "division by zero at epoch=3" in why(run.key, "norm", {"epoch": 3}).reason
    assert why(run.key, "norm", {"epoch": 1, "step": 0}).reason.startswith("answered: the statement was not")
    assert why(run.key, "norm", {"epoch": 2}).reason == "still open: only epoch 1, 3 was asked so far"
    assert why(run.key, "norm", {"epoch_value": "c"}).reason.startswith("still open")


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ({"epoch": 4}, "its iterations: 0 to 3"),
        ({"epoch": "x"}, "its iterations: 0 to 3"),
        ({"batch": 1}, "its loops: epoch, step"),
        ({"epoch_value": "z"}, "whose value is 'z'"),
    ],
)
def test_a_place_that_does_not_exist_names_what_does(sqlite_lab: Lab, at: dict[str, Any], said: str) -> None:
    run = partly_replayed(sqlite_lab)
    with pytest.raises(UnknownNameError, match=said):
        sqlite_lab.store.why(run.key, "norm", at)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(
        st.tuples(st.sampled_from(["value", "none", "nothing"]), st.lists(st.booleans(), max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_a_cell_has_a_value_or_a_reason_and_never_both(tmp_path_factory: Any, shape: list[Any]) -> None:
    """Against what was logged: values of two levels, None, nothing, in any order."""
    folder = tmp_path_factory.mktemp("reasons")
    with LogStore.open(folder / "flor.db") as store:
        lab = Lab(folder, store)
        journal = lab.journal()
        journal.log("there", 1)
        for epoch in journal.loop("epoch", len(shape)):
            outer, steps = shape[epoch]
            journal.log("there", 1)
            for step in journal.loop("step", len(steps)):
                journal.log("there", 1)
                if steps[step]:
                    journal.log("x", step + 0.5)
            if outer != "nothing":
                journal.log("x", 9.0 if outer == "value" else None, line=2)
        journal.end()
        run = lab.ingest(journal)
        if "x" not in store.names():
            return
        for epoch, (outer, steps) in enumerate(shape):
            inner = [step for step, fired in enumerate(steps) if fired]
            said = store.why(run.id, "x", {"epoch": epoch})
            assert bool(said.values) == bool(inner or outer == "value")
            assert bool(said.values) != bool(said.reason)
            if not said.values:
                assert ("None" in said.reason) == (outer == "none")
            for step, fired in enumerate(steps):
                cell = store.why(run.id, "x", {"epoch": epoch, "step": step})
                assert cell.values == (fired or outer == "value")
                assert cell.value == (step + 0.5 if fired else 9.0 if outer == "value" else None)
        frame = store.dataframe("x", "there")
        assert frame["x"].notna().any() == (not pd.isna(frame["x"]).all())
