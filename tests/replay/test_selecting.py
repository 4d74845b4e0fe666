"""Which training runs: a condition selects what it says, and nothing of it runs as code."""

from __future__ import annotations

import pytest

from flor_dagster.errors import FlorError, QueryError, UnknownNameError
from flor_dagster.store.conditions import read_condition
from tests.replay.conftest import Lab

SCRIPT = """\
import flor_dagster as flor
lr = flor.arg("lr", 0.1)
kind = flor.arg("kind", "sgd")
for epoch in flor.loop("epoch", range(3)):
    flor.log("loss", 1.0 / (lr * (epoch + 1)))
    flor.log("train/acc", epoch)
if kind == "adam":
    flor.log("extra", 5)
    raise ValueError("died")
"""


@pytest.fixture
def trained(lab: Lab) -> Lab:
    lab.commit({"train.py": SCRIPT})
    lab.train(lr=0.1)
    lab.train(lr=0.5)
    lab.train(lr=1.0, kind="adam", fails=True)
    return lab


def test_arguments_values_status_and_times_select_runs(trained: Lab) -> None:
    wanted = {
        "args.lr > 0.2": [0.5, 1.0],
        "args.lr = 0.5": [0.5],
        "args.lr <> 0.5 AND run.status = 'finished'": [0.1],
        "args.kind in ('adam', 'lamb')": [1.0],
        "last(loss) < 2": [0.5, 1.0],
        "first(loss) - last(loss) > 5": [0.1],
        "min(loss) < 0.5 or max(loss) > 9": [0.1, 1.0],
        "last('train/acc') == 2 and not args.lr >= 0.5": [0.1],
        "count(extra) > 0": [1.0],
        "extra_free": None,
        "last(extra) = 5": [1.0],
        "NOT last(extra) = 4": [1.0],
        "last(extra) IS NULL": [0.1, 0.5],
        "last(extra) > 6 or not last(extra) > 4": [],
        "run.status in ('failed', 'lost')": [1.0],
        "run.started > '2020-01-01' and run.seconds < 1000": [0.1, 0.5, 1.0],
        "run.started < '2020-01-01'": [],
        "tags['flor/parent'] is None and run.entrypoint = 'train.py'": [0.1, 0.5, 1.0],
        "0.2 < args.lr < 0.7": [0.5],
    }
    with trained.open() as workspace:
        workspace.sync()
        for text, lrs in wanted.items():
            if lrs is None:
                continue
            chosen = workspace.store.runs_where(text, workspace.runs())
            assert [run.args["lr"] for run in chosen] == lrs, text


@pytest.mark.parametrize(
    "text",
    [
        "", "__import__('os').system('x')", "args['lr'][0]", "last(loss", "(lambda: 1)()",
        "last(loss)(1)", "open('x')", "args.lr > 1; args", "[x for x in args]", "last(1)", "f'{args.lr}'", "args.lr ** 9",
        "x" * 5000,
    ],
)  # fmt: skip
def test_anything_else_is_refused_and_never_run(text: str) -> None:
    with pytest.raises(QueryError):
        read_condition(text)


def test_what_does_not_fit_says_so(trained: Lab) -> None:
    with trained.open() as workspace:
        workspace.sync()
        runs, store = workspace.runs(), workspace.store
        with pytest.raises(QueryError, match="can't be compared"):
            store.runs_where("args.kind > 3", runs)
        with pytest.raises(UnknownNameError, match="`nothing`"):
            store.runs_where("last(nothing) > 3", runs)
        for absent in ("args.missing > 1 or not args.missing > 1", "args.lr.real > 1"):
            with pytest.raises(UnknownNameError, match="no training run has an argument"):
                store.runs_where(absent, runs)
        with pytest.raises(QueryError, match=r"write args\.lr"):
            store.runs_where("lr > 1", runs)
        with pytest.raises(QueryError, match="is no time"):
            store.runs_where("run.started > 'yesterday'", runs)
        with pytest.raises(FlorError, match="no yes or no"):
            store.runs_where("args.lr", runs)
