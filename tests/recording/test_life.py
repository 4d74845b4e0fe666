"""What is known of a run: its process, its machine, its parent, its end."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from flor_dagster.recording.environment import packages_file
from flor_dagster.replay.training import TrainingFailedError
from flor_dagster.replay.workspace import Workspace
from tests.recording.record_lab import Project, Run


def test_the_header_tells_the_process_and_the_machine(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    run = project.run("import flor_dagster as flor\nflor.log('x', 1)\n", "--a", "b", OMP_NUM_THREADS="1")
    header = run.of("flor")[0][2]
    assert header["argv"] == ["train.py", "--a", "b"]
    assert header["variables"]["OMP_NUM_THREADS"] == "1"
    assert (header["hashseed"], header["executable"], header["parent"]) == ("0", sys.executable, "")
    assert header["hardware"]["memory"] > 0
    assert header["pid"] > 0
    packages = json.loads(packages_file(project.root / ".flor", header["packages"]).read_text())
    assert any(p.startswith("pytest==") for p in packages)
    assert packages == sorted(packages)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_request_to_end_is_an_interruption(tmp_path: Path, name: str) -> None:
    project = Project(tmp_path / "p")
    child = project.start("""
import time
import flor_dagster as flor
for i in flor.loop("i", range(10 ** 6)):
    flor.log("x", i)
    print("at", i, flush=True)
    time.sleep(0.01)
""")
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.Signals[name])
    child.communicate(timeout=60)
    assert child.returncode == -signal.Signals[name]
    run = Run(project, "", "")
    assert run.of("z")[0][1:3] == ["interrupted", name]


def test_a_handler_of_the_trainings_own_is_left_alone(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run("""
import os, signal
signal.signal(signal.SIGTERM, lambda *_: print("mine"))
import flor_dagster as flor
flor.log("x", 1)
os.kill(os.getpid(), signal.SIGTERM)
flor.log("y", 2)
""")
    assert run.out == "mine\n"
    assert run.status == "finished"


# Every way of leaving: what the script ends with, the exit status that it had without us, the run's status and reason.
EXITS = [
    ("def main():\n    raise SystemExit(4)\nmain()", 4, "failed", "SystemExit: 4"),
    ("def main():\n    raise SystemExit\nmain()", 0, "finished", ""),
    ("raise SystemExit(4)", 4, "failed", "SystemExit: 4"),
    ("raise SystemExit('no data')", 1, "failed", "SystemExit: no data"),
    ("raise SystemExit", 0, "finished", ""),
    ("raise SystemExit(0)", 0, "finished", ""),
    ("code = 3\nraise SystemExit(code)", 3, "failed", "SystemExit: 3"),
    ("leave(3)", 3, "failed", "SystemExit: 3"),
    ("def main():\n    leave(3)\nmain()", 3, "failed", "SystemExit: 3"),
    ("def main():\n    return 3\nsys.exit(main())", 3, "failed", "SystemExit: 3"),
    ("exit(3)", 3, "failed", "SystemExit: 3"),
    ("quit()", 0, "finished", ""),
    ("try:\n    raise SystemExit(3)\nexcept SystemExit:\n    pass", 0, "finished", ""),
    ("try:\n    exit(3)\nexcept SystemExit:\n    pass", 0, "finished", ""),
    ("try:\n    exit(3)\nexcept SystemExit:\n    pass\nraise SystemExit(0)", 0, "finished", ""),
    ("async def main():\n    sys.exit(4)\nasyncio.run(main())", 4, "failed", "SystemExit: 4"),
    ("async def main():\n    raise KeyError(4)\nasyncio.run(main())", 1, "failed", "KeyError: 4"),
    ("sys.excepthook = lambda *_: None\nraise ValueError(4)", 1, "failed", "ValueError: 4"),
    ("thread(sys.exit, 3)", 0, "finished", ""),
    ("thread(int, 'x')", 0, "finished", "died of ValueError: invalid literal"),
    ("thread(os._exit, 3)", 3, "failed", "os._exit(3)"),
    ("os._exit(0)", 0, "finished", "os._exit(0)"),
    ("if not os.fork():\n    os._exit(3)\nos.wait()", 0, "finished", ""),
    ("atexit.register(int, 'x')", 0, "finished", ""),
    ("atexit.register(sys.exit, 3)", 0, "finished", ""),
    ("signal.signal(15, lambda *_: sys.exit(143))\nkill(15)", 143, "failed", "SystemExit: 143"),
    ("signal.signal(15, lambda *_: os._exit(9))\nkill(15)", 9, "failed", "os._exit(9)"),
    ("signal.signal(15, signal.SIG_IGN)\nkill(15)", 0, "finished", ""),
    ("kill(15)", -15, "interrupted", "SIGTERM"),
    ("if not os.fork():\n    os._exit(signal.getsignal(15))\nassert os.wait()[1] == 0", 0, "finished", ""),
    ("kill(2)", -2, "interrupted", "KeyboardInterrupt"),
    ("try:\n    kill(2)\nexcept KeyboardInterrupt:\n    sys.exit(130)", 130, "failed", "SystemExit: 130"),
    ("kill(9)", -9, None, ""),
    ("os.abort()", -6, None, ""),
]

LEAVING = """
import asyncio, atexit, os, signal, sys, threading, time
from sys import exit as leave
import flor_dagster as flor
def thread(target, argument):
    one = threading.Thread(target=target, args=(argument,))
    one.start()
    one.join()
def kill(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)
flor.log('x', 1)
"""


@pytest.mark.parametrize(("ending", "code", "status", "reason"), EXITS)
def test_however_a_script_leaves_its_exit_status_is_its_own_and_is_told_rightly(
    tmp_path: Path, ending: str, code: int, status: str | None, reason: str
) -> None:
    run = Project(tmp_path / "p").run(LEAVING + ending + "\n", status=code)
    assert run.status == status
    if status is not None:
        assert reason in run.of("z")[-1][2]
        assert reason or not run.of("z")[-1][2]


@pytest.mark.skipif(hasattr(sys, "monitoring"), reason="from Python 3.12 on every code is seen")
@pytest.mark.parametrize("code", [0, 5])
def test_an_exit_code_that_cannot_be_seen_is_said_to_be_so(tmp_path: Path, code: int) -> None:
    source = f"import flor_dagster as flor\nflor.log('x', 1)\nraise SystemExit(int('{code}'))\n"
    run = Project(tmp_path / "p").run(source, status=code)
    assert (run.status, "can't be seen" in run.of("z")[0][2]) == ("finished", True)


def test_whoever_started_a_training_corrects_an_end_that_it_could_not_see(tmp_path: Path) -> None:
    project = Project(tmp_path / "p", git=True)
    project.commit(
        {"train.py": "import flor_dagster as flor\nflor.log('x', 1)\nraise SystemExit(int('5'))\n"}
    )
    with Workspace.open(project.root) as workspace, pytest.raises(TrainingFailedError) as failed:
        workspace.train("train.py", {})
    assert failed.value.run is not None
    assert (failed.value.run.status, "5" in failed.value.run.reason) == ("failed", True)


def test_a_process_that_a_run_starts_knows_its_parent(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    project.write({"child.py": "import flor_dagster as flor\nflor.log('child', 1)\n"})
    project.run("""
import subprocess, sys
import flor_dagster as flor
flor.log("x", 1)
subprocess.run([sys.executable, "child.py"], check=True)
""")
    headers = {}
    for path in project.journals:
        header = json.loads(path.read_text().splitlines()[0])[2]
        headers[header["entrypoint"]] = header
    assert headers["child.py"]["parent"] == headers["train.py"]["run"]
    assert headers["train.py"]["parent"] == ""


CHILDREN = """
import multiprocessing, sys
import flor_dagster as flor
flor.log("top", 1)
def work(n):
    flor.log("in child", n)
    return [flor.arg("a", 2) for _ in flor.loop("c", range(2))]
if __name__ == "__main__":
    for epoch in flor.loop("epoch", range(2)):
        with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
            assert pool.map(work, [1, 2]) == [[2, 2]] * 2
        flor.log("x", epoch)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_pools_children_record_nothing_and_begin_no_run(tmp_path: Path, method: str) -> None:
    project = Project(tmp_path / "p")
    run = project.run(CHILDREN, method)
    assert len(project.journals) == 1
    assert [(n, c) for n, c, _ in run.records()] == [("top", ""), ("x", "epoch[0]"), ("x", "epoch[1]")]
    assert run.status == "finished"


def test_a_loaders_workers_leave_the_run_alone(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    project = Project(tmp_path / "p")
    run = project.run("""
import torch
import flor_dagster as flor
class Data(torch.utils.data.Dataset):
    def __len__(self): return 6
    def __getitem__(self, i):
        flor.log("in worker", i)
        return i
loader = torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=2)
for epoch in flor.loop("epoch", range(2)):
    for batch in flor.loop("step", loader):
        flor.log("x", batch.sum())
""")
    assert len(project.journals) == 1
    assert [v for n, _, v in run.records()] == [1, 5, 9, 1, 5, 9]
    assert run.status == "finished"
