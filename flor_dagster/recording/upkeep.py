"""A run's folder may be deleted or moved while it is recorded: its records are kept all the same where that can be."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flor_dagster.recording.records import Records
    from flor_dagster.recording.trouble import Troubles

EVERY_SECONDS = 1.0


class Upkeep:
    """Looks after a run's folder, which a deleted file of an open descriptor does not tell of.

    Args:
        folder: the run's.
        root: the work tree; where it is gone, too, nothing is made anew.
        records: the run's.
        troubles: told of what was found.
        begin: makes what else belongs in the folder, once the journal lies there again.
        regained: told that descriptors of the run were closed by the program.
    """

    def __init__(
        self, folder: Path, root: Path, records: Records, troubles: Troubles, begin: Callable[[], None],
        regained: Callable[[], None],
    ) -> None:  # fmt: skip
        self._folder = folder
        self._root = root
        self._records = records
        self._troubles = troubles
        self._begin = begin
        self._regained = regained
        self._seen = 0
        self._looked = time.monotonic()
        self._given_up = False

    def look(self, *, now: bool = False) -> None:
        """Make the journal anew where it was deleted; looked for every second, or now."""
        moment = time.monotonic()
        if self._given_up or not (now or moment - self._looked >= EVERY_SECONDS):
            return
        self._looked = moment
        journal = self._records.journal
        self._look_at_descriptor(journal.regain())
        try:
            if journal.deleted:
                self._make_anew()
            elif not journal.path.exists():
                self._given_up = True
                self._troubles.tell(
                    f"{self._folder} was moved while this run is recorded; it is recorded where that is now",
                    disk=True,
                )
        except OSError as error:
            self._given_up = True
            journal.lose()
            self._troubles.tell(
                f"{self._folder} was deleted while this run is recorded, and can't be made anew: {error}; the training "
                "goes on, and nothing of it is kept",
                disk=True,
            )

    def _look_at_descriptor(self, became: str) -> None:
        """Say, and count, that the program closed the journal's descriptor; it was opened again by its path."""
        journal = self._records.journal
        if journal.regained == self._seen:
            return
        self._seen = journal.regained
        self._regained()
        if became == "given to another file":
            journal.lose()
            self._troubles.tell(
                f"the program closed a descriptor that this run is recorded through ({journal.path}), and its number was "
                "given to another file: what was recorded since is lost, and may stand in that file"
            )
        else:
            self._troubles.tell(
                f"the program closed a descriptor that this run is recorded through ({journal.path}); it was opened again"
            )

    def _make_anew(self) -> None:
        if not self._root.is_dir():
            raise FileNotFoundError(f"there is no {self._root} any more")
        if not self._records.revive():
            return
        self._begin()
        self._records.journal.lose()
        self._troubles.tell(
            f"{self._folder} was deleted while this run is recorded: it was made anew with all its records; checkpoints "
            "and artifacts that it had are lost",
            disk=True,
        )
