"""Which names a statement or an expression reads, binds and deletes, by Python's scoping rules."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator

BUILTINS = frozenset(dir(builtins)) | {"__file__", "__name__", "__doc__", "__package__", "__spec__"}

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def expressions(syntax: ast.stmt | ast.Module) -> Iterator[ast.AST]:
    """Expressions that a statement evaluates itself, without the statements inside."""
    skip = {"body", "orelse", "finalbody", "handlers", "cases", "type_ignores"}
    if isinstance(syntax, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield from syntax.decorator_list
        yield from syntax.args.defaults
        yield from (d for d in syntax.args.kw_defaults if d is not None)
        return
    for name, value in ast.iter_fields(syntax):
        if name in skip:
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield item


def parameters(arguments: ast.arguments) -> list[str]:
    """Names of all parameters, in order."""
    args = [*arguments.posonlyargs, *arguments.args]
    if arguments.vararg:
        args.append(arguments.vararg)
    args.extend(arguments.kwonlyargs)
    if arguments.kwarg:
        args.append(arguments.kwarg)
    return [a.arg for a in args]


def imported(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """(bound name, what it stands for) of an import; a star import binds `*`."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            root = alias.name.split(".")[0]
            yield (alias.asname, alias.name) if alias.asname else (root, root)
    else:
        module = "." * statement.level + (statement.module or "")
        for alias in statement.names:
            yield alias.asname or alias.name, f"{module}:{alias.name}"


def bound(syntax: ast.stmt | ast.Module) -> list[str]:
    """Names that running the statement's own line binds in its scope (not those of statements inside)."""
    if isinstance(syntax, (ast.Import, ast.ImportFrom)):
        return [name for name, _ in imported(syntax)]
    names: list[str] = []
    if isinstance(syntax, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        names.append(syntax.name)
    if isinstance(syntax, ast.AnnAssign) and syntax.value is None:
        return names
    for expression in expressions(syntax):
        names.extend(stored(expression))
    return names


def stored(node: ast.AST) -> Iterator[str]:
    """Names that an expression, target or pattern binds in the scope around it."""
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store):
            yield node.id
        return
    if isinstance(node, _COMPREHENSIONS):
        # Only an assignment expression leaves a comprehension's scope.
        yield from (n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
        return
    if isinstance(node, ast.Lambda):
        return
    for child in ast.iter_child_nodes(node):
        yield from stored(child)
    name = (
        node.name
        if isinstance(node, (ast.MatchAs, ast.MatchStar))
        else node.rest
        if isinstance(node, ast.MatchMapping)
        else None
    )
    if name:
        yield name


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a chain of attributes on a name, else empty."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


def deleted(syntax: ast.stmt | ast.Module) -> list[str]:
    """Names that `del` unbinds."""
    if not isinstance(syntax, ast.Delete):
        return []
    return [t.id for t in syntax.targets if isinstance(t, ast.Name)]


def free_names(nodes: Iterable[ast.AST]) -> list[str]:
    """Names that a run of statements or an expression reads from around it, in order of appearance."""
    reader = _FreeNames()
    for node in nodes:
        reader.visit(node)
    return list(reader.found)


class _FreeNames(ast.NodeVisitor):
    """Reads before the own bindings of a straight run of statements; scopes inside keep their own names."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self.own: list[set[str]] = [set()]

    def _is_own(self, name: str) -> bool:
        return any(name in scope for scope in self.own)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.own[-1].add(node.id)
        elif not self._is_own(node.id):
            self.found.setdefault(node.id)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.own[0].add(node.target.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name) and not self._is_own(node.target.id):
            self.found.setdefault(node.target.id)
        self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self.visit(node.target)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        self.own.append(set(parameters(node.args)))
        self.visit(node.body)
        self.own.pop()

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for expression in expressions(node):
            self.visit(expression)
        self.own[-1].add(node.name)
        inner = set(parameters(node.args))
        for statement in ast.walk(ast.Module(body=node.body, type_ignores=[])):
            if isinstance(statement, ast.stmt):
                inner.update(bound(statement))
        self.own.append(inner)
        for statement in node.body:
            self.visit(statement)
        self.own.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self.visit(node.type)
        if node.name:
            self.own[-1].add(node.name)
        for statement in node.body:
            self.visit(statement)

    def visit_Import(self, node: ast.Import) -> None:
        self.own[-1].update(name for name, _ in imported(node))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.own[-1].update(name for name, _ in imported(node))

    def visit_match_case(self, node: ast.match_case) -> None:
        self.own[-1].update(stored(node.pattern))
        self.generic_visit(node)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, *results: ast.expr
    ) -> None:
        self.visit(node.generators[0].iter)
        self.own.append(set())
        for position, generator in enumerate(node.generators):
            if position:
                self.visit(generator.iter)
            self.visit(generator.target)
            for condition in generator.ifs:
                self.visit(condition)
        for result in results:
            self.visit(result)
        self.own.pop()

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node, node.elt)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehension(node, node.elt)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node, node.elt)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node, node.key, node.value)
