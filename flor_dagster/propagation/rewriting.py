"""Put the old version's names into new code, touching nothing but the names."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from flor_dagster.propagation.names import dotted


def rewritten(source: str, renames: Mapping[str, str]) -> str:
    """Replace names and dotted names in the source of an expression or statement.

    The longest dotted name wins. Names inside strings and comments stay; so does the layout.
    """
    changes = {name: other for name, other in renames.items() if name != other}
    if not changes:
        return source
    module = ast.parse(source)
    spots: list[tuple[int, int, int, int, str]] = []
    _collect(module, changes, spots)
    lines = source.encode().splitlines(keepends=True)
    for line, start, end_line, end, text in sorted(set(spots), reverse=True):
        tail = lines[end_line - 1][end:]
        lines[line - 1] = lines[line - 1][:start] + text.encode() + tail
        del lines[line:end_line]
    return b"".join(lines).decode()


def _collect(node: ast.AST, changes: Mapping[str, str], spots: list[tuple[int, int, int, int, str]]) -> None:
    if isinstance(node, (ast.Name, ast.Attribute)):
        name = dotted(node)
        if name in changes:
            end_line, end = node.end_lineno or node.lineno, node.end_col_offset or 0
            spots.append((node.lineno, node.col_offset, end_line, end, changes[name]))
            return
    for child in ast.iter_child_nodes(node):
        _collect(child, changes, spots)
