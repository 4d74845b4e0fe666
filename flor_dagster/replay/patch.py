"""Write into an old version's source what a replay needs: guards around hindsight statements, restored local names.

Only lines are added, or a `try:` put before a statement, so that the patched file in the replay's own checkout can be
read beside the old version. Nothing here runs anything.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flor_dagster.parsing import parse_python, source_lines
from flor_dagster.propagation.clobbering import binds
from flor_dagster.recording.source import LoopSource, find_loop


@dataclass(frozen=True, slots=True)
class Guarded:
    """A hindsight statement in the source that is to be patched.

    Args:
        key: the statement's key.
        name: what it logs.
        lines: its first and last line, 1-based.
        log_lines: the lines of its `flor.log` calls.
        watched: whether what the program can see is compared before and after it.
        unknown: whether it calls code of which nothing is known.
    """

    key: str
    name: str
    lines: tuple[int, int]
    log_lines: tuple[int, ...]
    watched: bool
    unknown: bool = True


@dataclass(frozen=True, slots=True)
class Patched:
    """A patched file.

    Args:
        source: its text.
        statements: line in it → key of the hindsight statement whose `flor.log` stands there.
        origin: line in it → line in the source that was patched; added lines are absent.
    """

    source: str
    statements: dict[int, str]
    origin: dict[int, int]


def patch(source: str, file: str, loops: Iterable[tuple[int, int]], guarded: Iterable[Guarded]) -> Patched:
    """Patch one file.

    Args:
        source: its text, with the hindsight statements in it.
        file: its name in the repository.
        loops: line and column of every `flor.loop(...)` call whose executions may be skipped or entered.
        guarded: the hindsight statements in it.

    Returns:
        The patched text and where its lines come from.
    """
    editor = _Editor(source)
    tree = parse_python(source)
    for line, column in sorted(
        set(loops), reverse=True
    ):  # where two end on one line, the inner one comes first
        node = _for_at(tree, line, column)
        description = find_loop(tree, line, column)
        if node is not None and description is not None and not description.reason:
            _rebind(editor, tree, node, description)
    marks: list[tuple[int, str]] = []
    blocks: dict[tuple[int, int], list[Guarded]] = {}
    for statement in guarded:
        blocks.setdefault(statement.lines, []).append(statement)
        marks += [(line, statement.key) for line in statement.log_lines]
    for lines, statements in blocks.items():
        _guard(editor, statements, file, _own_names(tree, lines, tuple(blocks)))
    text, origin = editor.result()
    by_old: dict[int, list[int]] = defaultdict(list)
    for new, old in origin.items():
        by_old[old].append(new)
    # A failed statement reports the line that it starts on.
    firsts = [(statement.lines[0], statement.key) for statement in guarded]
    statements = {new: key for old, key in [*firsts, *marks] for new in by_old[old]}
    return Patched(text, statements, origin)


def _for_at(tree: ast.Module, line: int, column: int) -> ast.For | None:
    best: ast.For | None = None
    for node in ast.walk(tree):
        if isinstance(node, ast.For):
            calls = (c for c in ast.walk(node.iter) if isinstance(c, ast.Call))
            if any((c.lineno, c.col_offset) == (line, column) for c in calls):
                best = node
    return best


def _in_function(tree: ast.Module, target: ast.For) -> bool:
    return any(
        node is not target and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(inner is target for inner in ast.walk(node))
        for node in ast.walk(tree)
    )  # fmt: skip


def _rebind(editor: _Editor, tree: ast.Module, node: ast.For, loop: LoopSource) -> None:
    """Bind the local names that a skipped or entered execution left, where the program reads them next."""
    if not _in_function(tree, node):
        return  # a module's names are put back in its namespace
    taken = [*map(_take, sorted(loop.stored)), "__flor__.rebound()"]
    editor.after(node.end_lineno or node.lineno, [f"{editor.indent(node.lineno)}{line}" for line in taken])
    for block in (node.body, node.orelse):
        if block:
            first = min([block[0].lineno, *(d.lineno for d in getattr(block[0], "decorator_list", []))])
            if block is node.orelse and editor.open_else(first, taken):
                continue
            editor.before(first, [f"{editor.indent(first)}{line}" for line in taken])


def _take(name: str) -> str:
    return f"if __flor__.has({name!r}): {name} = __flor__.take({name!r})"


def _guard(editor: _Editor, statements: Sequence[Guarded], file: str, own: Sequence[str]) -> None:
    """Guard one statement, or the block that several stand in; what it binds itself does not outlive it."""
    first, last = statements[0].lines
    indent = editor.indent(first)
    if editor.is_block(first, last):
        editor.deepen(first, last)
        editor.before(first, [f"{indent}try:"], innermost=True)
    else:
        editor.prefix(first, "try: ")
    logged = ", ".join(f"({s.name!r}, {_counted_anew(max(s.log_lines, default=last))})" for s in statements)
    failed = f"__flor__.failed(({logged},), {file!r}, {_counted_anew(first)}, {first})"
    after = [f"{indent}except Exception: {failed}"]
    for name in own:
        after += [f"{indent}try: del {name}", f"{indent}except NameError: pass"]
    if any(s.watched for s in statements):
        keys = "".join(f"{s.key!r}, " for s in statements)
        editor.before(first, [f"{indent}__flor__.begin(({keys}), {any(s.unknown for s in statements)})"])
        after.append(f"{indent}__flor__.end(({keys}))")
    editor.after(last, after, guards=True)


def _own_names(tree: ast.Module, lines: tuple[int, int], added: Sequence[tuple[int, int]]) -> list[str]:
    """Names that added lines bind and that nothing but added lines uses."""
    inside = _statements(tree, lines)
    bound = {name for syntax in inside for name in binds(syntax)}
    if not bound:
        return []
    scope: ast.AST = tree
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
            n in inside for n in ast.walk(node)
        ):
            scope = node
            break  # the outermost function: its inner ones may read the name
    used: set[str] = set()
    todo: list[ast.AST] = [scope]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.stmt) and any(
            first <= node.lineno and (node.end_lineno or node.lineno) <= last for first, last in added
        ):
            continue
        used.update(_mentioned(node))
        todo += ast.iter_child_nodes(node)
    return sorted(bound - used)


def _statements(tree: ast.Module, lines: tuple[int, int]) -> list[ast.stmt]:
    """The outermost statements on some lines."""
    found: list[ast.stmt] = []
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.stmt) and lines[0] <= node.lineno and (node.end_lineno or 0) <= lines[1]:
            found.append(node)
        else:
            todo += ast.iter_child_nodes(node)
    return found


def _mentioned(node: ast.AST) -> Iterable[str]:
    """Names of variables that a node spells itself."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.arg):
        return (node.arg,)
    if isinstance(node, ast.alias):
        return (node.asname or node.name.partition(".")[0],)
    if isinstance(node, ast.Global | ast.Nonlocal):
        return node.names
    name = getattr(node, "name", None) or getattr(node, "rest", None)
    return (name,) if isinstance(name, str) else ()


class _Editor:
    """Edits of whole lines, applied at once."""

    def __init__(self, source: str) -> None:
        self.newline = "\r\n" if "\r\n" in source else "\n"
        self.lines = source_lines(source, keepends=True)
        self._before: dict[int, list[str]] = defaultdict(list)
        self._after: dict[int, list[str]] = defaultdict(list)
        self._inside_string = _string_lines(source)

    def indent(self, line: int) -> str:
        text = self.lines[line - 1]
        return text[: len(text) - len(text.lstrip(" \t"))]

    def is_block(self, first: int, last: int) -> bool:
        """Whether the statement on these lines is a compound one."""
        indent = self.indent(first)
        text = "".join(self.lines[first - 1 : last])
        tree = parse_python("if True:\n" + text if indent else text)
        body = tree.body[0].body if indent and isinstance(tree.body[0], ast.If) else tree.body
        return len(body) > 1 or not isinstance(body[0], ast.Expr)

    def before(self, line: int, texts: list[str], *, innermost: bool = False) -> None:
        self._before[line] = [*self._before[line], *texts] if innermost else [*texts, *self._before[line]]

    def after(self, line: int, texts: list[str], *, guards: bool = False) -> None:
        """Put lines behind a line; those that end a guarded statement come first."""
        self._after[line] = texts + self._after[line] if guards else self._after[line] + texts

    def open_else(self, line: int, texts: list[str]) -> bool:
        """Where a block stands on the line of its `else:`, put it on a line of its own, behind some others."""
        found = re.match(r"([ \t]*)(else[ \t]*:)[ \t]*(?=[^\s#])", self.lines[line - 1])
        if found is None:
            return False
        indent = found[1] + ("\t" if "\t" in found[1] else "    ")
        self.before(line, [found[1] + found[2], *(indent + text for text in texts)])
        self.lines[line - 1] = indent + self.lines[line - 1][found.end() :]
        return True

    def prefix(self, line: int, text: str) -> None:
        indent = self.indent(line)
        self.lines[line - 1] = indent + text + self.lines[line - 1][len(indent) :]

    def deepen(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            if number not in self._inside_string and self.lines[number - 1].strip():
                self.lines[number - 1] = "    " + self.lines[number - 1] if "\t" not in self.indent(number) else (
                    "\t" + self.lines[number - 1]
                )  # fmt: skip

    def result(self) -> tuple[str, dict[int, int]]:
        out: list[str] = []
        origin: dict[int, int] = {}
        placed: dict[int, int] = {}
        later: list[int] = []
        for number, text in enumerate(self.lines, 1):
            out += [t + self.newline for t in self._before.get(number, [])]
            out.append(text)
            origin[len(out)] = number
            placed[number] = len(out)
            added = self._after.get(number, [])
            if added and not text.endswith(("\n", "\r")):
                out[-1] += self.newline
            for extra in added:
                later.append(len(out))
                out.append(extra + self.newline)
        for index in later:
            out[index] = _LINE.sub(lambda found: str(placed[int(found[1])]), out[index])
        return "".join(out), origin


_LINE = re.compile("\0([0-9]+)\0")


def _counted_anew(line: int) -> str:
    """A line of the source, to be written as the line that it has in the patched text."""
    return f"\0{line}\0"  # no source has such a character


def _string_lines(source: str) -> set[int]:
    """Lines that begin inside a string: indenting them would change it."""
    inside: set[int] = set()
    starts: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if token.type == tokenize.STRING:
            inside.update(range(token.start[0] + 1, token.end[0] + 1))
        elif name == "FSTRING_START":
            starts.append(token.start[0])
        elif name == "FSTRING_END" and starts:
            inside.update(range(starts.pop() + 1, token.end[0] + 1))
    return inside
