"""The lines that a placement adds: the statement in the old version's names, what travels with it, in which layout."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from flor_dagster.propagation.analysis import Pair
from flor_dagster.propagation.carrying import is_ours
from flor_dagster.propagation.inserting import indentation, is_filler, split_lines
from flor_dagster.propagation.muting import MUTED
from flor_dagster.propagation.placing import Scored
from flor_dagster.propagation.rewriting import inside_strings, lines_inside_strings, rewritten
from flor_dagster.propagation.units import Unit


@dataclass(frozen=True, slots=True)
class Written:
    """Lines to add at the place, and at the top of the file."""

    text: tuple[str, ...]
    top: tuple[str, ...]


class Writer:
    """Writes the units of one call.

    Args:
        pair: The two versions.
        source: The new version's text.
        units: Everything that is placed.
    """

    def __init__(self, pair: Pair, source: str, units: list[Unit]) -> None:
        self._pair = pair
        self._source = source
        self._lines = split_lines(source)
        self._new = {line for unit in units for line in unit.lines}

    def write(self, unit: Unit, best: Scored, renamed: dict[str, str], indent: str) -> Written:
        """The lines of a unit at its place, indented by `indent`."""
        luggage, tops = self._luggage(best, indent)
        own = self._text(unit.syntax, renamed, indent, as_written=unit.holder is None)
        return Written((*luggage, *own), tops)

    def above(self, unit: Unit) -> list[str]:
        """Blank lines and comments between a new statement and the one before it that is not new."""
        found: list[str] = []
        if unit.holder is not None:
            return found
        for number in range(unit.syntax.lineno - 1, 0, -1):
            text = self._lines[number - 1]
            if number not in self._new:
                if not is_filler(text):
                    break
                found.append(text)
        return found[::-1]

    def _luggage(self, best: Scored, indent: str) -> tuple[list[str], tuple[str, ...]]:
        """Lines of what travels along: before the statement, and at the top of the file."""
        lines: dict[object, tuple[str, ...]] = {}
        tops: list[str] = []
        for resolved in (r for r in best.names if r.carry):
            packed = self._pair.carrier.pack(
                resolved.name, best.gap.block, best.gap.index, resolved.definitions or None
            )
            for node in packed.nodes if packed is not None else ():
                if is_ours(node):
                    tops.append(ast.unparse(node))
                elif isinstance(node, (ast.Import, ast.ImportFrom)):
                    lines[ast.unparse(node)] = (indent + ast.unparse(node),)
                else:
                    lines[id(node)] = self._text(node, {}, indent)
        return [line for text in lines.values() for line in text], tuple(tops)

    def _text(
        self, syntax: ast.stmt, renamed: dict[str, str], indent: str, *, as_written: bool = True
    ) -> tuple[str, ...]:
        """A new statement's lines in the old version's names and indentation."""
        written = self._dedented(syntax) if as_written else ast.unparse(syntax)
        text = rewritten(written, renamed) if renamed else written
        fixed = inside_strings(text)
        lines = [line.rstrip("\r\n") for line in split_lines(text)]
        muted = {number for number, line in enumerate(lines, 1) if line.strip() == MUTED}
        if muted:
            lines = [line for number, line in enumerate(lines, 1) if number not in muted]
            fixed = {number - sum(m < number for m in muted) for number in fixed}
        comment = self._comment_behind(syntax) if as_written else ""
        lines[-1] += comment
        return tuple(
            line if number in fixed or not line else indent + line for number, line in enumerate(lines, 1)
        )

    def _dedented(self, syntax: ast.stmt) -> str:
        """A statement as it is written, without the indentation that all of it has."""
        source = ast.get_source_segment(self._source, syntax)
        if source is None:
            return ast.unparse(syntax)
        own = indentation(self._lines, syntax.lineno)
        fixed = lines_inside_strings(syntax)
        lines = [
            line if number in fixed else line.removeprefix(own)
            for number, line in enumerate(split_lines(source), syntax.lineno)
        ]
        return "".join(lines)

    def _comment_behind(self, syntax: ast.stmt) -> str:
        """The comment on the last line of a statement, with the space before it."""
        if syntax.end_lineno is None or syntax.end_col_offset is None or syntax.end_lineno > len(self._lines):
            return ""
        rest = self._lines[syntax.end_lineno - 1].encode()[syntax.end_col_offset :].decode(errors="replace")
        return rest.rstrip() if rest.strip().startswith("#") else ""
