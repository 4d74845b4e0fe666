"""How often a statement was to be expected to fire, and why it did not.

A place may be right and the statement never reached: it stands under a condition that never held. It may also be that the
old version is another one than it seems. So the values of a statement are counted against those of its neighbours: what
stands in one block with it in the newest version comes as often as it does.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flor_dagster.computed import is_computed
from flor_dagster.propagation.statements import Found, loop_name, read
from flor_dagster.replay.planning import LoopPlan
from flor_dagster.replay.record import Record, RunRecord

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Company:
    """What comes as often as a statement in the version that it was written in.

    Args:
        neighbours: names that are logged in the same block, with nothing between that leaves it.
        every_iteration: whether it stands in the body of its innermost `flor.loop` itself.
    """

    neighbours: tuple[str, ...]
    every_iteration: bool


def company_of(source: str, line: int, name: str) -> Company:
    """What comes as often as the statement of a name in a line of a source text."""
    parsed = read(source.removeprefix("\ufeff"), "the newest version")
    here = next((f for f in parsed.found if f.statement.lines[0] == line and f.statement.name == name), None)
    if here is None or here.form == "sometimes":
        return Company((), False)
    for owner, body in _bodies(parsed.module):
        at = next((i for i, one in enumerate(body) if one is here.syntax), None)
        if at is not None:
            beside = tuple(_beside(parsed.found, body, at, here))
            looped = isinstance(owner, ast.For) and loop_name(owner, parsed.spelled) is not None
            return Company(beside, looped and not any(map(_leaves, body[:at])))
    return Company((), False)


def _bodies(module: ast.Module) -> Iterator[tuple[ast.AST | None, list[ast.stmt]]]:
    """Every block of statements, with what holds it where it is its first one."""
    for node in ast.walk(module):
        for field in ("body", "orelse", "finalbody"):
            body: Any = getattr(node, field, None)
            if isinstance(body, list):
                yield (node if field == "body" else None), body


def _beside(found: Sequence[Found], body: Sequence[ast.stmt], at: int, here: Found) -> Iterator[str]:
    place = {id(one): number for number, one in enumerate(body)}
    for other in found:
        number = place.get(id(other.syntax))
        if number is None or other is here or other.form == "sometimes":
            continue
        low, high = sorted((number, at))
        name = other.statement.name
        if name is not None and not is_computed(name) and not any(map(_leaves, body[low:high])):
            yield name


def _leaves(statement: ast.stmt) -> bool:
    """Whether a statement may leave the block that it stands in."""

    def visit(node: ast.AST, *, looped: bool) -> bool:
        if isinstance(node, ast.Return | ast.Raise | ast.Assert):
            return True
        if isinstance(node, ast.Break | ast.Continue):
            return not looped
        if isinstance(node, _SCOPES):
            return False
        inside = looped or isinstance(node, _LOOPS)
        return any(visit(child, looped=inside) for child in ast.iter_child_nodes(node))

    return visit(statement, looped=False)


# What was to be expected ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Firing:
    """How often a statement fired and was to be expected to, after what, and why it did not.

    `expected` is None where nothing tells.
    """

    fired: int
    expected: int | None = None
    like: str = ""
    why: str = ""

    @property
    def otherwise(self) -> bool:
        """Whether it fired otherwise than was to be expected, or not at all."""
        return self.fired == 0 or (self.expected is not None and self.expected != self.fired)

    @property
    def sentence(self) -> str:
        """That it did, in words; empty where it did not."""
        if not self.otherwise:
            return ""
        fired = "never fired" if not self.fired else f"fired {self.fired} time{'s' * (self.fired != 1)}"
        if self.expected is None or self.expected == self.fired:
            return f"{fired}: {self.why}"
        were = "was" if self.expected == 1 else "were"
        return f"{fired} where {self.expected} {were} to be expected ({self.like}): {self.why}"


def firing_of(
    fired: int,
    company: Company,
    loops: tuple[str, ...],
    replayed: RunRecord,
    recorded: RunRecord,
    plan: LoopPlan,
    answers: frozenset[tuple[str, int]],
) -> Firing:
    """How often a statement was to be expected to fire in a replay.

    Args:
        fired: how often it did.
        company: what comes as often in the version that it was written in.
        loops: the names of the loops around it there, outermost first.
        replayed: the replay's journals.
        recorded: the run's.
        plan: what was executed.
        answers: (file, line) of hindsight statements in the replay.
    """
    records = [r for one in replayed.ranks for r in one.records if (r.file, r.line) not in answers]
    for name in company.neighbours:
        same = [r for r in records if r.name == name and _loops_of(r) == loops]
        if same and len({(r.file, r.line) for r in records if r.name == name}) == 1:
            return Firing(
                fired, len(same), f"as many as of `{name}`, beside which it stands in the newest version"
            )
    if company.every_iteration and not recorded.peers:
        count = 0
        for path, spec in plan.loops.items():
            if spec["action"] == "execute" and path in recorded.by_path and _names_of(path) == loops:
                stop = spec.get("stop")
                count += (spec["count"] if stop is None else stop + 1) - spec.get("start", 0)
        if count:
            return Firing(fired, count, f"one in each iteration of {loops[-1]}, as in the newest version")
    return Firing(fired)


def _loops_of(record: Record) -> tuple[str, ...]:
    """The names of the loops around a record."""
    return _names_of(record.path)


def _names_of(path: str) -> tuple[str, ...]:
    parts = path.split("]/") if path else []
    return tuple(part.partition("#")[0] for part in parts)


# Why it did not ------------------------------------------------------------------------------------------------------


def why_not(text: str, file: str, line: int, added: Sequence[int]) -> str:
    """What stands between a statement and the loop or function around it in the old version, in words.

    Args:
        text: the old version's file with the statement in it.
        file: its path.
        line: the statement's.
        added: the lines that were added to it.
    """
    found = list(_around(text, line))
    new = set(added)

    def at(number: int) -> str:
        if number in new:
            return "which came along with it"
        return f"{file}, line {number - sum(one < number for one in new)}"

    said = [f"{words} ({at(number)})" for words, number in found[:_NAMED]]
    return (
        f"it stands {', '.join(said)}"
        if said
        else f"the run never came to {file}, line {line - sum(n < line for n in new)}"
    )


def _around(text: str, line: int) -> Iterator[tuple[str, int]]:
    """What decides within a `flor.loop` or a function whether a line is reached, innermost first, and where it stands."""
    parsed = read(text.removeprefix("\ufeff"), "the old version")
    chain: list[tuple[ast.AST, str, list[ast.stmt]]] = []
    node: ast.AST | None = parsed.module
    while node is not None:
        inner: ast.AST | None = None
        for field, body in _blocks_of(node):
            holder = next((one for one in body if _spans(one, line)), None)
            if holder is not None:
                chain.append(
                    (node, field, [one for one in body[: body.index(holder)] if isinstance(one, ast.stmt)])
                )
                inner = holder
        node = inner
    for owner, field, before in reversed(chain):
        for statement in before:
            if _leaves(statement):
                yield f"behind `{_head(statement)}`, which may leave the block", statement.lineno
        match owner:
            case ast.If():
                yield (
                    f"under `{_condition(owner)}`"
                    if field == "body"
                    else f"under the `else` of `{_condition(owner)}`",
                    owner.lineno,
                )
            case ast.While():
                yield f"in `while {ast.unparse(owner.test)}`", owner.lineno
            case ast.For() | ast.AsyncFor() if loop_name(owner, parsed.spelled) is not None:
                return
            case ast.For() | ast.AsyncFor():
                yield f"in `for {ast.unparse(owner.target)} in {ast.unparse(owner.iter)}`", owner.lineno
            case ast.ExceptHandler():
                yield "in an `except` that nothing may have raised to", owner.lineno
            case ast.match_case():
                yield f"in `case {ast.unparse(owner.pattern)}`", owner.pattern.lineno
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield f"in the function `{owner.name}`", owner.lineno
                return
            case _:
                pass


def _blocks_of(node: ast.AST) -> Iterator[tuple[str, list[ast.AST]]]:
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        body: Any = getattr(node, field, None)
        if isinstance(body, list):
            yield field, body


def _spans(node: ast.AST, line: int) -> bool:
    if isinstance(node, ast.match_case):
        return any(_spans(one, line) for one in node.body)
    return getattr(node, "lineno", line + 1) <= line <= (getattr(node, "end_lineno", 0) or 0)


def _condition(node: ast.If) -> str:
    return f"if {ast.unparse(node.test)}"


def _head(statement: ast.stmt) -> str:
    return ast.unparse(statement).splitlines()[0]
