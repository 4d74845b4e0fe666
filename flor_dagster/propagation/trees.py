"""A version as a whole: its Python files, read when they are needed, and which file is the counterpart of which."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Protocol

from flor_dagster.parsing import source_lines

_SAME_FILE = 0.5
_CLEARLY = 0.1


class SourceTree(Protocol):
    """The files of one version; a text is read only when it is asked for."""

    def paths(self) -> Collection[str]:
        """The paths of all files that may hold code, with slashes."""
        ...

    def read(self, path: str) -> str | None:
        """The text of a file, None where the version has no such file or it can't be decoded."""
        ...

    def identity(self, path: str) -> str | None:
        """What is equal for equal texts (git's blob id, a digest); None where there is no such file."""
        ...

    def prepare(self, paths: Iterable[str]) -> None:
        """Told that these files are going to be read: a reader may fetch them at once."""
        ...


class TreeOfTexts:
    """A version that is at hand as a mapping of paths to texts."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def paths(self) -> Collection[str]:
        """The mapping's keys."""
        return self._texts.keys()

    def read(self, path: str) -> str | None:
        """The mapping's value."""
        return self._texts.get(path)

    def identity(self, path: str) -> str | None:
        """The text itself."""
        return self._texts.get(path)

    def prepare(self, paths: Iterable[str]) -> None:
        """Nothing: everything is at hand."""


class PatchedTree:
    """A version with some of its files replaced by others' texts."""

    def __init__(self, base: SourceTree, texts: Mapping[str, str]) -> None:
        self._base = base
        self._texts = texts

    def paths(self) -> Collection[str]:
        """The version's paths and those of the replacements."""
        return self._base.paths() if not self._texts else {*self._base.paths(), *self._texts}

    def read(self, path: str) -> str | None:
        """The replacement, where there is one."""
        return self._texts[path] if path in self._texts else self._base.read(path)

    def identity(self, path: str) -> str | None:
        """The replacement's text, or what the version says."""
        return self._texts[path] if path in self._texts else self._base.identity(path)

    def prepare(self, paths: Iterable[str]) -> None:
        """Tell the version of those that are not replaced."""
        self._base.prepare(p for p in paths if p not in self._texts)


def as_tree(tree: SourceTree | Mapping[str, str]) -> SourceTree:
    """A mapping of paths to texts as a tree; a tree as it is."""
    return TreeOfTexts(tree) if isinstance(tree, Mapping) else tree


def unchanged(new: SourceTree, old: SourceTree, path: str) -> bool:
    """Whether a file is the same in two versions; nothing is read for it."""
    identity = new.identity(path)
    return identity is not None and identity == old.identity(path)


def changed_files(new: SourceTree, old: SourceTree) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The Python files of the new and of the old version that the other one has not, or not so."""
    mine, theirs = python_files(new), python_files(old)
    return (
        tuple(p for p in mine if not unchanged(new, old, p)),
        tuple(p for p in theirs if not unchanged(old, new, p)),
    )


def python_files(tree: SourceTree) -> tuple[str, ...]:
    """The Python files of a version, sorted."""
    return tuple(sorted(p for p in tree.paths() if p.endswith(".py")))


class Counterparts:
    """Which file of the old version is the counterpart of which of the new one.

    Known renames come first, then the same path, then the most alike of the files that have no other counterpart.

    Args:
        new: the newer version.
        old: the older one.
        renames: new path → old path, as the history between the two has it.
        entry_points: (new, old) path of the script that is run, where both are known: each other's counterparts unless
            another file is clearly more alike.
    """

    def __init__(
        self,
        new: SourceTree,
        old: SourceTree,
        renames: Mapping[str, str] | None = None,
        entry_points: tuple[str, str] | None = None,
    ) -> None:
        self._new, self._old = new, old
        self._entry_points = entry_points
        theirs = set(old.paths())
        self._renamed = {a: b for a, b in (renames or {}).items() if b in theirs}
        self._taken = {b: a for a, b in self._renamed.items()}
        self._found: dict[str, str | None] = {}

    def of(self, path: str) -> str | None:
        """The counterpart of a file of the new version, None where there is none."""
        if path not in self._found:
            self._found[path] = self._search(path)
        return self._found[path]

    def _search(self, path: str) -> str | None:
        if path in self._renamed:
            return self._renamed[path]
        olds = set(self._old.paths())
        if path in olds and path not in self._taken:
            return path
        text = self._new.read(path)
        if text is None:
            return None
        left = [p for p in python_files(self._old) if p not in self._new.paths() and p not in self._taken]
        self._old.prepare(left)
        ranked = sorted(((self._alike(text, path, p), p) for p in left), key=lambda r: (-r[0], r[1]))
        if ranked and ranked[0][0] >= _SAME_FILE:
            clear = len(ranked) == 1 or ranked[0][0] - ranked[1][0] >= _CLEARLY
            return ranked[0][1] if clear else None
        if self._entry_points is not None and path == self._entry_points[0]:
            script = self._entry_points[1]
            return script if script in olds and script not in self._taken else None
        return path if path in olds else None

    def _alike(self, text: str, path: str, other: str) -> float:
        theirs = self._old.read(other)
        if theirs is None:
            return 0.0
        same_name = posixpath.basename(path) == posixpath.basename(other)
        return alike(text, theirs) + (_CLEARLY if same_name else 0.0)


def alike(a: str, b: str) -> float:
    """How many of the lines of two texts are common to both, 0 to 1; blanks and indentation do not count."""
    mine, theirs = _lines(a), _lines(b)
    total = mine.total() + theirs.total()
    return 2 * (mine & theirs).total() / total if total else 0.0


@lru_cache(maxsize=64)
def _lines(text: str) -> Counter[str]:
    return Counter(_telling(source_lines(text)))


def _telling(lines: Iterable[str]) -> Iterable[str]:
    """Lines that say something: no blank ones, no lone brackets."""
    for line in lines:
        stripped = line.strip()
        if len(stripped) > 3:
            yield stripped
