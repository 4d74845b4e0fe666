"""Insert statements into a source text: the rest of the file stays as it is, byte for byte."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from flor_dagster.propagation.gaps import Gap
from flor_dagster.propagation.tree import Node, is_docstring

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
    if _head(lines, node):
        return False
    tail = lines[node.end_line - 1].encode()[node.end_column :].decode(errors="replace").strip("; \t\r\n\f")
    return not tail or tail.startswith(("#", "\\"))


def insertion_point(lines: list[str], gap: Gap) -> tuple[int, str] | None:
    """The line to insert before, and the indentation, or None where a gap has no line of its own.

    A statement goes right behind the one before it, so that comments and blank lines stay with what follows; where it
    is the first of its block, it goes above the comments of the next.
    """
    before, after = gap.before, gap.after
    if _on_header_line(lines, gap):
        return None
    if before is not None:
        if not owns_lines(lines, before) or (after is not None and after.line <= before.end_line):
            return None
        return before.end_line + 1, indentation(lines, before.line)
    if after is None or not owns_lines(lines, after):
        return None
    line = after.line
    indent = indentation(lines, line)
    while gap.block.owner.kind != "module" and line > 1 and _is_comment(lines[line - 2], indent):
        line -= 1
    return line, indent


def in_same_layout(lines: list[str], line: int, gap: Gap, above: list[str]) -> int:
    """Move an insertion down past the blank lines and comments that also stand above the statement in its own file.

    Args:
        lines: The old file.
        line: Where the statement would go.
        gap: The place.
        above: Blank lines and comments between the new statement and the statement before it.
    """
    start = gap.before.end_line + 1 if gap.before is not None else line
    if gap.before is None:
        while start > 1 and is_filler(lines[start - 2]) and gap.block.owner.line < start - 1:
            start -= 1
    if not above:
        # First in its block and right under the header there, so here, too.
        return start if gap.before is None and gap.block.owner.kind != "module" else line
    here = [text.strip() for text in lines[start - 1 : start - 1 + len(above)]]
    return start + len(above) if here == [text.strip() for text in above] else line


def is_filler(line: str) -> bool:
    """Whether a line is blank or a comment."""
    text = line.strip()
    return not text or text.startswith("#")


def _is_comment(line: str, indent: str) -> bool:
    return line.startswith(indent + "#")


def _on_header_line(lines: list[str], gap: Gap) -> bool:
    """Whether a block stands behind its colon (`if x: f()`)."""
    first = gap.block.items[0] if gap.block.items else None
    return first is not None and bool(_head(lines, first))


def _head(lines: list[str], node: Node) -> str:
    """What stands before a statement on its line."""
    if node.is_scope:
        return ""
    return lines[node.line - 1].encode()[: node.column].decode(errors="replace").strip(" \t\f\ufeff")


def top_line(lines: list[str], root: Node) -> int:
    """The line before which an import belongs: behind the imports that a module starts with."""
    block = root.blocks[0]
    index = 0
    while index < len(block.items) and (
        block.items[index].kind == "import" or (not index and is_docstring(block))
    ):
        index += 1
    while index and not owns_lines(lines, block.items[index - 1]):
        index -= 1
    if index:
        return block.items[index - 1].end_line + 1
    return block.items[0].line if block.items else 1


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


def diff_of(old: str, new: str) -> str:
    """What was added to an old version, as a unified diff."""
    lines = difflib.unified_diff(
        [part.rstrip("\r\n") for part in split_lines(old)],
        [part.rstrip("\r\n") for part in split_lines(new)],
        "old version",
        "with the statement",
        lineterm="",
        n=3,
    )
    return "\n".join(lines)
