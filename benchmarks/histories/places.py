"""Statements of a source text with where they stand; the truth of a case is such a place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

LOOPS = (ast.For, ast.While, ast.AsyncFor)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Place:
    """A statement, the block that it is in, and the owners around it, outermost first."""

    node: ast.stmt
    block: tuple[ast.stmt, ...]
    owners: tuple[ast.AST, ...]

    @property
    def index(self) -> int:
        return next(i for i, s in enumerate(self.block) if s is self.node)

    @property
    def repeated(self) -> tuple[int, ...]:
        """What decides how often it runs: the functions, classes and loops around it, by their lines."""
        around = [o for o in self.owners if isinstance(o, (*LOOPS, *FUNCTIONS, ast.ClassDef))]
        return tuple(getattr(o, "lineno", 0) for o in around)

    @property
    def function(self) -> ast.AST | None:
        return next((o for o in reversed(self.owners) if isinstance(o, FUNCTIONS)), None)


def blocks(owner: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(owner, name, None)
        if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
            yield block
    for part in (*getattr(owner, "handlers", ()), *getattr(owner, "cases", ())):
        yield part.body


def places(tree: ast.AST, owners: tuple[ast.AST, ...] = ()) -> Iterator[Place]:
    """Every statement, in source order."""
    for block in blocks(tree):
        for statement in block:
            yield Place(statement, tuple(block), (*owners, tree))
            yield from places(statement, (*owners, tree))


def anchors(tree: ast.AST, lines: list[str]) -> Iterator[tuple[Place, str]]:
    """Assignments of one name, inside a function or a loop, alone on their lines: a value that one would log."""
    for place in places(tree):
        node = place.node
        if not isinstance(node, (ast.Assign, ast.AugAssign)):
            continue
        target = (
            node.targets[0]
            if isinstance(node, ast.Assign) and len(node.targets) == 1
            else getattr(node, "target", None)
        )
        if not isinstance(target, ast.Name) or isinstance(getattr(node, "value", None), ast.Constant):
            continue
        inside = any(isinstance(o, (*FUNCTIONS, *LOOPS)) for o in place.owners)
        alone = (
            not lines[node.lineno - 1][: node.col_offset].strip() and ";" not in lines[node.end_lineno - 1]
        )
        if inside and alone and len(place.block) >= 2:
            yield place, target.id


def bound_names(tree: ast.AST) -> set[str]:
    """Every name that a text binds anywhere."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update((a.asname or a.name).split(".")[0] for a in node.names)
    return found
