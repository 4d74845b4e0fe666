"""Find the `flor.log` statements of a source text, under any import form, and say where they stand."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from flor_dagster.propagation.model import Statement
from flor_dagster.propagation.tree import FUNCTIONS, block_parts, parse

PACKAGES = ("flor_dagster", "flor", "flordb")


@dataclass(frozen=True, slots=True)
class Aliases:
    """How a file spells our functions."""

    modules: frozenset[str]
    log: frozenset[str]
    loop: frozenset[str]

    def is_log(self, call: ast.expr) -> bool:
        """Whether an expression is a call of `flor.log`."""
        return isinstance(call, ast.Call) and self._is(call.func, "log", self.log)

    def is_loop(self, call: ast.expr) -> bool:
        """Whether an expression is a call of `flor.loop`."""
        return isinstance(call, ast.Call) and self._is(call.func, "loop", self.loop)

    def _is(self, function: ast.expr, name: str, names: frozenset[str]) -> bool:
        if isinstance(function, ast.Attribute):
            return function.attr == name and ast.unparse(function.value) in self.modules
        return isinstance(function, ast.Name) and function.id in names


def aliases(module: ast.Module) -> Aliases:
    """Read how a file imports us. A file that never imports `flor` but uses the name means our module."""
    modules: set[str] = set()
    log: set[str] = set()
    loop: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in PACKAGES:
                    modules.add(alias.asname or alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module in PACKAGES and not node.level:
            for alias in node.names:
                if alias.name in ("log", "loop"):
                    (log if alias.name == "log" else loop).add(alias.asname or alias.name)
    if not modules:
        modules.add("flor")
    return Aliases(frozenset(modules), frozenset(log), frozenset(loop))


@dataclass(frozen=True, slots=True)
class Found:
    """A `flor.log` statement with its syntax."""

    statement: Statement
    syntax: ast.stmt


def logged(statement: ast.stmt, spelled: Aliases) -> ast.Call | None:
    """The `flor.log` call that a simple statement is, or whose value it assigns."""
    value = (
        statement.value if isinstance(statement, (ast.Expr, ast.Assign, ast.AnnAssign, ast.Return)) else None
    )
    if isinstance(value, ast.Await):
        value = value.value
    return value if isinstance(value, ast.Call) and spelled.is_log(value) else None


def logged_name(call: ast.Call) -> str | None:
    """The literal name that a `flor.log` call logs."""
    first = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "name"), None)
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def logged_expression(call: ast.Call) -> str:
    """The expression that a `flor.log` call logs, normalised."""
    if len(call.args) > 1:
        return ast.unparse(call.args[1])
    value = next((k.value for k in call.keywords if k.arg == "value"), None)
    return ast.unparse(value) if value is not None else ""


def find(module: ast.Module, spelled: Aliases | None = None) -> list[Found]:
    """All `flor.log` statements of a parsed file, in order."""
    spelled = spelled or aliases(module)
    found: list[Found] = []
    counts: Counter[tuple[str | None, str, tuple[str, ...]]] = Counter()

    def visit(owner: ast.stmt | ast.Module, function: tuple[str, ...], loops: tuple[str, ...]) -> None:
        inner_function, inner_loops = function, loops
        if isinstance(owner, (*FUNCTIONS, ast.ClassDef)):
            inner_function, inner_loops = (*function, owner.name), ()
        for role, _, body in block_parts(owner):
            here = inner_loops
            if role == "body" and isinstance(owner, (ast.For, ast.AsyncFor)):
                name = loop_name(owner, spelled)
                here = (*loops, name) if name else loops
            for statement in body:
                call = logged(statement, spelled)
                if call is not None:
                    place = (logged_name(call), ".".join(inner_function) or "<module>", here)
                    found.append(Found(_statement(statement, call, place, counts[place]), statement))
                    counts[place] += 1
                visit(statement, inner_function, here)

    visit(module, (), ())
    return found


def _statement(
    syntax: ast.stmt, call: ast.Call, place: tuple[str | None, str, tuple[str, ...]], ordinal: int
) -> Statement:
    name, function, loops = place
    lines = (syntax.lineno, syntax.end_lineno or syntax.lineno)
    return Statement(name, logged_expression(call), lines, function, loops, ordinal)


def loop_name(loop: ast.For | ast.AsyncFor, spelled: Aliases) -> str | None:
    """The name of a `flor.loop`, also inside `enumerate` or `tqdm`."""
    for node in ast.walk(loop.iter):
        if isinstance(node, ast.Call) and spelled.is_loop(node) and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                return first.value
    return None


@dataclass(frozen=True, slots=True)
class Parsed:
    """A source text, parsed once."""

    source: str
    module: ast.Module
    spelled: Aliases
    found: tuple[Found, ...]


@lru_cache(maxsize=8)
def read(source: str, what: str) -> Parsed:
    """Parse a source text and find its statements; the last few are kept.

    Raises:
        SourceSyntaxError: the text is no Python; the message names it as `what`.
    """
    module = parse(source, what)
    spelled = aliases(module)
    return Parsed(source, module, spelled, tuple(find(module, spelled)))


def find_statements(source: str) -> tuple[Statement, ...]:
    """Find every `flor.log` statement of a source text.

    Any import form counts: `import flor_dagster as f`, `from flor_dagster import log as l`, and the package's own
    predecessors' names.

    Args:
        source: Python source.

    Returns:
        The statements in source order.

    Raises:
        SourceSyntaxError: the text is no Python.
    """
    return tuple(f.statement for f in read(source.removeprefix("\ufeff"), "source").found)
