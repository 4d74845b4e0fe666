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
from flor_dagster.propagation.modules import LocalImport, bound_by, local_imports, parsed
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
    """A file's lines with what it takes out of the other files called by its own name; the last one is ended.

    A name that the file also binds otherwise stays as it is written, and so does its import: it may be another one.
    """
    text = text.removeprefix("\ufeff")
    lines = split_lines(text)
    if lines and not lines[-1].endswith(("\n", "\r")):
        lines[-1] += "\n"
    module = parsed(text)
    if module is None:
        return lines
    statements = _by_statement(imports)
    bound = _bound_otherwise(module, {id(s) for s, _ in statements})
    taken: dict[str, str] = {}
    modules: set[str] = set()
    for _, names in statements:
        for i in names:
            if i.bound in bound:
                continue
            if not i.name:
                modules.add(i.bound)
            elif i.name == i.bound or i.name not in bound:
                taken[i.bound] = i.name
    edits, left = _renamings(module, lines, taken, modules, bound)
    whole = {i.bound for _, names in statements for i in names if i.name == "*"} | taken.keys() | modules
    whole -= left
    # An import from a file that is joined binds nothing new; a future import can't stand in the middle of a text.
    gone = [
        s for s, names in statements
        if len(names) == len(s.names) and all(i.bound in whole for i in names)
    ]  # fmt: skip
    gone += [s for s in module.body if isinstance(s, ast.ImportFrom) and s.module == "__future__"]
    edits += [_left_out(lines, syntax) for syntax in gone]
    for edit in sorted(edits, key=lambda e: (e.line, e.start), reverse=True):
        _apply(lines, edit)
    return lines


@dataclass(frozen=True, slots=True)
class _Edit:
    """Bytes of a file's lines, from `start` in `line` up to `end` in `last`, and what stands there instead, line by line."""

    line: int
    start: int
    last: int
    end: int
    instead: tuple[str, ...]


def _apply(lines: list[str], edit: _Edit) -> None:
    head = lines[edit.line - 1].encode()[: edit.start].decode(errors="replace")
    tail = lines[edit.last - 1].encode()[edit.end :].decode(errors="replace")
    texts = list(edit.instead)
    texts[0] = head + texts[0]
    texts[-1] += tail
    ended = [text if text.endswith(("\n", "\r")) else text + "\n" for text in texts]
    lines[edit.line - 1 : edit.last] = ended


def _by_statement(
    imports: Sequence[LocalImport],
) -> list[tuple[ast.Import | ast.ImportFrom, list[LocalImport]]]:
    """Import statements with what each takes out of joined files."""
    found: dict[int, tuple[ast.Import | ast.ImportFrom, list[LocalImport]]] = {}
    for i in imports:
        if isinstance(i.syntax, (ast.Import, ast.ImportFrom)):
            found.setdefault(id(i.syntax), (i.syntax, []))[1].append(i)
    return list(found.values())


def _bound_otherwise(module: ast.Module, without: set[int]) -> set[str]:
    """Names that a file binds anywhere but by some imports."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.stmt) and id(node) not in without:
            found.update(bound_by(node))
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
    return found


def _renamings(
    module: ast.Module, lines: Sequence[str], taken: Mapping[str, str], modules: set[str], bound: set[str]
) -> tuple[list[_Edit], set[str]]:
    """Uses of imported things under their own names; and the names that are still needed for some use."""
    edits: list[tuple[str, _Edit]] = []
    done: set[int] = set()
    left: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            edit = _Edit(
                node.lineno, node.col_offset, node.lineno, node.col_offset + len(f"{node.value.id}.".encode()), ("",)
            )  # fmt: skip
            plain = isinstance(node.ctx, ast.Load) and node.attr not in bound
            if plain and _stands(lines, edit, f"{node.value.id}.{node.attr}"):
                done.add(id(node.value))
                edits.append((node.value.id, edit))
        elif isinstance(node, ast.Name) and id(node) not in done:
            edit = _Edit(
                node.lineno, node.col_offset, node.lineno, node.end_col_offset or 0, (taken.get(node.id, ""),)
            )
            if node.id in modules:
                left.add(node.id)
            elif taken.get(node.id, node.id) == node.id:
                continue
            elif _stands(lines, edit, node.id):
                edits.append((node.id, edit))
            else:
                left.add(node.id)
    return [edit for name, edit in edits if name in modules or name not in left], left


def _stands(lines: Sequence[str], edit: _Edit, text: str) -> bool:
    """Whether a text stands where the parser says: before Python 3.12 it is wrong about what is inside an f-string."""
    raw = lines[edit.line - 1].encode() if edit.line <= len(lines) else b""
    return raw[edit.start :].startswith(text.encode())


def _left_out(lines: list[str], syntax: ast.stmt) -> _Edit:
    """A statement that does nothing, on as many lines."""
    last, end = syntax.end_lineno or syntax.lineno, syntax.end_col_offset or 0
    if last == syntax.lineno:
        return _Edit(syntax.lineno, syntax.col_offset, last, end, ("pass",))
    behind = lines[last - 1].encode()[end:].decode(errors="replace").strip()
    if behind.startswith(";"):
        # What follows on the last line stays there.
        return _Edit(
            syntax.lineno, syntax.col_offset, last, end, ("(", *[""] * (last - syntax.lineno - 1), ")")
        )
    width = len(lines[last - 1].encode())
    return _Edit(syntax.lineno, syntax.col_offset, last, width, ("pass", *[""] * (last - syntax.lineno)))
