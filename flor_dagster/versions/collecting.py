"""Versions that no training run needs any more: found, and let go of.

A version is kept by `refs/flor/versions/<commit>`; without it, `git gc` takes the objects in its own time; those in the
repository of our own beside the user's go at once. Dropped is only what is neither asked to be kept nor named by a
`version.json` of any home of this repository. A home that was moved (`FLOR_HOME`) is noted under `refs/flor/homes/`, so
that collecting for one never drops the other's versions; what lies beside belongs to its own home alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flor_dagster.errors import SnapshotError
from flor_dagster.recording.layout import runs_folder
from flor_dagster.versions.beside import VERSION_REFS
from flor_dagster.versions.command import GitError, last_lines, run
from flor_dagster.versions.refs import update_refs

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from flor_dagster.versions.beside import Beside
    from flor_dagster.versions.repository import Repository

HOME_REFS = "refs/flor/homes/"
_LOCK = "versions.lock"
_WAIT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a collection did.

    Attributes:
        dropped: The versions that no training run needed.
        kept: How many versions stay.
        refusal: Why nothing could be dropped, though there may be something to drop; empty where all was looked at.
    """

    dropped: tuple[str, ...]
    kept: int
    refusal: str = ""


def drop_versions(
    repository: Repository, home: Path, keep: Iterable[str], *, dry_run: bool = False
) -> Dropped:
    """Let go of the versions that no training run needs; the objects go with the user's next `git gc`.

    Args:
        repository: The user's repository.
        home: The `.flor/` folder that is collected for.
        keep: The versions that the log store's training runs have.
        dry_run: Only say which.

    Raises:
        SnapshotError: Snapshots were being taken all the time, so that it was never safe; or git could not write.
    """
    with _lock(home, fcntl.LOCK_EX, _WAIT_SECONDS):
        kept = set(keep)
        for place in {home.resolve(), *_homes(repository)}:
            if not place.is_dir():
                reason = f"versions may belong to {place}, a home of this repository that is not there now"
                return Dropped((), len(repository.kept_versions()), reason)
            kept |= _named_in(place)
        have = repository.kept_versions()
        gone = tuple(commit for commit in have if commit not in kept)
        refusal = ""
        if not dry_run:
            repository.beside.clear()
            _delete(repository, set(gone) & set(repository.own_versions()))
            _delete(repository.beside, set(gone) & set(repository.beside.versions()))
            refusal = repository.beside.collect()
        return Dropped(gone, len(have) - len(gone), refusal)


def _delete(repository: Repository | Beside, commits: Iterable[str]) -> None:
    # With the old value: a ref that somebody moved meanwhile stays.
    lines = [f"delete {VERSION_REFS}{commit} {commit}" for commit in sorted(commits)]
    answer = update_refs(repository, lines) if lines else None
    if answer is not None and answer.status != 0:
        raise SnapshotError(
            f"No version was dropped from {repository.root}: {last_lines(answer.stderr)}. Try again when no other git "
            "is at work there."
        )


@contextlib.contextmanager
def shared_lock(home: Path | None) -> Generator[None]:
    """While it is held no version is dropped: from before a snapshot looks for its ref until the run names its version."""
    if home is None or not home.is_dir():
        yield
        return
    try:
        lock = _lock(home, fcntl.LOCK_SH, _WAIT_SECONDS)
        lock.__enter__()
    except (OSError, SnapshotError):
        yield  # a read-only home, or a file system without locks: nobody can collect there either
        return
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def note_home(repository: Repository, home: Path) -> None:
    """Keep in the repository that a home elsewhere has versions in it."""
    if home.resolve() == default_home(repository).resolve():
        return
    path = os.fsencode(str(home.resolve()))
    name = HOME_REFS + hashlib.sha256(path).hexdigest()[:20]
    if run(repository.root, "rev-parse", "--quiet", "--verify", name, check=False).status != 0:
        blob = run(repository.root, "hash-object", "-w", "--no-filters", "--stdin", stdin=path).text
        answer = update_refs(repository, [f"update {name} {blob}"])
        if answer.status != 0:
            raise GitError(
                f"the home {home} could not be noted in {repository.root}: {last_lines(answer.stderr)}"
            )


def default_home(repository: Repository) -> Path:
    """Where a repository's `.flor/` lies when nobody moved it."""
    common = repository.common_dir
    if common.name == ".git":
        return common.parent / ".flor"
    bare = run(common, "rev-parse", "--is-bare-repository", check=False).text == "true"
    return (common if bare else repository.root) / ".flor"


def _homes(repository: Repository) -> set[Path]:
    listed = run(repository.root, "for-each-ref", "--format=%(objectname)", HOME_REFS).text.split()
    homes = {Path(os.fsdecode(content)) for content in repository.read_blobs(listed).values()}
    default = default_home(repository)
    return homes | ({default} if default.is_dir() else set())


def _named_in(home: Path) -> set[str]:
    """The versions that the run folders of a home name."""
    found: set[str] = set()
    for file in runs_folder(home).glob("*/version.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found.add(str(json.loads(file.read_bytes()).get("commit")))
    return found


@contextlib.contextmanager
def _lock(home: Path, kind: int, seconds: float) -> Generator[None]:
    fd = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise SnapshotError(
                        f"Versions of code were being kept for {seconds:.0f} s without a pause ({home / _LOCK} is held); "
                        "nothing was dropped. Try again when fewer trainings begin."
                    ) from error
                time.sleep(0.02)
        yield
    finally:
        os.close(fd)
