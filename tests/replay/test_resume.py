"""A training that died goes on and ends as one that never died."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flor_dagster.errors import ReplayError
from flor_dagster.recording.journal import read_journal
from flor_dagster.replay.model import Question
from flor_dagster.replay.resuming import ResumedTrainingFailedError, resume
from flor_dagster.replay.workspace import Workspace
from tests.replay.conftest import PACKAGE, Lab, bits

pytestmark = pytest.mark.ci

NUMPY = """\
import json
import os
import random
import time
from pathlib import Path
import numpy as np
import flor_dagster as flor

class Model:
    def __init__(self):
        self.weights = np.zeros(50)
        self.seen = []

    def update(self, value):
        self.weights += value * np.arange(50)
        self.seen.append(len(self.seen))

def train():
    model = Model()
    rng = np.random.default_rng(7)
    random.seed(3)
    np.random.seed(4)
    best, last = 0.0, None
    flor.log("size", model.weights.size)
    for epoch in flor.loop("warm", range(2)):
        model.update(rng.random())
        flor.log("warmth", float(model.weights[1]))
    for epoch in flor.loop("epoch", range(flor.arg("epochs", 5))):
        rate = random.random()
        flor.log("drawn", rate)
        for step in flor.loop("step", range(4)):
            model.update(rng.random() * rate)
            last = float(model.weights[2])
            flor.log("loss", last)
            time.sleep(float(os.environ._data.get(b"PYTEST_FLOR_SLOW", b"0")))
        flor.log("last", last)
        for check in flor.loop("check", range(2)):
            best = max(best, float(np.random.rand()) + last)
            flor.log("best", best)
            time.sleep(float(os.environ._data.get(b"PYTEST_FLOR_SLOW", b"0")))
        flor.log("rate", rate)
    return model, best, rng

model, best, rng = train()
flor.log("final", float(model.weights.sum()) + best)
Path("final.json").write_text(json.dumps([model.weights.tolist(), model.seen, best, rng.random(), random.random()]))
"""


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    return kept | {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0", "FLOR_CHECKPOINTS": "all"} | more


def die(lab: Lab, records: int, slow: str = "0.02", sign: signal.Signals = signal.SIGKILL) -> str:
    """Train, and send the process a signal once so many records are on disk; the run's id."""
    child = subprocess.Popen(
        [sys.executable, "train.py"], cwd=lab.root, env=environment(PYTEST_FLOR_SLOW=slow), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            assert child.poll() is None, child.communicate()[1]
            if sum(_records(path) for path in lab.root.glob(".flor/runs/*/journal.0.jsonl")) >= records:
                break
            time.sleep(0.005)
        child.send_signal(sign)
        child.communicate(timeout=60)
    finally:
        child.kill()
        child.communicate()
    (folder,) = (lab.root / ".flor" / "runs").iterdir()
    deadline = time.monotonic() + 60
    while not (folder / "version.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)  # the version's child outlives the training
    return folder.name


def newest(workspace: Workspace, runs: int) -> str:
    """The newest run, once there are so many: a version's child may be at work when the training is dead."""
    deadline = time.monotonic() + 60
    while len(workspace.runs()) < runs and time.monotonic() < deadline:
        time.sleep(0.05)
        workspace.sync()
    return workspace.runs()[-1].id


def _records(path: Path) -> int:
    return sum(line[1:2].isdigit() for line in path.read_bytes().splitlines() if line.startswith(b"["))


def frames(lab: Lab, run: str) -> dict[str, list[tuple[object, ...]]]:
    with lab.open() as workspace:
        workspace.sync()
        found: dict[str, list[tuple[object, ...]]] = {}
        for name in workspace.store.names():
            frame = workspace.store.dataframe(name, runs=[run]).drop(columns="run")
            found[name] = [tuple(bits(v) for v in row) for row in frame.itertuples(index=False)]
        return found


def uninterrupted(lab: Lab, text: str) -> Lab:
    whole = Lab(lab.root.parent / "whole")
    whole.commit({"train.py": text})
    whole.train()
    return whole


def only_run(lab: Lab) -> str:
    (folder,) = (lab.root / ".flor" / "runs").iterdir()
    return folder.name


@pytest.fixture(autouse=True)
def _all_checkpoints(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOR_CHECKPOINTS", "all")


@pytest.mark.parametrize(
    "records", [pytest.param(8, marks=pytest.mark.slow), 15, 24, pytest.param(34, marks=pytest.mark.slow)]
)
def test_a_killed_training_goes_on_and_ends_as_one_that_never_died(lab: Lab, records: int) -> None:
    """In the first epoch, in a nested loop, behind a nested loop, late: wherever it happens to be."""
    lab.commit({"train.py": NUMPY})
    records += random.randrange(3)
    dead = die(lab, records)
    with lab.open() as workspace:
        new = resume(workspace, dead, "train.py")
        parent = workspace.store.run(dead)
        assert (new.status, parent.status) == ("finished", "lost")
        assert new.tags["flor/parent"] == parent.key
        assert new.tags["flor/resumed_at"]
        assert new.header["parent"] == parent.id
    whole = uninterrupted(lab, NUMPY)
    assert frames(lab, new.id) == frames(whole, only_run(whole)), records
    assert (lab.root / "final.json").read_bytes() == (whole.root / "final.json").read_bytes()


STOPPED = """\
import signal, sys
asked = []
signal.signal(signal.SIGTERM, lambda *_: HANDLER)
"""


@pytest.mark.parametrize("where", ["step", "epoch"])
@pytest.mark.parametrize(
    ("handler", "test"),
    [
        ("sys.exit(0)", ""),
        ("asked.append(1)", "if asked: break"),
        ("asked.append(1)", "if asked: return model, best, rng"),
        ("asked.append(1)", "if asked: sys.exit(0)"),
    ],
)
def test_a_training_that_left_its_loop_politely_goes_on_and_ends_as_one_that_never_did(
    lab: Lab, handler: str, test: str, where: str
) -> None:
    """Batch systems send SIGTERM; what the program does then is its own affair, and its status may be `finished`."""
    anchor = '            flor.log("loss", last)\n' if where == "step" else '        flor.log("rate", rate)\n'
    indent = " " * (len(anchor) - len(anchor.lstrip()))
    if where == "step" and test.endswith("break"):
        test = "if asked: sys.exit(0)"  # a break of the inner loop alone would be another training
    text = STOPPED.replace("HANDLER", handler) + NUMPY.replace(anchor, f"{anchor}{indent}{test}\n")
    lab.commit({"train.py": text})
    left = die(lab, 22, sign=signal.SIGTERM)
    (lab.root / "final.json").unlink(missing_ok=True)
    with lab.open() as workspace:
        said: list[str] = []
        new = resume(workspace, left, "train.py", on_line=said.append)
        parent = workspace.store.run(left)
        assert (new.status, parent.status) == ("finished", "finished")
        assert "left its loop epoch" in said[0]
    whole = uninterrupted(lab, text)
    assert frames(lab, new.id) == frames(whole, only_run(whole))
    assert (lab.root / "final.json").read_bytes() == (whole.root / "final.json").read_bytes()


def test_a_training_that_stopped_early_because_it_was_good_enough_stops_there_again(lab: Lab) -> None:
    anchor = '        flor.log("rate", rate)\n'
    lab.commit({"train.py": NUMPY.replace(anchor, f"{anchor}        if epoch == 2: break\n")})
    lab.train()
    finished = only_run(lab)
    before = (lab.root / "final.json").read_bytes()
    with lab.open() as workspace:
        new = resume(workspace, finished)
        assert new.status == "finished"
    assert frames(lab, new.id) == frames(lab, finished)
    assert (lab.root / "final.json").read_bytes() == before


def test_what_was_done_before_the_restore_point_is_not_done_again(lab: Lab) -> None:
    lab.commit({"train.py": NUMPY})
    dead = die(lab, 25)
    before = (lab.root / ".flor" / "runs" / dead / "journal.0.jsonl").read_bytes()
    with lab.open() as workspace:
        new = resume(workspace, dead)
    journal = lab.root / ".flor" / "runs" / new.id / "journal.0.jsonl"
    copied = [line for line in before.splitlines() if line in journal.read_bytes().splitlines()]
    assert len([line for line in copied if line[1:2].isdigit()]) >= 15, "the beginning is the dead run's own"
    assert (lab.root / ".flor" / "runs" / dead / "journal.0.jsonl").read_bytes() == before
    entries = [entry.parts for entry in read_journal(journal)]
    loops = [parts[1] for parts in entries if parts[0] == "l"]
    assert loops == sorted(set(loops)), "no number is given out twice"
    contexts = [tuple(parts[2:4]) for parts in entries if parts[0] == "c"]
    assert len(contexts) == len(set(contexts)), "no iteration has two numbers"


def test_a_resumed_training_is_asked_like_any_other_also_when_the_dead_one_is_gone(lab: Lab) -> None:
    lab.commit({"train.py": NUMPY})
    dead = die(lab, 18)
    with lab.open() as workspace:
        new = resume(workspace, dead)
    asked = NUMPY.replace(
        '        flor.log("rate", rate)\n',
        '        flor.log("rate", rate)\n        flor.log("asked", best + rate)\n',
    )
    lab.write({"train.py": asked})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",), runs=(new.key,))).cells
        # Where the dead run had no time for a checkpoint behind the restore, there is nothing to compare there.
        assert answer.cell.fidelity in ("exact", "unverified"), answer.cell.sentence
        assert (answer.cell.status, answer.cell.rows) == ("replayed", 5)
        frame = workspace.store.dataframe("rate", "best", "asked", runs=[new.key])
        whole = frame[frame["check"] == 1] if "check" in frame else frame
        assert [bits(v) for v in whole["asked"]] == [
            bits(a + b) for a, b in zip(whole["best"], whole["rate"], strict=True)
        ]


def test_a_resumed_training_that_dies_again_is_resumed_again(lab: Lab) -> None:
    text = NUMPY.replace(
        '        flor.log("rate", rate)\n',
        '        flor.log("rate", rate)\n        if os.environ.get("DIE") == str(epoch):\n            os._exit(9)\n',
    )
    lab.commit({"train.py": text})
    with lab.open() as workspace:
        run: str | None = None
        for number, epoch in enumerate(("1", "3", "-"), 1):
            # What the dead run read of its environment is given back, unless it is given anew.
            try:
                if run is None:
                    workspace.train("train.py", {}, variables={"DIE": epoch})
                else:
                    resume(workspace, run, variables={"DIE": epoch})
            except ReplayError:
                assert epoch != "-"
            run = newest(workspace, number)
        assert run is not None
        assert workspace.store.run(run).status == "finished"
    whole = uninterrupted(lab, text)
    assert frames(lab, run) == frames(whole, only_run(whole))
    assert (lab.root / "final.json").read_bytes() == (whole.root / "final.json").read_bytes()


# Refusals -------------------------------------------------------------------------------------------------------------


def test_changed_code_is_refused_unless_it_is_allowed(lab: Lab) -> None:
    lab.commit({"train.py": NUMPY})
    dead = die(lab, 14)
    lab.write({"train.py": NUMPY.replace("rng.random() * rate", "rng.random() * rate * 2")})
    with lab.open() as workspace:
        with pytest.raises(ReplayError, match=r"train\.py differs from the version .*--allow-changed"):
            resume(workspace, dead)
        assert len(workspace.runs()) == 1, "nothing was started"
        assert resume(workspace, dead, allow_changed=True).status == "finished"


def test_a_finished_run_an_unknown_script_and_a_run_without_a_restore_point_are_refused(lab: Lab) -> None:
    lab.commit({"train.py": NUMPY})
    lab.train()
    finished = only_run(lab)
    lab.write({"other.py": "import flor_dagster as flor\nflor.log('a', 1)\nraise ValueError(3)\n"})
    lab.train("other.py", fails=True)
    with lab.open() as workspace:
        workspace.sync()
        with pytest.raises(ReplayError, match="is finished"):
            resume(workspace, finished)
        other = next(r for r in workspace.runs() if r.entrypoint == "other.py")
        with pytest.raises(ReplayError, match="no restore point"):
            resume(workspace, other.key)
        with pytest.raises(ReplayError, match=r"is one of other\.py"):
            resume(workspace, other.key, "train.py")


def test_a_setup_that_comes_out_otherwise_is_refused_before_the_training_goes_on(lab: Lab) -> None:
    text = NUMPY.replace(
        'flor.log("size", model.weights.size)', 'flor.log("size", int(Path("size.txt").read_text()))'
    )
    lab.commit({"train.py": text, ".gitignore": "size.txt\nfinal.json\n"})
    lab.write({"size.txt": "1"})
    dead = die(lab, 14)
    lab.write({"size.txt": "2"})
    with (
        lab.open() as workspace,
        pytest.raises(ResumedTrainingFailedError, match="`size` at the top of the run is 2 here"),
    ):
        resume(workspace, dead)
    assert not (lab.root / "final.json").exists()
