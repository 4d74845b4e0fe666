"""What is asked of the log view besides names: rows of a loop, which of several values, what is filled, whole families of columns."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flor_dagster.errors import QueryError, UnknownNameError
from flor_dagster.store import LogStore
from tests.store.store_lab import Lab

COMMIT = "a6c76f3f" + "0" * 32

# An epoch: its steps, each with the lines that log `x` there in their order; then the lines behind the steps.
EPOCHS = st.lists(
    st.tuples(
        st.lists(st.lists(st.integers(1, 3), max_size=3), max_size=3), st.lists(st.integers(1, 3), max_size=2)
    ),
    min_size=1,
    max_size=3,
)


def logged(lab: Lab, epochs: list[Any]) -> tuple[str, list[tuple[tuple[int, ...], float]]]:
    """A run and what it logged: (place, value) in order; `x` at lines 1 and 2, where line 3 logs `y`."""
    journal = lab.journal()
    found: list[tuple[tuple[int, ...], float]] = []
    number = 0.0

    def log(lines: list[int], place: tuple[int, ...]) -> None:
        nonlocal number
        for line in lines:
            number += 1
            journal.log("x" if line < 3 else "y", number, line=line)
            if line < 3:
                found.append((place, number))

    for epoch in journal.loop("epoch", len(epochs)):
        steps, behind = epochs[epoch]
        for step in journal.loop("step", len(steps)):
            log(steps[step], (epoch, step))
        log(behind, (epoch,))
    journal.end()
    return lab.ingest(journal).key, found


def _plain(frame: pd.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    listed = [[None if pd.isna(one) else one for one in frame[name].tolist()] for name in columns]
    return list(zip(*listed, strict=True))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(epochs=EPOCHS)
def test_rows_of_a_loop_hold_what_a_naive_reader_finds_there(
    tmp_path_factory: Any, epochs: list[Any]
) -> None:
    """One definition in a place, any number of values: at=epoch and at=run, the first, the last, all."""
    epochs = [([[1] * len(lines) for lines in steps], [1] * len(behind)) for steps, behind in epochs]
    folder = tmp_path_factory.mktemp("frames")
    with LogStore.open(folder / "flor.db") as store:
        _, found = logged(Lab(folder, store), epochs)
        if not found:
            return
        by_epoch: dict[int, tuple[list[float], list[float]]] = {}
        for place, value in found:
            inner, own = by_epoch.setdefault(place[0], ([], []))
            (own if len(place) == 1 else inner).append(value)
        last = {epoch: (own or inner)[-1] for epoch, (inner, own) in by_epoch.items()}
        first = {epoch: (own or inner)[0] for epoch, (inner, own) in by_epoch.items()}
        assert _plain(store.dataframe("x", at="epoch"), "epoch", "x") == sorted(last.items())
        assert _plain(store.dataframe("x", at="epoch", keep="first"), "epoch", "x") == sorted(first.items())
        every = [
            (epoch, number, value)
            for epoch, (inner, own) in sorted(by_epoch.items())
            for number, value in enumerate([*inner, *own])
        ]
        assert _plain(store.dataframe("x", at="epoch", keep="all"), "epoch", "ordinal", "x") == every
        whole = store.dataframe("x", at="run", keep="all")
        assert sorted(whole["x"].tolist()) == sorted(value for _, value in found)
        assert len(store.dataframe("x", at="run")) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(epochs=EPOCHS)
def test_keeping_all_loses_no_value_of_any_definition(tmp_path_factory: Any, epochs: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("frames")
    with LogStore.open(folder / "flor.db") as store:
        lab = Lab(folder, store)
        _, found = logged(lab, epochs)
        for line in (1, 2):
            row = store.add_statement("x", f"a{line}", file="train.py", identity=f"i{line}")
            store.link_call_site(COMMIT, "train.py", line, "x", row.id)
        if not found:
            return
        frame = store.dataframe("x", keep="all")
        assert set(frame["x"].dropna().tolist()) == {value for _, value in found}
        shown = {
            (
                *(int(one) for one in (row.epoch, row.get("step")) if one is not None and not pd.isna(one)),
                row.x,
            )
            for _, row in frame.iterrows()
        }
        assert {(*place, value) for place, value in found} <= shown, "each at its place"
        last = store.dataframe("x", keep="last")
        first = store.dataframe("x", keep="first")
        for frame in (last, first):
            assert set(frame["x"].tolist()) <= {value for _, value in found}
        names = [name for name in ("x", "y") if name in store.names()]
        at_epoch = store.dataframe(*names, at="epoch", keep="all")
        assert sorted(at_epoch["x"].dropna().tolist()) == sorted(value for _, value in found)


def test_what_lies_outside_of_the_loop_is_counted(lab: Lab) -> None:
    journal = lab.journal()
    journal.log("size", 3)
    journal.log("loss", -1.0)
    for _ in journal.loop("warmup", 2):
        journal.log("loss", 0.0)
    for epoch in journal.loop("epoch", 2):
        for step in journal.loop("step", 3):
            journal.log("loss", epoch + step / 10)
    journal.end()
    lab.ingest(journal)
    frame = lab.store.dataframe("loss", "size", at="epoch")
    assert _plain(frame, "epoch", "loss", "size") == [(0, 0.2, 3), (1, 1.2, 3)]
    assert frame.attrs["elsewhere"] == {"loss": 2}
    assert "several" not in frame.attrs or not frame.attrs["several"]
    assert lab.store.dataframe("loss", at="run")["loss"].tolist() == [-1.0], (
        "what is logged at the place itself wins"
    )
    with pytest.raises(UnknownNameError, match="epoch, step, warmup"):
        lab.store.dataframe("loss", at="batch")
    with pytest.raises(QueryError, match="keep='most'"):
        lab.store.dataframe("loss", keep="most")  # type: ignore[arg-type]


def test_filling_takes_the_row_before_and_says_so(lab: Lab) -> None:
    for start in (0.0, 10.0):
        journal = lab.journal()
        for step in journal.loop("step", 4):
            journal.log("loss", start + step)
            if step in (1, 3):
                journal.log("acc", float("nan") if step == 3 else start + 0.5)
        journal.end()
        lab.ingest(journal)
    frame = lab.store.dataframe("loss", "acc", fill=True, provenance=True)
    assert [None if origin is pd.NA else origin for origin in frame["acc_origin"]] == [None, "recorded", "filled", "recorded"] * 2  # fmt: skip
    assert frame["acc"].tolist()[1:3] == [0.5, 0.5]
    assert frame["acc"].tolist()[5:7] == [10.5, 10.5]
    assert len(lab.store.dataframe("loss", "acc", where="acc is nan", fill=True)) == 2


def two_runs(lab: Lab) -> list[str]:
    keys: list[str] = []
    for number in range(2):
        journal = lab.journal()
        journal.entry("a", "lr", 0.5 + number, 0.1, "given")
        journal.entry("a", "layers", [1, 2], [1], "given")
        journal.log("val/loss", 1.0)
        journal.log("val/acc", 2.0)
        journal.log("size", 3)
        journal.end("failed" if number else "finished")
        keys.append(lab.ingest(journal).key)
    return keys


def test_families_of_columns_are_asked_by_patterns(lab: Lab) -> None:
    keys = two_runs(lab)
    ask = lab.store.dataframe
    assert list(ask("val/*").columns) == ["run", "val/acc", "val/loss"]
    assert list(ask("args.*", "size").columns) == ["run", "args.layers", "args.lr", "size"]
    frame = ask("run.*", "args.lr", where="args.lr > 1")
    assert frame["run"].tolist() == keys[1:]
    assert frame["run.status"].tolist() == ["failed"]
    assert frame["run.version"].tolist() == [COMMIT]
    assert str(frame["run.started"].dtype).startswith("datetime64")
    assert frame["args.lr"].tolist() == [1.5]
    assert ask("run.status", "size", latest=1)["run.status"].tolist() == ["failed"]
    assert ask("run.status", where="run.status = 'finished'")["run"].tolist() == keys[:1]
    with pytest.raises(UnknownNameError, match="'train_\\*'"):
        ask("train_*")


def test_a_frame_says_what_it_says_in_plain_json(lab: Lab) -> None:
    keys = two_runs(lab)
    lab.store.add_statement("gap", "a - b", file="train.py", question=True)
    frame = lab.store.dataframe("size", "gap")
    assert json.loads(json.dumps(frame.attrs))["empty"] == {
        key: {"gap": "still open: not replayed yet"} for key in keys
    }
