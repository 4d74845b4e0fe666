"""What scopes bind, and what code names, read from syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)


def imports_of(tree: ast.Module) -> dict[str, str]:
    """What each imported name means: `np` is numpy, `Popen` is subprocess.Popen."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def own_of(scope: ast.AST) -> Iterator[ast.AST]:
    """Every node of a scope but those in functions and classes within it."""
    stack = list(ast.iter_child_nodes(scope))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, (*DEFINITIONS, ast.Lambda)):
            stack.extend(ast.iter_child_nodes(node))


def bindings_of(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr, int]]:
    """Names that are bound to expressions by assignments: (name, expression, line)."""
    for node in nodes:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        for target in targets if value is not None else ():
            for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(one, ast.Name) and value is not None:
                    yield one.id, value, one.lineno


def attributes_of(tree: ast.Module) -> Iterator[tuple[str, ast.expr, int]]:
    """Attributes that are bound to expressions: `self.pool = Pool()`."""
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Attribute) and isinstance(node, ast.Assign):
                yield target.attr, node.value, target.lineno


def names_in(node: ast.AST) -> set[str]:
    """Every name and attribute in some code."""
    found: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            found.add(inner.id)
        elif isinstance(inner, ast.Attribute):
            found.add(inner.attr)
    return found


def calls_in(nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    """The calls among some nodes."""
    return (node for node in nodes if isinstance(node, ast.Call))


def last_name(node: ast.AST) -> str:
    """The last part of a name or an attribute, empty for anything else."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def function_around(tree: ast.Module, loop: ast.AST) -> ast.AST | None:
    """The innermost function that a loop stands in."""
    around = [n for n in ast.walk(tree) if isinstance(n, FUNCTIONS) and any(i is loop for i in ast.walk(n))]
    return around[-1] if around else None


def yields(function: ast.AST) -> bool:
    """Whether a function makes a generator."""
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own_of(function))


def is_endless(function: ast.AST) -> bool:
    """Whether it holds a `while True` that nothing leaves."""
    return any(
        isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and bool(node.test.value)
        and not any(isinstance(inner, ast.Break | ast.Return) for inner in ast.walk(node))
        for node in own_of(function)
    )  # fmt: skip


def is_true(call: ast.Call, keyword: str) -> bool:
    """Whether a call says that a keyword is True."""
    return any(
        k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is True
        for k in call.keywords
    )
