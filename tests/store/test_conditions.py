"""One language of conditions: what it selects is what a naive reader of it would, and an error points at its character."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flor_dagster.errors import QueryError, UnknownNameError
from flor_dagster.store.conditions import ConditionError, read_condition
from flor_dagster.store.judging import Values, fulfilled
from flor_dagster.store.run_values import packed
from tests.store.store_lab import Lab

Row = dict[str, Any]
Naive = Callable[[Row], Any]

NUMBERS = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.sampled_from([0.5, -0.0, math.inf, math.nan, 2**53 + 1, 2**70, float(2**53)]),
)
TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "b", "it's", 'say "x"']))
ROWS = st.lists(
    st.fixed_dictionaries({"x": NUMBERS, "y": NUMBERS, "t": TEXTS, "flag": st.none() | st.booleans()}),
    max_size=6,
)


class Table:
    """Rows as a condition's source."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def column(self, _: Any, node: Any) -> Values:
        return packed([row[node.name] for row in self.rows])

    of_run = column


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


@st.composite
def numbers(draw: Any, depth: int = 2) -> tuple[str, Naive]:
    kind = draw(st.sampled_from(["column", "constant", "sum"] if depth else ["column", "constant"]))
    if kind == "column":
        name = draw(st.sampled_from(["x", "y"]))
        return name, lambda row: row[name]
    if kind == "constant":
        value = draw(st.sampled_from([0, 1, -2, 0.5, 2**53, 1e300]))
        return _literal(value), lambda _: value
    left, one = draw(numbers(depth - 1))
    right, other = draw(numbers(depth - 1))
    op = draw(st.sampled_from(["+", "-", "*", "/"]))

    def both(row: Row) -> Any:
        a, b = one(row), other(row)
        if a is None or b is None or (op == "/" and b == 0):
            return None
        try:
            return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[op]()
        except OverflowError:
            return ...  # neither reader can compute it

    return f"({left} {op} {right})", both


def _reads(text: str) -> bool:
    """Whether a generated condition reads any column."""
    return any(word in ("x", "y", "t", "flag") for word in re.findall(r"\w+", re.sub(r"'[^']*'", "", text)))


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, "=": lambda a, b: a == b, "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b, "<>": lambda a, b: a != b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


def _known(found: Any) -> Any:
    return None if found is None or found is ... else found


@st.composite
def conditions(draw: Any, depth: int = 3) -> tuple[str, Naive]:
    kinds = ["compare", "text", "null", "nan", "flag", "in"] + (["and", "or", "not"] if depth else [])
    match draw(st.sampled_from(kinds)):
        case "compare":
            left, one = draw(numbers())
            right, other = draw(numbers())
            op = draw(st.sampled_from(list(COMPARE)))

            def compared(row: Row) -> Any:
                a, b = one(row), other(row)
                return None if a is None or b is None else ... if ... in (a, b) else COMPARE[op](a, b)

            return f"{left} {op} {right}", compared
        case "text":
            value = draw(TEXTS.filter(lambda t: t is not None))
            op = draw(st.sampled_from(["=", "!=", "<"]))
            return (
                f"t {op} {_literal(value)}",
                lambda row: None if row["t"] is None else COMPARE[op](row["t"], value),
            )
        case "null":
            word = draw(st.sampled_from(["is null", "IS NULL", "is None"]))
            name = draw(st.sampled_from(["x", "t"]))
            return f"{name} {word}", lambda row: row[name] is None
        case "nan":
            return "x is not nan", lambda row: None if row["x"] is None else row["x"] == row["x"]
        case "flag":
            return "flag", lambda row: row["flag"]
        case "in":
            wanted = draw(st.lists(st.sampled_from([0, 1, 0.5, "a"]), min_size=1, max_size=3))
            name = draw(st.sampled_from(["x", "t"]))
            opposite = draw(st.booleans())
            listed = ", ".join(map(_literal, wanted))
            return (
                f"{name} {'not ' * opposite}in ({listed})",
                lambda row: None if row[name] is None else (row[name] in wanted) != opposite,
            )
        case "not":
            inner, fn = draw(conditions(depth - 1))

            def negated(row: Row) -> Any:
                found = fn(row)
                return found if found is None or found is ... else not found

            return f"not ({inner})", negated
        case op:
            left, one = draw(conditions(depth - 1))
            right, other = draw(conditions(depth - 1))

            def joined(row: Row) -> Any:
                a, b = one(row), other(row)
                if ... in (a, b):
                    return ...
                decides = op == "or"
                return decides if decides in (a, b) else None if None in (a, b) else not decides

            return f"({left}) {op.upper()} ({right})", joined


@settings(max_examples=300, deadline=None)
@given(condition=conditions(), rows=ROWS)
def test_a_condition_selects_what_a_naive_reader_of_it_would(
    condition: tuple[str, Naive], rows: list[Row]
) -> None:
    text, naive = condition
    expected = [naive(row) for row in rows]
    if ... in expected:
        return
    if not _reads(text):
        with pytest.raises(ConditionError, match="reads nothing"):
            read_condition(text)
        return
    found = fulfilled(read_condition(text), Table(rows), len(rows)).tolist()
    assert found == [one is True for one in expected], text


def test_the_words_mean_what_they_say() -> None:
    rows: list[Row] = [{"x": x, "train/loss": -1.0, "t": "a"} for x in (0, 1, 2, 3, None)]
    wanted = {
        "1 <= x < 3": [1, 2],
        "x between 1 and 2": [1, 2],
        "x not between 1 and 2": [0, 3],
        "`train/loss` < 0 and x > 2": [3],
        "x % 2 = 1": [1, 3],
        "x // 2 = 1 AND NOT x = 3": [2],
        "x / 0 > 1 or x = 0": [0],
        "-x < -2": [3],
        "x in (0, 3,)": [0, 3],
        "x in [1]": [1],
        "x is null": [None],
        't = "a" and x = 1': [1],
        "x = 1 or x = 2 and x = 3": [1],
        "not x = 1 and x < 2": [0],
        "x < 'a' or x > 1": None,
    }
    for text, values in wanted.items():
        if values is None:
            with pytest.raises(ConditionError, match="a number, which can't be compared with 'a', a text"):
                fulfilled(read_condition(text), Table(rows), len(rows))
            continue
        found = fulfilled(read_condition(text), Table(rows), len(rows)).tolist()
        assert [row["x"] for row, yes in zip(rows, found, strict=True) if yes] == values, text


WRONG = {
    "": 0, "loss <": 6, "loss < )": 7, "(loss < 1": 9, "loss < 1)": 8, "loss ! 1": 5, "loss < 'a": 7, "loss = null": 7,
    "loss is 3": 8, "loss in 3": 8, "lst(loss) > 1": 0, "last(1) > 2": 5, "last(loss": 9, "run.colour = 1": 0, "1 < 2": 2,
    "loss.x() > 1": 0, "args > 1": 0, "args[1] > 2": 5, "loss < 1 x": 9, "loss < 1; drop": 8, "loss ** 2 > 1": 6, "not": 3,
    "loss < 3x": 7, "(lambda: 1)() = 1": 7, "__import__('os') = 1": 0, "f'{loss}' = 1": 1, "loss < 0x10": 7,
    "(" * 60 + "loss < 1" + ")" * 60: 40, "-" * 60 + "1 < loss": 40, "loss < 1 and " * 120 + "loss < 2": 1300,
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_an_error_points_at_its_character(text: str) -> None:
    with pytest.raises(ConditionError) as raised:
        read_condition(text)
    assert raised.value.at == WRONG[text], str(raised.value)
    *_, line, mark = str(raised.value).split("\n")
    assert mark.index("^") - 4 == WRONG[text]
    assert line[4:] == text


def test_a_condition_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConditionError, match="longer than 2000"):
        read_condition("x < 1 or " * 500 + "x < 1")


def trained(lab: Lab) -> list[str]:
    """Three runs: values of two levels, a NaN at the end of one, None, a text, arguments of two kinds."""
    keys: list[str] = []
    for number, (lr, kind) in enumerate([(0.1, "sgd"), (0.5, "adam"), (1.0, 3)]):
        journal = lab.journal(tags={"team": f"t{number}"})
        journal.entry("a", "lr", lr, 0.1, "given")
        journal.entry("a", "kind", kind, "sgd", "given")
        if number == 1:
            journal.entry("a", "momentum", 0.9, 0.9, "given")
        for epoch in journal.loop("epoch", ["x", "y", "z"]):
            for step in journal.loop("step", 2):
                journal.log("loss", lr * (10 * ("xyz".index(epoch)) + step))
            journal.log("acc", math.nan if number == 1 and epoch == "z" else lr + "xyz".index(epoch), line=2)
        if number == 2:
            journal.log("extra", "odd", line=3)
        journal.end("failed" if number == 2 else "finished")
        keys.append(lab.ingest(journal).key)
    return keys


RUNS: dict[str, list[int]] = {
    "args.lr > 0.2": [1, 2],
    "args.kind = 'adam'": [1],
    "args.kind != 'adam'": [0, 2],
    "args['kind'] in ('sgd', 3)": [0, 2],
    "run.status = 'failed'": [2],
    "run.status <> 'failed' and args.lr < 0.3": [0],
    "last(acc) is nan": [1],
    "last(acc) > 2": [0, 2],
    "max(acc) < 2": [1],
    "min(loss) = 0 and first(loss) = 0": [0, 1, 2],
    "mean(acc) is nan or mean(acc) > 1.5": [1, 2],
    "count(extra) > 0": [2],
    "last(extra) is null": [0, 1],
    "last(extra) = 'odd'": [2],
    "max(epoch) = 2 and count(step) = 6": [0, 1, 2],
    "tags.team = 't1'": [1],
    "run.started > '2020-01-01' and run.seconds < 100": [0, 1, 2],
    "run.started < '2020-01-01'": [],
    "last(extra) = 'x' or not last(extra) = 'odd'": [],
    "args.momentum > 1 or not args.momentum > 1": [1],
}

ROWS_OF: dict[str, int] = {
    "epoch >= 1": 12,
    "epoch = 2 and step = 1": 3,
    "epoch_value = 'y'": 6,
    "epoch > last(epoch) - 2": 12,
    "loss < 1": 5,
    "loss = max(loss)": 3,
    "acc is nan": 2,
    "acc is null": 0,
    "lr > 0.3 and epoch = 0": 4,
    "args.lr > 0.3 and epoch = 0": 4,
    "run.status = 'failed' or step = 0 and epoch = 1": 8,
    "step_value = 1": 9,
}


def test_runs_and_rows_are_selected_the_same_on_both_databases(lab: Lab) -> None:
    keys = trained(lab)
    store = lab.store
    for text, numbers in RUNS.items():
        found = store.runs_where(text, store.runs())
        assert [run.key for run in found] == [keys[number] for number in numbers], text
        frame = store.dataframe("loss", where=text)
        assert list(dict.fromkeys(frame["run"])) == [keys[number] for number in numbers], text
    for text, count in ROWS_OF.items():
        assert len(store.dataframe("loss", "acc", where=text)) == count, text
    frame = store.dataframe("loss", where="acc > 1.2 and epoch < 2")
    assert list(frame.columns) == ["run", "epoch", "epoch_value", "step", "loss"], (
        "what is only read is not shown"
    )
    assert frame["epoch"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "at", "said"),
    [
        ("lr > 1", 0, "write args.lr"),
        ("status = 'failed'", 0, "write run.status"),
        ("args.lr > 1 and loss < 2", 16, r"write last\(loss\)"),
        ("last(lr) > 1", 0, "write args.lr"),
        ("args.lrr > 3", 0, "no training run has an argument 'lrr'. Did you mean args.lr"),
        ("args.kind > 3", 10, "can't be compared with 3"),
        ("run.started > 'yesterday'", 14, "is no time"),
        ("args.lr", 0, "no yes or no"),
        ("mean(extra) > 1", 0, "can't be computed"),
        ("args.kind + 1 > 2", 10, "computes with numbers"),
    ],
)
def test_what_does_not_fit_training_runs_says_so_at_its_character(
    sqlite_lab: Lab, text: str, at: int, said: str
) -> None:
    trained(sqlite_lab)
    with pytest.raises(ConditionError, match=said) as raised:
        sqlite_lab.store.runs_where(text, sqlite_lab.store.runs())
    assert raised.value.at == at


@pytest.mark.parametrize("text", ["last(lss) > 1", "lss > 1"])
def test_a_name_that_nothing_has_is_answered_with_near_ones(sqlite_lab: Lab, text: str) -> None:
    trained(sqlite_lab)
    for ask in (
        lambda: sqlite_lab.store.runs_where(text, sqlite_lab.store.runs()),
        lambda: sqlite_lab.store.dataframe("acc", where=text),
    ):
        with pytest.raises(UnknownNameError, match="'loss'") as raised:
            ask()
        assert isinstance(raised.value, QueryError)


def test_an_argument_that_is_nan_is_a_value_and_one_that_is_not_there_is_none(sqlite_lab: Lab) -> None:
    for value in ({"$": "float", "bits": "7ff8000000000000"}, 0.5, None):
        journal = sqlite_lab.journal()
        if value is not None:
            journal.entry("a", "decay", value, 0.1, "given")
        journal.log("loss", 1.0)
        journal.end()
        sqlite_lab.ingest(journal)
    keys = [run.key for run in sqlite_lab.store.runs()]
    for word in ("decay", "args.decay"):
        for condition, number in {"is nan": 0, "= 0.5": 1, "is null": 2}.items():
            found = sqlite_lab.store.dataframe("loss", where=f"{word} {condition}")["run"]
            assert found.tolist() == [keys[number]], (word, condition)


def test_the_order_of_logging_decides_what_is_last(lab: Lab) -> None:
    """Of several definitions, and of a value behind a loop."""
    journal = lab.journal()
    for step in journal.loop("step", 3):
        journal.log("x", float(step), line=1 + step % 2)
    journal.log("x", 9.0, line=3)
    journal.end()
    lab.ingest(journal)
    for line in (1, 2, 3):
        row = lab.store.add_statement("x", f"a{line}", file="train.py", identity=f"i{line}")
        lab.store.link_call_site("a6c76f3f" + "0" * 32, "train.py", line, "x", row.id)
    runs = lab.store.runs()
    for text in ("first(x) = 0 and last(x) = 9", "min(x) = 0", "max(x) = 9", "count(x) = 4", "mean(x) = 3"):
        assert lab.store.runs_where(text, runs) == runs, text


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(condition=conditions(depth=2))
def test_a_condition_over_a_stored_view_selects_what_a_naive_reader_would(
    tmp_path_factory: Any, condition: tuple[str, Naive]
) -> None:
    from flor_dagster.store import LogStore

    rows: list[Row] = [
        {"x": x, "y": y, "t": t, "flag": flag}
        for x, y, t, flag in [
            (1, 0.5, "a", True), (None, math.nan, "it's", False), (2**53 + 1, 1.0, None, None), (0, None, "", True)
        ]
    ]  # fmt: skip
    text, naive = condition
    expected = [naive(row) for row in rows]
    folder = tmp_path_factory.mktemp("conditions")
    with LogStore.open(folder / "flor.db") as store:
        lab = Lab(folder, store)
        journal = lab.journal()
        for number in journal.loop("i", len(rows)):
            journal.log("there", number)
            for name, value in rows[number].items():
                if value is not None:
                    journal.log(name, value)
        journal.end()
        lab.ingest(journal)
        if ... in expected or not _reads(text):
            return
        frame = store.dataframe("there", where=text)
        assert frame["there"].tolist() == np.flatnonzero([one is True for one in expected]).tolist(), text
