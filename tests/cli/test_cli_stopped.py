"""However a command is ended, nothing of it is left: no checkout, no process, no temporary folder; what is killed is swept by the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.cli.test_cli_faults import flor, two_runs
from tests.replay.conftest import PACKAGE, Lab, lab

__all__ = ["lab"]

COMMANDS = {
    "hindsight": ["hindsight", "asked", "--without-checkpoints"],
    "verify": ["verify"],
    "run": ["run", "train.py", "--arg", "bad=1"],
}
BOTH = (signal.SIGTERM, signal.SIGHUP)
CASES = [
    pytest.param(command, how, marks=() if (command, how) in DEFAULT else pytest.mark.slow)
    for DEFAULT in [{("hindsight", signal.SIGTERM), ("run", signal.SIGHUP)}]
    for command in COMMANDS
    for how in (*BOTH, signal.SIGINT)
]


class Asked:
    """A command under way in a process of its own, whose child has started another process and waits."""

    def __init__(self, lab: Lab, tmp_path: Path, arguments: Sequence[str]) -> None:
        self.mark = f"busy-{os.getpid()}-{time.time_ns()}"
        self.temporary = tmp_path / "temporary"
        self.temporary.mkdir(exist_ok=True)
        wait = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)', '{self.mark}'])"
        two_runs(lab, wait)
        if "verify" in arguments:
            with lab.open() as workspace:
                workspace.sync()
                arguments = [*arguments, workspace.runs()[0].key]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flor_dagster.cli", *arguments], cwd=lab.root,
            env=os.environ | {"PYTHONPATH": str(PACKAGE), "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        until(lambda: self.mark in command_lines() or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()[0]


def until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)


def command_lines() -> str:
    found: list[bytes] = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                found.append((process / "cmdline").read_bytes())
            except OSError:
                continue
    return b"\n".join(found).decode(errors="replace")


def checkouts() -> list[Path]:
    place = Path(os.environ["FLOR_CACHE"])
    return [*place.glob("*/replays/*"), *place.glob("*/trainings/*")]


@pytest.mark.parametrize(("command", "how"), CASES)
def test_a_command_that_is_asked_to_end_leaves_nothing(
    lab: Lab, tmp_path: Path, command: str, how: signal.Signals
) -> None:
    asked = Asked(lab, tmp_path, COMMANDS[command])
    asked.process.send_signal(how)
    said, _ = asked.process.communicate(timeout=60)
    assert asked.process.returncode == (128 + how), said
    assert "stopped" in said
    assert "Traceback" not in said
    assert asked.mark not in command_lines(), "what the training started lives on"
    assert checkouts() == []
    assert list(asked.temporary.iterdir()) == []
    assert list((lab.root / ".flor" / "askers").iterdir()) == []
    if command == "run":
        with lab.open() as workspace:
            workspace.sync()
            assert workspace.runs()[-1].status == "interrupted"


def test_what_a_killed_command_left_is_swept_by_the_next_and_that_of_living_ones_stays(
    lab: Lab, tmp_path: Path
) -> None:
    asked = Asked(lab, tmp_path, COMMANDS["hindsight"])
    until(lambda: len(checkouts()) == 1)  # the other run's replay, beside it, is over soon
    (checkout,) = checkouts()
    mark = checkout.name[checkout.name.index("own-") :]
    scratch = [asked.temporary / f"flor-snapshot-{mark}-abc", asked.temporary / "flor-snapshot-else"]
    for folder in scratch:
        (folder / "index").mkdir(parents=True)
    living = lab.root / ".flor" / "askers" / f"{mark}.1.json"
    assert living.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(asked.temporary))
        lab.write_early({"fault.txt": ""})
        assert flor(lab, "verify", newest(lab))[0] == 0
        assert checkout.exists(), "its process lives"
        assert all(folder.exists() for folder in scratch)
        assert living.exists()
        assert _running(lab) == 1

        asked.process.kill()
        asked.process.wait()
        until(lambda: asked.mark not in command_lines())
        assert flor(lab, "verify", newest(lab))[0] == 0
    assert checkouts() == []
    assert [folder.exists() for folder in scratch] == [False, True]
    assert list((lab.root / ".flor" / "askers").iterdir()) == []
    assert _running(lab) == 0
    with lab.open() as workspace:
        (killed,) = workspace.store.replays(status="failed")
    assert "was killed" in killed.sentence


def _running(lab: Lab) -> int:
    with lab.open() as workspace:
        return len(workspace.store.replays(status="running"))


def newest(lab: Lab) -> str:
    with lab.open() as workspace:
        workspace.sync()
        return workspace.runs()[-1].key


@pytest.mark.slow
def test_the_checkout_of_a_training_that_outlived_its_command_stays_until_it_is_over(
    lab: Lab, tmp_path: Path
) -> None:
    two_runs(lab, "")
    first, go = newest(lab), tmp_path / "go"
    lab.commit({"train.py": f"import os, time\nimport flor_dagster as flor\nflor.log('x', 1)\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.05)\nflor.log('y', len(os.listdir()))\n"})  # fmt: skip
    code = (
        "import sys\nfrom flor_dagster.replay.workspace import Workspace\n"
        "with Workspace.open(sys.argv[1]) as w:\n    w.train('train.py', {}, ref='HEAD')\n"
    )
    training = subprocess.Popen(
        [sys.executable, "-c", code, str(lab.root)], env=os.environ | {"PYTHONPATH": str(PACKAGE)}
    )
    until(lambda: len(list((lab.root / ".flor" / "runs").iterdir())) == 3)
    training.kill()
    training.wait()
    (checkout,) = checkouts()
    assert flor(lab, "verify", first)[0] == 0
    assert checkouts() == [checkout]
    go.write_text("")
    until(lambda: str(checkout) not in command_lines())
    assert flor(lab, "verify", first)[0] == 0
    assert checkouts() == []
    with lab.open() as workspace:
        workspace.sync()
        assert workspace.runs()[-1].status == "finished"


@pytest.mark.slow
def test_a_command_that_waits_for_another_one_says_for_whom_and_can_be_stopped(
    lab: Lab, tmp_path: Path
) -> None:
    asked = Asked(lab, tmp_path, COMMANDS["hindsight"])
    with lab.open() as workspace:
        run = workspace.runs()[0]
    code = (
        "import sys\nfrom flor_dagster.replay.model import Question\nfrom flor_dagster.replay.workspace import Workspace\n"
        "with Workspace.open(sys.argv[1]) as w:\n"
        f"    w.answer(Question(('asked',), runs=({run.key!r},)), on_line=lambda line: print(line, flush=True))\n"
    )
    second = subprocess.Popen(
        [sys.executable, "-c", code, str(lab.root)], env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert second.stdout is not None
    line = second.stdout.readline()
    assert f"{run.key}: another process replays it" in line
    assert f"(process {asked.process.pid} on " in line
    second.send_signal(signal.SIGINT)
    second.wait(20)
    asked.process.terminate()
    asked.process.communicate(timeout=60)
