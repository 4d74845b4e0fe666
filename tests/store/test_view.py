"""The log view is a pivot of the records and says where its empty places come from."""

from __future__ import annotations

import math
import struct
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flor_dagster.errors import QueryError, UnknownNameError
from flor_dagster.recording.values import ArrayValue, Failure
from flor_dagster.store import LogStore
from tests.store.store_lab import COMMIT, Lab, cell_row, replay_row


def _bits(value: float) -> bytes:
    return struct.pack(">d", value)


VALUES = st.one_of(
    st.floats(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.booleans(),
    st.text(st.characters(exclude_categories=())),
    st.none(),
    st.recursive(
        st.integers() | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text().filter(lambda t: t != "$"), s),
        max_leaves=5,
    ),
    st.builds(ArrayValue, st.just("<f8"), st.just((1,)), st.binary(min_size=8, max_size=8)),
    st.builds(Failure, st.text(), st.text(), st.integers(0, 99)),
)


def _same(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return _bits(left) == _bits(right)
    return type(left) is type(right) and left == right


HARD = [-0.0, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), struct.unpack(">d", bytes.fromhex("7ff8dead0000beef"))[0],
        2**63, -(2**63), 2**63 - 1, 10**400, True, "\0", "\ud800", "ä\n\\N", "", None, [1, {"$": "float"}]]  # fmt: skip


def test_every_value_comes_back_bit_for_bit(lab: Lab) -> None:
    journal = lab.journal()
    for value in HARD:
        journal.log("x", value)
    journal.end()
    back = [record[3] for record in lab.store.records(lab.ingest(journal).id)]
    assert len(back) == len(HARD)
    assert [b for b, v in zip(back, HARD, strict=True) if not _same(b, v)] == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, min_size=1, max_size=8))
def test_any_value_comes_back_bit_for_bit(sqlite_lab: Lab, values: list[object]) -> None:
    journal = sqlite_lab.journal(f"{time.monotonic_ns():016d}"[-16:])
    for value in values:
        journal.log("x", value)
    journal.end()
    back = [record[3] for record in sqlite_lab.store.records(sqlite_lab.ingest(journal).id)]
    assert all(_same(left, right) for left, right in zip(back, values, strict=True))


def test_float_columns_are_bit_exact(lab: Lab) -> None:
    floats = [value for value in HARD if isinstance(value, float)]
    journal = lab.journal()
    for step in journal.loop("step", len(floats)):
        journal.log("x", floats[step])
    journal.end()
    lab.ingest(journal)
    column = lab.store.dataframe("x")["x"]
    assert column.dtype == np.float64
    assert [_bits(value) for value in column] == [_bits(value) for value in floats]


SHAPES = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(SHAPES, min_size=1, max_size=3), over=st.booleans())
def test_the_view_is_the_naive_pivot(tmp_path: Path, runs: list, over: bool) -> None:
    folder = tmp_path / f"{time.monotonic_ns()}"
    with LogStore.open(folder / "flor.db") as store:
        lab = Lab(folder, store)
        expected = []
        number = 0.0
        for shape in runs:
            journal = lab.journal()
            rows, epochs = [], []
            for epoch in journal.loop("epoch", len(shape)):
                steps, with_acc, twice = shape[epoch]
                mine = []
                for step in journal.loop("step", steps):
                    for _ in range(1 + twice):
                        number += 1
                        journal.log("loss", number)
                    mine.append([epoch, step, number])
                acc = None
                if with_acc:
                    number += 1
                    acc = number
                    journal.log("acc", acc)
                    mine = mine or [[epoch, None, None]]
                epochs.append(acc)
                rows += [[*row, acc] for row in mine]
            if over:
                journal.end()
            key = lab.ingest(journal).key
            expected += [[key, *row] for row in rows]
        names = [name for name in ("loss", "acc") if name in store.names()]
        if not names:
            return
        frame = store.dataframe(*names)
        got = [[None if pd.isna(v) else v for v in row] for row in frame.astype(object).values.tolist()]
        titles = ["run", "epoch", "step", "loss", "acc"]
        kept = [titles.index(title) for title in frame.columns]
        assert got == [[row[k] for k in kept] for row in expected]


def test_columns_are_typed(lab: Lab) -> None:
    journal = lab.journal()
    journal.entry("a", "lr", 0.5, 0.1, "given")
    for n in journal.loop("epoch", ["x", "y"]):
        journal.log("f", 1.5)
        journal.log("i", 2**60)
        journal.log("b", n == "x")
        journal.log("t", n)
        journal.log("o", [1, 2])
        journal.log("epoch", 7)
    journal.end()
    lab.ingest(journal)
    frame = lab.store.dataframe("f", "i", "b", "t", "o", "epoch", "lr")
    assert list(frame.columns) == [
        "run",
        "epoch",
        "epoch_value",
        "f",
        "i",
        "b",
        "t",
        "o",
        "epoch_logged",
        "lr",
    ]
    assert [str(frame[c].dtype) for c in ("epoch", "f", "i", "b", "t", "o", "lr")] == [
        "Int64", "float64", "Int64", "boolean", "string", "object", "float64",
    ]  # fmt: skip
    assert frame["i"].tolist() == [2**60] * 2
    assert frame["epoch_value"].tolist() == ["x", "y"]
    assert frame["o"].tolist() == [[1, 2]] * 2
    assert frame["lr"].tolist() == [0.5, 0.5]


def test_two_executions_of_a_loop_stay_apart(sqlite_lab: Lab) -> None:
    journal = sqlite_lab.journal()
    for _ in journal.loop("epoch", 2):
        for step in journal.loop("step", 2):
            journal.log("loss", float(step))
        for step in journal.loop("step", 2):
            journal.log("val", 10.0 + step)
    journal.end()
    sqlite_lab.ingest(journal)
    frame = sqlite_lab.store.dataframe("loss", "val")
    assert frame["step_execution"].tolist() == [0, 0, 1, 1] * 2
    assert frame["step"].tolist() == [0, 1, 0, 1] * 2
    assert "step_execution" not in sqlite_lab.store.dataframe("loss")


def test_an_unknown_name_is_said_with_near_ones(sqlite_lab: Lab) -> None:
    with pytest.raises(UnknownNameError, match="no values yet"):
        sqlite_lab.store.dataframe("loss")
    journal = sqlite_lab.journal()
    journal.log("loss", 1.0)
    sqlite_lab.ingest(journal)
    with pytest.raises(UnknownNameError, match="'loss'"):
        sqlite_lab.store.dataframe("los")


def test_stale_chunks_are_not_believed_and_rebuilt_ones_are_the_same(sqlite_lab: Lab) -> None:
    journal = sqlite_lab.journal()
    for step in journal.loop("step", 5):
        journal.log("loss", float(step))
    sqlite_lab.ingest(journal)
    for step in journal.loop("step", 2):
        journal.log("loss", float(step))
    (journal.path.parent / "lock").unlink()
    assert sqlite_lab.ingest(journal).status == "running"
    from_rows = sqlite_lab.store.dataframe("loss")
    assert len(from_rows) == 7
    journal.end()
    sqlite_lab.ingest(journal)
    from_chunks = sqlite_lab.store.dataframe("loss")
    sqlite_lab.store.rebuild_chunks()
    assert from_chunks.equals(from_rows)
    assert sqlite_lab.store.dataframe("loss").equals(from_chunks)


def _replayed(lab: Lab, fidelity: str | None = "exact", value: float = 5.0):
    journal = lab.journal()
    for epoch in journal.loop("epoch", 3):
        for step in journal.loop("step", 2):
            journal.log("loss", epoch + step / 10)
    journal.end()
    run = lab.ingest(journal)
    statement = lab.store.add_statement("norm", "w.norm()", file="train.py", loops=("epoch",), question=True)
    replay = lab.replay(run.id, "rp1", {"train.py": {"20": "norm"}})
    # The replay begins at epoch 1 and numbers everything in its own way.
    for epoch in replay.loop("epoch", range(1, 3), start=1):
        replay.log("loss", 99.0)
        replay.log("norm", value + epoch, line=20)
    replay.end()
    lab.store.begin_replay(replay_row(run.id, fidelity=None, status="running"))
    lab.store.commit_replay(
        replay_row(run.id, fidelity=fidelity),
        [replay.path],
        [cell_row(run.id, statement.id, fidelity=fidelity)],
    )
    return run, statement


def test_replayed_values_stand_at_the_contexts_of_the_run(lab: Lab) -> None:
    run, _ = _replayed(lab)
    frame = lab.store.dataframe("loss", "norm", provenance=True)
    assert frame["loss"].tolist() == [0.0, 0.1, 1.0, 1.1, 2.0, 2.1]
    assert frame["norm"].fillna(-1).tolist() == [-1, -1, 6.0, 6.0, 7.0, 7.0]
    assert frame["norm_origin"].tolist()[2:] == ["replayed"] * 4
    assert frame["norm_fidelity"].tolist()[2:] == ["exact"] * 4
    assert set(frame["loss_origin"]) == {"recorded"}
    assert [c for c in lab.store.contexts(run.id) if c[0] < 0] == []
    assert len(lab.store.records(run.id, origin="replayed")) == 2
    assert lab.store.replays(run.id)[0].status == "finished"


def test_what_diverged_is_not_in_the_default_view_and_says_so(lab: Lab) -> None:
    run, _ = _replayed(lab, "diverged")
    frame = lab.store.dataframe("loss", "norm")
    assert frame["norm"].isna().all()
    assert frame.attrs["empty"][run.key]["norm"].startswith("diverged")
    shown = lab.store.dataframe("loss", "norm", fidelity="any")
    assert shown["norm"].notna().sum() == 4
    assert set(shown["norm_fidelity"].dropna()) == {"diverged"}
    assert "norm" not in set(lab.store.query("SELECT name FROM log_view_long")["name"])
    assert "norm" in set(lab.store.query("SELECT name FROM log_view_any")["name"])


def test_a_place_that_only_the_replay_has_seen_is_made_in_its_order(sqlite_lab: Lab) -> None:
    journal = sqlite_lab.journal()
    for epoch in journal.loop("epoch", 4):
        if epoch % 2:
            journal.log("loss", float(epoch))
    journal.end()
    run = sqlite_lab.ingest(journal)
    sqlite_lab.store.add_statement("norm", "w", file="train.py")
    replay = sqlite_lab.replay(run.id, "rp1", {"train.py": {"20": "norm"}})
    for epoch in replay.loop("epoch", 4):
        replay.log("norm", epoch * 1.0, line=20)
    sqlite_lab.store.commit_replay(replay_row(run.id), [replay.path], [])
    frame = sqlite_lab.store.dataframe("loss", "norm")
    assert frame["epoch"].tolist() == [0, 1, 2, 3]
    assert frame["norm"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert frame["loss"].fillna(-1).tolist() == [-1, 1, -1, 3]


def test_a_replay_replaces_an_earlier_one_and_never_what_was_recorded(lab: Lab) -> None:
    run, norm = _replayed(lab)
    loss = lab.store.add_statement("loss", "loss.item()", file="train.py")
    assert lab.store.link_call_site(COMMIT, "train.py", 1, "loss", loss.id) == 1
    again = lab.replay(run.id, "rp2", {"train.py": {"20": "norm", "1": "loss"}})
    for _ in again.loop("epoch", 1):
        again.log("norm", -1.0, line=20)
        again.log("loss", -1.0, line=1)
    cells = [cell_row(run.id, norm.id, replay_id="rp2")]
    lab.store.commit_replay(replay_row(run.id, "rp2"), [again.path], cells)
    assert [r[3] for r in lab.store.records(run.id, origin="replayed")] == [-1.0]
    assert lab.store.dataframe("loss")["loss"].min() == 0.0
    lab.store.commit_replay(replay_row(run.id, "rp2"), [again.path], cells)
    assert len(lab.store.records(run.id, origin="replayed")) == 1


def test_a_redefined_name_shows_the_newest_and_the_first_by_its_number(sqlite_lab: Lab) -> None:
    store = sqlite_lab.store
    journal = sqlite_lab.journal()
    journal.log("train/loss", 1.0)
    journal.end()
    run = sqlite_lab.ingest(journal)
    first = store.add_statement("train/loss", "a", file="train.py", identity="i1")
    store.link_call_site(COMMIT, "train.py", 1, "train/loss", first.id)
    second = store.add_statement("train/loss", "b", file="train.py", identity="i2")
    assert (first.key, second.key) == ("train%2Floss", "train%2Floss:2")
    assert store.add_statement("train/loss", "b", file="train.py", identity="i2") == second
    assert store.dataframe("train%2Floss:1")["train%2Floss:1"].tolist() == [1.0]
    assert store.dataframe("train/loss")["train/loss"].tolist() == [1.0]
    assert len(store.dataframe("train%2Floss:2")) == 0
    assert "another definition" in store.why_empty(run.id, "train/loss")
    store.save_cell(cell_row(run.id, second.id, "refused", None, sentence="no variable 'w'"))
    assert store.why_empty(run.id, "train/loss") == "refused: no variable 'w'"


def test_a_recorded_cell_is_never_overwritten_by_a_replayed_one(lab: Lab) -> None:
    run, statement = _replayed(lab)
    lab.store.save_cell(cell_row(run.id, statement.id, "recorded", "recorded", replay_id=None))
    assert lab.store.save_cell(cell_row(run.id, statement.id)).status == "recorded"
    assert [c.status for c in lab.store.cells(run_ids=[run.id])] == ["recorded"]


def test_the_view_narrows_by_conditions(sqlite_lab: Lab) -> None:
    _replayed(sqlite_lab)
    view = sqlite_lab.store.view
    assert view(["loss"], "epoch >= 1 and loss < 2", "-loss", 2)["loss"].tolist() == [1.1, 1.0]
    assert list(view(["loss"], "norm > 6").columns) == ["run", "epoch", "step", "loss"]
    assert len(view(["loss"], "norm is None")) == 2
    assert len(view(["loss"], "0 <= step < 1 and epoch in (0, 2)")) == 2


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "loss.real > 1",
        "loss",
        "(lambda: 1)()",
        "loss <",
        "nothing > 1",
        "loss < 'a'",
        "1 < 2",
    ],
)
def test_a_condition_that_is_none_is_refused(sqlite_lab: Lab, text: str) -> None:
    _replayed(sqlite_lab)
    with pytest.raises(QueryError):
        sqlite_lab.store.view(["loss"], text)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM records",
        "WITH x AS (SELECT 1) DELETE FROM records",
        "SELECT 1; DROP TABLE records",
        "/* a */ -- b\n PRAGMA journal_mode",
        "ATTACH 'x' AS y",
        "SELECT * FROM nothing",
        "COMMIT",
        "",
    ],
)
def test_a_query_only_reads(lab: Lab, sql: str) -> None:
    with pytest.raises(QueryError):
        lab.store.query(sql)


def test_a_query_reads_the_long_view(lab: Lab) -> None:
    _replayed(lab)
    mark = "?" if lab.store._database.sqlite else "%s"
    frame = lab.store.query(
        f"SELECT path, number, origin FROM log_view_long WHERE name = {mark} ORDER BY number", ["norm"]
    )
    assert frame["path"].tolist() == ['{"epoch":1}', '{"epoch":2}']
    assert frame["number"].tolist() == [6.0, 7.0]


def test_infinities_and_nan_are_numbers_in_the_views(lab: Lab) -> None:
    journal = lab.journal()
    for value in (1.0, -0.0, float("inf")):
        journal.log("up", value)
    journal.log("down", float("-inf"))
    journal.log("none", float("nan"))
    journal.end()
    lab.ingest(journal)
    sums = lab.store.query(
        "SELECT name, max(number) AS top, avg(number) AS mean, min(number) AS low FROM log_view_long GROUP BY name ORDER BY name"
    )
    assert sums["name"].tolist() == ["down", "none", "up"]
    assert sums["top"].tolist()[::2] == [-math.inf, math.inf]
    assert sums["mean"].tolist()[::2] == [-math.inf, math.inf]
    assert sums["low"].tolist()[2] == 0.0
    assert math.isnan(sums["top"].tolist()[1])
    said = lab.store.query("SELECT value FROM log_view_long WHERE name = 'up' ORDER BY number")["value"]
    assert [float(value) for value in said] == [0.0, 1.0, math.inf]


def test_a_column_shows_every_recorded_value_of_its_name(lab: Lab) -> None:
    """Of three definitions in one run, of an outer level that inner values hide, and of an edited expression."""
    store = lab.store
    first = store.add_statement("loss", "a", file="train.py", identity="i1")
    second = store.add_statement("loss", "b", file="train.py", identity="i2")
    third = store.add_statement("loss", "c", file="train.py", identity="i3")
    for line, statement in ((1, first), (2, second), (3, third)):
        store.link_call_site(COMMIT, "train.py", line, "loss", statement.id)
    journal = lab.journal()
    for step in journal.loop("i", 4):
        journal.log("loss", float(step), line=1 + step % 2)
    journal.log("loss", 9.0, line=3)
    journal.end()
    lab.ingest(journal)
    frame = store.dataframe("loss")
    assert sorted(frame["loss"].tolist()) == [0.0, 1.0, 2.0, 3.0, 9.0]
    assert frame["i"].isna().sum() == 1
    assert frame.attrs["definitions"] == {"loss": {"loss": 1, "loss:2": 1, "loss:3": 1}}
    assert store.dataframe("loss:2")["loss:2"].tolist() == [1.0, 3.0]


def test_values_of_one_context_that_a_later_one_hides_are_counted(lab: Lab) -> None:
    journal = lab.journal()
    for _ in journal.loop("i", 2):
        for value in (1.0, 2.0, 3.0):
            journal.log("x", value)
    journal.end()
    lab.ingest(journal)
    frame = lab.store.dataframe("x")
    assert frame["x"].tolist() == [3.0, 3.0]
    assert frame.attrs["several"] == {"x": 4}


def test_what_a_column_is_called_and_which_rows_there_are_depend_on_nothing_else_that_is_asked(
    lab: Lab,
) -> None:
    """A name like a loop's, like a loop's value's, like another name's provenance; an argument that other runs have, too."""
    journal = lab.journal()
    journal.entry("a", "lr", 0.5, 0.1, "given")
    journal.entry("a", "epoch", 3, 3, "default")
    journal.log("epoch", 7)
    for _ in journal.loop("epoch", ["x", "y"]):
        journal.log("loss", 1.5)
        journal.log("loss_origin", "here")
        journal.log("epoch_value", 3)
        journal.log("rank", 5)
    journal.end()
    lab.ingest(journal)
    other = lab.journal()
    other.entry("a", "lr", 0.25, 0.1, "given")
    other.log("extra", 1)
    other.end()
    lab.ingest(other)
    store = lab.store
    called = {
        "loss": "loss", "epoch": "epoch_logged", "epoch_value": "epoch_value_logged", "loss_origin": "loss_origin_logged",
        "lr": "lr", "arg:epoch": "arg:epoch", "rank": "rank",
    }  # fmt: skip
    for name, title in called.items():
        assert title in store.dataframe(name).columns, name
        assert title in store.dataframe(*called).columns, name
        assert store.dataframe(*called).attrs["columns"][name] == title
    assert store.dataframe("loss", "loss_origin", provenance=True)["loss_origin"].tolist() == ["recorded"] * 2
    both = store.dataframe("rank", ranks="all")
    assert both["rank"].tolist() == [0, 0]
    assert both["rank_logged"].tolist() == [5, 5]
    assert store.dataframe("loss", "lr")["lr"].tolist() == [0.5, 0.5]
    assert store.dataframe("loss", "lr")["run"].nunique() == 1
    assert store.dataframe("lr")["lr"].tolist() == [0.5, 0.25]
