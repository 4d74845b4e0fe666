"""`flor hindsight --plan` and `flor.plan` look first: which runs, what is executed and why, what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import flor_dagster as flor
from flor_dagster.cli import cli
from tests.replay.conftest import PACKAGE, Lab, lab

__all__ = ["lab"]

SCRIPT = """\
import flor_dagster as flor
lr = flor.arg("lr", 1.0)
numbers = iter(range(1000))
total = 0.0
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(4)):
        total += lr * next(numbers)
    flor.log("loss", total)
    {more}
"""


@pytest.fixture
def trained(lab: Lab) -> Lab:
    lab.commit({"train.py": SCRIPT.format(more="")})
    for lr in (1.0, 2.0, 3.0):
        lab.train(lr=lr)
    lab.write({"train.py": SCRIPT.format(more='flor.log("asked", total / lr)')})
    return lab


def run(lab: Lab, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--project", str(lab.root)])


def test_a_plan_names_the_runs_that_a_condition_selects_and_why_loops_are_executed(trained: Lab) -> None:
    done = run(trained, "hindsight", "asked", "--plan", "--where", "args.lr > 1.5 and last(loss) < 150")
    assert done.exit_code == 0, done.output
    assert "1 of 1 training runs to replay" in done.output
    assert "step is executed 3 times: its end state can't be captured: `numbers`" in done.output
    assert "asked goes to train.py:9" in done.output
    assert "Nothing was run" in done.output
    document = json.loads(
        run(trained, "hindsight", "asked", "--plan", "--where", "args.lr > 1.5", "--json").stdout
    )
    assert [part["run"]["args"]["lr"] for part in document["plan"]["runs"]] == [2.0, 3.0]
    assert document["estimate_error"] is None, "no replay was made yet"


def test_a_wrong_condition_or_loop_is_said_and_nothing_is_run(trained: Lab) -> None:
    wrong = run(trained, "hindsight", "asked", "--plan", "--where", "lr > 1")
    assert wrong.exit_code == 1
    assert "args.lr" in wrong.output
    for plan in (["--plan"], []):
        for asked, said in {
            "batch=0": "has a loop `batch` (their loops: epoch, step)",
            "epoch=99": "has an iteration epoch=99 (the iterations of `epoch`: 0 to 2)",
            "epoch=0,99": "has an iteration epoch=99",
            "epoch=7:9": "has an iteration epoch=7:9",
            "step=4": "(the iterations of `step`: 0 to 3)",
            "epoch_value=x": "has an iteration epoch_value=x",
        }.items():
            absent = run(trained, "hindsight", "asked", *plan, "--iterations", asked)
            assert absent.exit_code == 2, asked
            assert said in absent.output
            assert "Nothing was run" in absent.output
    with trained.open() as workspace:
        assert not workspace.store.replays()
    assert run(trained, "hindsight", "asked", "--plan", "--iterations", "epoch=1:2:x").exit_code == 2


def test_iterations_may_be_ranges(trained: Lab) -> None:
    done = run(trained, "hindsight", "asked", "--latest", "1", "--iterations", "epoch=:2")
    assert done.exit_code == 0, done.output
    with trained.open() as workspace:
        frame = workspace.store.dataframe("asked").dropna()
        assert list(frame["epoch"]) == [0, 1]


def test_iterations_may_be_named_by_their_values(lab: Lab) -> None:
    # Every epoch can be entered by itself.
    script = SCRIPT.replace("range(3)", 'flor.arg("kinds", ["a", "b"])').replace("next(numbers)", "step")
    lab.commit({"train.py": script.format(more="")})
    lab.train(kinds=["a", "b", "c"])
    lab.train(kinds=["c"])
    lab.train()
    lab.write({"train.py": script.format(more='flor.log("asked", total / lr)')})
    done = run(lab, "hindsight", "asked", "--iterations", "epoch_value=c")
    assert done.exit_code == 0, done.output
    assert "nothing to replay: this training run has no iteration epoch_value=c" in done.output
    with lab.open() as workspace:
        frame = workspace.store.dataframe("asked").dropna()
        assert list(frame["epoch"]) == [2, 0]
        assert list(frame["epoch_value"]) == ["c", "c"]
        keys = [one.key for one in workspace.runs()]
        assert list(frame["run"]) == keys[:2]
    left = run(lab, "hindsight", "asked", "--plan", "--iterations", "epoch_value=c")
    assert "this training run has no iteration epoch_value=c" in left.output
    why = run(lab, "why", keys[0], "asked", "--at", "epoch_value=b")
    assert "still open: only epoch 2 was asked so far" in why.output
    assert "asked is there" in run(lab, "why", keys[0], "asked", "--at", "epoch=2").output
    document = json.loads(run(lab, "why", keys[0], "asked", "--at", "epoch=1", "--json").stdout)
    assert (document["values"], document["at"]) == (0, {"epoch": 1})


def test_from_python_too_and_estimates_learn_from_what_replays_took(
    trained: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.root)
    plan = flor.plan("asked", where="args.lr >= 2")
    assert [part.run.args["lr"] for part in plan.runs] == [2.0, 3.0]
    assert plan.rates.error is None
    report = flor.hindsight("asked", workers=1)
    assert {answer.cell.fidelity for answer in report.cells} == {"exact"}
    real = [replay.seconds for replay in report.replays if replay.seconds]
    Path("train.py").write_text(SCRIPT.format(more='flor.log("again", total - lr)'))
    again = flor.plan("again")
    assert again.rates.replays == 3
    assert again.rates.sentence.startswith("estimates were within ±")
    # Learned from the three before: no guess any more, whatever the machine is busy with.
    assert all(min(real) / 3 < (part.estimated_seconds or 0) < max(real) * 3 for part in again.runs)


def test_records_that_lie_where_there_is_no_git_can_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.py").write_text("import flor_dagster as flor\nflor.log('loss', 0.25)\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment["PYTHONPATH"] = str(PACKAGE)
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, env=environment, check=True)
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    shown = CliRunner().invoke(cli, ["view", "loss", "--json"])
    assert json.loads(shown.stdout)["rows"][0]["loss"] == 0.25
    assert "train.py" in CliRunner().invoke(cli, ["runs"]).output
    asked = CliRunner().invoke(cli, ["hindsight", "loss"])
    assert asked.exit_code == 2
    assert "no git repository" in asked.output
