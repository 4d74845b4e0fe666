"""Starts training scripts without starting Python anew each time: a process that has all imported forks for each.

The trainings are processes as any: their own id, their own end. Their code's snapshot is made by a fresh process, as always.

    python warm_lab.py            reads lines of JSON and answers each with one
    {"start": [argument, …], "environment": {…}}  →  its process id
    {"wait": 0}                                   →  {process id: exit status} of all that were started since
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[2]


class Warm:
    """The client of such a process, in a folder."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self.out = root.parent / "said.txt"
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(self.out)], cwd=root, env=dict(environment), text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip

    def _ask(self, what: Mapping[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(what) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, *arguments: str, **environment: str) -> int:
        """Start `python ARGUMENT…`; its process id."""
        return self._ask({"start": arguments, "environment": environment})

    def wait(self) -> dict[int, int]:
        """Wait for all that were started; exit status by process id, negative for a signal."""
        return {int(pid): status for pid, status in self._ask({"wait": 0}).items()}

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(60)


def serve(out: str) -> None:
    for name in ("numpy", *(f"flor_dagster.recording.{m}" for m in ("api", "session", "checkpoints"))):
        importlib.import_module(name)
    from flor_dagster.recording import process

    children: list[int] = []
    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            pid = os.fork()
            if pid == 0:
                process._forked_from = None  # it is nobody's child: a training of its own
                become(asked["start"], asked["environment"], out)
                return
            children.append(pid)
            answer: Any = pid
        else:
            answer = {pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children}
            children.clear()
        print(json.dumps(answer), flush=True)


def become(arguments: Sequence[str], environment: Mapping[str, str], out: str) -> None:
    """Be `python ARGUMENT…` from here on."""
    os.environ.update(environment)
    os.setsid()
    said = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv = list(arguments)
    sys.path[0] = os.getcwd()
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    sys.path.insert(0, str(PACKAGE))
    serve(sys.argv[1])
