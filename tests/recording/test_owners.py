"""A mark says which process something belongs to; a process counts as gone only where that is known."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from flor_dagster.recording.owners import is_gone, is_here, mark_of, number_of, own_mark

SAY = "from flor_dagster.recording.owners import own_mark; print(own_mark(), flush=True); input()"


def test_a_process_is_gone_when_it_has_ended_waited_for_or_not() -> None:
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", SAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
        env=os.environ | {"PYTHONPATH": root},
    ) as child:  # fmt: skip
        assert child.stdout is not None
        mark = child.stdout.readline().strip()
        assert not is_gone(f"before.{mark}.behind")
        assert mark == mark_of(child.pid)
        assert number_of(mark) == child.pid
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(mark), "a process that nobody has waited for"
        assert mark_of(child.pid) == ""
    assert is_gone(f"x-{mark}")


def test_a_number_that_was_given_again_is_another_process() -> None:
    mark = own_mark()
    assert not is_gone(mark)
    assert is_gone(re.sub(r"(own-\d+-)(\d+)", lambda found: f"{found[1]}{int(found[2]) + 1}", mark))


def test_nothing_is_known_of_another_machine_nor_of_what_has_no_mark() -> None:
    away = re.sub(r"[0-9a-f]{12}$", "0" * 12, own_mark().replace(f"own-{os.getpid()}-", "own-4194304-"))
    for text in (away, "", "own-1", "own-99999999999999-1-000000000000", "x" * 100):
        assert not is_gone(text)
        assert not is_here(text)


def test_a_forked_child_has_a_mark_of_its_own() -> None:
    mine = own_mark()
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, own_mark().encode())
        os._exit(0)
    os.wait()
    assert os.read(reading, 1000).decode() != mine
