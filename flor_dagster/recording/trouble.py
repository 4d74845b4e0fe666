"""What goes wrong in the recorder: said once to the person, kept in the run, never raised into the training."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING

from flor_dagster.recording.masking import known_secrets

if TYPE_CHECKING:
    from flor_dagster.recording.journal import JournalWriter


def warn(message: str) -> None:
    """Tell the person, on standard error; recording never prints otherwise."""
    with contextlib.suppress(Exception):
        from flor_dagster.showing import shown  # no training should wait for what it rarely needs

        sys.stderr.write(f"flor_dagster: {shown(message)}\n")


class Troubles:
    """Tells each trouble of a run once.

    Args:
        journal: where it is kept besides.
    """

    def __init__(self, journal: JournalWriter) -> None:
        self._journal = journal
        self._told: set[str] = set()
        self._disk_told = False
        # The training's thread and the one that writes checkpoints meet a full disk in the same moment. Reentrant: a
        # signal handler may record while its own thread is here.
        self._lock = threading.RLock()

    def first(self, key: str) -> bool:
        """Whether this is asked for the first time."""
        with self._lock:
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
        with self._lock:
            if not self.first(message):
                return
            silent = disk and self._disk_told
            self._disk_told = self._disk_told or disk
        if not silent:
            warn(message)
        self._journal.entry("w", "trouble", known_secrets.mask(message))
