"""Put statements of several files into an old version as a whole: files are renamed, functions move between them.

For each statement the counterpart of its file comes first; then another file that has its function; then the files that
it shares its code with, joined. What is placed in a file that is no counterpart must find there what it reads.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from flor_dagster.errors import PropagationError
from flor_dagster.propagation.callers import Callers
from flor_dagster.propagation.crossing import Crossed, Families, cross
from flor_dagster.propagation.engine import propagate
from flor_dagster.propagation.homes import HomeFinder, Homes, enclosing
from flor_dagster.propagation.inserting import Insertion, diff_of, indentation, insert, split_lines
from flor_dagster.propagation.model import Placement, Propagated, Refusal, RefusalKind, Statement
from flor_dagster.propagation.modules import parsed
from flor_dagster.propagation.statements import find_statements
from flor_dagster.propagation.supplying import Missing, Supplier
from flor_dagster.propagation.syntax import compile_error
from flor_dagster.propagation.trees import Counterparts, PatchedTree, SourceTree, as_tree

FINAL: frozenset[RefusalKind] = frozenset({"changes-training", "unsupported-syntax"})
"""Refusals that neither another file nor another way through the history can help."""


@dataclass(frozen=True, slots=True)
class TreePlacement:
    """A statement of the new version's file `path` at its place in the old version's file `old_path`."""

    path: str
    old_path: str
    placement: Placement


@dataclass(frozen=True, slots=True)
class TreeRefusal:
    """A statement of the new version's file `path` that has no place; its candidate line is in `old_path`.

    `came_with` is the position in a history of the version that brought in what is missing, where one was looked through.
    """

    path: str
    old_path: str | None
    refusal: Refusal
    came_with: int | None = None


@dataclass(frozen=True, slots=True)
class PatchedFile:
    """A file of the old version with everything placed in it; `added` and `rewritten` are as in `Propagated`."""

    source: str
    added: tuple[int, ...] = ()
    rewritten: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PropagatedTree:
    """What became of the statements in one old version.

    `files` holds the files that gained lines, by their path in the old version; every other file is as it was. Every
    statement that was asked for is in one of `placements` and `refusals`.
    """

    files: Mapping[str, PatchedFile]
    placements: tuple[TreePlacement, ...]
    refusals: tuple[TreeRefusal, ...]


def propagate_tree(
    new: SourceTree | Mapping[str, str],
    old: SourceTree | Mapping[str, str],
    asked: Mapping[str, Iterable[int]],
    *,
    renames: Mapping[str, str] | None = None,
    entry_points: tuple[str, str] | None = None,
    allow_effects: bool = False,
) -> PropagatedTree:
    """Put new statements of one version, in any of its files, into an older version.

    Args:
        new: The version that has the statements: path → text, or a reader of one.
        old: The version that is to get them.
        asked: File of the new version → 1-based first lines of the new statements in it.
        renames: New path → old path, where the history knows; without it, files are told by path and content.
        entry_points: The script that is run, in the new and in the old version.
        allow_effects: Also place expressions that are known to change the training.

    Returns:
        The files that changed, with a place or a refusal for every statement.

    Raises:
        SourceSyntaxError: A file of the new version that holds statements is no Python.
        PropagationError: The new version has no such file, or a line holds no statement.
    """
    project = _Project(as_tree(new), as_tree(old), renames, entry_points, allow_effects=allow_effects)
    for path in sorted(asked):
        project.place(path, sorted(set(asked[path])))
    return project.result()


@dataclass(slots=True)
class _File:
    """An old file while statements are put into it."""

    source: str
    added: set[int] = field(default_factory=set[int])
    rewritten: set[int] = field(default_factory=set[int])


class _Project:
    def __init__(
        self,
        new: SourceTree,
        old: SourceTree,
        renames: Mapping[str, str] | None,
        entry_points: tuple[str, str] | None,
        *,
        allow_effects: bool,
    ) -> None:
        self._new, self._old = new, old
        self._allow_effects = allow_effects
        self._counterparts = Counterparts(new, old, renames, entry_points)
        self._homes = HomeFinder(new, old, self._counterparts, entry_points[1] if entry_points else None)
        self._families = Families(new, old, self._counterparts)
        self._supplier = Supplier(new, old, self._counterparts)
        self._callers = Callers(new, old)
        self._files: dict[str, _File] = {}
        self._placed: list[TreePlacement] = []
        self._refused: list[TreeRefusal] = []

    def result(self) -> PropagatedTree:
        files = {
            path: PatchedFile(f.source, tuple(sorted(f.added)), tuple(sorted(f.rewritten)))
            for path, f in sorted(self._files.items())
            if f.added or f.rewritten
        }
        placed = sorted(self._placed, key=lambda p: (p.path, p.placement.statement.lines))
        refused = sorted(self._refused, key=lambda r: (r.path, r.refusal.statement.lines))
        return PropagatedTree(files, tuple(placed), tuple(refused))

    def place(self, path: str, lines: list[int]) -> None:
        """Place the statements of one file."""
        text = self._new.read(path)
        if text is None:
            raise PropagationError(f"the new version has no file {path}")
        groups: dict[Homes, list[int]] = {}
        for line in lines:
            groups.setdefault(self._homes.of(path, line), []).append(line)
        for homes, wanted in groups.items():
            self._place_group(path, text, homes, wanted)

    # ------------------------------------------------------------------ one file after the other

    def _place_group(self, path: str, text: str, homes: Homes, lines: list[int]) -> None:
        first: dict[tuple[int, int], TreeRefusal] = {}
        left = lines
        for home in homes.paths:
            refusals = self._into(path, text, home, left)
            for refusal in refusals:
                first.setdefault(refusal.refusal.statement.lines, refusal)
            left = [n for n in left for r in refusals if _holds(r.refusal.statement, n)]
            if not left:
                return
        if not homes.paths:
            first = {s.lines: self._homeless(path, text, homes, s) for s in _statements(text, lines)}
        for refusal in first.values():
            statement = refusal.refusal.statement
            if not any(_holds(statement, line) for line in left):
                continue
            line = next(n for n in left if _holds(statement, n))
            home = homes.paths[0] if homes.paths else None
            if refusal.refusal.kind in FINAL or homes.torn or not self._across(path, line, home):
                self._refused.append(refusal)

    def _into(self, path: str, text: str, home: str, lines: list[int]) -> list[TreeRefusal]:
        """Place what can be placed in one file of the old version; the rest comes back."""
        source = self._source(home)
        if source is None:
            return [self._homeless(path, text, Homes(()), s) for s in _statements(text, lines)]
        refused: list[TreeRefusal] = []
        wanted = lines
        while wanted:
            outcome = propagate(text, source, wanted, allow_effects=self._allow_effects)
            wrong = [
                r for p in outcome.placements if (r := self._objection(path, home, p, outcome)) is not None
            ]
            if not wrong:
                self._accept(path, home, outcome)
                refused += [TreeRefusal(path, home, r) for r in outcome.refusals]
                break
            refused += wrong
            wanted = [n for n in wanted if not any(_holds(r.refusal.statement, n) for r in wrong)]
        return refused

    def _objection(
        self, path: str, home: str, placement: Placement, outcome: Propagated
    ) -> TreeRefusal | None:
        """Why a place that is right by itself is wrong in the project as a whole."""
        if placement.status != "placed":
            return None
        first, last = placement.lines
        if placement.carried:
            lines = split_lines(outcome.source)[first - 1 : last]
            missing = self._supplier.wrong_import(path, home, textwrap.dedent("".join(lines)))
            if missing is not None:
                return self._lacking(path, home, placement, missing)
        other = self._supplier.other_value(path, home, outcome.source, first, last)
        if other is not None:
            sentence = (
                f"{_label(placement.statement)} reads `{other}`, which is another variable in {home} of this version "
                f"than in {path}."
            )
            return TreeRefusal(path, home, _refusal(placement, "other-definition", other, sentence))
        nests = self._callers.other_loops(path, _log_line(placement), home, outcome.source, last)
        if nests is not None:
            sentence = (
                f"{_label(placement.statement)} is logged in {nests[0]}; the best place that this version has for it, "
                f"line {first} of {home}, is in {nests[1]}."
            )
            return TreeRefusal(path, home, _refusal(placement, "weak-place", "", sentence))
        return None

    def _accept(self, path: str, home: str, outcome: Propagated) -> None:
        state = self._files.setdefault(home, _File(outcome.source))
        self._shift(home, outcome.added)
        state.source = outcome.source
        state.added |= set(outcome.added)
        state.rewritten |= set(outcome.rewritten)
        self._placed += [TreePlacement(path, home, p) for p in outcome.placements]

    def _shift(self, home: str, added: Iterable[int]) -> None:
        """Count the lines of what is placed already anew, now that others were added."""
        gained = sorted(added)
        state = self._files[home]
        state.added = {_moved(line, gained) for line in state.added}
        state.rewritten = {_moved(line, gained) for line in state.rewritten}
        self._placed = [
            replace(p, placement=moved_placement(p.placement, gained)) if p.old_path == home else p
            for p in self._placed
        ]

    def _source(self, path: str) -> str | None:
        state = self._files.get(path)
        return state.source if state is not None else self._old.read(path)

    # ------------------------------------------------------------------ across files

    def _across(self, path: str, line: int, home: str | None) -> bool:
        """Place one statement through joined files; whether it found a place."""
        current = PatchedTree(self._old, {p: f.source for p, f in self._files.items()})
        for family in self._families.of(path, home):
            crossed = cross(self._new, current, family, path, line, allow_effects=self._allow_effects)
            if crossed is not None and self._settle(path, crossed):
                return True
        return False

    def _settle(self, path: str, crossed: Crossed) -> bool:
        """Write what was placed through joined files into its file, if everything that it reads can be had there."""
        source = self._source(crossed.path)
        if source is None:
            return False
        if crossed.placement.status == "already-there":
            self._placed.append(TreePlacement(path, crossed.path, crossed.placement))
            return True
        text = textwrap.dedent("\n".join(crossed.text))
        if self._supplier.wrong_import(path, crossed.path, text) is not None:
            return False
        bare, firsts = insert(source, [Insertion(crossed.line, 0, crossed.text)])
        last = firsts[0] + len(crossed.text) - 1
        supplies = self._supplier.supply(path, crossed.path, bare, firsts[0], last)
        if isinstance(supplies, Missing):
            return False
        if self._supplier.other_value(path, crossed.path, bare, firsts[0], last) is not None:
            return False
        if (
            self._callers.other_loops(path, _log_line(crossed.placement), crossed.path, bare, last)
            is not None
        ):
            return False
        indent = indentation(list(crossed.text), 1)
        lines = (*(indent + s for s in supplies.before), *crossed.text)
        insertions = [Insertion(crossed.line, 1, lines)]
        if supplies.top:
            insertions.append(Insertion(_top_line(source), 0, supplies.top))
        patched, firsts = insert(source, insertions)
        if compile_error(patched) is not None and compile_error(source) is None:
            return False
        added = sorted(
            n for i, first in firsts.items() for n in range(first, first + len(insertions[i].text))
        )
        placement = replace(
            crossed.placement,
            lines=(firsts[0], firsts[0] + len(lines) - 1),
            carried=tuple(dict.fromkeys((*crossed.placement.carried, *supplies.names))),
            diff=diff_of(source, patched),
        )
        self._accept(path, crossed.path, Propagated(patched, (placement,), (), tuple(added)))
        return True

    # ------------------------------------------------------------------ refusals

    def _homeless(self, path: str, text: str, homes: Homes, statement: Statement) -> TreeRefusal:
        module = parsed(text)
        name = enclosing(module, statement.lines[0])[0] if module is not None else ""
        if homes.torn:
            files = " and ".join(homes.torn)
            sentence = f"{_label(statement)} is logged in `{name}`, which lies in {files} of this version: either could be meant."
            return TreeRefusal(path, None, Refusal(statement, "weak-place", name, None, None, sentence))
        also = f", and no other file has `{name}`" if name else ""
        sentence = f"{_label(statement)} has no place: this version has no file that is the counterpart of {path}{also}."
        return TreeRefusal(path, None, Refusal(statement, "no-function", name or path, None, None, sentence))

    def _lacking(self, path: str, home: str, placement: Placement, missing: Missing) -> TreeRefusal:
        where = self._counterparts.of(missing.where) if missing.where else None
        lacks = (
            f"{where} of this version does not have"
            if where
            else f"{missing.where or 'this version'} has, but no file of this version"
        )
        sentence = f"{_label(placement.statement)} needs `{missing.name}`, which {lacks}."
        return TreeRefusal(path, home, _refusal(placement, "no-variable", missing.name, sentence))


def _refusal(placement: Placement, kind: RefusalKind, missing: str, sentence: str) -> Refusal:
    return Refusal(placement.statement, kind, missing, placement.lines[0], placement.score, sentence)


def _statements(text: str, lines: Iterable[int]) -> list[Statement]:
    """The statements that start on lines; a line of another statement is described by its text."""
    known = {s.lines[0]: s for s in find_statements(text)}
    texts = split_lines(text)
    return [known.get(n) or Statement(None, texts[n - 1].strip(), (n, n), "<module>", (), 0) for n in lines]


def _log_line(placement: Placement) -> int:
    """A line of the new version on which the statement, or the first line of its block, starts."""
    return placement.statement.lines[0]


def _label(statement: Statement) -> str:
    return f"`{statement.name or statement.expression}`"


def _holds(statement: Statement, line: int) -> bool:
    return statement.lines[0] <= line <= statement.lines[1]


def _moved(line: int, added: list[int]) -> int:
    for position in added:
        if position <= line:
            line += 1
    return line


def moved_placement(placement: Placement, added: list[int]) -> Placement:
    """A placement whose lines are counted anew after the lines `added` (ascending) were added to its file."""
    return replace(placement, lines=(_moved(placement.lines[0], added), _moved(placement.lines[1], added)))


def _top_line(source: str) -> int:
    """The line before which an import belongs: behind the docstring and the imports that a file starts with."""
    module = parsed(source)
    line = 1
    for number, statement in enumerate(module.body if module is not None else []):
        text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and not number
        if not text and not isinstance(statement, (ast.Import, ast.ImportFrom)):
            break
        line = (statement.end_lineno or statement.lineno) + 1
    return line
