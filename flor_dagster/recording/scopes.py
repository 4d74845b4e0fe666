"""Which names code binds in its own scope, and what Python calls them there."""

from __future__ import annotations

import ast
import functools
import importlib.util
import io
import linecache
from collections.abc import Iterable, Iterator

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
SCOPES = (*FUNCTIONS, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


as_loaded: dict[str, bytes] = {}
"""File, as its code objects name it → its bytes when it was loaded. Who edits it later changes nothing of what runs."""


@functools.lru_cache(maxsize=256)
def parse_file(file: str) -> ast.Module | None:
    """The syntax tree of a file as it was loaded, else as Python's traceback machinery would show it; None where there is none."""
    source: bytes | str = as_loaded.get(file) or "".join(linecache.getlines(file))
    if not source:
        return None
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None


def source_line(file: str, line: int) -> str:
    """A line (from 1 on) of a file, likewise; empty where there is none."""
    if file not in as_loaded:
        return linecache.getline(file, line)
    lines = io.StringIO(importlib.util.decode_source(as_loaded[file])).readlines()
    return lines[line - 1] if 0 < line <= len(lines) else ""


def walk_with_scope(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST, str]]:
    """Every node, the scope that it stands in, and the name of the class around it, empty where there is none."""
    stack: list[tuple[ast.AST, ast.AST, str]] = [(tree, tree, "")]
    while stack:
        node, scope, owner = stack.pop()
        yield node, scope, owner
        inner = node if isinstance(node, SCOPES) else scope
        name = node.name if isinstance(node, ast.ClassDef) else owner
        stack.extend((child, inner, name) for child in ast.iter_child_nodes(node))


def mangled(names: Iterable[str], owner: str) -> frozenset[str]:
    """The names as Python knows them within a class: `__x` is `_Class__x` there."""
    prefix = owner.lstrip("_")
    if not prefix:
        return frozenset(names)
    return frozenset(
        f"_{prefix}{n}" if n.startswith("__") and not n.endswith("__") and "." not in n else n for n in names
    )


def own_nodes(statements: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Every node of the statements that runs in their own scope; a scope within it is there, without its content."""
    stack: list[ast.AST] = list(statements)
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, SCOPES):
            stack.extend(ast.iter_child_nodes(node))


def bound_names(statements: Iterable[ast.stmt], scope: ast.AST | None = None) -> set[str]:
    """The names that the statements bind or delete in their own scope.

    Where a function nested in the scope rebinds a name by `nonlocal` or `global`, calling it binds that name too.
    """
    names: set[str] = set()
    stack: list[ast.AST] = list(statements)
    while stack:
        node = stack.pop()
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.update((a.asname or a.name).partition(".")[0] for a in aliases)
            case ast.ExceptHandler(name=str(name)):
                names.add(name)
            case (
                ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name))
            ):
                names.add(name)
            case _:
                pass
        if isinstance(node, _COMPREHENSIONS):
            names.update(n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
            stack.extend(g.iter for g in node.generators[:1])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            stack.extend(node.decorator_list)
        elif not isinstance(node, ast.Lambda):
            stack.extend(ast.iter_child_nodes(node))
    if scope is not None:
        names |= _rebound_from_inside(scope)
    return names


def _rebound_from_inside(scope: ast.AST) -> set[str]:
    """Names of a scope that the functions nested in it rebind."""
    if isinstance(scope, ast.Module):
        return {name for node in ast.walk(scope) if isinstance(node, ast.Global) for name in node.names}
    body = getattr(scope, "body", [])
    inner = [n for n in own_nodes(body if isinstance(body, list) else [body]) if isinstance(n, SCOPES)]
    found: set[str] = set()
    for node in inner:
        found |= _passed_out(node)
    return found


def _passed_out(scope: ast.AST) -> set[str]:
    """Names of the scopes around a nested one that it, or one within it, rebinds by `nonlocal`."""
    body = getattr(scope, "body", [])
    statements = body if isinstance(body, list) else [body]
    nodes = list(own_nodes(statements))
    own = {name for node in nodes if isinstance(node, ast.Nonlocal) for name in node.names}
    from_inside = {name for node in nodes if isinstance(node, SCOPES) for name in _passed_out(node)}
    if isinstance(scope, FUNCTIONS):
        arguments = {a.arg for a in ast.walk(scope.args) if isinstance(a, ast.arg)}
        from_inside -= (bound_names([s for s in statements if isinstance(s, ast.stmt)]) | arguments) - own
    return own | from_inside
