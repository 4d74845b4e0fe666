"""What goes wrong in the recorder: said once to the person, kept in the run, never raised into the training."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flor_dagster.recording.journal import JournalWriter


def warn(message: str) -> None:
    """Tell the person, on standard error; recording never prints otherwise."""
    with contextlib.suppress(Exception):
        sys.stderr.write(f"flor_dagster: {message}\n")


class Troubles:
    """Tells each trouble of a run once.

    Args:
        journal: where it is kept besides.
    """

    def __init__(self, journal: JournalWriter) -> None:
        self._journal = journal
        self._told: set[str] = set()
        self._disk_told = False

    def first(self, key: str) -> bool:
        """Whether this is asked for the first time."""
        if key in self._told:
            return False
        self._told.add(key)
        return True

    def tell(self, message: str, disk: bool = False) -> None:
        """Warn the person and note it in the run, once.

        Args:
            message: what happened.
            disk: whether the disk failed: the person is told of that once, whatever it then hits.
        """
        if not self.first(message):
            return
        if not (disk and self._disk_told):
            warn(message)
        self._disk_told = self._disk_told or disk
        self._journal.entry("w", "trouble", message)
