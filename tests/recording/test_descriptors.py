"""What a training does to descriptors that it does not know of neither loses records nor writes into its files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flor_dagster.recording.descriptors import close_own, identity, open_apart
from tests.recording.record_lab import Project

CLOSES_ALL = """\
import os
import flor_dagster as flor

for epoch in flor.loop("epoch", range(4)):
    flor.log("before", float(epoch))
    if epoch == 1:
        os.closerange(3, 65536)
        table = open("metrics.csv", "w")
        more = [open(f"more{n}.txt", "w") for n in range(8)]
    if epoch >= 1:
        table.write(f"{epoch}\\n")
        table.flush()
    flor.log("after", float(epoch))
    flor.log("named", {"epoch": epoch})
open("data.txt").read()
"""


@pytest.mark.parametrize("everything", ["hot", "cold"])
def test_a_training_that_closes_every_descriptor_keeps_its_records_and_its_files(
    tmp_path: Path, everything: str
) -> None:
    project = Project(tmp_path, git=True)
    project.commit({"data.txt": "1"})
    source = CLOSES_ALL if everything == "hot" else CLOSES_ALL.replace("float(epoch)", "epoch")
    run = project.run(source)
    assert (tmp_path / "metrics.csv").read_text() == "1\n2\n3\n"
    assert all((tmp_path / f"more{n}.txt").read_text() == "" for n in range(8))
    assert [name for name, _, _ in run.records()] == ["before", "after", "named"] * 4
    assert run.status == "finished"
    assert run.path is not None
    assert "data.txt" in (run.path.parent / "files.jsonl").read_text()
    assert not run.of("w") or all("lost" not in entry for entry in run.of("w"))
    assert "it was opened again" in run.err


TAKES_THE_NUMBER = """\
import os, time
import flor_dagster as flor

for epoch in flor.loop("epoch", range(4)):
    flor.log("loss", float(epoch))
    if epoch == 1:
        mine = [fd for fd in range(3, 4096) if "journal.0" in os.path.realpath(f"/proc/self/fd/{fd}")]
        table = open("metrics.csv", "w")
        for fd in mine:
            os.dup2(table.fileno(), fd)
        time.sleep(1.1)
print(mine)
"""


def test_a_number_that_leads_to_another_file_is_left_to_it_and_the_loss_is_counted(tmp_path: Path) -> None:
    run = Project(tmp_path).run(TAKES_THE_NUMBER)
    assert [value for name, _, value in run.records() if name == "loss"] == [0.0, 1.0, 2.0, 3.0]
    assert run.status == "finished"
    assert (tmp_path / "metrics.csv").read_text() == ""
    assert "given to another file" in run.err
    assert any(entry[1] == "lost" for entry in run.of("w"))


def test_our_descriptors_have_numbers_that_no_file_comes_to_by_itself(tmp_path: Path) -> None:
    source = (
        "import os\nimport flor_dagster as flor\nflor.log('x', 1.0)\n"
        "print(sorted(fd for fd in map(int, os.listdir('/proc/self/fd')) if '.flor' in os.path.realpath(f'/proc/self/fd/{fd}')))\n"
    )
    numbers = eval(Project(tmp_path).run(source).out.strip())
    assert numbers
    assert min(numbers) > 100


BEHIND = """\
import sys, threading
main, seen = threading.get_ident(), []

def listen(event, arguments):
    if event in ("open", "subprocess.Popen", "socket.__new__") and threading.get_ident() != main and type(arguments[0]) is not int:
        seen.append((event, str(arguments[0])))

sys.addaudithook(listen)
import numpy as np
import flor_dagster as flor

state = np.zeros(5000)
for epoch in flor.loop("epoch", range(8)):
    state[:] = epoch
    flor.log("loss", float(state[0]))
import time; time.sleep(1.5)
print(len({thread.name for thread in threading.enumerate()} & {"flor-checkpoints"}))
import atexit
atexit.register(lambda: print(seen))
"""


def test_what_runs_behind_the_training_takes_no_low_number(tmp_path: Path) -> None:
    """A number that a training closes, and gets again for a file of its own, must not be one that we are about to close."""
    run = Project(tmp_path, git=True).run(
        BEHIND,
        FLOR_CHECKPOINT_OVERHEAD="1", FLOR_CHECKPOINT_FLOOR_SECONDS="60", FLOR_CHECKPOINT_RUN_BYTES="100000",
    )  # fmt: skip
    assert run.of("k")
    assert run.out == "1\n[]\n"


def test_a_number_that_the_program_closed_goes_to_no_other_file_of_ours(tmp_path: Path) -> None:
    first = open_apart(tmp_path / "first", os.O_WRONLY | os.O_CREAT)
    own = identity(first)
    os.close(first)  # as a program would, behind its holder's back
    others = [open_apart(tmp_path / "other", os.O_WRONLY | os.O_CREAT) for _ in range(300)]
    try:
        assert first not in others
        assert all(os.get_inheritable(fd) is False for fd in others)
    finally:
        for fd in others:
            close_own(fd, identity(fd))
        close_own(first, own)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        open_apart(tmp_path / "no" / "missing", os.O_RDONLY)
