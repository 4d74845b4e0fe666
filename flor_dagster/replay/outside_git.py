"""What can be read without git: the runs and values that lie in a `.flor/` folder whose project is no repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from flor_dagster.errors import NoRepositoryError, NoRunsError
from flor_dagster.recording import layout
from flor_dagster.replay.workspace import Workspace
from flor_dagster.store import LogStore
from flor_dagster.store.models import RunRow


class Records:
    """The records of a folder without git. They can be looked at; nothing of them can be replayed.

    Args:
        place: the folder and its `.flor/`.
    """

    def __init__(self, place: layout.Place) -> None:
        self.root = place.root
        self.home = place.home
        self.store = LogStore.open(place.home / "flor.db", home=place.home)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

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


def open_records(root: Path | None) -> Workspace | Records:
    """The project around a folder, or the records that lie there without one.

    Args:
        root: None takes the working directory.

    Raises:
        NoRepositoryError: there is neither.
    """
    try:
        return Workspace.open(root)
    except NoRepositoryError:
        start = (root if root is not None else Path.cwd()).resolve()
        for folder in (start, *start.parents):
            place = layout.place_without_git(folder)
            if os.path.isdir(layout.runs_folder(place.home)):  # noqa: PTH112
                return Records(place)
        raise
