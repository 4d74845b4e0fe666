"""Versions in git as propagation sees them: trees whose files are read when they are asked for, and a line of versions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from flor_dagster.errors import SourceSyntaxError
from flor_dagster.versions import Repository
from flor_dagster.versions.lineage import Lineage, lineage_between
from flor_dagster.versions.repository import decode_source

_KEPT_TREES = 16
_KEPT_TEXTS = 512


class CommitTree:
    """The files of one commit.

    Args:
        repository: the user's repository.
        commit: full id.
    """

    def __init__(self, repository: Repository, commit: str) -> None:
        self.commit = commit
        self._repository = repository
        self._ids: dict[str, str] | None = None
        self._texts: dict[str, str | None] = {}

    def paths(self) -> Collection[str]:
        """All files and symbolic links of the commit."""
        return self._blobs.keys()

    def read(self, path: str) -> str | None:
        """A file's text; None where there is none, or none that is Python in a known encoding."""
        if path not in self._texts:
            self._texts[path] = self._read(path)
            while len(self._texts) > _KEPT_TEXTS:
                del self._texts[next(iter(self._texts))]
        return self._texts[path]

    def identity(self, path: str) -> str | None:
        """Git's id of a file's content."""
        return self._blobs.get(path)

    def prepare(self, paths: Iterable[str]) -> None:
        """Read several files at once, in one process."""
        wanted = [p for p in paths if p in self._blobs and p not in self._texts][: _KEPT_TEXTS // 2]
        if len(wanted) < 2:
            return
        contents = self._repository.read_blobs({self._blobs[p] for p in wanted})
        links = {e.path for e in self._repository.entries(self.commit) if e.is_symlink}
        for path in wanted:
            if path not in links:
                self._texts[path] = _decoded(contents[self._blobs[path]], path)

    @property
    def _blobs(self) -> dict[str, str]:
        if self._ids is None:
            self._ids = self._repository.blob_ids(self.commit)
        return self._ids

    def _read(self, path: str) -> str | None:
        try:
            return self._repository.read(self.commit, path)
        except SourceSyntaxError:
            return None


class CommitHistory:
    """The versions from a newer commit to an older one.

    Args:
        repository: the user's repository.
        line: the way between them.
    """

    def __init__(self, repository: Repository, line: Lineage) -> None:
        self._repository = repository
        self.line = line
        self._tree = lru_cache(_KEPT_TREES)(self._open)

    @classmethod
    def between(cls, repository: Repository, newer: str, older: str) -> CommitHistory | None:
        """The history between two commits, None where they have none in common."""
        line = lineage_between(repository, newer, older)
        return None if line is None else cls(repository, line)

    def __len__(self) -> int:
        """How many versions there are."""
        return len(self.line.commits)

    def tree(self, index: int) -> CommitTree:
        """The files of one version."""
        return self._tree(index)

    def _open(self, index: int) -> CommitTree:
        return CommitTree(self._repository, self.line.commits[index])

    def renames(self, index: int) -> Mapping[str, str]:
        """The files that were renamed between a version and the next older one."""
        return self.line.steps[index].renames

    def differs(self, index: int, path: str) -> bool:
        """Whether a file differs between a version and the next older one."""
        return path in self.line.steps[index].changed

    def label(self, index: int) -> str:
        """Short id, date and subject of a version."""
        commit = self.line.commits[index]
        subject, date = self._repository.describe(commit)
        return f"{commit[:8]} ({date:%Y-%m-%d}, '{subject}')"

    def goes_back(self, index: int) -> bool:
        """Whether the step leads to an earlier version."""
        return index < self.line.turn


def _decoded(content: bytes, path: str) -> str | None:
    try:
        return decode_source(content, path)
    except SourceSyntaxError:
        return None
