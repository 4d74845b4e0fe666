"""Files that skipped code may have written: a replay that reads one has skipped too much.

What a skipped loop wrote is not there, and what lies there instead is of another moment: the user's file as the training
left it. So once something was put back instead of being executed, the replay's own process may only read what was written
before the recorded run began, and what it wrote itself since. Anything else ends it, and it is carried out again without
skipping. Files that C extensions open by themselves, and those that loader workers read, are not seen.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# The version holds them, whatever became of the user's.
_CODE = (".py", ".pyi", ".pyc", ".so")
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR
COARSE = 50_000_000
"""Nanoseconds by which a file's time may lie before the clock's."""

_SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr")


class Rereading:
    """Watches what is read after something was put back.

    Args:
        began: when the recorded run began, in nanoseconds since the epoch.
        root: the checkout.
        user_root: the user's repository; a file of the checkout that was written there since then is a late one.
        exempt: folders of ours.
        refuse: told of a file that must not be read.
        alone: no other rank takes part. Several may talk through files outside the checkout, which each writes anew.
    """

    def __init__(
        self,
        began: int,
        root: str,
        user_root: str,
        exempt: Iterable[str],
        refuse: Callable[[str], Any],
        *,
        alone: bool = True,
    ) -> None:
        self._began = began
        self._alone = alone
        self._started = time.time_ns()
        self._root = os.path.realpath(root)
        self._user_root = os.path.realpath(user_root)
        self._late: set[str] = set()
        prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix)
        self._exempt = tuple(
            {
                os.path.realpath(path) + os.sep
                for path in (*exempt, *prefixes, *_SYSTEM, str(Path(os.__file__).parent))
            }
        )
        self._refuse = refuse
        self._own: set[str] = set()
        self._mixed: set[str] = set()
        self._pid = os.getpid()
        self._restored = False
        self._busy = False

    def watch(self) -> None:
        """Look at what is opened, and at what is asked whether it exists, from here on."""
        sys.addaudithook(self.hook)
        plain = os.stat

        def stat(path: Any, *more: Any, **named: Any) -> os.stat_result:
            if self._restored and not self._busy and not isinstance(path, int) and os.getpid() == self._pid:
                self._busy = True
                try:
                    real = _real(path)
                    if real and real not in self._own and self._is_late(real):
                        self._refuse(self._shown(real))
                finally:
                    self._busy = False
            return plain(path, *more, **named)

        os.stat = stat

    def restored(self) -> None:
        """Something was put back: what was written until now may have been written again by what was skipped."""
        self._restored = True
        self._late |= {path for path in self._own if path.startswith(self._root + os.sep)}
        self._own.clear()

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """For `sys.addaudithook`."""
        if event not in ("open", "os.rename", "sqlite3.connect") or self._busy or os.getpid() != self._pid:
            return
        self._busy = True
        try:
            self._look(event, args)
        finally:
            self._busy = False

    def _look(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "os.rename":
            if _real(args[0]) in self._own:
                self._own.add(_real(args[1]))
            return
        path = _real(args[0])
        mode, flags = (*args[1:3], None, None)[:2] if event == "open" else (None, None)
        if not path or path in self._own:
            return
        text = mode if isinstance(mode, str) else ""
        number = flags if isinstance(flags, int) else 0
        if "w" in text or "x" in text or number & os.O_TRUNC or not os.path.lexists(path):
            self._own.add(path)
            self._mixed.discard(path)
        elif "a" in text or number & os.O_APPEND:
            # What it is appended to is what the training left, not what it found.
            if self._is_late(path):
                self._mixed.add(path)
        elif path in self._mixed:
            self._refuse(self._shown(path))
        elif self._restored and self._is_late(path):
            if "r" not in text and number & _WRITE_FLAGS == os.O_WRONLY:
                return
            self._refuse(self._shown(path))

    def _shown(self, path: str) -> str:
        inside = path.startswith(self._root + os.sep)
        return self._user_root + path[len(self._root) :] if inside else path

    def _is_late(self, path: str) -> bool:
        if path in self._late:
            return True
        if path.endswith(_CODE) or path.startswith(self._exempt):
            return False
        inside = path.startswith(self._root + os.sep)
        if inside:
            path = self._user_root + path[len(self._root) :]
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError:
            return False
        if not self._alone and not inside and status.st_mtime_ns > self._started - COARSE:
            return False
        return status.st_mtime_ns > self._began - COARSE and (status.st_mode & 0o170000) == 0o100000


def _real(path: Any) -> str:
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str | os.PathLike):
        return ""
    # The last part is looked at as it is named: a link in the checkout stands for the user's file.
    text = os.path.abspath(os.fspath(path))  # noqa: PTH100 # pyright: ignore[reportUnknownArgumentType, reportArgumentType, reportCallIssue]
    folder, name = os.path.split(text)
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118
