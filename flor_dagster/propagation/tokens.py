"""A statement as tokens: what it says, without comments, line breaks, quotes and redundant parentheses."""

from __future__ import annotations

import ast
from typing import cast

from flor_dagster.propagation.syntax import SCOPES


def header_tokens(syntax: ast.stmt | ast.Module, out: list[str], renames: dict[str, str]) -> None:
    """Tokens of a statement without the statements inside."""
    out.append(type(syntax).__name__)
    if isinstance(syntax, SCOPES):
        out.append("n:" + renames.get(syntax.name, syntax.name))
    for name, value in ast.iter_fields(syntax):
        if name in (
            "body",
            "orelse",
            "finalbody",
            "handlers",
            "cases",
            "type_ignores",
            "name",
            "type_comment",
        ):
            continue
        _add_value(value, out, renames)


def add_tokens(node: ast.AST, out: list[str], renames: dict[str, str]) -> None:
    """Tokens of an expression: `n:` names, `a:` attributes, `c:` constants, `k:` keywords, the rest structure."""
    if isinstance(node, ast.Name):
        out.append("n:" + renames.get(node.id, node.id))
    elif isinstance(node, ast.Constant):
        _add_constant(node.value, out)
    elif isinstance(node, ast.Attribute):
        add_tokens(node.value, out, renames)
        out.append("a:" + node.attr)
    elif isinstance(node, ast.arg):
        out.append("n:" + renames.get(node.arg, node.arg))
        if node.annotation is not None:
            add_tokens(node.annotation, out, renames)
    elif isinstance(node, ast.keyword):
        out.append(f"k:{node.arg}")
        add_tokens(node.value, out, renames)
    elif isinstance(node, ast.alias):
        out.append("i:" + node.name)
        if node.asname:
            out.append("n:" + node.asname)
    elif not isinstance(node, ast.expr_context):
        out.append(type(node).__name__)
        for _, value in ast.iter_fields(node):
            _add_value(value, out, renames)


def _add_value(value: object, out: list[str], renames: dict[str, str]) -> None:
    if isinstance(value, ast.AST):
        add_tokens(value, out, renames)
    elif isinstance(value, list):
        out.append(f"[{len(value)}")
        for item in cast("list[object]", value):
            _add_value(item, out, renames)
    elif value is None:
        out.append("-")
    else:
        out.append(f"s:{value}")


def _add_constant(value: object, out: list[str]) -> None:
    if isinstance(value, str):
        # The words of a message tell that it is the same message after an edit; the whole text, that it is equal.
        out.append("-" + value)
        words = value.split()[:8]
        out.extend("c:" + word for word in words)
        if not words:
            out.append("c:''")
    else:
        out.append(f"c:{value!r}")
