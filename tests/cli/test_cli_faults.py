"""`flor hindsight` where something goes wrong: each part is named, the status says so, what is finished is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from flor_dagster.cli import cli
from tests.replay.conftest import PACKAGE, Lab, lab

pytestmark = pytest.mark.ci

__all__ = ["lab"]

SCRIPT = """\
import os, time
import flor_dagster as flor

bad = flor.arg("bad", 0)
total = 0
for epoch in flor.loop("epoch", range(3)):
    total += epoch
    if bad and epoch == 1 and os.path.exists("fault.txt"):
        exec(open("fault.txt").read())
    flor.log("total", total)
    {more}
"""
ASKED = 'flor.log("asked", total * 2)'


def two_runs(lab: Lab, fault: str) -> None:
    lab.commit({"train.py": SCRIPT.format(more=""), ".gitignore": "fault.txt\n"})
    lab.train(bad=1)
    lab.train(bad=0)
    lab.write({"train.py": SCRIPT.format(more=ASKED)})
    lab.write_early({"fault.txt": fault})


def flor(lab: Lab, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [*arguments, "--project", str(lab.root)])
    return done.exit_code, done.stdout if "--json" in arguments else done.output


def test_a_part_that_fails_is_named_and_the_status_is_1(lab: Lab) -> None:
    two_runs(lab, "raise ValueError('as of old')")
    status, said = flor(
        lab, "hindsight", "asked", "--without-checkpoints", "--cold", "--workers", "2", "--segments", "1"
    )
    assert status == 1
    assert "ValueError: as of old" in said
    assert "1 replayed" in said
    lab.write({"fault.txt": ""})
    status, said = flor(lab, "hindsight", "asked", "--without-checkpoints")
    assert (status, "1 child process" in said) == (0, True), said


def test_a_timeout_names_the_statement_that_hangs(lab: Lab) -> None:
    two_runs(lab, "")
    lab.write({"train.py": SCRIPT.format(more='flor.log("asked", bad and epoch and time.sleep(600))')})
    status, said = flor(lab, "hindsight", "asked", "--timeout", "2.5", "--json")
    assert status == 1
    document = json.loads(said)
    (failed,) = document["failed"]
    assert "time limit" in failed["reason"]
    assert "statement `asked`" in failed["reason"]


def test_both_ways_to_choose_an_interpreter_at_once_are_wrong_usage(lab: Lab) -> None:
    two_runs(lab, "")
    assert flor(lab, "hindsight", "asked", "--env", "uv", "--python", sys.executable)[0] == 2


def test_ctrl_c_keeps_what_is_finished_and_says_so(lab: Lab, tmp_path: Path) -> None:
    mark = tmp_path / "under way"
    two_runs(lab, f"open({str(mark)!r}, 'w').close(); time.sleep(600)")
    asking = subprocess.Popen(
        [sys.executable, "-m", "flor_dagster.cli", "hindsight", "asked", "--without-checkpoints", "--workers", "2"],
        cwd=lab.root, env=os.environ | {"PYTHONPATH": str(PACKAGE)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    limit = time.monotonic() + 120
    with lab.open() as workspace:
        good = workspace.sync().runs and workspace.runs()[1]
        while time.monotonic() < limit:
            cells = workspace.store.cells(run_ids=[good.id])  # type: ignore[union-attr]
            if mark.exists() and any(cell.status == "replayed" for cell in cells):
                break
            time.sleep(0.1)
    asking.send_signal(signal.SIGINT)
    said, _ = asking.communicate(timeout=60)
    assert asking.returncode == 130, said
    assert "What was finished is kept" in said
    assert "Traceback" not in said
    status, view = flor(lab, "view", "asked", "--json")
    assert status == 0
    shown = [row["asked"] for row in json.loads(view)["rows"] if row["asked"] is not None]
    assert shown == [0, 2, 6]
    lab.write({"fault.txt": ""})
    status, again = flor(lab, "hindsight", "asked", "--json")
    assert status == 0
    assert json.loads(again)["children"] == 1, "only what is missing"
