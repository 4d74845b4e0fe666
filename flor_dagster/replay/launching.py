"""The child process of a replay of several ranks: starts each rank, passes on what they print, ends all when one fails.

The standard library alone: it runs in the old code's interpreter, before anything heavy is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from flor_dagster.replay.processes import STACK_SIGNAL, die_with_parent

FAILED = 1
GRACE_SECONDS = 0.5
"""After a rank has failed, the others may say what became of them."""

SCRIPT_SECONDS = 3.0
"""After all ranks are over, the script that made them may come to its end."""


def launch(plan: dict[str, Any], child: Callable[[dict[str, Any]], int]) -> int:
    """Start the ranks, wait for all of them; 0 where all ended well.

    Args:
        plan: see `topology.launch_plan`.
        child: carries out one rank's plan in its process.
    """
    launcher = _Launcher(Path(plan["report"]))
    for rank in plan["ranks"]:
        launcher.start(rank, child)
    return launcher.watch()


def launch_script(plan: dict[str, Any], child: Callable[[dict[str, Any]], int]) -> int:
    """Start the script, which makes the ranks; its exit status, or 0 where all ranks are over and it is not.

    Args:
        plan: see `topology.launch_plan`.
        child: runs the script in its process.
    """
    launcher = _Launcher(Path(plan["report"]), [Path(rank["journal"]) for rank in plan["ranks"]])
    launcher.start({"rank": -1, "variables": {}, **plan}, child)
    return launcher.watch(over=[_over(rank) for rank in plan["ranks"]])


def _over(rank: dict[str, Any]) -> Path:
    return Path(rank["journal"]).with_name(f"over.{rank['part']}.r{rank['rank']}")


class _Launcher:
    def __init__(self, report: Path, journals: Sequence[Path] = ()) -> None:
        self._report = report
        self._journals = journals
        self._ranks: dict[int, int] = {}  # process → rank
        self._pipes: dict[int, tuple[int, bytes]] = {}  # descriptor → rank, the line that it is at
        self._ended: list[tuple[int, int | None, float]] = []
        signal.signal(STACK_SIGNAL, self._pass_on)

    def start(self, plan: dict[str, Any], child: Callable[[dict[str, Any]], int]) -> None:
        reading, writing = os.pipe()
        me = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            status = FAILED
            try:
                signal.signal(STACK_SIGNAL, signal.SIG_DFL)
                die_with_parent(signal.SIGKILL, me)
                os.dup2(writing, 1)
                os.dup2(writing, 2)
                for fd in {reading, writing, *self._pipes} - {0, 1, 2}:
                    os.close(fd)
                os.environ.update(plan["variables"])
                status = child(plan)
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(status)
        os.close(writing)
        self._ranks[pid] = plan["rank"]
        self._pipes[reading] = (plan["rank"], b"")

    def watch(self, over: Sequence[Path] = ()) -> int:
        failed_at = over_at = 0.0
        while self._ranks:
            self._take(0.05)
            self._reap()
            # A script that waits for more than the end of its ranks (their results) waits in vain.
            over_at = over_at or (time.monotonic() if over and all(p.exists() for p in over) else 0.0)
            if over_at and time.monotonic() - over_at > SCRIPT_SECONDS:
                self._end_others()
                break
            failed = any(status for _, status, _ in self._ended) or self._one_is_gone(over)
            if failed and not failed_at:
                failed_at = time.monotonic()
            if failed and time.monotonic() - failed_at > GRACE_SECONDS:
                self._end_others()
        while self._take(0.0):
            pass
        for fd in list(self._pipes):
            self._close(fd)
        return 0 if over_at or all(status == 0 for _, status, _ in self._ended) else FAILED

    def _one_is_gone(self, over: Sequence[Path]) -> bool:
        """Whether a rank that the script made has ended too early; the script may wait for it, or for its peers."""
        for journal, mark in zip(self._journals, over, strict=False):
            pid = _pid_of(journal)
            if pid and _is_gone(pid) and not mark.exists():
                return True
        return False

    def _reap(self) -> None:
        for pid in list(self._ranks):
            ended, raw = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._note(self._ranks.pop(pid), os.waitstatus_to_exitcode(raw))

    def _end_others(self) -> None:
        for pid, rank in list(self._ranks.items()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            del self._ranks[pid]
            self._note(rank, None)

    def _note(self, rank: int, status: int | None) -> None:
        self._ended.append((rank, status, time.time()))
        temporary = self._report.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._ended), encoding="utf-8")
        temporary.replace(self._report)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Every rank writes down where it stands."""
        del frame
        pids = [_pid_of(journal) for journal in self._journals] if self._journals else list(self._ranks)
        for pid in filter(None, pids):
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    # What they print -----------------------------------------------------------------------------------------------

    def _take(self, seconds: float) -> bool:
        """Pass on what is there; False where there is nothing."""
        if not self._pipes:
            time.sleep(seconds)
            return False
        ready, _, _ = select.select(list(self._pipes), [], [], seconds)
        for fd in ready:
            data = os.read(fd, 65_536)
            rank, begun = self._pipes[fd]
            *lines, rest = (begun + data).split(b"\n")
            for line in lines:
                self._print(rank, line)
            self._pipes[fd] = (rank, rest)
            if not data:
                self._close(fd)
        return bool(ready)

    def _close(self, fd: int) -> None:
        rank, rest = self._pipes.pop(fd)
        if rest:
            self._print(rank, rest)
        os.close(fd)

    def _print(self, rank: int, line: bytes) -> None:
        text = (f"rank {rank}: ".encode() if rank >= 0 else b"") + line + b"\n"
        while text:
            text = text[os.write(1, text) :]


def _pid_of(journal: Path) -> int:
    """The process that writes a journal; 0 where there is none yet."""
    try:
        with journal.open("rb") as file:
            return int(json.loads(file.readline())[2]["pid"])
    except (OSError, ValueError, LookupError):
        return 0


def _is_gone(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return not sys.platform.startswith("darwin")
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")
