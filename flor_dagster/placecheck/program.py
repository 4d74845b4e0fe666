"""One version as a program: its files as they are needed, their functions, and what a name in one of them means."""

from __future__ import annotations

import ast
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
MOST_FILES = 20
_MARKS = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop)
OURS = frozenset({"flor", "flordb", "flor_dagster"})


class Sources(Protocol):
    """The text of each file of one version, by its path; what is never asked for need never be read."""

    def __getitem__(self, path: str, /) -> str:
        """The text of a file."""
        ...

    def __contains__(self, path: object, /) -> bool:
        """Whether the version has such a file."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function of the repository: its file, its qualified name, the class it is a method of, what it stands in."""

    path: str
    qualname: str
    node: FunctionNode
    owner: str | None
    outer: Function | None

    @property
    def name(self) -> str:
        """The last part of the qualified name."""
        return self.node.name


@dataclass(slots=True)
class Module:
    """A parsed file: its functions by qualified name, its classes, and what it imports under which name.

    What is found out about its nodes is kept with it, by their id.
    """

    path: str
    tree: ast.Module
    functions: dict[str, Function] = field(default_factory=dict[str, Function])
    classes: dict[str, ast.ClassDef] = field(default_factory=dict[str, ast.ClassDef])
    imports: dict[str, tuple[str, str | None, int]] = field(
        default_factory=dict[str, tuple[str, str | None, int]]
    )
    names: set[str] = field(default_factory=set[str])
    walrus: bool = False
    shapes: dict[int, str] = field(default_factory=dict[int, str])
    spellings: dict[int, str] = field(default_factory=dict[int, str])
    words: dict[int, frozenset[str]] = field(default_factory=dict[int, frozenset[str]])
    inner: dict[int, list[ast.Call]] = field(default_factory=dict[int, list[ast.Call]])
    ours: set[str] = field(default_factory=set[str])
    our_log: set[str] = field(default_factory=set[str])
    above: dict[int, ast.AST] = field(default_factory=dict[int, ast.AST])
    assigned: list[ast.expr] = field(default_factory=list[ast.expr])
    calls: list[ast.Call] = field(default_factory=list[ast.Call])
    callers: dict[str, list[Function | None]] | None = None


class Program:
    """The files of a version that are reached from a few of them through imports."""

    def __init__(self, sources: Sources, start: tuple[str, ...]) -> None:
        self._sources = sources
        self._modules: dict[str, Module | None] = {}
        self._imported: dict[tuple[str, str], tuple[Module, str | None] | None] = {}
        self._roots = tuple(sorted({posixpath.split(path)[0] for path in start} | {"", "src"}))
        for path in start:
            self.module(path)

    def module(self, path: str) -> Module | None:
        """The parsed file, None where there is none or it is no Python."""
        if path not in self._modules:
            if len(self._modules) >= MOST_FILES or path not in self._sources:
                return None
            try:
                self._modules[path] = parse(path, self._sources[path])
            except (SyntaxError, ValueError, KeyError):
                self._modules[path] = None
        return self._modules[path]

    def loaded(self) -> Iterator[Module]:
        """Every file that was read so far, and what it imports."""
        seen: set[str] = set()
        while True:
            left = [p for p, m in self._modules.items() if m is not None and p not in seen]
            if not left:
                return
            for path in left:
                seen.add(path)
                module = self._modules[path]
                if module is not None:
                    yield module
                    for name in list(module.imports):
                        self.imported(module, name)

    def imported(self, module: Module, name: str) -> tuple[Module, str | None] | None:
        """The repository's own file that an imported name comes from, and the name it has there."""
        if name not in module.imports:
            return None
        key = (module.path, name)
        if key not in self._imported:
            self._imported[key] = self._import(module, name)
        return self._imported[key]

    def _import(self, module: Module, name: str) -> tuple[Module, str | None] | None:
        target, member, level = module.imports[name]
        for path, rest in self._candidates(module.path, target, member, level):
            found = self.module(path)
            if found is not None and found.path != module.path:
                return found, rest
        return None

    def _candidates(
        self, path: str, target: str, member: str | None, level: int
    ) -> Iterator[tuple[str, str | None]]:
        folder = posixpath.split(path)[0]
        if level:
            for _ in range(level - 1):
                folder = posixpath.split(folder)[0]
            bases = [folder]
        else:
            bases = list(dict.fromkeys([folder, *self._roots]))
        inner = target.replace(".", "/")
        for base in bases:
            stem = posixpath.join(base, inner) if inner else base
            if member is not None:
                yield posixpath.join(stem, f"{member}.py"), None
            if stem:
                yield f"{stem}.py", member
            yield posixpath.join(stem, "__init__.py"), member

    def function(self, module: Module, name: str) -> Function | None:
        """The repository's function that a plain name of a file calls; a class means its `__init__`."""
        for _ in range(6):
            if name in module.functions:
                return module.functions[name]
            if name in module.classes:
                return self.method(module, name, "__init__")
            found = self.imported(module, name)
            if found is None or found[1] is None:
                return None
            module, name = found[0], found[1]
        return None

    def method(self, module: Module, owner: str, name: str) -> Function | None:
        """A method of a class of a file, its own or one that a class of the repository hands down."""
        for _ in range(4):
            if f"{owner}.{name}" in module.functions:
                return module.functions[f"{owner}.{name}"]
            node = module.classes.get(owner)
            base = next((b.id for b in node.bases if isinstance(b, ast.Name)), None) if node else None
            if base is None:
                return None
            place = self.class_of(module, base)
            if place is None:
                return None
            module, owner = place
        return None

    def class_of(self, module: Module, name: str) -> tuple[Module, str] | None:
        """Where the repository defines the class that a plain name of a file means."""
        for _ in range(6):
            if name in module.classes:
                return module, name
            found = self.imported(module, name)
            if found is None or found[1] is None:
                return None
            module, name = found[0], found[1]
        return None


@lru_cache(maxsize=48)
def parse(path: str, text: str) -> Module:
    """Parse a file and list what it defines and imports.

    Raises:
        SyntaxError: It is no Python.
    """
    module = Module(path, ast.parse(text))
    _collect(module, module.tree.body, "", None, None)
    for node in _linked(module):
        if isinstance(node, ast.Call):
            module.calls.append(node)
        elif isinstance(node, ast.NamedExpr):
            module.walrus = True
        elif isinstance(node, ast.Assign):
            module.assigned.append(node.value)
        elif isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                module.names.add(node.id)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                module.imports.setdefault(bound, (alias.name if alias.asname else bound, None, 0))
                if alias.name.split(".")[0] in OURS:
                    module.ours.add(bound)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                bound = alias.asname or alias.name
                module.imports.setdefault(bound, (node.module or "", alias.name, node.level))
                if (node.module or "").split(".")[0] in OURS:
                    (module.our_log if alias.name == "log" else module.ours).add(bound)
    return module


def _linked(module: Module) -> Iterator[ast.AST]:
    """All nodes of a file; each learns what it stands in."""
    above = module.above
    stack: list[ast.AST] = [module.tree]
    while stack:
        node = stack.pop()
        for child in children(node):
            above[id(child)] = node
            stack.append(child)
        yield node


def children(node: ast.AST) -> list[ast.AST]:
    """The nodes within a node, in order; faster than `ast.iter_child_nodes`, and without contexts and operators."""
    found: list[ast.AST] = []
    for value in vars(node).values():
        if isinstance(value, list):
            found += [v for v in value if isinstance(v, ast.AST)]
        elif isinstance(value, ast.AST) and not isinstance(value, _MARKS):
            found.append(value)
    return found


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all that it holds."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        stack += children(node)


def _collect(
    module: Module, body: list[ast.stmt], prefix: str, owner: str | None, outer: Function | None
) -> None:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = Function(module.path, prefix + node.name, node, owner, outer)
            module.functions.setdefault(function.qualname, function)
            _collect(module, node.body, f"{prefix}{node.name}.", None, function)
        elif isinstance(node, ast.ClassDef):
            module.classes.setdefault(prefix + node.name, node)
            _collect(module, node.body, f"{prefix}{node.name}.", prefix + node.name, outer)
        else:
            for inner in blocks(node):
                _collect(module, inner, prefix, owner, outer)


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The blocks of statements that a compound statement holds."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield block
    for handler in getattr(node, "handlers", ()):
        yield handler.body
    for case in getattr(node, "cases", ()):
        yield case.body


def is_log(module: Module, node: ast.AST | None) -> bool:
    """Whether a node is a call of ours that logs."""
    if not isinstance(node, ast.Call):
        return False
    func = node.func
    if isinstance(func, ast.Name):
        return func.id in module.our_log
    return (
        isinstance(func, ast.Attribute)
        and func.attr == "log"
        and isinstance(func.value, ast.Name)
        and (func.value.id in module.ours or func.value.id in OURS)
    )


def logged(call: ast.Call) -> ast.expr | None:
    """The expression that a call of ours logs."""
    for keyword in call.keywords:
        if keyword.arg == "value":
            return keyword.value
    return call.args[1] if len(call.args) > 1 else None
