"""An index of our own for a user's work tree, brought up to date with the files on disk."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flor_dagster.versions.command import Answer, alternates, last_lines, run
from flor_dagster.versions.repository import Entry, object_folders
from flor_dagster.versions.secrets import LOOKED_AT_BYTES, credentials_in, secret_pattern
from flor_dagster.versions.settings import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flor_dagster.versions.beside import Beside
    from flor_dagster.versions.repository import Repository
    from flor_dagster.versions.settings import SnapshotSettings

_MAX_NAMED_IGNORED = 1000
CONVERTED = "git converts it (line ends, encoding or a filter), and gives other bytes back"


@dataclass
class PrivateIndex:
    """A copy of the user's index.

    Attributes:
        repository: The user's repository.
        file: Where the copy lies.
        loaded: Path to bytes, of files that a training had loaded before.
        beside: The repository of our own that new objects go to; None where they go to the user's.
        as_loaded: Those of them that the index has so, and not as they lie on disk.
        excluded: Path to reason, of what lies in the work tree and is not in the index.
        approximate: Path to reason, of what the index has otherwise than it lies on disk.
        sparse: What git was told not to put into the work tree: it was not there for the training either.
        warnings: Sentences about what could be kept less well than it should.
    """

    repository: Repository
    file: Path
    loaded: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    beside: Beside | None = None
    as_loaded: set[str] = field(default_factory=set[str])
    excluded: dict[str, str] = field(default_factory=dict[str, str])
    approximate: dict[str, str] = field(default_factory=dict[str, str])
    warnings: list[str] = field(default_factory=list[str])
    sparse: list[str] = field(default_factory=list[str])

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

    def git(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> Answer:
        """Run a git command on this index."""
        merged = {"GIT_INDEX_FILE": str(self.file), **(environment or {})}
        if self.beside is not None:
            merged["GIT_OBJECT_DIRECTORY"] = str(self.beside.objects)
            merged |= alternates(object_folders(self.repository.common_dir))
        return run(self.repository.root, *arguments, stdin=stdin, check=check, environment=merged)

    def forget(self) -> None:
        """Begin anew with naming what is left out and what is otherwise."""
        self.as_loaded.clear()
        self.excluded.clear()
        self.approximate.clear()
        self.warnings.clear()
        self.sparse.clear()

    def leave_out_sparse(self) -> None:
        """Take out what a sparse checkout does not have."""
        self.git("update-index", "--force-remove", "-z", "--stdin", stdin=joined(self.sparse))

    def path(self, name: str) -> Path:
        """Where a file of the index lies on disk."""
        return self.repository.root / name

    def entries(self) -> list[Entry]:
        """What the index holds; of a file in conflict, nothing."""
        found: list[Entry] = []
        for row in self.git("ls-files", "--stage", "-z").paths:
            facts, name = row.split("\t", 1)
            mode, blob, stage = facts.split(" ")
            if stage == "0":
                found.append(Entry(name, mode, blob))
        return found


def take_files(index: PrivateIndex, settings: SnapshotSettings) -> None:
    """Bring the index up to date with the files on disk, and name what stays out."""
    _unhide(index, settings.secrets)
    _update_tracked(index)
    _add_untracked(index, settings)
    _name_ignored(index)


def take_as_loaded(index: PrivateIndex, entries: Sequence[Entry], settings: SnapshotSettings) -> bool:
    """Take files that a training has loaded as they were then, where somebody edited or deleted them since.

    Returns:
        Whether there was such a file.
    """
    there = {entry.path: entry for entry in entries}
    submodules = tuple(f"{entry.path}/" for entry in entries if entry.is_submodule)
    for name, data in index.loaded.items():
        entry = there.get(name)
        if (
            name.startswith(submodules)
            or name in index.excluded
            or (entry and not entry.mode.startswith("100"))
        ):
            continue
        if _is_so(index.path(name), data) or (entry is None and _stays_out(index, name, settings)):
            continue
        committed = index.git("cat-file", "blob", f"HEAD:{name}", check=False).stdout
        if credentials_in(data[:LOOKED_AT_BYTES]) - credentials_in(committed):
            continue
        blob = index.git("hash-object", "-w", "--stdin", f"--path={name}", stdin=data).text
        mode = entry.mode if entry else "100644"
        index.git("update-index", "--add", "--cacheinfo", f"{mode},{blob},{name}")
        if index.git("cat-file", "--filters", f":{name}", check=False).stdout != data:
            index.approximate[name] = CONVERTED
        index.as_loaded.add(name)
    return bool(index.as_loaded)


def _is_so(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def _stays_out(index: PrivateIndex, name: str, settings: SnapshotSettings) -> bool:
    """Whether a file that is in no commit and was deleted, or left out, would not have been taken."""
    folders = [f"{folder}/" for folder in _folders(name)]
    return (
        any(folder in index.excluded for folder in folders)
        or secret_pattern(name, settings.secrets) is not None
        or index.git("check-ignore", "--quiet", "--no-index", "--", name, check=False).status == 0
    )


def _folders(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:number]) for number in range(1, len(parts))]


def _unhide(index: PrivateIndex, patterns: tuple[str, ...]) -> None:
    """Look at the files, too, that the user told git not to look at; take out what is ours."""
    hidden: list[str] = []
    ours: list[str] = []
    for row in index.git("ls-files", "-v", "-z").paths:
        tag, name = row[0], row[2:]
        if name.startswith(".flor/"):
            ours.append(name)
        elif tag in "Ss" and not os.path.lexists(index.path(name)):
            index.sparse.append(name)
        elif (tag == "S" or tag.islower()) and os.path.lexists(index.path(name)):
            if secret_pattern(name, patterns):
                reason = "hidden from git and looks like a secret: the version has it as committed"
                index.excluded[name] = index.approximate[name] = reason
            else:
                hidden.append(name)
    if hidden:
        for flag in ("--no-assume-unchanged", "--no-skip-worktree"):
            index.git("update-index", flag, "-z", "--stdin", stdin=joined(hidden))
    if ours:
        index.git("update-index", "--force-remove", "-z", "--stdin", stdin=joined(ours))


def _update_tracked(index: PrivateIndex) -> None:
    """Tracked files as they lie on disk: modified, deleted, in conflict, intended to be added; submodules' commits."""
    _hold_back(index)
    if index.git("add", "--update", check=False).status != 0:
        changed = index.git("diff-files", "--name-only", "-z", "--ignore-submodules=dirty").paths
        refused = _add(index, sorted(set(changed)), "the version has it as committed")
        index.approximate.update({name: index.excluded[name] for name in refused})


def _hold_back(index: PrivateIndex) -> None:
    """Leave tracked files as they were committed into which somebody wrote a credential since."""
    held: list[str] = []
    for name in index.git(
        "diff-files", "--name-only", "--diff-filter=M", "-z", "--ignore-submodules=all", check=False
    ).paths:
        here = _credentials(index, name)
        if here:
            committed = index.git("cat-file", "blob", f":{name}", check=False)
            if here - credentials_in(committed.stdout):
                held.append(name)
    if held:
        index.git("update-index", "--assume-unchanged", "-z", "--stdin", stdin=joined(held))
    for name in held:
        reason = "a credential was written into it since it was committed: the version has it as committed"
        index.excluded[name] = index.approximate[name] = reason


def _credentials(index: PrivateIndex, name: str) -> frozenset[bytes]:
    path = index.path(name)
    status = lstat(path)
    if status is None or not stat.S_ISREG(status.st_mode) or status.st_size > LOOKED_AT_BYTES:
        return frozenset()
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a text
            return credentials_in(file.read(LOOKED_AT_BYTES))
    except OSError:
        return frozenset()


def _add_untracked(index: PrivateIndex, settings: SnapshotSettings) -> None:
    sizes: dict[str, int] = {}
    for name in index.git("ls-files", "--others", "--exclude-standard", "-z").paths:
        if name.startswith(".flor/"):
            continue
        pattern = secret_pattern(name.rstrip("/"), settings.secrets)
        status = lstat(index.path(name))
        if name.endswith("/"):
            index.excluded[name] = "a git repository of its own"
        elif pattern is not None:
            index.excluded[name] = f"looks like a secret ({pattern})"
        elif status is None:
            continue  # gone since git listed it
        elif status.st_size > settings.max_file_bytes:
            limit, size = megabytes(settings.max_file_bytes), megabytes(status.st_size)
            index.excluded[name] = f"larger than {limit} ({size})"
        elif not stat.S_ISLNK(status.st_mode) and not os.access(index.path(name), os.R_OK):
            index.excluded[name] = "can't be read"
        elif _credentials(index, name):
            index.excluded[name] = "a credential is written in it"
        else:
            sizes[name] = status.st_size
    total = sum(sizes.values())
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if total <= settings.max_total_bytes:
            break
        total -= sizes.pop(name)
        index.excluded[name] = (
            f"the untracked files are more than {megabytes(settings.max_total_bytes)} together"
        )
    _add(index, sorted(sizes), "left out")


def _add(index: PrivateIndex, names: list[str], otherwise: str) -> list[str]:
    """Bring files up to date; those that git can't take are found by halving, named and returned."""
    if not names:
        return []
    answer = index.git("update-index", "--add", "--remove", "-z", "--stdin", stdin=joined(names), check=False)
    if answer.status == 0:
        return []
    if len(names) == 1:
        index.excluded[names[0]] = f"git could not take it, {otherwise} ({last_lines(answer.stderr, 2)})"
        return names
    half = len(names) // 2
    return _add(index, names[:half], otherwise) + _add(index, names[half:], otherwise)


def _name_ignored(index: PrivateIndex) -> None:
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


def lstat(path: Path) -> os.stat_result | None:
    """What the file system says of a path; None where there is nothing."""
    try:
        return path.lstat()
    except OSError:
        return None


def joined(names: Sequence[str]) -> bytes:
    """Names as git reads them with `-z`."""
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def megabytes(size: int) -> str:
    """A size in words."""
    return f"{size / MEGABYTE:.1f} MB" if size % MEGABYTE else f"{size // MEGABYTE} MB"
