"""Old versions on disk: outside the user's repository, with the user's objects shared and nothing of the user's written.

Each checkout is a repository of its own whose `.git` borrows the objects of the user's (`objects/info/alternates`).
So any commit of the user's repository can be checked out without a fetch, checkouts never wait for each other or show
up in the user's `git worktree list`, and git commands that old code runs meet this repository, never the user's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from flor_dagster.errors import FlorError, NoRepositoryError, ReplayError
from flor_dagster.versions.command import borrowed, quoted, run
from flor_dagster.versions.repository import Repository, object_folders
from flor_dagster.versions.submodules import find_submodule, submodule_names

# What of the user's own settings decides which bytes a file has on disk.
_CONVERSIONS = r"^(core\.(autocrlf|eol|symlinks|filemode|attributesfile|precomposeunicode)|filter\..*)$"
_MAX_DEPTH = 8

REPOSITORY_NOTE = "repository"
"""A file in a clone's place: which repository it belongs to, so that what a deleted one left can be found."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A version on disk.

    Attributes:
        path: The folder.
        commit: The version.
        missing: Submodules whose commit lies in no repository here: their folders are empty.
    """

    path: Path
    commit: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Clone:
    """A place outside a user's repository where its versions are checked out.

    Attributes:
        root: The top folder of the user's work tree (or the user's bare repository).
        place: A folder of our own, one for each repository.
    """

    root: Path
    place: Path

    @classmethod
    def open(cls, root: Path, cache: Path) -> Clone:
        """The clone of a repository, made where there is none.

        Args:
            root: A folder in the user's work tree. Linked work trees share one clone.
            cache: Where clones lie; `place` is a folder in it that is named for the repository.

        Raises:
            NoRepositoryError: There is no repository at `root` (any more).
        """
        repository = Repository.find(root) if root.is_dir() else None
        if repository is None:
            raise NoRepositoryError(_why_gone(root))
        name = hashlib.sha256(str(repository.common_dir).encode(errors="surrogateescape")).hexdigest()[:20]
        place = cache.absolute() / name
        place.mkdir(parents=True, exist_ok=True)
        note = place / REPOSITORY_NOTE
        if not note.exists():
            with contextlib.suppress(OSError):
                note.write_bytes(os.fsencode(repository.common_dir))
        return cls(repository.root, place)

    def checkout(self, commit: str, destination: Path) -> Checkout:
        """Write the files of a version into a folder.

        The folder appears whole or not at all: files are written beside it, and it is put in place by one rename.

        Args:
            commit: The full id of a commit in the user's repository.
            destination: A folder that does not exist, or is empty.

        Raises:
            ReplayError: The repository or the commit is gone, the folder holds files, or git can't write the files.
        """
        destination = destination.absolute()
        # A fixed number of lock files, for any number of destinations: those that share one wait for each other.
        bucket = hashlib.sha256(str(destination).encode(errors="surrogateescape")).hexdigest()[:2]
        locks = self.place / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{bucket}.lock"):
            try:
                return self._checkout(commit, destination)
            except ReplayError:
                raise
            except (FlorError, OSError) as error:
                raise ReplayError(
                    f"The version {commit} of {self.root} could not be checked out: {error}"
                ) from error

    def _checkout(self, commit: str, destination: Path) -> Checkout:
        if not self.root.is_dir():
            raise ReplayError(_why_gone(self.root))
        repository = Repository(self.root)
        if not repository.has(commit):
            raise ReplayError(
                f"The version {commit} is not in the repository {self.root}, so the training runs of that version can't "
                "be replayed from it. Fetch it from the clone where they were recorded "
                "(git fetch <remote> 'refs/flor/*:refs/flor/*'), or restore it from the log store."
            )
        if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
            raise ReplayError(
                f"The version {commit} can't be checked out into {destination}: it holds files. Name an empty folder."
            )
        parent, prefix = destination.parent, f".{destination.name}.partial-"
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.iterdir():  # of a checkout that was killed: we hold the lock, so nobody is at it
            if left.name.startswith(prefix):
                shutil.rmtree(left, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        try:
            missing = _populate(repository, commit, partial)
            partial.chmod(0o755)
            partial.rename(destination)  # takes the place of an empty folder
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return Checkout(destination, commit, tuple(missing))


def _populate(source: Repository, commit: str, folder: Path, depth: int = 0) -> list[str]:
    """Make a repository with borrowed objects in a folder and write a commit's files; return the missing submodules."""
    form = run(source.root, "rev-parse", "--show-object-format").text
    run(folder, "init", "--quiet", "--template=", f"--object-format={form}", "--initial-branch=flor", ".")
    git_dir = folder / ".git"
    info = git_dir / "objects" / "info"
    info.mkdir(parents=True, exist_ok=True)
    lent = borrowed(source.root)
    alternates = "".join(f"{quoted(path)}\n" for path in [*object_folders(source.common_dir), *lent])
    (info / "alternates").write_text(alternates, encoding="utf-8", errors="surrogateescape")
    for name in ("info/attributes", "shallow"):
        if (source.common_dir / name).is_file():
            (git_dir / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source.common_dir / name, git_dir / name)
    # Detached: at the commit that the training run saw as HEAD, so that old code that asks git gets the same answer.
    base = source.base(commit)
    if lent:
        # The history before a version that was given back, or kept beside, may be lost.
        if base is None or not source.has(base):
            base = commit
        if source.lacking(source.parents(base)):
            with (git_dir / "shallow").open("a", encoding="ascii") as shallow:
                shallow.write(f"{base}\n")
    if base is not None:
        (git_dir / "HEAD").write_text(f"{base}\n", encoding="ascii")
    run(folder, *_conversions(source), "read-tree", "--reset", "-u", commit)
    missing: list[str] = []
    names = submodule_names(source, commit)
    for entry in source.entries(commit):
        if entry.is_submodule:
            name = names.get(entry.path, entry.path)
            inner = find_submodule(source, entry.path, entry.id, name) if depth < _MAX_DEPTH else None
            target = folder / entry.path
            if inner is None:
                missing.append(entry.path)
            else:
                target.mkdir(parents=True, exist_ok=True)
                missing += [f"{entry.path}/{name}" for name in _populate(inner, entry.id, target, depth + 1)]
    return missing


def _conversions(source: Repository) -> list[str]:
    """The user's repository's own settings of line ends and filters, as flags; global ones hold anyway."""
    answer = run(source.root, "config", "--local", "-z", "--get-regexp", _CONVERSIONS, check=False)
    flags: list[str] = []
    for row in answer.paths:
        key, separator, value = row.partition("\n")
        flags += ["-c", f"{key}={value}" if separator else key]
    return flags


def _why_gone(root: Path) -> str:
    return (
        f"The repository {root} is not there (any more). If it was moved, name its new place with --project; its "
        "versions moved with it."
    )
