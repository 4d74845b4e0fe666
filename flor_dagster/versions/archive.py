r"""A version as git objects of its own: taken out of a repository, and put back where the repository has lost them.

The objects are kept as git keeps loose ones (zlib over `kind size\0content`), so that they are de-duplicated over all
versions by their ids, and are put back by writing files. A folder that did not change costs nothing.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flor_dagster.errors import SnapshotError
from flor_dagster.versions.command import run
from flor_dagster.versions.repository import Repository
from flor_dagster.versions.submodules import find_submodule, submodule_names

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_OBJECT_BYTES = 20_000_000
MAX_TOTAL_BYTES = 500_000_000

Known = Callable[[Collection[str]], set[str]]


@dataclass(slots=True)
class Archive:
    """What of a version is not kept yet.

    Attributes:
        commit: The version.
        objects: Id to the object as git keeps it loose; None for one that is left out for its size.
        left_out: Path to reason.
    """

    commit: str
    objects: dict[str, bytes | None] = field(default_factory=dict[str, "bytes | None"])
    left_out: dict[str, str] = field(default_factory=dict[str, str])


def take_out(
    repository: Repository,
    commit: str,
    known: Known,
    *,
    max_object: int = MAX_OBJECT_BYTES,
    max_total: int = MAX_TOTAL_BYTES,
) -> Archive:
    """The objects of a version that are not kept yet: commit, folders, files, and those of its submodules.

    Args:
        repository: The user's repository.
        commit: The version.
        known: Which of some ids are kept already; a folder that is, is kept with all in it.
        max_object: Files beyond this many bytes are left out, and named.
        max_total: So are those that would make it more than this together.

    Raises:
        SnapshotError: The version is not in the repository.
    """
    archive = Archive(commit)
    if commit not in known([commit]):
        _Taking(archive, known, max_object, max_total).take(repository, commit, "")
    return archive


class _Taking:
    def __init__(self, archive: Archive, known: Known, max_object: int, max_total: int) -> None:
        self.archive = archive
        self.known = known
        self.max_object = max_object
        self.left = max_total

    def take(self, repository: Repository, commit: str, prefix: str) -> None:
        content = repository.read_blobs([commit])[commit]
        self._keep(commit, b"commit", content)
        tree = content.split(b"\n", 1)[0].removeprefix(b"tree ").decode("ascii")
        folders, files = {tree: prefix}, dict[str, str]()
        submodules: list[tuple[str, str]] = []
        while folders:
            new = set(folders) - self.known(folders.keys()) - self.archive.objects.keys()
            below: dict[str, str] = {}
            for name, content in repository.read_blobs(sorted(new)).items():
                self._keep(name, b"tree", content)
                for mode, path, child in _children(content, len(commit) // 2):
                    place = f"{folders[name]}{path}"
                    if mode == b"40000":
                        below[child] = f"{place}/"
                    elif mode == b"160000":
                        submodules.append((place, child))
                    else:
                        files[child] = place
            folders = below
        self._take_files(repository, files)
        names = submodule_names(repository, commit) if submodules else {}
        for path, inner in submodules:
            own = path.removeprefix(prefix)
            found = find_submodule(repository, own, inner, names.get(own, own))
            if found is None:
                self.archive.left_out[f"{path}/"] = "a submodule whose commit is not here"
            elif inner not in self.known([inner]) and inner not in self.archive.objects:
                self.take(found, inner, f"{path}/")

    def _take_files(self, repository: Repository, files: dict[str, str]) -> None:
        new = sorted(set(files) - self.known(files.keys()) - self.archive.objects.keys())
        asked = "".join(f"{name}\n" for name in new).encode()
        lines = run(repository.root, "cat-file", "--batch-check=%(objectsize)", stdin=asked).text.splitlines()
        wanted: list[str] = []
        for name, line in zip(new, lines, strict=True):
            size = int(line) if line.isdigit() else None
            if size is None:
                self.archive.left_out[files[name]] = "the repository lacks it (is it a partial clone?)"
            elif size > self.max_object or size > self.left:
                self.archive.objects[name] = None
                self.archive.left_out[files[name]] = f"{size / 1e6:.1f} MB are too much for the log store"
            else:
                self.left -= size
                wanted.append(name)
        for begin in range(0, len(wanted), 500):  # so many contents in memory at once
            for name, content in repository.read_blobs(wanted[begin : begin + 500]).items():
                self._keep(name, b"blob", content)

    def _keep(self, name: str, kind: bytes, content: bytes) -> None:
        self.archive.objects[name] = zlib.compress(b"%s %d\0" % (kind, len(content)) + content)


def needed(tops: Iterable[str], read: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """All objects of versions, found from their commits.

    Args:
        tops: The versions.
        read: An object as it is kept; None where it is not.

    Returns:
        Id to the object as git keeps it loose.
    """
    found: dict[str, bytes] = {}
    todo = list(tops)
    while todo:
        name = todo.pop()
        kept = None if name in found else read(name)
        if kept is None:
            continue
        found[name] = kept
        head, _, content = zlib.decompress(kept).partition(b"\0")
        if head.startswith(b"commit"):
            todo.append(content.split(b"\n", 1)[0].removeprefix(b"tree ").decode("ascii"))
        elif head.startswith(b"tree"):
            todo += [child for _, _, child in _children(content, len(name) // 2)]
    return found


def put_back(objects: dict[str, bytes], folder: Path) -> None:
    """Write objects into a folder as git keeps them; each is checked against its id.

    Raises:
        SnapshotError: An object is not what its id says.
    """
    for name, kept in objects.items():
        digest = hashlib.new(
            "sha1" if len(name) == 40 else "sha256", zlib.decompress(kept), usedforsecurity=False
        )
        if digest.hexdigest() != name:
            raise SnapshotError(
                f"The log store's copy of the object {name} of a version is damaged; it is not used."
            )
        place = folder / name[:2] / name[2:]
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=place.parent, prefix="partial-")
        with os.fdopen(handle, "wb") as file:
            file.write(kept)
        Path(partial).replace(place)


def _children(content: bytes, width: int) -> list[tuple[bytes, str, str]]:
    """Mode, name and id of each entry of a tree object; ids are `width` bytes."""
    found: list[tuple[bytes, str, str]] = []
    at = 0
    while at < len(content):
        end = content.index(b"\0", at)
        mode, _, name = content[at:end].partition(b" ")
        found.append((mode, os.fsdecode(name), content[end + 1 : end + 1 + width].hex()))
        at = end + 1 + width
    return found
