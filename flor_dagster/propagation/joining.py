"""Several files of one version as one text, so that code can be followed from one file into another.

What a file takes out of another one (`from engine import step`, `engine.step(...)`) is written as if it stood in the
same file. Lines stay lines: a place in the joined text is a place in one of the files, and only texts of our own making
are changed; no file is.
"""

from __future__ import annotations

import ast
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flor_dagster.propagation.inserting import split_lines
from flor_dagster.propagation.modules import LocalImport, local_imports, parsed
from flor_dagster.propagation.syntax import SCOPES


@dataclass(frozen=True, slots=True)
class Joined:
    """A joined text; `starts` are the 1-based first lines of its files, in the order of `paths`."""

    text: str
    paths: tuple[str, ...]
    starts: tuple[int, ...]

    def line(self, path: str, line: int) -> int:
        """The line of the joined text that a line of a file is."""
        return self.starts[self.paths.index(path)] + line - 1

    def where(self, line: int) -> tuple[str, int]:
        """The file and the line in it that a line of the joined text is."""
        spot = bisect_right(self.starts, line) - 1
        return self.paths[spot], line - self.starts[spot] + 1


def join(texts: Mapping[str, str], paths: Sequence[str]) -> Joined:
    """Join files of one version; those that are imported come first.

    Args:
        texts: path → text of the files to join, each of which is Python.
        paths: all files of the version, to see what an import means.
    """
    edges = {path: _imports(texts[path], path, paths, texts) for path in texts}
    order = _imported_first(texts, edges)
    lines: list[str] = []
    starts: list[int] = []
    for path in order:
        starts.append(len(lines) + 1)
        lines += _as_one(texts[path], edges[path])
    return Joined("".join(lines), tuple(order), tuple(starts))


def clashing(a: str, b: str) -> bool:
    """Whether two files define functions or classes of the same name at their top levels: joined, they would be mixed up."""
    return bool(_definitions(a) & _definitions(b))


def _definitions(text: str) -> frozenset[str]:
    module = parsed(text)
    return (
        frozenset(s.name for s in module.body if isinstance(s, SCOPES)) if module is not None else frozenset()
    )


def _imports(
    text: str, path: str, paths: Sequence[str], joined: Mapping[str, str]
) -> tuple[LocalImport, ...]:
    module = parsed(text)
    if module is None:
        return ()
    return tuple(i for i in local_imports(module, path, paths) if i.path in joined and i.path != path)


def _imported_first(texts: Mapping[str, str], edges: Mapping[str, tuple[LocalImport, ...]]) -> list[str]:
    order: list[str] = []
    seen: set[str] = set()

    def visit(path: str) -> None:
        if path in seen:
            return
        seen.add(path)
        for target in sorted({i.path for i in edges[path]}):
            visit(target)
        order.append(path)

    for path in sorted(texts):
        visit(path)
    return order


def _as_one(text: str, imports: Sequence[LocalImport]) -> list[str]:
    """A file's lines with what it takes out of the other files called by its own name; the last one is ended."""
    lines = split_lines(text.removeprefix("\ufeff"))
    if lines and not lines[-1].endswith(("\n", "\r")):
        lines[-1] += "\n"
    module = parsed(text)
    if module is None:
        return lines
    taken = {i.bound: i.name for i in imports if i.name and i.name != "*"}
    modules = {i.bound for i in imports if not i.name and i.bound}
    edits: list[tuple[int, int, int, bytes]] = []  # line, first byte, byte behind, what stands there instead
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            if node.lineno == node.end_lineno:
                behind = (node.end_col_offset or 0) - len(node.attr.encode())
                edits.append((node.lineno, node.col_offset, behind, b""))
        elif isinstance(node, ast.Name) and taken.get(node.id, node.id) != node.id:
            edits.append((node.lineno, node.col_offset, node.end_col_offset or 0, taken[node.id].encode()))
    for line, start, end, instead in sorted(edits, reverse=True):
        raw = lines[line - 1].encode()
        lines[line - 1] = (raw[:start] + instead + raw[end:]).decode(errors="replace")
    # An import from a file that is joined binds nothing new; a future import can't stand in the middle of a text.
    whole = {
        id(i.syntax): len(i.syntax.names)
        for i in imports
        if isinstance(i.syntax, (ast.Import, ast.ImportFrom))
    }
    counts: dict[int, int] = {}
    for i in imports:
        counts[id(i.syntax)] = counts.get(id(i.syntax), 0) + 1
    gone: list[ast.stmt] = [i.syntax for i in imports if counts[id(i.syntax)] == whole.get(id(i.syntax))]
    gone += [s for s in module.body if isinstance(s, ast.ImportFrom) and s.module == "__future__"]
    for syntax in gone:
        _pass_instead(lines, syntax)
    return lines


def _pass_instead(lines: list[str], syntax: ast.stmt) -> None:
    first, last = syntax.lineno, syntax.end_lineno or syntax.lineno
    raw, end = lines[first - 1].encode(), lines[last - 1].encode()
    rest = end[syntax.end_col_offset or 0 :]
    if first == last:
        lines[first - 1] = (raw[: syntax.col_offset] + b"pass" + rest).decode(errors="replace")
        return
    lines[first - 1] = (raw[: syntax.col_offset] + b"pass").decode(errors="replace") + "\n"
    for number in range(first + 1, last):
        lines[number - 1] = "\n"
    lines[last - 1] = (rest if not rest.strip(b" \t\r\n").startswith(b";") else b"\n").decode(
        errors="replace"
    )
    if lines[last - 1].strip().startswith("#"):
        lines[last - 1] = "\n"
