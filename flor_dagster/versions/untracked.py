"""Data that is not in git, made reachable in a checkout of an old version.

Small files are copied (as reflinks where the file system has them, which cost no space); bigger ones are symbolic links
to the user's files. **A write through such a link would reach the user's file.** The replay's child process guards against that by an
audit hook that fails writes whose real path lies in the user's repository; C extensions that open files by
themselves pass it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from fcntl import ioctl
from typing import TYPE_CHECKING, Literal

from flor_dagster.versions.command import run
from flor_dagster.versions.repository import Repository
from flor_dagster.versions.secrets import secret_pattern
from flor_dagster.versions.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from pathlib import Path

How = Literal["reflink", "copy", "link"]

SMALL_BYTES = 1_000_000
"""Files up to this size are copied where they can't be reflinked."""

MAX_FILES = 2000
"""A folder with more files than this is linked whole."""

_FICLONE = 0x40049409
_NEVER = frozenset(
    [
        ".git",
        ".hg",
        ".svn",
        ".flor",
        "__pycache__",
        "__pypackages__",
        "node_modules",
        ".tox",
        ".nox",
        ".venv",
        ".pytest_cache",
        ".mypy_cache",
        ".ruff_cache",
        ".ipynb_checkpoints",
        ".idea",
        ".vscode",
        ".direnv",
    ]
)
_CODE = (".py", ".pyi", ".pyx", ".ipynb")


def link_untracked(
    root: Path,
    destination: Path,
    skip: Callable[[str], bool] | None = None,
    known: Container[str] = (),
) -> tuple[tuple[str, How], ...]:
    """Make the user's untracked and ignored files reachable in a checkout, where the version has nothing of that name.

    Folders of up to `MAX_FILES` files are made anew and filled file by file, so that old code can write new files into
    them; a bigger one becomes one link, and what lies in it is not looked at. Left out are `.git`, `.flor`, virtual
    environments, caches, likely secrets, and code that git does not ignore (the version would hold it, had it been there).

    Args:
        root: The top folder of the user's work tree.
        destination: The checkout.
        skip: Called with each path (with slashes; a folder ends in one); true leaves it out.
        known: Files that are linked though they look like secrets: what runs in the checkout read them there before.

    Returns:
        (path, how) of each file, or of each folder that was linked whole, sorted.

    Raises:
        NoRepositoryError: There is no repository at `root`.
        GitError: git could not list the files.
    """
    repository = Repository(root)
    if repository.bare:
        return ()
    listed = run(repository.root, "ls-files", "--others", "--directory", "--no-empty-directory", "-z").paths
    unignored = set(run(repository.root, "ls-files", "--others", "--exclude-standard", "-z").paths)

    patterns = read_settings(repository.root).secrets

    def wanted(name: str) -> bool:
        if not _is_data(repository.root, name, () if name in known else patterns) or (
            skip is not None and skip(name)
        ):
            return False
        return not (name in unignored and name.endswith(_CODE))

    done: dict[str, How] = {}
    inside = destination.resolve()
    for name in listed:
        source = repository.root / name
        # The checkout, or the cache that it lies in, may itself be an untracked folder of the repository.
        if inside.is_relative_to(source.resolve()):
            continue
        for part in _parts(repository.root, name, wanted):
            how = _place(repository.root / part, destination / part, destination)
            if how is not None:
                done[part] = how
    return tuple(sorted(done.items()))


def _parts(root: Path, name: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    """What is placed of one untracked path: itself, or the files of a folder that has not too many."""
    if not wanted(name):
        return
    if not name.endswith("/") or (root / name).is_symlink():
        yield name
        return
    files: list[str] = []
    for file in _walk(root, name, wanted):
        files.append(file)
        if len(files) > MAX_FILES:
            yield name
            return
    yield from files


def _walk(root: Path, folder: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    try:
        children = sorted(os.scandir(root / folder), key=lambda child: child.name)
    except OSError:
        return  # not readable for the user, so not for the training run either
    for child in children:
        is_folder = child.is_dir(follow_symlinks=False)
        name = f"{folder}{child.name}{'/' if is_folder else ''}"
        if wanted(name):
            if is_folder:
                yield from _walk(root, name, wanted)
            else:
                yield name


def _is_data(root: Path, name: str, patterns: tuple[str, ...]) -> bool:
    path = name.rstrip("/")
    if not _NEVER.isdisjoint(path.split("/")) or secret_pattern(path, patterns) is not None:
        return False
    return not (
        name.endswith("/")
        and ((root / path / "pyvenv.cfg").exists() or (root / path / "conda-meta").is_dir())
    )


def _place(source: Path, target: Path, destination: Path) -> How | None:
    """Put one file or folder at its place in the checkout; None where that place is taken or it is gone."""
    if os.path.lexists(target):
        return None
    try:
        status = source.stat()
        target.parent.mkdir(parents=True, exist_ok=True)
        # A version may have a symbolic link where the user has a folder now: nothing is written through it.
        if not target.parent.resolve().is_relative_to(destination.resolve()):
            return None
        if stat.S_ISREG(status.st_mode) and not source.is_symlink():
            if _reflink(source, target):
                return "reflink"
            if status.st_size <= SMALL_BYTES:
                shutil.copy2(source, target)
                return "copy"
        elif not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            return None  # a socket, a pipe, a device
        target.symlink_to(source.absolute())
    except OSError:
        return None  # gone since git listed it, not readable, or a file stands where a folder is needed
    return "link"


def _reflink(source: Path, target: Path) -> bool:
    """Share a file's blocks with its copy (Btrfs, XFS, bcachefs); false where the file system can't."""
    try:
        with source.open("rb") as origin, target.open("xb") as copy:
            ioctl(copy.fileno(), _FICLONE, origin.fileno())
        shutil.copystat(source, target)
        return True
    except OSError:
        with contextlib.suppress(OSError):
            target.unlink()
        return False
