"""Keep exactly the code that a training run executes as a commit, and touch nothing of the user's.

A private copy of the user's index is brought up to date with the files on disk, and written as a tree. Where that is
HEAD's tree, the version is HEAD; else it is a commit of ours on top of HEAD, the same for the same content. Only
objects and one ref, `refs/flor/versions/<commit>`, are added to the repository; or, where the project's settings say so,
to one of our own beside it, and nothing to the user's.

As a program this is the child that the recorder starts at a training run's first flor call:
`python -m flor_dagster.versions.snapshot --root ROOT --out version.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from flor_dagster.errors import FlorError, SnapshotError
from flor_dagster.recording.layout import find_place
from flor_dagster.recording.runlock import hold_inherited, pending_lock
from flor_dagster.versions.beside import VERSION_REFS
from flor_dagster.versions.collecting import note_home, shared_lock
from flor_dagster.versions.command import GitError, last_lines
from flor_dagster.versions.private_index import PrivateIndex, joined, take_as_loaded, take_files
from flor_dagster.versions.refs import update_refs
from flor_dagster.versions.repository import VERSION_EMAIL, Repository
from flor_dagster.versions.roundtrip import not_given_back
from flor_dagster.versions.scratch import scratch_folder
from flor_dagster.versions.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flor_dagster.recording.layout import Place
    from flor_dagster.versions.beside import Beside
    from flor_dagster.versions.repository import Entry
    from flor_dagster.versions.settings import SnapshotSettings

_MESSAGE = "Uncommitted code of a training run\n\nKept by flor; on no branch.\n"
_SUBMODULE = "160000"
_MAX_DEPTH = 8
# A file that is being written while we look is looked at again; where a `git gc --prune=now` takes objects that no ref
# keeps yet, all is done again.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Version:
    """The code that a training run executed.

    Attributes:
        commit: A commit that holds exactly that code.
        tree: Its tree.
        head: The commit that was checked out; None before the first one.
        branch: The branch that was checked out; None where HEAD was detached.
        dirty: The code differs from what was committed.
        excluded: (path, reason) of what lay in the work tree and is not in the version, or not as it lay there. A folder
            ends in a slash; a path `…` stands for further ignored ones, and its reason counts them.
        root: The top folder of the work tree.
        warnings: Sentences about what could be kept less well than it should.
        approximate: (path, reason) of what the version does not give back as it lay on disk; empty for an exact version.
        beside: It is kept in the repository of our own beside the user's.
    """

    commit: str
    tree: str
    head: str | None
    branch: str | None
    dirty: bool
    excluded: tuple[tuple[str, str], ...]
    root: Path
    warnings: tuple[str, ...] = ()
    approximate: tuple[tuple[str, str], ...] = ()
    beside: bool = False


def snapshot(
    root: Path,
    *,
    max_file_bytes: int | None = None,
    max_total_bytes: int | None = None,
    secret_patterns: Iterable[str] | None = None,
    loaded: Mapping[str, bytes] | None = None,
) -> Version:
    """Keep the code of a work tree, as it lies on disk, as a version.

    Tracked files are taken as they lie on disk, whatever their size and name; so are the submodules' that are checked
    out. Of the others, those are left out, and named, that are ignored, too big, or likely secrets. Nothing but objects and
    `refs/flor/versions/<commit>` is written, in this repository and in its submodules'; where the settings say that versions
    are kept beside it, nothing is written to any of them.

    Args:
        root: A folder in the work tree.
        max_file_bytes: Untracked files beyond this size are left out; None takes what the project's settings say.
        max_total_bytes: Where the untracked files are more than this together, the biggest are left out; None likewise.
        secret_patterns: Shell patterns; untracked files of such names are left out; None likewise.
        loaded: Path in the work tree to bytes, of files that were loaded before: they are taken so, where they were changed
            or deleted since.

    Raises:
        NoRepositoryError: There is no git repository here, or git does not trust it.
        SnapshotError: The version could not be written; the message says why.
    """
    repository = Repository.find(root)
    if repository.bare:
        raise SnapshotError(
            f"{repository.root} is a bare repository: it has no work tree whose code could be kept."
        )
    settings = read_settings(repository.root)
    if max_file_bytes is not None:
        settings = replace(settings, max_file_bytes=max_file_bytes)
    if max_total_bytes is not None:
        settings = replace(settings, max_total_bytes=max_total_bytes)
    if secret_patterns is not None:
        settings = replace(settings, secrets=tuple(secret_patterns))
    beside = repository.beside
    # Settings that can't be read may have said so, as they did before.
    wanted = beside.exists if settings.beside is None else settings.beside
    return _snapshot(repository, settings, loaded or {}, beside if wanted else None)


def _snapshot(
    repository: Repository,
    settings: SnapshotSettings,
    loaded: Mapping[str, bytes],
    beside: Beside | None,
    depth: int = 0,
) -> Version:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if beside is not None:
                beside.make()
            with scratch_folder("snapshot") as scratch:
                return _keep(
                    PrivateIndex(repository, Path(scratch) / "index", loaded, beside), settings, depth
                )
        except (GitError, OSError) as error:
            if attempt == _ATTEMPTS or not isinstance(error, GitError):
                raise SnapshotError(
                    f"The code in {repository.root} could not be kept as a version: {error}"
                ) from error
    raise AssertionError("the last attempt returns or raises")


def _keep(index: PrivateIndex, settings: SnapshotSettings, depth: int) -> Version:
    branch = index.git("symbolic-ref", "--quiet", "--short", "HEAD", check=False)
    head, entries, tree, whole = _take(index, settings, depth)
    index.approximate.update(not_given_back(index, [e for e in entries if e.path not in index.as_loaded]))
    commit = head.commit if head is not None and head.tree == tree else _commit(index, tree, head)
    _keep_reachable(index, commit, head)
    return Version(
        commit=commit,
        tree=tree,
        head=None if head is None else head.commit,
        branch=branch.text if branch.status == 0 else None,
        dirty=head is None or whole != head.tree,
        excluded=tuple(sorted(index.excluded.items())),
        root=index.repository.root,
        warnings=(*settings.troubles, *index.warnings),
        approximate=tuple(sorted(index.approximate.items())),
        beside=index.beside is not None,
    )


def _take(
    index: PrivateIndex, settings: SnapshotSettings, depth: int, attempts: int = _ATTEMPTS
) -> tuple[_Head | None, list[Entry], str, str]:
    """HEAD, the index once it holds what lies on disk, its tree, and that with what a sparse checkout does not have."""
    index.forget()
    head = _head(index)
    take_files(index, settings)
    entries = index.entries()
    if take_as_loaded(index, entries, settings):
        entries = index.entries()
    _keep_submodules(index, entries, settings, depth)
    tree = whole = index.git("write-tree").text
    if index.sparse:
        index.leave_out_sparse()
        entries, tree = index.entries(), index.git("write-tree").text
    moved = _changed_meanwhile(index)
    if moved and attempts > 1:
        return _take(index, settings, depth, attempts - 1)
    index.approximate.update(dict.fromkeys(moved, "changed while the version was made"))
    return head, entries, tree, whole


def _changed_meanwhile(index: PrivateIndex) -> list[str]:
    """Files that are not any more as the index has taken them."""
    changed = index.git("diff-files", "--name-only", "-z", "--ignore-submodules=all").paths
    return sorted(set(changed) - set(index.approximate) - set(index.excluded) - index.as_loaded)


def _keep_submodules(
    index: PrivateIndex, entries: list[Entry], settings: SnapshotSettings, depth: int
) -> None:
    """A submodule's files ran, too: its own version is what the tree points at, kept in the submodule's repository, or beside."""
    changed: list[str] = []
    for entry in entries:
        if not entry.is_submodule or not os.path.lexists(index.path(entry.path) / ".git"):
            continue
        try:
            if depth >= _MAX_DEPTH:
                raise SnapshotError(f"submodules are nested more than {_MAX_DEPTH} deep")
            below = f"{entry.path}/"
            own = {n.removeprefix(below): data for n, data in index.loaded.items() if n.startswith(below)}
            inner = _snapshot(Repository(index.path(entry.path)), settings, own, index.beside, depth + 1)
        except (FlorError, OSError) as error:
            index.approximate[f"{entry.path}/"] = f"the version has the submodule's commit alone: {error}"
            continue
        if inner.commit != entry.id:
            changed.append(f"{_SUBMODULE} {inner.commit}\t{entry.path}")
        index.excluded.update({f"{entry.path}/{name}": reason for name, reason in inner.excluded})
        index.approximate.update({f"{entry.path}/{name}": reason for name, reason in inner.approximate})
        index.warnings += [f"{entry.path}: {warning}" for warning in inner.warnings]
    if changed:
        index.git("update-index", "-z", "--index-info", stdin=joined(changed))


@dataclass(frozen=True, slots=True)
class _Head:
    commit: str
    tree: str
    seconds: str


def _head(index: PrivateIndex) -> _Head | None:
    shown = index.git("show", "-s", "--no-show-signature", "--format=%H%n%T%n%ct", "HEAD", "--", check=False)
    if shown.status == 0:
        return _Head(*shown.text.split("\n"))
    if index.git("rev-parse", "--quiet", "--verify", "HEAD", check=False).status == 0:
        raise GitError(f"HEAD can't be read: {last_lines(shown.stderr)}")
    return None  # before the first commit


def _commit(index: PrivateIndex, tree: str, head: _Head | None) -> str:
    # Author, date and message come from HEAD alone, so that identical content is the same commit.
    date = "0" if head is None else head.seconds
    identity = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "flor"), ("EMAIL", VERSION_EMAIL), ("DATE", f"@{date} +0000"))
    }
    parents = () if head is None else ("-p", head.commit)
    arguments = ("commit-tree", "--no-gpg-sign", *parents, tree)
    return index.git(*arguments, stdin=_MESSAGE.encode(), environment=identity).text


def _keep_reachable(index: PrivateIndex, commit: str, head: _Head | None) -> None:
    clean = head is not None and commit == head.commit
    if index.beside is not None:
        _keep_beside(index, index.beside, commit, head)
        return
    answer = update_refs(index.repository, [f"update {VERSION_REFS}{commit} {commit}"])
    if answer.status != 0:
        if not clean:
            raise GitError(f"the ref of version {commit} could not be written: {last_lines(answer.stderr)}")
        index.warnings.append(f"The version is HEAD, but no ref keeps it: {last_lines(answer.stderr, 1)}")
    elif not clean:
        # A `git gc --prune=now` between the first object and the ref may have taken some of them.
        beyond = () if head is None else ("--not", head.commit)
        found = index.git("rev-list", "--objects", "--quiet", commit, *beyond, check=False)
        if found.status != 0:
            # The ref would keep git from collecting.
            update_refs(index.repository, [f"delete {VERSION_REFS}{commit}"])
            raise GitError(f"objects of version {commit} are gone again: {last_lines(found.stderr)}")


def _keep_beside(index: PrivateIndex, beside: Beside, commit: str, head: _Head | None) -> None:
    taken = not beside.holds(commit)
    if taken:
        beside.take(index, commit, None if head is None else head.commit)
    answer = update_refs(beside, [f"update {VERSION_REFS}{commit} {commit}"])
    if answer.status != 0:
        raise GitError(f"the ref of version {commit} could not be written: {last_lines(answer.stderr)}")
    if taken and not beside.holds(commit):
        update_refs(beside, [f"delete {VERSION_REFS}{commit}"])
        raise GitError(f"objects of version {commit} are gone again from {beside.root}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The recorder's child: write version.json, whatever happens; say nothing, and exit 0."""
    parser = argparse.ArgumentParser(
        prog="python -m flor_dagster.versions.snapshot", description=main.__doc__
    )
    parser.add_argument("--root", type=Path, required=True, help="a folder in the work tree")
    parser.add_argument("--out", type=Path, required=True, help="the version.json to write")
    parser.add_argument("--loaded", action="store_true", help="what was loaded comes on standard input")
    parser.add_argument(
        "--held", type=int, default=-1, help="the descriptor of the lock that says that it is being made"
    )
    options = parser.parse_args(arguments)
    hold_inherited(options.held)
    loaded = _read_loaded(sys.stdin.buffer) if options.loaded else {}
    # What ends a young training run may reach its whole process group, or all of its service, and its code must be kept all the
    # same: it is a matter of a moment.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    place = find_place(options.root)
    with shared_lock(None if place is None else place.home):
        document = _document(options.root, place, loaded)
        try:
            _write(options.out, document)
        except OSError:
            return 1  # nobody reads it; the run counts as one whose version is not known
        finally:
            pending_lock(options.out).unlink(missing_ok=True)
    return 0


def _document(root: Path, place: Place | None, loaded: Mapping[str, bytes]) -> dict[str, object]:
    began = time.monotonic()
    try:
        version = snapshot(root, loaded=loaded)
        # What lies beside belongs to that home alone.
        if place is not None and os.environ.get("FLOR_HOME") and not version.beside:
            note_home(Repository(version.root), place.home)
    except FlorError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - the training goes on, and the run says why it has no version
        return {"error": f"The code could not be kept as a version: {type(error).__name__}: {error}"}
    return {
        "commit": version.commit,
        "tree": version.tree,
        "head": version.head,
        "branch": version.branch,
        "dirty": version.dirty,
        "root": str(version.root),
        "excluded": [list(pair) for pair in version.excluded],
        "warnings": list(version.warnings),
        "approximate": [list(pair) for pair in version.approximate],
        "seconds": round(time.monotonic() - began, 4),
    }


def _read_loaded(file: BinaryIO) -> dict[str, bytes]:
    """What the recorder hands over: a line of JSON, path to number of bytes, and the bytes of all."""
    try:
        sizes: dict[str, int] = json.loads(file.readline())
        return {path: file.read(size) for path, size in sizes.items()}
    except (OSError, ValueError):
        return {}  # it could not be written; the files are taken as they lie


def _write(out: Path, document: dict[str, object]) -> None:
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="ascii") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


if __name__ == "__main__":
    sys.exit(main())
