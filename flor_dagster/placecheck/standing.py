"""Where the statement stands in both versions, what was added to the old one, and which names of both it reads."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from flor_dagster.placecheck.program import Module, blocks, is_log, logged, walk

BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__"}
Path = tuple[str, ...]


@dataclass(slots=True)
class Standing:
    """A statement in its version.

    `star` is the statement, or the block of new statements that holds it. With `how` = "own" it is no part of the
    program; else a statement of the program logs on its way, and the place is before or after it. `value` is what it reads.
    """

    module: Module
    star: ast.stmt
    how: Literal["own", "before", "after"]
    value: ast.AST
    added: frozenset[int] = frozenset()
    carried: list[ast.stmt] = field(default_factory=list[ast.stmt])


def added_statements(old: ast.Module, placed: ast.Module, lines: tuple[int, int]) -> list[ast.stmt] | None:
    """The statements that `placed` has and `old` has not; None where other code differs."""
    found: list[ast.stmt] = []
    return found if _same_block(old.body, placed.body, lines, found) else None


def _same_block(
    old: list[ast.stmt], placed: list[ast.stmt], lines: tuple[int, int], found: list[ast.stmt]
) -> bool:
    spare = len(placed) - len(old)
    position = 0
    for node in placed:
        inside = lines[0] <= node.lineno and (node.end_lineno or node.lineno) <= lines[1]
        if spare > 0 and (inside or position >= len(old)):
            spare -= 1
            found.append(node)
            continue
        if position >= len(old):
            return False
        tried: list[ast.stmt] = []
        if _same(old[position], node, lines, tried):
            found += tried
            position += 1
        elif spare > 0:
            spare -= 1
            found.append(node)
        else:
            return False
    return position == len(old)


def _same(old: ast.AST, placed: ast.AST, lines: tuple[int, int], found: list[ast.stmt]) -> bool:
    if type(old) is not type(placed):
        return False
    for name in old._fields:
        ours, theirs = getattr(old, name, None), getattr(placed, name, None)
        if isinstance(ours, list) and isinstance(theirs, list):
            if (ours and isinstance(ours[0], ast.stmt)) or (theirs and isinstance(theirs[0], ast.stmt)):
                if not _same_block(ours, theirs, lines, found):
                    return False
            elif len(ours) != len(theirs) or not all(
                _same_value(a, b, lines, found) for a, b in zip(ours, theirs, strict=True)
            ):
                return False
        elif not _same_value(ours, theirs, lines, found):
            return False
    return True


def _same_value(ours: object, theirs: object, lines: tuple[int, int], found: list[ast.stmt]) -> bool:
    if isinstance(ours, ast.AST):
        return isinstance(theirs, ast.AST) and _same(ours, theirs, lines, found)
    return type(ours) is type(theirs) and (ours == theirs or repr(ours) == repr(theirs))


def stand(
    new: Module, statement: tuple[int, int], old: Module, place: tuple[int, int], added_nodes: list[ast.stmt]
) -> tuple[Standing, Standing] | None:
    """The statement in the newest version and in the old one; None where one holds no statement of ours there."""
    added = {id(n) for n in added_nodes}
    above_new, above_old = new.above, old.above
    calls_new = _calls(new, statement)
    calls_old = _calls(old, place)
    if not calls_new or not calls_old:
        return None
    call_new = calls_new[0]
    call_old = next((c for c in calls_old if _name(c) == _name(call_new)), calls_old[0])
    inner_new, inner_old = _statement(call_new, above_new), _statement(call_old, above_old)
    theirs = _standing(old, inner_old, call_old, added)
    ours = _standing(new, inner_new, call_new, set())
    while theirs.how == "own" and ours.how == "own":
        up_new, up_old = above_new.get(id(ours.star)), above_old.get(id(theirs.star))
        if not isinstance(up_old, ast.stmt) or id(up_old) not in added or type(up_old) is not type(up_new):
            break
        assert isinstance(up_new, ast.stmt)
        ours, theirs = Standing(new, up_new, "own", up_new), Standing(old, up_old, "own", up_old)
    theirs.added = frozenset(added)
    first, last = place
    theirs.carried = [n for n in added_nodes if n is not theirs.star and first <= n.lineno <= last]
    return ours, theirs


def _standing(module: Module, star: ast.stmt, call: ast.Call, added: set[int]) -> Standing:
    if isinstance(star, ast.Assign | ast.AnnAssign) and star.value is call and id(star) not in added:
        target = star.targets[0] if isinstance(star, ast.Assign) else star.target
        if not isinstance(target, ast.Tuple | ast.List):
            return Standing(module, star, "after", target)
    if isinstance(star, ast.Expr):
        return Standing(module, star, "own", star.value if star.value is not call else logged(call) or call)
    return Standing(module, star, "before", logged(call) or call)


def _name(call: ast.Call) -> object:
    first = next((k.value for k in call.keywords if k.arg == "name"), call.args[0] if call.args else None)
    return first.value if isinstance(first, ast.Constant) else None


def _calls(module: Module, lines: tuple[int, int]) -> list[ast.Call]:
    return [node for node in module.calls if lines[0] <= node.lineno <= lines[1] and is_log(module, node)]


def _statement(node: ast.AST, above: dict[int, ast.AST]) -> ast.stmt:
    while not isinstance(node, ast.stmt):
        node = above[id(node)]
    return node


@dataclass(slots=True)
class Reads:
    """The access paths that both sides read at the same place of the expression, and whether the expressions agree."""

    pairs: list[tuple[Path, Path]] = field(default_factory=list[tuple[Path, Path]])
    differs: str | None = None


def pair_reads(ours: Standing, theirs: Standing) -> Reads:
    """Pair what the statement reads in the newest version with what it reads in the old one."""
    reads = Reads()
    bound = {n.id for n in walk(ours.value) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    bound_old = {
        n.id for n in walk(theirs.value) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)
    }
    bound |= {n.arg for n in walk(ours.value) if isinstance(n, ast.arg)}
    bound_old |= {n.arg for n in walk(theirs.value) if isinstance(n, ast.arg)}
    if ours.how == "after":
        bound = set()
    _pair(ours.value, theirs.value, reads)
    along = {name for node in theirs.carried for name in _binds(node)}
    pairs = [
        (p, q)
        for p, q in reads.pairs
        if not (p[0] in bound and q[0] in bound_old) and q[0] not in ours.module.ours
    ]
    for node in theirs.carried:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            pairs += [
                (path, path)
                for path in paths_in(node.value or node)
                if path[0] not in along and path[0] not in BUILTINS
            ]
    reads.pairs = list(dict.fromkeys(pairs))
    return reads


def _binds(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.split(".")[0]
    else:
        for inner in walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                yield inner.id


def path_of(node: ast.AST) -> Path | None:
    """A name or a chain of attributes, None for any other expression."""
    rest: list[str] = []
    while isinstance(node, ast.Attribute):
        rest.append(node.attr)
        node = node.value
    return (node.id, *reversed(rest)) if isinstance(node, ast.Name) else None


def paths_in(node: ast.AST) -> Iterator[Path]:
    """The paths that an expression reads; the method of a call is no part of one."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        yield from paths_in(node.func.value)
        for child in (*node.args, *(k.value for k in node.keywords)):
            yield from paths_in(child)
        return
    path = path_of(node)
    if path is not None:
        yield path
        return
    for child in ast.iter_child_nodes(node):
        yield from paths_in(child)


def _pair(ours: ast.AST, theirs: ast.AST, reads: Reads) -> None:
    p, q = path_of(ours), path_of(theirs)
    if p is not None and q is not None:
        while len(p) > 1 and len(q) > 1 and p[-1] == q[-1] and (p[:-1] != q[:-1]):
            # The same attribute of what has another name: its chain is compared as a whole, the object by its root.
            break
        reads.pairs.append((p, q))
        return
    if isinstance(ours, ast.Call) and isinstance(theirs, ast.Call):
        _pair_calls(ours, theirs, reads)
        return
    if type(ours) is not type(theirs):
        reads.differs = f"`{_short(ours)}` stands as `{_short(theirs)}`"
        return
    if isinstance(ours, ast.Constant) and isinstance(theirs, ast.Constant):
        if repr(ours.value) != repr(theirs.value):
            reads.differs = f"`{_short(ours)}` stands as `{_short(theirs)}`"
        return
    children, others = list(ast.iter_child_nodes(ours)), list(ast.iter_child_nodes(theirs))
    if len(children) != len(others):
        reads.differs = f"`{_short(ours)}` stands as `{_short(theirs)}`"
        return
    for child, other in zip(children, others, strict=True):
        _pair(child, other, reads)


def _pair_calls(ours: ast.Call, theirs: ast.Call, reads: Reads) -> None:
    if isinstance(ours.func, ast.Attribute) and isinstance(theirs.func, ast.Attribute):
        if ours.func.attr != theirs.func.attr:
            reads.differs = f"`{_short(ours)}` stands as `{_short(theirs)}`"
        _pair(ours.func.value, theirs.func.value, reads)
    else:
        _pair(ours.func, theirs.func, reads)
    given = [*ours.args, *(k.value for k in ours.keywords)]
    taken = [*theirs.args, *(k.value for k in theirs.keywords)]
    if len(given) != len(taken):
        reads.differs = f"`{_short(ours)}` stands as `{_short(theirs)}`"
        return
    for child, other in zip(given, taken, strict=True):
        _pair(child, other, reads)


def _short(node: ast.AST) -> str:
    text = ast.unparse(node).split("\n")[0]
    return text if len(text) <= 60 else f"{text[:57]}..."


def holds(node: ast.AST, wanted: ast.stmt) -> bool:
    """Whether a statement is another one or holds it."""
    if node is wanted:
        return True
    return any(holds(inner, wanted) for block in blocks(node) for inner in block)
