"""Folders that replays and trainings left: in the project's home, and in the cache of our clones."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flor_dagster.recording import layout
from flor_dagster.recording.sharing import YOUNG_SECONDS
from flor_dagster.replay.sweeping import is_left
from flor_dagster.versions.clone import REPOSITORY_NOTE, Clone

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace
    from flor_dagster.store.models import RunRow


@dataclass(frozen=True, slots=True)
class Leftover:
    """A folder that may go.

    Attributes:
        kind: `replays` in the home, `checkouts` in the cache.
        path: The folder.
        kept: Why it stays; empty where it goes.
        needed: Files in it that stay when it goes: journals that values came from.
    """

    kind: str
    path: Path
    kept: str = ""
    needed: frozenset[Path] = frozenset()

    def files(self) -> list[Path]:
        """The files that go with it."""
        return [
            Path(place, name)
            for place, _, names in os.walk(self.path)
            for name in names
            if Path(place, name) not in self.needed
        ]

    def remove(self) -> None:
        """Delete it, but for what is needed."""
        if not self.needed:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        for path in self.files():
            path.unlink(missing_ok=True)
        for place, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(OSError):
                Path(place).rmdir()


def leftovers(workspace: Workspace, runs: Sequence[RunRow], busy: frozenset[str]) -> tuple[Leftover, ...]:
    """What replays and trainings left.

    Args:
        workspace: the project.
        runs: all of its runs.
        busy: ids of the runs that are being replayed.
    """
    return (
        *_replays(workspace, busy),
        *_checkouts(workspace, {run.id: run for run in runs}, busy),
        *_orphans(workspace),
    )


def _replays(workspace: Workspace, busy: frozenset[str]) -> Iterator[Leftover]:
    """The folders of replays that the store has the results of, and of those that were killed.

    The journals that values came from stay: with them the log store can be made anew.
    """
    needed = {workspace.home / name for name in workspace.store.replay_journals()}
    rows = {replay.id: replay for replay in workspace.store.replays()}
    folder = workspace.home / "replays"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        row = rows.get(path.name)
        if not path.is_dir() or path.is_symlink() or (row is not None and row.run_id in busy):
            continue
        if row is None:
            yield Leftover("replays", path, "no replay of this log store; another store may have it")
        elif row.status == "finished":
            one = Leftover("replays", path, needed=frozenset(n for n in needed if n.is_relative_to(path)))
            if not one.needed or one.files():
                yield one
        elif _is_young(path):
            yield Leftover("replays", path, "failed or ended in the last 24 hours; its output may be wanted")
        else:
            yield Leftover("replays", path)


def _checkouts(workspace: Workspace, runs: dict[str, RunRow], busy: frozenset[str]) -> Iterator[Leftover]:
    """Checkouts of versions whose replay or training was killed before it could delete them."""
    place = Clone.open(workspace.root, workspace.cache).place
    of_replay = {replay.id: replay.run_id for replay in workspace.store.replays()}
    for path in _folders(place / "replays"):
        run = of_replay.get(path.name.lstrip(".").partition(".")[0])
        if is_left(path) or (run not in busy and not _is_young(path)):
            yield Leftover("checkouts", path)
    for path in _folders(place / "trainings"):
        run = runs.get(path.name.lstrip(".").partition(".")[0])
        if is_left(path) or (not _is_young(path) and (run is None or run.status != "running")):
            live = run is None and layout.run_folder(workspace.home, path.name).exists()
            yield Leftover("checkouts", path, "its training run was not taken in yet" if live else "")


def _orphans(workspace: Workspace) -> Iterator[Leftover]:
    """Clones of repositories that are gone. One without a note of its repository stays."""
    for path in _folders(workspace.cache):
        try:
            repository = Path(os.fsdecode((path / REPOSITORY_NOTE).read_bytes()))
        except OSError:
            continue
        # Its disk may only not be there now: then the folder around it is not there either.
        if not repository.exists() and repository.parent.parent.is_dir() and not _is_young(path):
            yield Leftover("checkouts", path)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _is_young(folder: Path) -> bool:
    """Whether anything directly in a folder was changed lately."""
    times = [folder.stat().st_mtime]
    with os.scandir(folder) as entries:
        times += [entry.stat(follow_symlinks=False).st_mtime for entry in entries]
    return time.time() - max(times) < YOUNG_SECONDS
