"""What travels as one: a statement, the value that one logs on its way, or the block of new statements around it."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from flor_dagster.errors import PropagationError
from flor_dagster.parsing import parse_python
from flor_dagster.propagation.analysis import Pair
from flor_dagster.propagation.effects import classify
from flor_dagster.propagation.gaps import Gap
from flor_dagster.propagation.model import Statement
from flor_dagster.propagation.statements import Aliases, Found, Parsed, bound_to
from flor_dagster.propagation.syntax import block_parts


@dataclass(frozen=True, slots=True)
class Unit:
    """Something to place.

    `syntax` is what is put into the old version. `found` are the `flor.log` calls in it. `holder` is the statement of the
    new version that uses the logged value, which is logged on its `side`; None where the statement is all new.
    `hindrance` says why it can't stand on its own, if it can't.
    """

    statement: Statement
    syntax: ast.stmt
    found: tuple[Found, ...] = ()
    holder: ast.stmt | None = None
    side: Literal["before", "after"] = "before"
    hindrance: str = ""

    @property
    def label(self) -> str:
        """What it is called in sentences."""
        return f"`{self.statement.name or ast.unparse(self.syntax).splitlines()[0]}`"

    @property
    def lines(self) -> range:
        """Lines of the new version that are new with it."""
        if self.holder is not None:
            return range(0)
        return range(self.syntax.lineno, (self.syntax.end_lineno or self.syntax.lineno) + 1)

    def gap(self, pair: Pair) -> Gap:
        """Where it stands in the new version."""
        if self.holder is None:
            return pair.gap(self.syntax)
        gap = pair.gap(self.holder)
        return Gap(gap.block, gap.index + (self.side == "after"))


def units_at(parsed: Parsed, lines: list[int]) -> list[Unit]:
    """The statements on some lines, one by one.

    Raises:
        PropagationError: a line holds no statement.
    """
    found: list[Unit] = []
    seen: set[int] = set()
    for line in lines:
        for unit in _at(parsed, line):
            key = id(unit.syntax)
            if key not in seen:
                seen.add(key)
                found.append(unit)
    return found


def units_of(pair: Pair, lines: list[int]) -> list[Unit]:
    """Statements with the outermost all-new block around each; one unit for all statements of a block."""
    parsed = pair.parsed_new
    chosen = units_at(parsed, lines)
    asked = {id(u.syntax) for u in chosen if u.holder is None}
    parents: dict[int, ast.stmt] = {}
    for node in ast.walk(parsed.module):
        if isinstance(node, ast.stmt):
            for _, _, body in block_parts(node):
                parents.update({id(child): node for child in body})
    units: dict[int, Unit] = {}
    for unit in chosen:
        top = unit.syntax
        while (parent := parents.get(id(top))) is not None and _left_out_whole(pair, parent, asked):
            top = parent
        if top is unit.syntax:
            units[id(top)] = unit
            continue
        known = units.get(id(top))
        found = (*(known.found if known else ()), *unit.found)
        units[id(top)] = Unit(_describe(found, top), top, found)
    return list(units.values())


def evaluated(unit: Unit, spelled: Aliases) -> Iterator[ast.AST]:
    """Everything that a unit evaluates, but for our own call."""

    def visit(node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.Call) and spelled.is_log(node):
            for part in (*node.args, *node.keywords):
                yield from visit(part)
            return
        yield node
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(unit.syntax)


def _at(parsed: Parsed, line: int) -> list[Unit]:
    """The new statements that start on a line: `flor.log` calls if there are any, else the smallest one there."""
    logs = [f for f in parsed.found if f.statement.lines[0] == line]
    if logs:
        return _logs(logs)
    here = [
        n
        for n in ast.walk(parsed.module)
        if isinstance(n, ast.stmt) and n.lineno <= line <= (n.end_lineno or 0)
    ]
    starting = [n for n in here if n.lineno == line]
    if starting:
        chosen = max(starting, key=lambda n: (n.end_lineno or 0) - n.lineno)
    else:
        simple = [n for n in here if not any(True for _ in block_parts(n))]
        if not simple:
            raise PropagationError(f"line {line} of the new version holds no statement")
        chosen = simple[-1]
    own = [f for f in parsed.found if f.syntax is chosen]
    if own and not any(True for _ in block_parts(chosen)):
        return _logs(own)
    inside = tuple(
        f for f in parsed.found if chosen.lineno <= f.statement.lines[0] <= (chosen.end_lineno or 0)
    )
    return [Unit(_describe(inside, chosen), chosen, inside)]


def _logs(logs: list[Found]) -> list[Unit]:
    units: dict[int, Unit] = {}
    for found in logs:
        if found.form == "alone":
            known = units.get(id(found.syntax))
            both = (*(known.found if known else ()), found)
            units[id(found.syntax)] = Unit(_describe(both, found.syntax), found.syntax, both)
        else:
            units[id(found.call)] = _value(found)
    return list(units.values())


def _describe(found: tuple[Found, ...], syntax: ast.stmt) -> Statement:
    lines = (syntax.lineno, syntax.end_lineno or syntax.lineno)
    if not found:
        return Statement(None, ast.unparse(syntax), lines, "<module>", (), 0)
    if len(found) == 1 and found[0].syntax is syntax:
        return found[0].statement
    first = found[0].statement
    return Statement(first.name, first.expression, lines, first.function, first.loops, first.ordinal)


def _value(found: Found) -> Unit:
    """A logged value that its statement goes on to use.

    What is assigned is logged from where it was put, so that nothing is computed twice. Anything else is computed a
    second time before its statement: only where that can't be told from once.
    """
    target = bound_to(found)
    call = copy.deepcopy(found.call)
    side: Literal["before", "after"] = "before"
    hindrance = ""
    if found.form == "assigned":
        side = "after"
        value = parse_python(target, mode="eval").body
        if len(call.args) > 1:
            call.args[1] = value
        else:
            for keyword in call.keywords:
                if keyword.arg == "value":
                    keyword.value = value
    elif found.form == "sometimes":
        hindrance = "how often it is evaluated is decided inside the expression around it, which no added line can follow"
    elif classify(*_arguments(found.call)) != "pure":
        hindrance = "its statement uses the logged value, which would be computed twice"
    elif not _first(found):
        hindrance = "its statement runs other code before it comes to the logged value"
    syntax = ast.copy_location(ast.Expr(call), found.syntax)
    return Unit(found.statement, syntax, (found,), found.syntax, side, hindrance)


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(k.value for k in call.keywords)]


def _first(found: Found) -> bool:
    """Whether everything that a statement runs before the logged value is harmless."""
    spot = (found.call.lineno, found.call.col_offset)
    end = (found.call.end_lineno or 0, found.call.end_col_offset or 0)

    def before(node: ast.AST) -> bool:
        if not isinstance(node, (ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)):
            return False
        return (node.lineno, node.col_offset) < spot and (
            node.end_lineno or 0,
            node.end_col_offset or 0,
        ) < end

    parts = [found.syntax] if not any(True for _ in block_parts(found.syntax)) else []
    return all(classify(n) == "pure" for part in parts for n in ast.walk(part) if before(n))


def _left_out_whole(pair: Pair, parent: ast.stmt, asked: set[int]) -> bool:
    """Whether a block is new in all its parts and all of them are asked for."""
    if id(parent) in pair.nodes_new:
        return False
    inner = [n for n in ast.walk(parent) if isinstance(n, ast.stmt) and not any(True for _ in block_parts(n))]
    return all(id(n) in asked or isinstance(n, ast.Pass) for n in inner)
