"""In which named loops does a place run, where its function is called from other files?"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from flor_dagster.propagation.joining import clashing, join
from flor_dagster.propagation.modules import local_imports, parsed
from flor_dagster.propagation.nesting import Nest, Nesting, same_loops
from flor_dagster.propagation.statements import aliases
from flor_dagster.propagation.tree import Block, Interner, build
from flor_dagster.propagation.trees import PatchedTree, SourceTree, changed_files, python_files, unchanged

_MOST_FILES = 6


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in files that were joined, as the rule of named loops sees it."""

    nesting: Nesting
    block: Block

    @property
    def nest(self) -> Nest:
        return self.nesting.of(self.block)


# Which files of a version import which: it is asked of the newest version once per old one.
_IMPORTERS: WeakKeyDictionary[SourceTree, dict[str, frozenset[str]]] = WeakKeyDictionary()


class Callers:
    """Compares the named loops around two places through the files that import theirs.

    Args:
        new: the newer version.
        old: the older one.
    """

    def __init__(self, new: SourceTree, old: SourceTree) -> None:
        self._new, self._old = new, old
        self._changed: tuple[str, ...] | None = None

    def other_loops(
        self, path: str, line: int, target: str, patched: str, at: int
    ) -> tuple[Nest, Nest] | None:
        """The named loops around a statement in the new version and around its place, where they are not the same.

        Args:
            path: the statement's file in the new version.
            line: its line there.
            target: the file of the old version that it was put into.
            patched: that file's text with the statement.
            at: the statement's line in it.
        """
        importers = self._importers(self._new, path, python_files(self._new))
        if not importers or (path == target and all(unchanged(self._new, self._old, p) for p in importers)):
            return None
        text = self._new.read(path)
        alone = _place({path: text}, path, line, (path,), whole=True) if text is not None else None
        if alone is None or alone.nest.complete:
            return None  # it was compared by itself
        mine = self._joined(self._new, path, line)
        if mine is None:
            return None
        theirs = self._joined(
            PatchedTree(self._old, {target: patched}), target, at, self._candidates(importers)
        )
        if theirs is None or same_loops(mine.nesting, mine.block, theirs.nesting, theirs.block):
            return None
        return mine.nest, theirs.nest

    def _candidates(self, importers: frozenset[str]) -> tuple[str, ...]:
        """Files of the old version that may import a file: those that do in the new one, and those that differ."""
        if self._changed is None:
            self._changed = changed_files(self._new, self._old)[1]
            self._old.prepare(self._changed)
        return tuple(sorted({*self._changed, *importers}))

    def _joined(
        self, tree: SourceTree, path: str, line: int, among: tuple[str, ...] | None = None
    ) -> _Place | None:
        paths = python_files(tree)
        texts: dict[str, str] = {}
        whole = True
        todo = [path]
        while todo:
            file = todo.pop(0)
            text = tree.read(file) if file not in texts else None
            if text is None or parsed(text) is None:
                continue
            if len(texts) >= _MOST_FILES or any(clashing(text, other) for other in texts.values()):
                whole = False
                continue
            texts[file] = text
            todo += sorted(self._importers(tree, file, among if among is not None else paths))
        return _place(texts, path, line, paths, whole=whole) if path in texts else None

    @staticmethod
    def _importers(tree: SourceTree, path: str, among: tuple[str, ...]) -> frozenset[str]:
        known = _IMPORTERS.setdefault(tree, {})
        if path not in known:
            stem = posixpath.basename(path).removesuffix(".py")
            word = posixpath.basename(posixpath.dirname(path)) if stem == "__init__" else stem
            paths = python_files(tree)
            tree.prepare(among)
            found: set[str] = set()
            for other in among:
                text = tree.read(other) if other != path else None
                module = parsed(text) if text is not None and word in text else None
                if module is not None and any(i.path == path for i in local_imports(module, other, paths)):
                    found.add(other)
            known[path] = frozenset(found)
        return known[path]


def same_named_loops(text: str, line: int, old_text: str, old_line: int) -> bool:
    """Whether two lines run in the same named loops, as far as both of their files show.

    A way through versions that name no loops must not lead into a loop that the direct way forbids.
    """
    mine = _place({"": text}, "", line, (), whole=True)
    theirs = _place({"": old_text}, "", old_line, (), whole=True)
    return (
        mine is None or theirs is None or same_loops(mine.nesting, mine.block, theirs.nesting, theirs.block)
    )


def _place(
    texts: dict[str, str], path: str, line: int, paths: tuple[str, ...], *, whole: bool
) -> _Place | None:
    joined = join(texts, paths)
    module = parsed(joined.text)
    if module is None:
        return None
    tree = build(joined.text, Interner(), module=module)
    nesting = _Partial(tree, aliases(module)) if not whole else Nesting(tree, aliases(module))
    at = joined.line(path, line)
    node = next((n for n in reversed(tree.nodes) if n.block is not None and n.line <= at <= n.end_line), None)
    return _Place(nesting, node.block) if node is not None and node.block is not None else None


class _Partial(Nesting):
    """Named loops of files that are not all that there are: no answer is complete."""

    def of(self, block: Block) -> Nest:
        return Nest(super().of(block).loops, complete=False)
