"""Whatever old code does, its run gets a status with a reason, the other runs are answered, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flor_dagster.replay.model import Question, Report
from tests.replay.conftest import PACKAGE, Lab

SCRIPT = """\
import os
import flor_dagster as flor

bad = flor.arg("bad", 0)
total = 0
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        total += step + epoch
        if bad and epoch == 1 and os.path.exists("fault.pyi"):
            exec(open("fault.pyi").read())
        flor.log("total", total)
    {more}
"""
ASKED = 'flor.log("asked", total * 2)'


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two training runs; what the bad one does in a replay is written into `fault.pyi`, which git ignores."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("FLOR_")]:
            patch.delenv(name)
        folder = tmp_path_factory.mktemp("faults")
        patch.setenv("FLOR_CACHE", str(folder / "cache"))
        lab = Lab(folder / "project")
        lab.commit({"train.py": SCRIPT.format(more=""), ".gitignore": "fault.pyi\n"})
        lab.train(bad=1)
        lab.train(bad=0)
        lab.write({"train.py": SCRIPT.format(more=ASKED)})
        yield lab


def put_fault(lab: Lab, fault: str) -> None:
    lab.write_early({"fault.pyi": textwrap.dedent(fault)})


def ask(lab: Lab, fault: str, timeout: float = 60.0) -> Report:
    put_fault(lab, fault)
    with lab.open() as workspace:
        return workspace.answer(
            Question(("asked",), without_checkpoints=True, timeout_seconds=timeout, max_seconds=1e6)
        )


FAULTS = {
    "raises": ("raise ValueError('as of old')", "ValueError: as of old"),
    "interrupts itself": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "exits with a status": ("import sys; print('going'); sys.exit(3)", "exit status 3"),
    "exits as if all were well": ("import sys; sys.exit(0)", "did not come again"),
    "leaves by os._exit": ("print('bye'); os._exit(0)", "ended before its replay was over"),
    "is killed": ("import signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "crashes in C": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "runs out of memory": (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28)); x = bytearray(2**30)", "MemoryError",
    ),
    "logs under another name": ("flor.log('other', 1)", "`other`"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_as_a_status_of_its_run_alone(faulty: Lab, name: str) -> None:
    fault, words = FAULTS[name]
    report = ask(faulty, fault)
    bad, good = (cell.cell for cell in report.cells)
    assert bad.status == "failed", bad.sentence
    assert words in bad.sentence, bad.sentence
    assert good.status == "replayed", good.sentence
    assert good.fidelity == "exact"
    assert not report.complete
    with faulty.open() as workspace:
        shown = workspace.store.dataframe("asked")
        assert shown["asked"].notna().sum() == 3, "values of a replay that failed are shown"


HARMLESS = {
    "closes every file": "os.closerange(3, 200)",
    "closes the recorder's file and takes its number": (
        "os.closerange(3, 200); files = [open(f'junk{i}', 'w') for i in range(20)]"
    ),
    "prints garbage and without end": (
        "os.write(1, b'\\xff\\x00' * 3_000_000); print('end of it', flush=True)"
    ),
    "goes elsewhere": "os.chdir('/')",
    "forks a child that comes to the script's end": "os.fork()",
    "leaves daemon threads": (
        "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    ),
    "takes the signals": (
        "import signal; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGTERM, signal.SIGINT)]"
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_no_value_changes_no_answer(faulty: Lab, name: str) -> None:
    once = f"if step == 0:\n    {HARMLESS[name]}"
    report = ask(faulty, once)
    bad = report.cells[0].cell
    assert (bad.status, bad.fidelity) == ("replayed", "exact"), (bad.sentence, bad.detail)
    forget(faulty)


def forget(lab: Lab) -> None:
    """Open the cell of the bad run again."""
    import sqlite3

    with sqlite3.connect(lab.root / ".flor" / "flor.db") as connection:
        # By its start: rows are numbered as the journals were found.
        connection.execute("delete from cells where run = (select run from runs order by started limit 1)")


def test_a_child_that_hangs_is_stopped_and_its_place_named(faulty: Lab) -> None:
    report = ask(faulty, "import time; print('waiting', flush=True); time.sleep(600)", timeout=4.0)
    bad = report.cells[0].cell
    assert bad.status == "failed"
    assert "time limit" in bad.sentence
    assert "epoch#0[0]" in bad.sentence, bad.sentence
    assert "train.py" in bad.sentence, bad.sentence
    assert "waiting" in "\n".join(bad.detail["tail"])


def test_nothing_that_old_code_started_outlives_it(faulty: Lab) -> None:
    mark = f"sleep-{os.getpid()}-{time.time_ns()}"
    escape = f"""
    import subprocess, sys
    if step == 0:
        subprocess.Popen([sys.executable, "-c", "import time, os; os.setsid() if os.fork() == 0 else os._exit(0); time.sleep(600)", "{mark}"])
    """
    ask(faulty, escape)
    assert mark not in command_lines()
    forget(faulty)


def command_lines() -> str:
    found: list[str] = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)


ASK = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background, it is ignored
from flor_dagster.replay.model import Question
from flor_dagster.replay.workspace import Workspace
with Workspace.open(sys.argv[1]) as workspace:
    workspace.answer(Question(("asked",), without_checkpoints=True), on_line=print)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_or_interrupted_answer_leaves_no_process_and_no_cell(
    faulty: Lab, how: signal.Signals
) -> None:
    mark = f"busy-{os.getpid()}-{time.time_ns()}"
    wait = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)', '{mark}'])"
    put_fault(faulty, wait)
    asking = subprocess.Popen(
        [sys.executable, "-c", ASK, str(faulty.root)], env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: mark in command_lines(), "the child did not come to its fault")
    asking.send_signal(how)
    asking.wait(60)
    wait_until(lambda: mark not in command_lines(), "the old code's own child lives on")
    with faulty.open() as workspace:
        workspace.sync()
        plan = workspace.plan(Question(("asked",)))
        assert len(plan.runs[0].todo) == 1, "the interrupted cell must stay open"
        cells = workspace.store.cells(run_ids=[plan.runs[0].run.id])
        assert all(not cell.settled for cell in cells)


def wait_until(condition: object, words: str, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.1)
    raise AssertionError(words)


def test_asking_again_does_only_what_is_missing(faulty: Lab) -> None:
    report = ask(faulty, "")
    assert [cell.cell.status for cell in report.cells] == ["replayed", "replayed"]
    assert report.children == 1, "the good run was answered before"
    assert ask(faulty, "").children == 0
