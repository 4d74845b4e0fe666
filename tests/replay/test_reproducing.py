"""`flor verify`: can this run still be reproduced? `--audit`: is skipping the same as executing?"""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from flor_dagster.cli import cli
from flor_dagster.errors import UnknownNameError
from flor_dagster.replay.model import Question
from flor_dagster.replay.reproducing import verify_run
from tests.replay.conftest import Lab

SCRIPT = """\
import os
import random
import flor_dagster as flor

random.seed(1)
total = 0.0
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        total += random.random() + {noise}
        flor.log("loss", total)
    flor.log("mean", total / 2)
    {more}
flor.log("end", total)
"""

# What is in a file is no part of a checkpoint.
HIDDEN = """\
import os
import shutil
from pathlib import Path
import flor_dagster as flor

def draw():
    # How many files a folder holds tells nobody that it was looked at.
    seen = len(os.listdir("counted"))
    Path("counted", str(seen)).write_text("x")
    return seen

shutil.rmtree("counted", ignore_errors=True)
os.mkdir("counted")
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        flor.log("drawn", draw())
    flor.log("middle", epoch)
    for check in flor.loop("check", range(2)):
        flor.log("checked", check)
    flor.log("after", draw())
    {more}
"""


def only(lab: Lab) -> str:
    (folder,) = (lab.root / ".flor" / "runs").iterdir()
    return folder.name


def test_a_run_that_comes_out_the_same_is_verified_and_the_verdict_is_kept(lab: Lab) -> None:
    lab.commit({"train.py": SCRIPT.format(noise="0", more="")})
    lab.train()
    with lab.open() as workspace:
        done = verify_run(workspace, only(lab), audit=True)
        assert done.good, done.sentence
        assert done.fidelity == "exact"
        assert [(a.name, a.why) for a in done.audited] == [("epoch", ""), ("step", "")]
        kept = workspace.store.replays(only(lab))
        assert kept[0].fidelity == "exact"
        assert kept[0].compared_records == 10
        assert workspace.store.dataframe("loss").shape[0] == 6, "nothing was added to the view"
    shown = CliRunner().invoke(cli, ["verify", only(lab), "--project", str(lab.root)])
    assert shown.exit_code == 0, shown.output
    assert "exact  10 records" in shown.output


def test_a_run_that_does_not_is_named_with_the_first_difference_and_what_is_behind_it(lab: Lab) -> None:
    noise = "int.from_bytes(os.urandom(2), 'big')"
    lab.commit({"train.py": SCRIPT.format(noise=noise, more="")})
    lab.train()
    shown = CliRunner().invoke(cli, ["verify", only(lab), "--project", str(lab.root)])
    assert shown.exit_code == 1, shown.output
    assert "`loss` at epoch#0[0]/step#0[0] was" in shown.output
    assert "not deterministic" in shown.output
    with lab.open() as workspace:
        assert workspace.store.replays(only(lab))[0].fidelity == "diverged"


def test_an_audit_finds_a_loop_that_hides_state_and_later_plans_execute_it(lab: Lab) -> None:
    lab.commit({"train.py": HIDDEN.format(more="")})
    lab.train()
    with lab.open() as workspace:
        done = verify_run(workspace, only(lab), audit=True)
        by_name = {a.name: a.why for a in done.audited}
        assert by_name["check"] == ""
        assert "`drawn`" in by_name["epoch"], "entered in the middle, the folder is empty"
        assert "`after`" in by_name["step"]
        assert not done.good
        lab.write({"train.py": HIDDEN.format(more='flor.log("asked", epoch * 2)')})
        (part,) = workspace.plan(Question(("asked",))).runs
        assert any("step is executed 3 times: an audit found" in note for note in part.detail["notes"]), (
            part.detail
        )
        (answer,) = workspace.answer(Question(("asked",))).cells
        assert answer.cell.fidelity == "exact", answer.cell.sentence


def test_a_run_that_fails_now_says_why_and_an_unknown_one_is_refused(lab: Lab) -> None:
    lab.commit(
        {"train.py": SCRIPT.format(noise="len(open('data.txt').read())", more=""), ".gitignore": "data.txt\n"}
    )
    lab.write({"data.txt": "abc"})
    lab.train()
    (lab.root / "data.txt").unlink()
    with lab.open() as workspace:
        done = verify_run(workspace, only(lab))
        assert done.fidelity is None
        assert "data.txt" in done.sentence
        assert done.tail
        with pytest.raises(UnknownNameError):
            verify_run(workspace, "nothing")
