"""What can be looked at and not replayed: a `.flor/` folder whose project is no repository, or that can only be read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Self

from flor_dagster.errors import NoRepositoryError, NoRunsError
from flor_dagster.recording import layout
from flor_dagster.replay.workspace import Workspace
from flor_dagster.store import LogStore
from flor_dagster.store.copying import can_write
from flor_dagster.store.models import RunRow


class Records:
    """The records of a folder. They can be looked at; nothing of them can be replayed.

    Where the folder can't be written, a copy of its store is read, and what the store does not have yet is taken into the copy.

    Args:
        place: the folder and its `.flor/`.
    """

    def __init__(self, place: layout.Place) -> None:
        self.root = place.root
        self.home = place.home
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        if can_write(place.home):
            self.store = LogStore.open(place.home / "flor.db", home=place.home)
            return
        self._copy = tempfile.TemporaryDirectory(prefix="flor-copy-")
        try:
            self.store = LogStore.open_copy(place.home, Path(self._copy.name))
        except BaseException:
            self._copy.cleanup()
            raise

    def close(self) -> None:
        """Close the store; a copy of it is deleted."""
        self.store.close()
        if self._copy is not None:
            self._copy.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sync(self) -> None:
        """Bring in what was recorded since."""
        self.store.ingest_all(self.home)

    def runs(self) -> tuple[RunRow, ...]:
        """All training runs, in the order of their start."""
        return tuple(self.store.runs())

    def require_runs(self) -> None:
        """Refuse where there is nothing to look at.

        Raises:
            NoRunsError: there are no runs.
        """
        if not self.runs():
            raise NoRunsError(f"there are no training runs in {self.root}")


def open_records(root: Path | str | None = None) -> Workspace | Records:
    """The project around a folder, or the records that lie there without git, or where nothing can be written.

    Args:
        root: None takes the working directory.

    Raises:
        NoRepositoryError: there is neither.
    """
    start = Path(root if root is not None else Path.cwd()).resolve()
    located = layout.find_place(start) if start.is_dir() else None
    if located is not None and not can_write(located.home):
        return Records(located)
    try:
        return Workspace.open(root)
    except NoRepositoryError:
        for folder in (start, *start.parents):
            place = layout.place_without_git(folder)
            if os.path.isdir(layout.runs_folder(place.home)):  # noqa: PTH112
                return Records(place)
        raise
