"""What a replay's child reads: nothing stale, and nothing that is not what the recorded run had without saying so.

Seen by an audit hook of Python's; C extensions that open files themselves pass it.
"""

# ruff: noqa: PTH100, PTH116 - called at every opening of a file: texts, not Path objects

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from flor_dagster.recording import process as sessions
from flor_dagster.recording.datafiles import is_data
from flor_dagster.recording.exits import EXIT_RESTORE
from flor_dagster.recording.replaying import ReplaySession, doubts

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# File systems note times by a clock that ticks more coarsely than the one of `time.time_ns`.
_TICK = 20_000_000


def watch(plan: Mapping[str, Any]) -> None:
    """Watch what this process reads from here on.

    Args:
        plan: the child's; `data` says what the run read (`read`), what was put into the checkout (`placed`), when its loops
            began (`looped`).
    """
    data = plan.get("data")
    if data:
        sys.addaudithook(_Watch(plan, data))


class _Watch:
    def __init__(self, plan: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        user_root: str = plan["user_root"]
        self._roots = [os.path.realpath(plan["root"]), os.path.realpath(user_root), user_root]
        self._read: Mapping[str, Sequence[int]] = data["read"]
        self._placed = frozenset(data["placed"])
        self._folders = tuple(name for name in data["placed"] if name.endswith("/"))
        self._kept = frozenset(data["kept"])
        self._changed: Mapping[str, tuple[str, bool]] = data["changed"]
        self._looped: int = data["looped"]
        self._alone: bool = plan["world_size"] == 1
        self._begun = time.time_ns() - _TICK
        self._home = os.path.realpath(plan["home"]) + os.sep
        self._inside = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or self._inside:
            return
        target, mode, flags = (*args, None, None)[:3]
        if not isinstance(target, str | bytes | os.PathLike) or (isinstance(mode, str) and mode[:1] in "wax"):
            return
        if isinstance(flags, int) and flags & _WRITES and not (isinstance(mode, str) and "r" in mode):
            return
        self._inside = True
        try:
            path = os.path.abspath(os.fsdecode(target))
            if is_data(path) and not path.startswith(self._home):
                self._reads(path)
        finally:
            self._inside = False

    def _reads(self, path: str) -> None:
        name, copied = self._name(path)
        try:
            status = os.stat(path)
        except OSError:
            self._absent(name)
            return
        written = status.st_mtime_ns
        if written >= self._begun:
            # Made by this replay itself. What was restored since may have been written, too, by what was skipped.
            # Of several ranks, one may read what another has written before its own restore: they talk outside the checkout.
            if written < _restored_at() and (copied or self._alone):
                _give_up(f"{name} may have been written by what was skipped")
            return
        if copied and name in self._kept:
            return
        if name in self._changed:
            doubts[name] = self._changed[name]
        elif copied and not self._is_placed(name):
            return  # of the version
        elif written >= self._looped and not self._came_before(name):
            doubts[name] = f"{name} was written since the training was in its loops", True

    def _came_before(self, name: str) -> bool:
        known = self._read.get(name)
        return known is not None and known[1] < self._looped

    def _absent(self, name: str) -> None:
        known = self._read.get(name)
        if known is None:
            return
        if _restored_at():
            _give_up(f"{name} is written by what was skipped")
        if known[1] < self._looped:
            _give_up(f"{name}, which this run read, is missing", 1)

    def _name(self, path: str) -> tuple[str, bool]:
        """As the recorded run would name it, relative to the repository where it lies in it or its copy; whether in its copy."""
        for number, root in enumerate(self._roots):
            if path.startswith(root + os.sep):
                return path[len(root) + 1 :], number == 0
        return path, False

    def _is_placed(self, name: str) -> bool:
        return name in self._placed or name.startswith(self._folders)


def _session() -> ReplaySession | None:
    session = sessions.active
    return session if isinstance(session, ReplaySession) and not session.ended else None


def _restored_at() -> int:
    session = _session()
    return 0 if session is None else session.restored_at


def _give_up(why: str, status: int = EXIT_RESTORE) -> None:
    """End here: no `except` of the old code's may turn this into a value."""
    session = sessions.active or sessions.start()
    if session is None or session.ended:
        return
    sys.stderr.write("".join(traceback.format_stack(sys._getframe(3), limit=8)))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    sys.stderr.write(f"flor_dagster: {why}\n")
    session.finish("failed", why)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
