"""From which loops may a function be reached? A conservative answer from names alone."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    """A `flor.loop(...)` call in the old version: its file, and line and column of the call."""

    file: str
    line: int
    column: int


class Reach:
    """Which functions a piece of code may run, directly or through others, by the names that it mentions.

    A name mentioned anywhere counts as a call of every function and class of that name in the repository. What names
    can't decide (special methods, `forward`, functions nested in others or never mentioned) may be reached from everywhere.

    Args:
        sources: file → text of the version's Python files.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._trees: dict[str, ast.Module] = {}
        self._mentions: dict[str, set[str]] = defaultdict(set)
        for file, text in sources.items():
            try:
                self._trees[file] = ast.parse(text)
            except (SyntaxError, ValueError):
                continue
        for tree in self._trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    self._mentions[node.name] |= _mentioned(node)

    def may_run(self, site: Site, function: str) -> bool:
        """Whether the body of the loop at a site may run the function of this qualified name."""
        simple = function.rpartition(".")[2]
        special = (simple.startswith("__") and simple.endswith("__")) or simple in ("forward", "<lambda>")
        if special or "<locals>" in function or not self._mentioned_anywhere(simple):
            return True
        tree = self._trees.get(site.file)
        loop = _for_statement(tree, site) if tree is not None else None
        if loop is None:
            return True
        seen: set[str] = set()
        todo = _mentioned(loop)
        while todo:
            name = todo.pop()
            if name == simple:
                return True
            if name not in seen:
                seen.add(name)
                todo |= self._mentions.get(name, set()) - seen
        return False

    def _mentioned_anywhere(self, name: str) -> bool:
        return any(name in _mentioned(tree) for tree in self._trees.values())

    def span(self, site: Site) -> tuple[int, int] | None:
        """First and last line of the `for` statement at a site."""
        tree = self._trees.get(site.file)
        loop = _for_statement(tree, site) if tree is not None else None
        return (loop.lineno, loop.end_lineno or loop.lineno) if loop is not None else None

    def has_else(self, site: Site) -> bool:
        """Whether the `for` statement at a site has an `else`, or can't be found."""
        loop = _for_statement(self._trees.get(site.file), site)
        return loop is None or bool(loop.orelse)


def _for_statement(tree: ast.Module | None, site: Site) -> ast.For | None:
    if tree is None:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.For):
            for call in ast.walk(node.iter):
                if isinstance(call, ast.Call) and (call.lineno, call.col_offset) == (site.line, site.column):
                    return node
    return None


def _mentioned(node: ast.AST) -> set[str]:
    names: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            names.add(inner.id)
        elif isinstance(inner, ast.Attribute):
            names.add(inner.attr)
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value.isidentifier():
            names.add(inner.value)  # getattr(model, "loss_on")
    return names
