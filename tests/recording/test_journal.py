"""Nothing that `flor.log` returned from is lost; a torn line costs itself alone; a bad disk never stops a training."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flor_dagster.errors import JournalError
from flor_dagster.recording.journal import FORMAT, JournalWriter, journal_end, read_journal
from tests.recording.record_lab import Project

HEADER = json.dumps(["flor", FORMAT, {"run": "x"}]) + "\n"


def test_what_log_returned_from_is_on_disk_after_kill_9(tmp_path: Path) -> None:
    source = """
import sys, os
import flor_dagster as flor
i = 0
for epoch in flor.loop("epoch", range(10**9)):
    for step in flor.loop("step", range(50)):
        flor.log("n", i)
        os.write(1, b"%d\\n" % i)
        i += 1
"""
    project = Project(tmp_path / "p")
    choice = random.Random(7)
    for _ in range(4):
        child = project.start(source)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(choice.uniform(0.0, 0.4))
        child.send_signal(signal.SIGKILL)
        told = [line for line in child.communicate()[0].split("\n")[:-1] if line]
        entries = [e.parts for e in read_journal(project.journals[-1])]
        values = [p[2] for p in entries if isinstance(p[0], int)]
        assert values == list(range(len(values)))
        assert len(values) > int(told[-1])
        contexts = {p[1] for p in entries if p[0] == "c"}
        assert all(p[1] in contexts for p in entries if isinstance(p[0], int))
        assert not any(p[0] == "z" for p in entries)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=8), st.integers(0, 400))
def test_a_torn_tail_is_dropped_at_any_byte(texts: list[str], cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        path.write_text(HEADER)
        writer = JournalWriter(path)
        for number, text in enumerate(texts):
            writer.entry("n", number, text)
        writer.close()
        whole = path.read_bytes()
        path.write_bytes(whole[: max(len(HEADER), len(whole) - cut)])
        left = [e.parts for e in read_journal(path)][1:]
        assert left == [["n", i, t] for i, t in enumerate(texts)][: len(left)]
        assert journal_end(path) == sum(len(json.dumps(p, separators=(",", ":"))) + 1 for p in left) + len(
            HEADER
        )


def test_a_torn_line_in_the_middle_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text(HEADER + '[1,0,2]\n[1,0,"to\n[1,0,3]\nnull\n[]\n[1,0,4]\n')
    assert [e.parts[2] for e in read_journal(path)][1:] == [2, 3, 4]


def test_reading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text(HEADER + "[1,0,2]\n[1,0,")
    assert len(list(read_journal(path))) == 2
    end = journal_end(path)
    with path.open("a") as file:
        file.write("3]\n")
    assert [e.parts for e in read_journal(path, end)] == [[1, 0, 3]]


@pytest.mark.parametrize(
    ("text", "words"),
    [('["flor",99,{}]\n', "format 99"), ("[1,0,2]\n", "does not start"), ("hello\n", "does not start")],
)
def test_a_foreign_or_later_journal_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "j"
    path.write_text(text)
    with pytest.raises(JournalError, match=words):
        list(read_journal(path))
    assert path.read_text() == text


def test_a_vanished_or_closed_journal_counts_what_is_lost(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "j")
    writer.close()
    assert not writer.write(b"[1,0,2]\n")
    assert writer.lost == 1


FULL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import flor_dagster as flor
for i in flor.loop("i", range(2000)):
    flor.log("x", "y" * 50)
    if i == 100:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    if i == 1500:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("done")
"""


def test_a_full_disk_does_not_stop_the_training_is_said_once_and_counted(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run(FULL_DISK)
    assert run.out == "done\n"
    assert run.err.count("can't be written") == 1
    (lost,) = [p[2] for p in run.of("w") if p[1] == "lost"]
    assert int(lost.split()[0]) > 1000
    assert run.status == "finished"


def test_a_home_that_cannot_be_written_is_said_once_and_the_training_goes_on(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    (project.root / ".flor").write_text("a file where the folder should be")
    run = project.run(
        'import flor_dagster as flor\nfor i in flor.loop("i", range(3)):\n    print(flor.log("x", i))\n'
    )
    assert run.out == "0\n1\n2\n"
    assert run.err.count("not recorded") == 1


def test_a_home_that_vanishes_does_not_stop_the_training(tmp_path: Path) -> None:
    source = """
import shutil
import flor_dagster as flor
model = {"w": 1}
with flor.checkpointing(model=model):
    for epoch in flor.loop("epoch", range(5)):
        for step in flor.loop("step", range(5)):
            model["w"] += 1
            flor.log("x", step)
        if epoch == 1:
            shutil.move(".flor", "gone")  # at once, whatever is being written there
print("done")
"""
    project = Project(tmp_path / "p")
    child = project.start(source)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "done\n"), err
    assert len(err.splitlines()) <= 3
    shutil.rmtree(project.root)
    assert os.path.isdir(tmp_path)
