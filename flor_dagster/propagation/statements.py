"""Find the `flor.log` statements of a source text, under any import form, and say where they stand."""

from __future__ import annotations

import ast
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from flor_dagster.computed import pattern_of
from flor_dagster.propagation.model import Statement
from flor_dagster.propagation.names import dotted, expressions
from flor_dagster.propagation.syntax import FUNCTIONS, block_parts, parse

PACKAGES = ("flor_dagster", "flor", "flordb")


@dataclass(frozen=True, slots=True)
class Aliases:
    """How a file spells our functions."""

    modules: frozenset[str]
    log: frozenset[str]
    loop: frozenset[str]

    @property
    def roots(self) -> frozenset[str]:
        """Names that stand for us."""
        return frozenset({m.partition(".")[0] for m in self.modules} | self.log | self.loop)

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
    return _survey(module)[0]


def _survey(module: ast.Module) -> tuple[Aliases, list[int]]:
    """How a file imports us, and the lines of its calls of `flor.log`, in order."""
    modules: set[str] = set()
    log: set[str] = set()
    loop: set[str] = set()
    calls: list[ast.Call] = []
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            calls.append(node)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in PACKAGES:
                    modules.add(alias.asname or alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module in PACKAGES and not node.level:
            for alias in node.names:
                if alias.name in ("log", "loop"):
                    (log if alias.name == "log" else loop).add(alias.asname or alias.name)
    if not modules:
        modules.add("flor")
    spelled = Aliases(frozenset(modules), frozenset(log), frozenset(loop))
    return spelled, sorted(c.lineno for c in calls if spelled.is_log(c))


Form = Literal["alone", "assigned", "within", "sometimes"]
"""How a `flor.log` call stands in its statement.

`alone`: the statement does nothing else. `assigned`: its value is bound to one name or attribute. `within`: its value is
used by the statement, which evaluates it once whenever it runs. `sometimes`: how often it is evaluated is known only when
it runs (in a lambda, a comprehension, behind `and`, in the test of a `while`).
"""

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp)


@dataclass(frozen=True, slots=True)
class Found:
    """A `flor.log` call with the statement that holds it."""

    statement: Statement
    syntax: ast.stmt
    call: ast.Call
    form: Form


def logged_name(call: ast.Call) -> str | None:
    """The name that a `flor.log` call logs, with holes where it is computed (`norm/{}`)."""
    first = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "name"), None)
    return None if first is None else pattern_of(first)


def logged_value(call: ast.Call) -> ast.expr | None:
    """The expression that a `flor.log` call logs."""
    if len(call.args) > 1:
        return call.args[1]
    return next((k.value for k in call.keywords if k.arg == "value"), None)


def logged_expression(call: ast.Call) -> str:
    """The expression that a `flor.log` call logs, normalised."""
    value = logged_value(call)
    return "" if value is None else ast.unparse(value)


def calls_in(statement: ast.stmt | ast.Module, spelled: Aliases) -> list[tuple[ast.Call, Form]]:
    """The `flor.log` calls of a statement's own line, without those of the statements inside."""
    found: list[tuple[ast.Call, Form]] = []

    def visit(node: ast.AST, *, certain: bool) -> None:
        if isinstance(node, ast.Call) and spelled.is_log(node):
            found.append((node, "within" if certain else "sometimes"))
        for child, always in _evaluated(node):
            visit(child, certain=certain and always)

    for expression in expressions(statement):
        visit(expression, certain=not isinstance(statement, ast.While))
    value = statement.value if isinstance(statement, (ast.Expr, ast.Assign, ast.AnnAssign)) else None
    if isinstance(value, ast.Await):
        value = value.value
    if isinstance(statement, ast.Expr):
        return [(call, "alone" if call is _only_call(value) else form) for call, form in found]
    return [
        (call, "assigned" if call is value and _target(statement) is not None else form)
        for call, form in found
    ]


def _only_call(value: ast.expr | None) -> ast.expr | None:
    """The call whose value an expression statement throws away, also behind a condition or once for each item."""
    if isinstance(value, ast.BoolOp):
        return _only_call(value.values[-1])
    if isinstance(value, ast.IfExp):
        return _only_call(value.body)
    if isinstance(value, _COMPREHENSIONS):
        return _only_call(value.elt)
    return value


def _evaluated(node: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """Parts of an expression, and whether each is evaluated exactly once whenever the whole is."""
    if isinstance(node, ast.Lambda):
        yield node.body, False
        yield from ((d, True) for d in (*node.args.defaults, *node.args.kw_defaults) if d is not None)
    elif isinstance(node, ast.BoolOp):
        yield from ((v, not position) for position, v in enumerate(node.values))
    elif isinstance(node, ast.IfExp):
        yield from ((node.test, True), (node.body, False), (node.orelse, False))
    elif isinstance(node, ast.Compare):
        yield node.left, True
        yield from ((c, not position) for position, c in enumerate(node.comparators))
    elif isinstance(node, (*_COMPREHENSIONS, ast.DictComp)):
        for position, generator in enumerate(node.generators):
            yield generator.iter, not position
            yield from ((c, False) for c in generator.ifs)
        results = (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,)
        yield from ((r, False) for r in results)
    else:
        yield from ((child, True) for child in ast.iter_child_nodes(node))


def _target(statement: ast.stmt | ast.Module) -> ast.expr | None:
    """The name or attribute that an assignment binds its whole value to."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return next((t for t in targets if isinstance(t, (ast.Name, ast.Attribute)) and dotted(t)), None)


def bound_to(found: Found) -> str:
    """What a logged value is assigned to: a name or a dotted name, else empty."""
    target = _target(found.syntax)
    return "" if target is None or found.form != "assigned" else dotted(target)


def find(module: ast.Module, spelled: Aliases, lines: Sequence[int]) -> list[Found]:
    """All `flor.log` calls of a parsed file, in order; `lines` are those that they begin on, ascending."""
    found: list[Found] = []
    counts: Counter[tuple[str | None, str, tuple[str, ...]]] = Counter()

    def note(holder: ast.stmt, function: tuple[str, ...], loops: tuple[str, ...]) -> None:
        for call, form in calls_in(holder, spelled):
            place = (logged_name(call), ".".join(function) or "<module>", loops)
            found.append(Found(_statement(holder, call, place, counts[place]), holder, call, form))
            counts[place] += 1

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
                first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))])
                if bisect_left(lines, first) == bisect_right(lines, statement.end_lineno or first):
                    continue
                note(statement, inner_function, here)
                visit(statement, inner_function, here)

    visit(module, (), ())
    return found


def _statement(
    syntax: ast.stmt, call: ast.Call, place: tuple[str | None, str, tuple[str, ...]], ordinal: int
) -> Statement:
    name, function, loops = place
    # A compound statement's lines are its whole block's; the call is in its head.
    spot = call if any(True for _ in block_parts(syntax)) else syntax
    lines = (spot.lineno, spot.end_lineno or spot.lineno)
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


class _Unwrapper(ast.NodeTransformer):
    """Puts the logged value where a call stood: what remains is the program without the statement."""

    def __init__(self, calls: frozenset[int]) -> None:
        self._calls = calls

    def visit_Call(self, node: ast.Call) -> ast.AST:
        value = logged_value(node)
        self.generic_visit(node)
        return node if id(node) not in self._calls or value is None else logged_value(node) or value


@lru_cache(maxsize=8)
def read(source: str, what: str) -> Parsed:
    """Parse a source text and find its statements; the last few are kept.

    In the parsed module, calls whose value is used (`x = flor.log("loss", f())`) are replaced by what they log: the
    statement that holds one is an old one, but for the logging.

    Raises:
        SourceSyntaxError: the text is no Python; the message names it as `what`.
    """
    module = parse(source, what)
    spelled, lines = _survey(module)
    found = tuple(find(module, spelled, lines))
    used = frozenset(id(f.call) for f in found if f.form != "alone")
    if used:
        _Unwrapper(used).visit(module)
    return Parsed(source, module, spelled, found)


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
