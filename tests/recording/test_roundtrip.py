"""Whatever is logged in whatever nesting of loops: the log store gives every value back, at its place and with its type."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flor_dagster as flor
from flor_dagster.recording.process import recorded_run
from flor_dagster.store import LogStore

any_text = st.text(st.characters(exclude_categories=()), max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | any_text
    | st.binary(max_size=8)
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(any_text | st.sampled_from(["$", "v", "bits"]), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)
names = any_text | st.sampled_from(["loss", "train/loss", "loss:2", "arg:lr", "epoch"])
# A program: values that are logged, and loops with a body that some of their iterations leave.
logs = st.tuples(st.just("log"), names, values)
programs = st.recursive(
    st.lists(logs, max_size=3),
    lambda inner: st.lists(
        logs
        | st.tuples(
            st.just("loop"),
            names,
            st.lists(st.integers() | any_text | st.floats(), max_size=3),
            inner,
            st.integers(0, 4),
        ),
        max_size=3,
    ),
    max_leaves=6,
)

Place = tuple[tuple[str, int, int], ...]


def execute(program: list[Any], place: Place, said: list[tuple[Place, str, Any]]) -> None:
    """Log as the program says, and say what was logged where."""
    opened: dict[str, int] = {}
    for step in program:
        if step[0] == "log":
            assert flor.log(step[1], step[2]) is step[2]
            said.append((place, step[1], step[2]))
            continue
        _, name, items, body, leave_at = step
        ordinal = opened[name] = opened.get(name, -1) + 1
        for index, _ in enumerate(flor.loop(name, items)):
            execute(body, (*place, (name, ordinal, index)), said)
            if index == leave_at:
                break


def found(store: LogStore, run: str) -> list[tuple[Place, str, Any]]:
    loops = {row.loop_id: row for row in store.loops(run)}
    places: dict[int, Place] = {0: ()}
    for context, loop, index, _ in store.contexts(run):
        row = loops[loop]
        places[context] = (*places[row.parent_ctx], (row.name, row.ordinal, index))
    calls = {call: name for call, name, *_ in store.call_sites(run)}
    return [(places[context], calls[call], value) for _, context, call, value in store.records(run)]


def exact(value: Any) -> Any:
    """A value that is equal for equal bits and types alone."""
    if isinstance(value, float):
        return ("float", value.hex())
    if isinstance(value, complex):
        return ("complex", value.real.hex(), value.imag.hex())
    if isinstance(value, list | tuple):
        return ("list", *map(exact, value))  # a tuple is a list, as in JSON
    if isinstance(value, dict):
        return ("dict", *((key, exact(item)) for key, item in value.items()))
    return (type(value).__name__, value)


def label(text: str) -> str:
    """A name as the store keeps it: databases take neither NUL nor half characters."""
    from flor_dagster.store.packing import label as kept

    return kept(text)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("roundtrip")


@given(program=programs)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_value_comes_back_from_its_place(home: Path, program: list[Any]) -> None:
    said: list[tuple[Place, str, Any]] = []
    before = os.environ.get("FLOR_HOME")
    os.environ["FLOR_HOME"] = str(home / ".flor")
    try:
        with recorded_run("train.py:main", root=home) as session:
            execute(program, (), said)
    finally:
        os.environ.pop("FLOR_HOME") if before is None else os.environ.__setitem__("FLOR_HOME", before)
    with LogStore.open(home / ".flor" / "flor.db") as store:
        run = store.ingest_run(home / ".flor" / "runs" / session.run_id)
        assert run is not None
        assert (run.status, run.lost, store.warnings(run.id)) == ("finished", 0, [])
        got = found(store, run.id)
    expected = [
        (tuple((label(n), o, i) for n, o, i in place), label(name), exact(value))
        for place, name, value in said
    ]
    assert [(place, name, exact(value)) for place, name, value in got] == expected
    assert json.dumps(got, default=str) is not None
