"""Insert statements into a source text: the rest of the file stays as it is, byte for byte."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flor_dagster.propagation.placing import Gap
from flor_dagster.propagation.tree import Node

_NEWLINE = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Insertion:
    """Lines to add: before 1-based line `line` of the old text (one more than its last line to append)."""

    line: int
    order: int
    text: tuple[str, ...]


def split_lines(text: str) -> list[str]:
    """Lines with their endings, as Python counts them: form feeds and other separators end no line."""
    lines: list[str] = []
    start = 0
    for match in _NEWLINE.finditer(text):
        lines.append(text[start : match.end()])
        start = match.end()
    if start < len(text):
        lines.append(text[start:])
    return lines


def newline_of(lines: list[str]) -> str:
    """The line ending that most lines use."""
    counts = {ending: sum(line.endswith(ending) for line in lines) for ending in ("\r\n", "\n", "\r")}
    counts["\n"] -= counts["\r\n"]
    return max(counts, key=lambda e: (counts[e], e == "\n")) if lines else "\n"


def indentation(lines: list[str], line: int) -> str:
    """White space that 1-based `line` starts with; a form feed is not part of it."""
    text = lines[line - 1].lstrip("\f")
    return text[: len(text) - len(text.lstrip(" \t"))]


def owns_lines(lines: list[str], node: Node) -> bool:
    """Whether a statement shares no line with another one."""
    column = node.syntax.col_offset if not node.is_scope else 0  # pyright: ignore[reportAttributeAccessIssue]
    head = lines[node.line - 1].encode()[:column].decode(errors="replace")
    if head.strip(" \t\f\ufeff"):
        return False
    end_column = node.syntax.end_col_offset or 0  # pyright: ignore[reportAttributeAccessIssue]
    tail = lines[node.end_line - 1].encode()[end_column:].decode(errors="replace").strip()
    return not tail.startswith(";") or not tail.strip("; \t") or tail.strip("; \t").startswith("#")


def insertion_point(lines: list[str], gap: Gap) -> tuple[int, str] | None:
    """The line to insert before, and the indentation, or None where a gap has no line of its own."""
    before, after = gap.before, gap.after
    if before is not None and owns_lines(lines, before) and not _shares_line(before, after):
        if not _on_header_line(gap):
            return before.end_line + 1, indentation(lines, before.line)
        return None
    if after is not None and owns_lines(lines, after) and not _on_header_line(gap):
        return after.line, indentation(lines, after.line)
    return None


def _shares_line(before: Node, after: Node | None) -> bool:
    return after is not None and after.line <= before.end_line


def _on_header_line(gap: Gap) -> bool:
    """Whether a block stands behind its colon (`if x: f()`)."""
    owner, first = gap.block.owner, gap.block.items[0]
    return not owner.kind == "module" and owner.syntax.lineno == first.line and not owner.is_scope  # pyright: ignore[reportAttributeAccessIssue]


def insert(text: str, insertions: list[Insertion]) -> tuple[str, dict[int, int]]:
    """Add lines to a text.

    Returns:
        The new text, and for each insertion (by its position in the list) the 1-based line of its first added line.
    """
    lines = split_lines(text)
    newline = newline_of(lines)
    order = sorted(range(len(insertions)), key=lambda i: (insertions[i].line, insertions[i].order))
    result: list[str] = []
    firsts: dict[int, int] = {}
    at = 0
    for i in order:
        insertion = insertions[i]
        result.extend(lines[at : insertion.line - 1])
        at = max(at, insertion.line - 1)
        unfinished = bool(result) and not result[-1].endswith(("\n", "\r"))
        firsts[i] = len(result) + 1
        added = [line + newline for line in insertion.text]
        if unfinished:
            # The last line of a file without a final newline: the newline moves to the end of what is added before.
            result[-1] += newline
            added[-1] = added[-1][: -len(newline)]
        result.extend(added)
    result.extend(lines[at:])
    return "".join(result), firsts
