"""Run Python in a child process whose lines are passed on while it speaks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_LAST_LINES = 20

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
    """Run this interpreter in a child, with nothing on its standard input; it is killed where this call is ended.

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
    except BaseException:
        child.kill()
        child.wait()
        raise
