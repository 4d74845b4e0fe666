"""Keep exactly the code that a training run executes as a commit, and touch nothing of the user's.

A private copy of the user's index is brought up to date with the files on disk, and written as a tree. Where that is
HEAD's tree, the version is HEAD; else it is a commit of ours on top of HEAD, the same for the same content. Only
objects and one ref, `refs/flor/versions/<commit>`, are added to the repository.

As a program this is the child that the recorder starts at a training run's first flor call:
`python -m flor_dagster.versions.snapshot --root ROOT --out version.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flor_dagster.errors import FlorError, SnapshotError
from flor_dagster.versions.command import Answer, GitError, last_lines, run
from flor_dagster.versions.repository import VERSION_EMAIL, VERSION_REFS, Repository
from flor_dagster.versions.secrets import SECRET_PATTERNS, secret_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MEGABYTE = 1_000_000
_MESSAGE = "Uncommitted code of a training run\n\nKept by flor; on no branch.\n"
_MAX_NAMED_IGNORED = 1000


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
    """

    commit: str
    tree: str
    head: str | None
    branch: str | None
    dirty: bool
    excluded: tuple[tuple[str, str], ...]
    root: Path
    warnings: tuple[str, ...] = ()


def snapshot(
    root: Path,
    *,
    max_file_bytes: int = 10 * MEGABYTE,
    max_total_bytes: int = 200 * MEGABYTE,
    secret_patterns: Iterable[str] = SECRET_PATTERNS,
) -> Version:
    """Keep the code of a work tree, as it lies on disk, as a version.

    Tracked files are taken as they lie on disk, whatever their size and name. Of the others, those are left out, and
    named, that are ignored, too big, or likely secrets. Nothing but objects and `refs/flor/versions/<commit>` is written.

    Args:
        root: A folder in the work tree.
        max_file_bytes: Untracked files beyond this size are left out.
        max_total_bytes: Where the untracked files are more than this together, the biggest are left out.
        secret_patterns: Shell patterns; untracked files of such names are left out.

    Raises:
        NoRepositoryError: There is no git repository here, or git does not trust it.
        SnapshotError: The version could not be written; the message says why.
    """
    repository = Repository.find(root)
    if repository.bare:
        raise SnapshotError(
            f"{repository.root} is a bare repository: it has no work tree whose code could be kept."
        )
    try:
        with tempfile.TemporaryDirectory(prefix="flor-snapshot-", ignore_cleanup_errors=True) as scratch:
            index = _PrivateIndex(repository, Path(scratch) / "index")
            return _keep(index, max_file_bytes, max_total_bytes, tuple(secret_patterns))
    except (GitError, OSError) as error:
        raise SnapshotError(
            f"The code in {repository.root} could not be kept as a version: {error}"
        ) from error


@dataclass
class _PrivateIndex:
    """An index of our own for the user's work tree."""

    repository: Repository
    file: Path
    excluded: dict[str, str] = field(default_factory=dict[str, str])
    warnings: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        try:
            with (self.repository.git_dir / "index").open("rb") as source, self.file.open("wb") as copy:
                before = os.fstat(source.fileno())
                shutil.copyfileobj(source, copy, MEGABYTE)
        except FileNotFoundError:
            return  # before the first `git add`
        # git trusts an entry's stat data only where the file is older than the index. A copy that looked newer would
        # hide an edit made within the same tick of the clock.
        os.utime(self.file, ns=(before.st_atime_ns, before.st_mtime_ns))

    def git(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> Answer:
        environment = {"GIT_INDEX_FILE": str(self.file)}
        return run(self.repository.root, *arguments, stdin=stdin, check=check, environment=environment)

    def path(self, name: str) -> Path:
        return self.repository.root / name


def _keep(index: _PrivateIndex, max_file: int, max_total: int, patterns: tuple[str, ...]) -> Version:
    head = _head(index)
    branch = index.git("symbolic-ref", "--quiet", "--short", "HEAD", check=False)
    _unhide(index, patterns)
    _update_tracked(index)
    _add_untracked(index, max_file, max_total, patterns)
    _name_ignored(index)
    tree = index.git("write-tree").text
    commit = head.commit if head is not None and head.tree == tree else _commit(index, tree, head)
    _keep_reachable(index, commit, head)
    return Version(
        commit=commit,
        tree=tree,
        head=None if head is None else head.commit,
        branch=branch.text if branch.status == 0 else None,
        dirty=head is None or commit != head.commit,
        excluded=tuple(sorted(index.excluded.items())),
        root=index.repository.root,
        warnings=tuple(index.warnings),
    )


@dataclass(frozen=True, slots=True)
class _Head:
    commit: str
    tree: str
    seconds: str


def _head(index: _PrivateIndex) -> _Head | None:
    shown = index.git("show", "-s", "--no-show-signature", "--format=%H%n%T%n%ct", "HEAD", "--", check=False)
    if shown.status == 0:
        return _Head(*shown.text.split("\n"))
    if index.git("rev-parse", "--quiet", "--verify", "HEAD", check=False).status == 0:
        raise GitError(f"HEAD can't be read: {last_lines(shown.stderr)}")
    return None  # before the first commit


def _unhide(index: _PrivateIndex, patterns: tuple[str, ...]) -> None:
    """Look at the files, too, that the user told git not to look at; take out what is ours."""
    hidden: list[str] = []
    ours: list[str] = []
    for row in index.git("ls-files", "-v", "-z").paths:
        tag, name = row[0], row[2:]
        if name.startswith(".flor/"):
            ours.append(name)
        elif (tag == "S" or tag.islower()) and os.path.lexists(index.path(name)):
            if secret_pattern(name, patterns):
                index.excluded[name] = (
                    "hidden from git and looks like a secret: the version has it as committed"
                )
            else:
                hidden.append(name)
    if hidden:
        for flag in ("--no-assume-unchanged", "--no-skip-worktree"):
            index.git("update-index", flag, "-z", "--stdin", stdin=_joined(hidden))
    if ours:
        index.git("update-index", "--force-remove", "-z", "--stdin", stdin=_joined(ours))


def _update_tracked(index: _PrivateIndex) -> None:
    """Tracked files as they lie on disk: modified, deleted, in conflict, intended to be added; submodules' commits."""
    if index.git("add", "--update", check=False).status != 0:
        changed = index.git("diff-files", "--name-only", "-z", "--ignore-submodules=dirty").paths
        _add(index, sorted(set(changed)), "the version has it as committed")
    if (index.repository.root / ".gitmodules").is_file():
        _name_dirty_submodules(index)


def _name_dirty_submodules(index: _PrivateIndex) -> None:
    # What still differs after the update differs inside.
    for name in index.git("diff-files", "--name-only", "-z", "--ignore-submodules=none").paths:
        if name in index.excluded:
            continue
        index.excluded[f"{name}/"] = "a submodule with uncommitted changes: the version has its commit alone"


def _add_untracked(index: _PrivateIndex, max_file: int, max_total: int, patterns: tuple[str, ...]) -> None:
    sizes: dict[str, int] = {}
    for name in index.git("ls-files", "--others", "--exclude-standard", "-z").paths:
        if name.startswith(".flor/"):
            continue
        pattern = secret_pattern(name.rstrip("/"), patterns)
        status = _lstat(index.path(name))
        if name.endswith("/"):
            index.excluded[name] = "a git repository of its own"
        elif pattern is not None:
            index.excluded[name] = f"looks like a secret ({pattern})"
        elif status is None:
            continue  # gone since git listed it
        elif status.st_size > max_file:
            index.excluded[name] = f"larger than {_megabytes(max_file)} ({_megabytes(status.st_size)})"
        elif not stat.S_ISLNK(status.st_mode) and not os.access(index.path(name), os.R_OK):
            index.excluded[name] = "can't be read"
        else:
            sizes[name] = status.st_size
    total = sum(sizes.values())
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if total <= max_total:
            break
        total -= sizes.pop(name)
        index.excluded[name] = f"the untracked files are more than {_megabytes(max_total)} together"
    _add(index, sorted(sizes), "left out")


def _add(index: _PrivateIndex, names: list[str], otherwise: str) -> None:
    """Bring files up to date; one that git can't take is found by halving, and named."""
    if not names:
        return
    answer = index.git(
        "update-index", "--add", "--remove", "-z", "--stdin", stdin=_joined(names), check=False
    )
    if answer.status == 0:
        return
    if len(names) == 1:
        index.excluded[names[0]] = f"git could not take it, {otherwise} ({last_lines(answer.stderr, 2)})"
        return
    _add(index, names[: len(names) // 2], otherwise)
    _add(index, names[len(names) // 2 :], otherwise)


def _name_ignored(index: _PrivateIndex) -> None:
    listed = index.git(
        "ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z", check=False
    )
    names = [name for name in listed.paths if not _is_noise(name)]
    for name in names[:_MAX_NAMED_IGNORED]:
        index.excluded.setdefault(name, "ignored by git")
    if len(names) > _MAX_NAMED_IGNORED:
        index.excluded["…"] = f"{len(names) - _MAX_NAMED_IGNORED} more ignored paths"


def _is_noise(name: str) -> bool:
    parts = name.rstrip("/").split("/")
    return parts[0] == ".flor" or parts[-1] == "__pycache__" or name.endswith(".pyc")


def _commit(index: _PrivateIndex, tree: str, head: _Head | None) -> str:
    # Author, date and message come from HEAD alone, so that identical content is the same commit.
    date = "0" if head is None else head.seconds
    identity = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "flor"), ("EMAIL", VERSION_EMAIL), ("DATE", f"@{date} +0000"))
    }
    environment = {**identity, "GIT_INDEX_FILE": str(index.file)}
    parents = () if head is None else ("-p", head.commit)
    arguments = ("commit-tree", "--no-gpg-sign", *parents, tree)
    return run(index.repository.root, *arguments, stdin=_MESSAGE.encode(), environment=environment).text


def _keep_reachable(index: _PrivateIndex, commit: str, head: _Head | None) -> None:
    clean = head is not None and commit == head.commit
    answer = index.git("update-ref", f"{VERSION_REFS}{commit}", commit, check=False)
    if answer.status != 0:
        if not clean:
            raise GitError(f"the ref of version {commit} could not be written: {last_lines(answer.stderr)}")
        index.warnings.append(f"The version is HEAD, but no ref keeps it: {last_lines(answer.stderr, 1)}")
    elif not clean:
        # A `git gc --prune=now` between the first object and the ref may have taken some of them.
        beyond = () if head is None else ("--not", head.commit)
        index.git("rev-list", "--objects", "--quiet", commit, *beyond)


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def _joined(names: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:.1f} MB" if size % MEGABYTE else f"{size // MEGABYTE} MB"


def main(arguments: Sequence[str] | None = None) -> int:
    """The recorder's child: write version.json, whatever happens; say nothing, and exit 0."""
    parser = argparse.ArgumentParser(
        prog="python -m flor_dagster.versions.snapshot", description=main.__doc__
    )
    parser.add_argument("--root", type=Path, required=True, help="a folder in the work tree")
    parser.add_argument("--out", type=Path, required=True, help="the version.json to write")
    options = parser.parse_args(arguments)
    # Ctrl-C on a young training run reaches the whole process group, and its code must be kept all the same.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    began = time.monotonic()
    document: dict[str, object]
    try:
        version = snapshot(options.root)
        document = {
            "commit": version.commit,
            "tree": version.tree,
            "head": version.head,
            "branch": version.branch,
            "dirty": version.dirty,
            "root": str(version.root),
            "excluded": [list(pair) for pair in version.excluded],
            "warnings": list(version.warnings),
            "seconds": round(time.monotonic() - began, 4),
        }
    except FlorError as error:
        document = {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - the training goes on, and the run says why it has no version
        document = {"error": f"The code could not be kept as a version: {type(error).__name__}: {error}"}
    try:
        _write(options.out, document)
    except OSError:
        return 1  # nobody reads it; the run counts as one whose version is not known
    return 0


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
