"""A warm worker that is killed, or whose child is, costs a second attempt; what can't be done is said, the rest is done."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from flor_dagster.replay.model import Question, Report
from flor_dagster.replay.workers import LocalBackend
from tests.replay.conftest import Lab

SCRIPT = """\
import os
import numpy as np
import flor_dagster as flor

bad = flor.arg("bad", 0)
total = np.zeros(1)
for epoch in flor.loop("epoch", range(3)):
    total += epoch + bad
    if bad and epoch == 1 and os.path.exists("fault.pyi"):
        exec(open("fault.pyi").read())
    flor.log("total", float(total[0]))
    {more}
"""
ASKED = 'flor.log("asked", float(total[0]) * 2)'

# A stub is no input of a training: what the fault is, is this test's own affair. It says that it is under way, and waits for the end that is coming; the second attempt finds what the first one left.
WAITS = """
import time
folder = {folder!r}
number = len(os.listdir(folder))
open(os.path.join(folder, str(number)), "w").write(str(os.getppid()))
if number < {times}:
    time.sleep(600)
"""


@pytest.fixture
def two_runs(lab: Lab, tmp_path: Path) -> tuple[Lab, Path]:
    """The bad run's replay does what `fault.pyi` says; where each attempt leaves a file."""
    lab.commit({"train.py": SCRIPT.format(more=""), ".gitignore": "fault.pyi\n"})
    lab.train(bad=1)
    lab.train(bad=0)
    lab.write({"train.py": SCRIPT.format(more=ASKED)})
    attempts = tmp_path / "attempts"
    attempts.mkdir()
    return lab, attempts


def ask(lab: Lab) -> Report:
    with lab.open() as workspace:
        return workspace.answer(Question(("asked",), without_checkpoints=True, workers=2, segments=1))


def kill_the_worker(lab: Lab, attempts: Path, times: int, killed: list[int]) -> threading.Thread:
    """Kill the worker process of each attempt once it is under way."""

    def work() -> None:
        for number in range(times):
            mark = attempts / str(number)
            limit = time.monotonic() + 60
            while not (mark.exists() and mark.read_text()) and time.monotonic() < limit:
                time.sleep(0.02)
            # The other run shares the worker: it must not be lost twice.
            while (
                number
                and not list(lab.root.glob(".flor/replays/*/journal.0.jsonl"))
                and time.monotonic() < limit
            ):
                time.sleep(0.02)
            guard = int(mark.read_text())
            worker = int(Path(f"/proc/{guard}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("times", [1, 2])
def test_a_killed_worker_costs_a_second_attempt_and_no_third(
    two_runs: tuple[Lab, Path], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, attempts = two_runs
    warm: list[bool] = []
    run = LocalBackend.run
    monkeypatch.setattr(LocalBackend, "run", lambda self, unit: _noted(run(self, unit), warm))
    lab.write_early({"fault.pyi": WAITS.format(folder=str(attempts), times=times)})
    killed: list[int] = []
    killer = kill_the_worker(lab, attempts, times, killed)
    report = ask(lab)
    killer.join()
    bad, good = (answer.cell for answer in report.cells)
    assert (good.status, good.fidelity) == ("replayed", "exact"), good.sentence
    assert len(set(killed)) == times, "another worker took the place of the killed one"
    assert len(list(attempts.iterdir())) == 2
    assert warm[-1] is False, "the second attempt is a cold child"
    if times == 1:
        assert (bad.status, bad.fidelity) == ("replayed", "exact"), bad
    else:
        assert bad.status == "failed"
        assert "its worker process was lost; a second attempt ended the same way" in bad.sentence
        lab.write_early({"fault.pyi": ""})
        assert [cell.cell.status for cell in ask(lab).cells] == ["replayed", "replayed"]


def _noted(ended: object, warm: list[bool]) -> object:
    warm.append(getattr(ended, "warm", False))
    return ended


def test_a_child_that_is_killed_for_memory_leaves_its_warm_worker_to_the_others(
    two_runs: tuple[Lab, Path],
) -> None:
    lab, attempts = two_runs
    # As the kernel does it: no exception, no last word.
    fault = f"open({str(attempts)!r} + '/' + str(os.getpid()), 'w').close(); os.kill(os.getpid(), 9)"
    lab.write_early({"fault.pyi": fault})
    report = ask(lab)
    bad, good = (answer.cell for answer in report.cells)
    assert bad.status == "failed"
    assert "SIGKILL (out of memory?)" in bad.sentence
    assert "a second attempt ended the same way" in bad.sentence
    assert len(list(attempts.iterdir())) == 2
    assert (good.status, good.fidelity) == ("replayed", "exact")
    assert not report.complete
