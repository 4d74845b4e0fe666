"""Follow code from one file into another: what one version has in one file, the other one may have in two.

The files in question are joined, propagation sees one text, and what it placed goes back to the file that it fell into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from flor_dagster.errors import FlorError
from flor_dagster.propagation.engine import propagate
from flor_dagster.propagation.inserting import split_lines
from flor_dagster.propagation.joining import Joined, clashing, join
from flor_dagster.propagation.model import Placement, Propagated
from flor_dagster.propagation.modules import local_imports, parsed
from flor_dagster.propagation.trees import Counterparts, SourceTree, changed_files, python_files

_MOST_LINES = 6_000
_MOST_FILES = 6


@dataclass(frozen=True, slots=True)
class Family:
    """Files to join: of the new version and of the old one, the most important ones first."""

    new: tuple[str, ...]
    old: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Crossed:
    """A statement's lines and where they go: before 1-based line `line` of a file of the old version."""

    placement: Placement
    path: str
    line: int
    text: tuple[str, ...]


class Families:
    """Which files may share a statement's code.

    Code that moved between files changed both of them, so that only files that differ come into question.

    Args:
        new: the newer version.
        old: the older one.
        counterparts: which file is the counterpart of which.
    """

    def __init__(self, new: SourceTree, old: SourceTree, counterparts: Counterparts) -> None:
        self._new, self._old = new, old
        self._counterparts = counterparts
        self._edges: tuple[Mapping[str, frozenset[str]], Mapping[str, frozenset[str]]] | None = None

    def of(self, path: str, home: str | None) -> Iterator[Family]:
        """Families to try for a statement in a file of the new version, the smallest first."""
        if self._edges is None:
            mine, theirs = changed_files(self._new, self._old)
            self._edges = _edges(self._new, {*mine, path}), _edges(self._old, set(theirs))
        news, olds = self._edges
        importers = sorted(p for p, targets in news.items() if path in targets and p != path)
        imported = sorted(news.get(path, ()))
        others = [c for p in importers if (c := self._counterparts.of(p)) is not None]
        base = () if home is None else (home,)
        inside = tuple(sorted({t for p in base for t in olds.get(p, ())} - set(base)))
        seen: set[Family] = set()
        for family in (
            Family((path,), (*base, *inside)),
            Family((path, *importers), _unique(*others, *base)),
            Family((path, *imported), base),
            Family(
                (path, *importers, *imported),
                _unique(
                    *base,
                    *others,
                    *inside,
                    *(t for p in others for t in sorted(olds.get(p, ()))),
                    *(c for p in imported if (c := self._counterparts.of(p)) is not None),
                ),
            ),
        ):
            kept = Family(self._fitting(self._new, family.new), self._fitting(self._old, family.old))
            if (len(kept.new) > 1 or len(kept.old) > 1) and kept.new and kept.old and kept not in seen:
                seen.add(kept)
                yield kept

    @staticmethod
    def _fitting(tree: SourceTree, paths: tuple[str, ...]) -> tuple[str, ...]:
        """The first of the files that are Python, do not mix up each other's functions, and are not too much."""
        kept: dict[str, str] = {}
        lines = 0
        for path in paths[:_MOST_FILES]:
            text = tree.read(path)
            if text is None or parsed(text) is None or any(clashing(text, other) for other in kept.values()):
                continue
            lines += text.count("\n")
            if lines > _MOST_LINES:
                break
            kept[path] = text
        return tuple(kept)


def cross(
    new: SourceTree, old: SourceTree, family: Family, path: str, line: int, *, allow_effects: bool
) -> Crossed | None:
    """Propagate the statement on one line through joined files; None where it finds no place."""
    mine = _joined(new, family.new)
    theirs = _joined(old, family.old)
    try:
        result = propagate(mine.text, theirs.text, [mine.line(path, line)], allow_effects=allow_effects)
    except FlorError:
        return None  # these files make no text together; the other statements are not concerned
    if not result.placements or result.rewritten:
        return None
    placement = result.placements[0]
    statement = placement.statement
    first = mine.where(statement.lines[0])[1]
    own = replace(statement, lines=(first, first + statement.lines[1] - statement.lines[0]))
    placement = replace(placement, statement=own)
    if placement.status == "already-there":
        there, at = theirs.where(placement.lines[0] - _added_before(result, placement.lines[0]))
        height = placement.lines[1] - placement.lines[0]
        return Crossed(replace(placement, lines=(at, at + height)), there, at, ())
    top, bottom = placement.lines
    behind = top - 1 - _added_before(result, top)
    there, at = theirs.where(max(1, behind))
    text = tuple(part.rstrip("\r\n") for part in split_lines(result.source)[top - 1 : bottom])
    return Crossed(placement, there, at + 1 if behind else 1, text)


def _joined(tree: SourceTree, paths: tuple[str, ...]) -> Joined:
    return join({p: tree.read(p) or "" for p in paths}, python_files(tree))


def _added_before(result: Propagated, line: int) -> int:
    return sum(added < line for added in result.added)


def _edges(tree: SourceTree, wanted: set[str]) -> dict[str, frozenset[str]]:
    """Which of some files imports which of them."""
    paths = python_files(tree)
    found: dict[str, frozenset[str]] = {}
    tree.prepare(wanted)
    for path in sorted(wanted):
        text = tree.read(path)
        module = parsed(text) if text is not None else None
        if module is not None:
            found[path] = frozenset(i.path for i in local_imports(module, path, paths)) & wanted - {path}
    return found


def _unique(*paths: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(paths))
