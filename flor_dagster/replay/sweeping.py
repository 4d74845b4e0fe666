"""What askers left that were killed: whoever asks next takes it away, where the process that it belongs to is known to be gone.

Everything that lies outside a replay's own folder has its process's mark in its name (`recording.owners`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flor_dagster.errors import FlorError
from flor_dagster.recording.owners import is_gone
from flor_dagster.replay.askers import forget_gone
from flor_dagster.versions.clone import Clone
from flor_dagster.versions.scratch import SCRATCH_PREFIX

_LINUX = Path("/proc/self/cmdline").exists()


def sweep(root: Path, home: Path, cache: Path) -> None:
    """Take away the checkouts, notes and temporary folders of processes that are known to be gone.

    Args:
        root: the top of the user's work tree.
        home: the `.flor/` folder.
        cache: where clones lie.
    """
    forget_gone(home)
    place = None
    with contextlib.suppress(FlorError, OSError):
        place = Clone.open(root, cache).place
    for path in (*_scratch(), *(() if place is None else _checkouts(place))):
        shutil.rmtree(path, ignore_errors=True)


def is_left(path: Path) -> bool:
    """Whether a checkout was left by a process that is gone, and nobody is in it."""
    return is_gone(path.name) and not _in_use(path)


def _checkouts(place: Path) -> Iterator[Path]:
    for kind in ("replays", "trainings"):
        for path in _folders(place / kind):
            if is_left(path):
                yield path


def _scratch() -> Iterator[Path]:
    for path in _folders(Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):  # its owner may take it away at this moment
            if (
                path.name.startswith(SCRATCH_PREFIX)
                and path.stat().st_uid == os.getuid()
                and is_gone(path.name)
            ):
                yield path


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(one.path) for one in entries if one.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _in_use(checkout: Path) -> bool:
    """Whether a process runs there: a training outlives the command that started it. Where that can't be seen, one may."""
    if not _LINUX:
        return True
    inside = os.fsencode(checkout)
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            folder = os.fsencode((process / "cwd").readlink())
            if folder == inside or folder.startswith(inside + b"/"):
                return True
            if inside in (process / "cmdline").read_bytes():
                return True
    return False
