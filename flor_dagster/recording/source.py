"""What the source says of a loop: its `for` statement, what its body binds and reads, how it can be left.

Pure functions on the standard library's `ast`; the recorder and the replay's patcher both use them, so that a loop is
seen in the same way when it is recorded and when it is skipped.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

from flor_dagster.recording.scopes import SCOPES, bound_names, mangled, own_nodes, parse_file, walk_with_scope
from flor_dagster.recording.tainting import tainted_names
from flor_dagster.recording.touching import DYNAMIC_NAMES, NOTHING, Touches, dotted, touches_of

# Wrappers that pull from a loop one by one and add nothing that outlives it.
TRANSPARENT_WRAPPERS = frozenset({"enumerate", "tqdm", "trange", "track"})

MOST_POSITIONS = 1024


@dataclass(frozen=True, slots=True)
class LoopSource:
    """One `for` statement over a `flor.loop(...)`.

    `stored` are the names that the statement binds in its own scope, `targets` the loop's own among them, `loaded` the ones that it reads (nested functions
    and its iterable included), `first_stored` those of `stored` whose value no iteration reads before it binds them, `untouched` those of them that no function in
    its scope reads,
    `tainted` those of its scope that hold clock or process values. `reason` says why its executions can't be skipped, empty if
    they can. `wrappers` are the dotted names of what pulls from it in the iterable (`enumerate`, `tqdm`), `touches` what its
    code reaches without naming it plainly. Lines are 1-based.
    """

    line: int
    end_line: int
    stored: frozenset[str]
    targets: frozenset[str]
    loaded: frozenset[str]
    first_stored: frozenset[str]
    untouched: frozenset[str]
    read_outside: frozenset[str]
    tainted: frozenset[str]
    breaks: tuple[tuple[int, int], ...]
    has_else: bool
    nested: bool
    reason: str
    wrappers: tuple[tuple[str, ...], ...] = ()
    touches: Touches = NOTHING


# By identity: to hash a code object takes as long as to look. The code is kept with it, so that its id stays its own.
_positions: dict[tuple[int, int], tuple[CodeType, tuple[int, int]]] = {}


def call_position(code: CodeType, lasti: int) -> tuple[int, int]:
    """Line (1-based) and column (0-based, in bytes) of the instruction that a frame is at; zeros where unknown."""
    known = _positions.get((id(code), lasti))
    if known is not None:
        return known[1]
    found = 0, 0
    for index, position in enumerate(code.co_positions()):
        if index == lasti // 2:
            found = position[0] or 0, position[2] or 0
            break
    if len(_positions) >= MOST_POSITIONS:
        _positions.clear()
    _positions[id(code), lasti] = code, found
    return found


@functools.lru_cache(maxsize=1024)
def loop_source(file: str, line: int, column: int) -> LoopSource | None:
    """The `for` statement whose iterable holds the call that starts at a position; None where there is none."""
    tree = parse_file(file)
    return find_loop(tree, line, column) if tree is not None else None


def find_loop(tree: ast.Module, line: int, column: int) -> LoopSource | None:
    """As `loop_source`, in a tree."""
    for node, scope, owner in walk_with_scope(tree):
        if isinstance(node, ast.For | ast.AsyncFor) and _iterates(node.iter, line, column) is not None:
            return _describe(tree, node, scope, owner, line, column)
    return None


def _iterates(node: ast.expr, line: int, column: int) -> str | None:
    """Empty if the call at the position is what the loop pulls from, a reason if it is elsewhere in the iterable."""
    if isinstance(node, ast.Call):
        if (node.lineno, node.col_offset) == (line, column) and not _wrapped_call_at(node, line, column):
            return ""
        name = _called_name(node.func)
        if name in TRANSPARENT_WRAPPERS and node.args:
            return _iterates(node.args[0], line, column)
    for child in ast.walk(node):
        if isinstance(child, ast.Call) and (child.lineno, child.col_offset) == (line, column):
            if isinstance(node, ast.Call):
                return f"it is consumed by `{_called_name(node.func) or 'a call'}(…)`"
            return "it is not the loop's iterable itself"
    return None


def _wrappers(node: ast.expr) -> Iterator[tuple[str, ...]]:
    """The dotted names of the transparent wrappers around a loop, the outermost first."""
    while isinstance(node, ast.Call) and _called_name(node.func) in TRANSPARENT_WRAPPERS and node.args:
        yield dotted(node.func)
        node = node.args[0]


def _wrapped_call_at(node: ast.Call, line: int, column: int) -> bool:
    """Whether a transparent wrapper starts at the same position (`flor.loop(...)` can't: its name starts it)."""
    return _called_name(node.func) in TRANSPARENT_WRAPPERS


def _called_name(func: ast.expr) -> str:
    if isinstance(func, ast.Name):
        return func.id
    return func.attr if isinstance(func, ast.Attribute) else ""


def _describe(
    tree: ast.Module, node: ast.For | ast.AsyncFor, scope: ast.AST, owner: str, line: int, column: int
) -> LoopSource:
    body = [*node.body]
    stored = frozenset(bound_names([node], scope))
    loaded = frozenset(
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
    )
    reason = _iterates(node.iter, line, column) or ""
    if isinstance(node, ast.AsyncFor):
        reason = reason or "it is an `async for`"
    if isinstance(scope, ast.ClassDef):
        reason = reason or "it stands in a class body"
    if any(isinstance(n, ast.Yield | ast.YieldFrom | ast.Await) for n in own_nodes(body)):
        reason = reason or "its body yields or awaits"
    touches = touches_of(node)
    dynamic = sorted((loaded & DYNAMIC_NAMES) - stored) or [touches.frames]
    if dynamic[0]:
        reason = reason or f"its body calls `{dynamic[0]}`, so what it changes can't be known"
    if node.body[0].lineno == node.lineno:
        reason = reason or "its body stands on the line of the `for`"
    first = _first_stored(node)
    return LoopSource(
        line=node.lineno,
        end_line=node.end_lineno or node.lineno,
        stored=mangled(stored, owner),
        targets=mangled((n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)), owner),
        loaded=mangled(loaded, owner),
        first_stored=mangled(first, owner),
        untouched=mangled(first - _read_by_functions(scope), owner),
        read_outside=mangled(_read_outside(node, scope), owner),
        tainted=mangled(tainted_names(tree, scope), owner),
        wrappers=tuple(_wrappers(node.iter)),
        touches=touches,
        breaks=tuple(_own_breaks(body)),
        has_else=bool(node.orelse),
        nested=any(isinstance(n, ast.For | ast.While | ast.AsyncFor) for s in body for n in ast.walk(s)),
        reason=reason,
    )


def _first_stored(node: ast.For | ast.AsyncFor) -> frozenset[str]:
    """Names that every iteration binds at the top of its body before anything in it reads them."""
    safe = {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
    read: set[str] = {n.id for n in ast.walk(node.iter) if isinstance(n, ast.Name)}
    for statement in node.body:
        loads = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        read |= loads - safe
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                safe |= {
                    n.id for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
                } - read
    return frozenset(safe - read)


def _read_by_functions(scope: ast.AST) -> frozenset[str]:
    """Names that functions and classes within a scope read, their own ones included."""
    inner = [n for n in ast.walk(scope) if isinstance(n, SCOPES) and n is not scope]
    return frozenset(
        n.id
        for other in inner
        for n in ast.walk(other)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
    )


def _read_outside(node: ast.For | ast.AsyncFor, scope: ast.AST) -> frozenset[str]:
    """Names that the scope reads anywhere outside the loop's body, its functions included."""
    inside = {id(n) for statement in node.body for n in ast.walk(statement)}
    return frozenset(
        n.id
        for n in ast.walk(scope)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load | ast.Del) and id(n) not in inside
    )


def _own_breaks(body: list[ast.stmt]) -> Iterator[tuple[int, int]]:
    """Line and column of every `break` that leaves this loop."""
    stack: list[ast.AST] = list(body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Break):
            yield node.lineno, node.col_offset
        elif isinstance(node, ast.For | ast.While | ast.AsyncFor):
            stack.extend(node.orelse)
        elif not isinstance(node, SCOPES):
            stack.extend(ast.iter_child_nodes(node))
