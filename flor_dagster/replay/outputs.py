"""Which untracked files are none that the recorded run can have read: its own outputs, and what changed since.

What was written while the training ran is its own: a script that goes on from such a file where it finds one must not find it.
A large file is reached through a link, and what an old version writes through one would reach the user's file. C extensions
(`torch.save` opens its file in C++) pass the audit hook. So what a training writes must not be linked: it was written after
the training began, which its time of change tells.
"""

from __future__ import annotations

from pathlib import Path

from flor_dagster.versions.untracked import SMALL_BYTES

SHOWN = 3


class ChangedSince:
    """Leaves out what was written while a training ran, and large files that were written later.

    Args:
        root: the user's work tree.
        started: when the run began, in seconds since the epoch.
        seconds: how long it took, None where that is not known.
    """

    def __init__(self, root: Path, started: float, seconds: float | None) -> None:
        self._root = root
        self._started = started
        self._ended = started + (seconds or 0.0)
        self.names: list[str] = []

    def left_out(self, name: str) -> bool:
        """Whether a file is left out; see `link_untracked`."""
        if name.endswith("/"):
            return False
        try:
            stat = (self._root / name).stat()
        except OSError:
            return False
        later = stat.st_mtime > self._ended
        if stat.st_mtime <= self._started or (later and stat.st_size <= SMALL_BYTES):
            return False
        self.names.append(name)
        return True

    def explain(self, reason: str) -> str:
        """A failure's reason, with the files that were left out where it may be about one."""
        lacking = any(Path(name).name in reason for name in self.names)
        if not self.names or not (lacking or "No such file" in reason or "FileNotFoundError" in reason):
            return reason
        more = f" and {len(self.names) - SHOWN} more" if len(self.names) > SHOWN else ""
        return f"{reason} (not reached, since written after this run began: {', '.join(self.names[:SHOWN])}{more})"
