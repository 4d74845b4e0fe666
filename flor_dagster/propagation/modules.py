"""The files of a project as modules: what each imports from the others, and what each offers."""

from __future__ import annotations

import ast
import builtins
import posixpath
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

from flor_dagster.errors import SourceSyntaxError
from flor_dagster.propagation.syntax import FUNCTIONS, SCOPES, block_parts, parse

_BUILTINS = frozenset(dir(builtins)) | {"__file__", "__name__", "__doc__", "__builtins__", "__spec__"}
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True, slots=True)
class LocalImport:
    """A name that a file binds to something of the project.

    `path` is the file that is imported; `name` what is taken out of it, empty where the name stands for the module.
    """

    bound: str
    path: str
    name: str
    syntax: ast.stmt


@lru_cache(maxsize=48)
def parsed(text: str) -> ast.Module | None:
    """A parsed file, None where it is no Python; the last few are kept."""
    try:
        return parse(text.removeprefix("\ufeff"))
    except SourceSyntaxError:
        return None


def local_imports(module: ast.Module, path: str, paths: Collection[str]) -> tuple[LocalImport, ...]:
    """What a file imports from other files of its project.

    Args:
        module: the parsed file.
        path: where it lies.
        paths: all files of the version.
    """
    found: list[LocalImport] = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                target = _module_file(alias.name, path, paths)
                if target is not None:
                    bound = alias.asname or (alias.name if "." not in alias.name else "")
                    found.append(LocalImport(bound, target, "", node))
        elif isinstance(node, ast.ImportFrom):
            found.extend(_from_imports(node, path, paths))
    return tuple(found)


def _from_imports(node: ast.ImportFrom, path: str, paths: Collection[str]) -> Iterator[LocalImport]:
    base = _base_of(node, path)
    for alias in node.names:
        bound = alias.asname or alias.name
        inner = f"{node.module}.{alias.name}" if node.module else alias.name
        if base is None:
            target, module = _module_file(inner, path, paths), _module_file(node.module or "", path, paths)
        else:
            target, module = _in_folder(inner, base, paths), _in_folder(node.module or "", base, paths)
        if target is not None:
            yield LocalImport(bound, target, "", node)
        elif module is not None:
            yield LocalImport(bound, module, alias.name, node)


def _base_of(node: ast.ImportFrom, path: str) -> str | None:
    """The folder that a relative import starts from, None for an absolute one."""
    if not node.level:
        return None
    folder = posixpath.dirname(path)
    for _ in range(node.level - 1):
        folder = posixpath.dirname(folder)
    return folder


def _module_file(name: str, path: str, paths: Collection[str]) -> str | None:
    """The file of an absolutely imported module: beside the importing file, or from a folder above it."""
    folder = posixpath.dirname(path)
    while True:
        found = _in_folder(name, folder, paths)
        if found is not None and found != path:
            return found
        if not folder:
            return _in_folder(name, "src", paths)
        folder = posixpath.dirname(folder)


def _in_folder(name: str, folder: str, paths: Collection[str]) -> str | None:
    where = posixpath.join(folder, *name.split(".")) if name else folder
    for candidate in (where + ".py", posixpath.join(where, "__init__.py")):
        if candidate in paths and (name or candidate.endswith("__init__.py")):
            return candidate
    return None


def offered(module: ast.Module) -> frozenset[str]:
    """The names that a file binds at its top level, imports included; `*` where it imports everything of another."""
    found: set[str] = set()

    def visit(body: list[ast.stmt]) -> None:
        for statement in body:
            found.update(bound_by(statement))
            if not isinstance(statement, SCOPES):
                for _, _, inner in block_parts(statement):
                    visit(inner)

    visit(module.body)
    return frozenset(found)


def bound_by(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement's own line binds in its scope."""
    if isinstance(statement, SCOPES):
        yield statement.name
        return
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        for alias in statement.names:
            plain = alias.name.partition(".")[0] if isinstance(statement, ast.Import) else alias.name
            yield alias.asname or plain
        return
    inner = {id(s) for _, _, body in block_parts(statement) for s in body}
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.NamedExpr):
            yield node.target.id
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            yield node.name
        todo += [
            child
            for child in ast.iter_child_nodes(node)
            if id(child) not in inner and not isinstance(child, (*_COMPREHENSIONS, ast.Lambda))
        ]


def unbound_names(module: ast.Module, first: int, last: int) -> tuple[str, ...]:
    """Names that the lines `first` to `last` of a file read and that nothing there binds: what else must be imported.

    Functions' names are those of the enclosing functions; whether they are assigned in time is not looked at here.

    Args:
        module: the parsed file.
        first: first line, 1-based.
        last: last line, inclusive.
    """
    known = set(_BUILTINS) | offered(module)
    if "*" in known:
        return ()
    scopes: list[ast.AST] = []
    reads: list[str] = []

    def visit(node: ast.AST) -> None:
        line = getattr(node, "lineno", None)
        if isinstance(node, ast.stmt) and first <= node.lineno and (node.end_lineno or 0) <= last:
            known.update(
                n for inner in ast.walk(node) if isinstance(inner, ast.stmt) for n in bound_by(inner)
            )
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name):
                    (reads.append if isinstance(inner.ctx, ast.Load) else known.add)(inner.id)
                elif isinstance(inner, ast.arg):
                    known.add(inner.arg)
            for scope in scopes:
                known.update(_locals_of(scope))
            return
        if (
            line is not None
            and isinstance(node, ast.stmt)
            and (line > last or (node.end_lineno or 0) < first)
        ):
            return
        if isinstance(node, SCOPES):
            scopes.append(node)
        for child in ast.iter_child_nodes(node):
            visit(child)
        if isinstance(node, SCOPES):
            scopes.pop()

    visit(module)
    return tuple(dict.fromkeys(name for name in reads if name not in known))


def _locals_of(scope: ast.AST) -> Iterator[str]:
    if isinstance(scope, FUNCTIONS):
        arguments = scope.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
        yield from (a.arg for a in every)
    body: list[ast.stmt] = list(getattr(scope, "body", []))
    while body:
        statement = body.pop()
        yield from bound_by(statement)
        if not isinstance(statement, SCOPES):
            for _, _, inner in block_parts(statement):
                body.extend(inner)


def runs_nothing(module: ast.Module) -> bool:
    """Whether importing a file only defines things: no statement of its top level could be part of a training."""
    return all(_defines_only(s) for s in module.body)


def _defines_only(statement: ast.stmt) -> bool:
    if isinstance(statement, (*SCOPES, ast.Import, ast.ImportFrom, ast.Pass)):
        return True
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return not any(isinstance(n, (ast.Call, ast.Await)) for n in ast.walk(statement))
    if isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test):
        return True
    if isinstance(statement, (ast.Try, ast.If)):
        return all(_defines_only(s) for _, _, body in block_parts(statement) for s in body)
    return False


def defined_functions(module: ast.Module) -> dict[str, ast.stmt]:
    """Functions and classes of a file by qualified name."""
    found: dict[str, ast.stmt] = {}

    def visit(owner: ast.stmt | ast.Module, path: tuple[str, ...]) -> None:
        for _, _, body in block_parts(owner):
            for statement in body:
                inner = path
                if isinstance(statement, SCOPES):
                    inner = (*path, statement.name)
                    found.setdefault(".".join(inner), statement)
                visit(statement, inner)

    visit(module, ())
    return found
