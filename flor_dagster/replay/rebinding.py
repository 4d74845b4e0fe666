"""Restored local names without a changed line: the patch of a source that goes on in the user's own tree.

A replay patches the text of its own checkout. A training that is resumed runs the user's files, and what it records must
carry their line numbers: here the syntax tree is changed in memory, every node keeps its line and column, no file is touched.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from types import CodeType

from flor_dagster.parsing import parse_python
from flor_dagster.recording.source import find_loop

NAME = "__flor_resume__"
"""What the changed code calls: an object with `has(name)`, `take(name)` and `rebound()`."""

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def compile_rebound(source: bytes, file: str, loops: Iterable[tuple[int, int]]) -> CodeType:
    """Compile a file so that a loop that was skipped or entered leaves its local names bound.

    Args:
        source: the file's bytes.
        file: its path, as the code shall know it.
        loops: line and column of the `flor.loop(...)` calls in functions that may be skipped or entered.

    Raises:
        SyntaxError: as `compile` would.
    """
    tree = parse_python(source, file)
    wanted = set(loops)
    for node in list(ast.walk(tree)):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                _rebind_block(tree, block, wanted)
    ast.fix_missing_locations(tree)
    return compile(tree, file, "exec", dont_inherit=True)


def _rebind_block(tree: ast.Module, block: list[ast.stmt], wanted: set[tuple[int, int]]) -> None:
    for statement in list(block):
        if not isinstance(statement, ast.For) or not _in_function(tree, statement):
            continue
        calls = (c for c in ast.walk(statement.iter) if isinstance(c, ast.Call))
        position = next(((c.lineno, c.col_offset) for c in calls if (c.lineno, c.col_offset) in wanted), None)
        found = None if position is None else find_loop(tree, *position)
        if found is None or found.reason:
            continue
        names = sorted(found.stored)
        block[block.index(statement) + 1 : block.index(statement) + 1] = _takes(names, statement)
        statement.body[:0] = _takes(names, statement)
        if statement.orelse:
            statement.orelse[:0] = _takes(names, statement)


def _in_function(tree: ast.Module, target: ast.For) -> bool:
    return any(
        isinstance(node, _FUNCTIONS) and any(inner is target for inner in ast.walk(node))
        for node in ast.walk(tree)
    )


def _takes(names: Iterable[str], at: ast.For) -> list[ast.stmt]:
    """`if __flor_resume__.has('x'): x = __flor_resume__.take('x')`, a statement per name; then `__flor_resume__.rebound()`."""
    added: list[ast.stmt] = []
    for name in names:
        test = _call("has", name)
        assign = ast.Assign([ast.Name(name, ast.Store())], _call("take", name))
        added.append(ast.If(test, [assign], []))
    added.append(ast.Expr(_call("rebound")))
    for statement in added:
        for node in ast.walk(statement):
            if isinstance(node, ast.expr | ast.stmt):
                ast.copy_location(node, at.target)
    return added


def _call(method: str, *names: str) -> ast.Call:
    given: list[ast.expr] = [ast.Constant(name) for name in names]
    return ast.Call(ast.Attribute(ast.Name(NAME, ast.Load()), method, ast.Load()), given, [])
