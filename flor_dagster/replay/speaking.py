"""Run Python in a child process whose lines are passed on while it speaks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flor_dagster.recording.owners import is_gone, mark_of
from flor_dagster.recording.versioning import SNAPSHOT_MODULE
from flor_dagster.replay.processes import descendants

_LAST_LINES = 20
END_SECONDS = 10.0
"""A child that is asked to end may take so long for it."""

PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
"""The folder that this package was imported from."""


def python_path() -> str:
    """A PYTHONPATH by which a child imports this package from where it was imported here."""
    return os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), PACKAGE_PARENT)))


def run_python(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    on_line: Callable[[str], None] | None,
) -> tuple[int, Sequence[str]]:
    """Run this interpreter in a child, with nothing on its standard input; where this call is ended, it and all that it started are.

    Args:
        arguments: behind the interpreter.
        folder: where it runs.
        environment: all of its environment.
        on_line: given each line that it prints, on either stream.

    Returns:
        Its exit status and its last lines.
    """
    child = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    tail: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        for line in child.stdout or ():
            tail.append(line.rstrip("\n"))
            if on_line is not None:
                on_line(line.rstrip("\n"))
        return child.wait(), tail
    except BaseException as error:
        _end(child, told=type(error) is KeyboardInterrupt)
        raise


def _end(child: subprocess.Popen[str], *, told: bool) -> None:
    """End a child, which may say first what became of it, and leave none of its own children.

    Args:
        child: the child.
        told: whether Ctrl-C may have reached it, too.
    """
    family = [(pid, mark_of(pid)) for pid in descendants(child.pid)]
    # Nobody passes on any more what it prints, and it must not wait for that.
    threading.Thread(target=_drain, args=(child,), name="flor-drain", daemon=True).start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(END_SECONDS / 4 if told else 0)
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        family += [(pid, mark_of(pid)) for pid in descendants(child.pid)]
        child.kill()
        child.wait()
    limit = time.monotonic() + END_SECONDS
    for pid, mark in family:
        # What keeps the run's code as a version is ours, and a matter of a moment.
        while mark and not is_gone(mark) and time.monotonic() < limit and _keeps_version(pid):
            time.sleep(0.02)
        if mark and not is_gone(mark) and not _keeps_version(pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _keeps_version(pid: int) -> bool:
    """Whether a process keeps a training's code, or is git at work for one that does."""
    while pid > 1:
        try:
            if SNAPSHOT_MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return True
            pid = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return False


def _drain(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for _ in child.stdout or ():
            pass
