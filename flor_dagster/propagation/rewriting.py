"""Put the old version's names into new code, touching nothing but the names."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from flor_dagster.parsing import parse_python
from flor_dagster.propagation.names import dotted


def rewritten(source: str, renames: Mapping[str, str]) -> str:
    """Replace names and dotted names in the source of an expression or statement.

    The longest dotted name wins. Names inside strings and comments stay; so does the layout.
    """
    changes = {name: other for name, other in renames.items() if name != other}
    if not changes:
        return source
    module = parse_python(source)
    spots: list[tuple[int, int, int, int, str]] = []
    _collect(module, changes, spots)
    lines = source.encode().splitlines(keepends=True)
    for line, start, end_line, end, text in sorted(set(spots), reverse=True):
        tail = lines[end_line - 1][end:]
        lines[line - 1] = lines[line - 1][:start] + text.encode() + tail
        del lines[line:end_line]
    result = b"".join(lines).decode()
    # Positions inside f-strings are not to be relied on before Python 3.12.
    wanted = _Renamer(changes).visit(module)
    return result if _same(result, wanted) else ast.unparse(wanted)


def _same(source: str, wanted: ast.AST) -> bool:
    try:
        return ast.dump(parse_python(source)) == ast.dump(wanted)
    except SyntaxError:
        return False


class _Renamer(ast.NodeTransformer):
    def __init__(self, changes: Mapping[str, str]) -> None:
        self._changes = changes

    def _changed(self, node: ast.Name | ast.Attribute) -> ast.AST:
        name = dotted(node)
        if name not in self._changes:
            return self.generic_visit(node)
        made = parse_python(self._changes[name], mode="eval").body
        if isinstance(made, (ast.Name, ast.Attribute)):
            made.ctx = node.ctx
        return made

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._changed(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return self._changed(node)


def captured(syntax: ast.AST, renames: Mapping[str, str]) -> str | None:
    """A name that would be put where the code itself binds that name, so that it would mean something else."""
    own = {n.id for n in ast.walk(syntax) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {n.arg for n in ast.walk(syntax) if isinstance(n, ast.arg)}
    hidden = (o for n, o in sorted(renames.items()) if n != o and (o.partition(".")[0] in own or n in own))
    return next(hidden, None)


def _collect(node: ast.AST, changes: Mapping[str, str], spots: list[tuple[int, int, int, int, str]]) -> None:
    if isinstance(node, (ast.Name, ast.Attribute)):
        name = dotted(node)
        if name in changes:
            end_line, end = node.end_lineno or node.lineno, node.end_col_offset or 0
            spots.append((node.lineno, node.col_offset, end_line, end, changes[name]))
            return
    for child in ast.iter_child_nodes(node):
        _collect(child, changes, spots)


def inside_strings(source: str) -> frozenset[int]:
    """1-based lines of a text that start inside a string: their indentation is content."""
    return lines_inside_strings(parse_python(source))


def lines_inside_strings(syntax: ast.AST) -> frozenset[int]:
    """Lines of some code that start inside a string, counted as the code is."""
    found: set[int] = set()
    for node in ast.walk(syntax):
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and node.end_lineno:
            value = node.value if isinstance(node, ast.Constant) else ""
            if isinstance(value, (str, bytes)):
                found.update(range(node.lineno + 1, node.end_lineno + 1))
    return frozenset(found)
