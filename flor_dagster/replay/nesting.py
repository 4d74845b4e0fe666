"""In which named loops does a line of a source run? The same question of two versions must have one answer."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace

from flor_dagster.propagation import Placement, Propagated, Refusal, propagate

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Nest:
    """The named loops around a line, outermost first; `complete` unless callers that can't be seen may add some."""

    loops: tuple[str, ...]
    complete: bool


class Nesting:
    """The `flor.loop`s of one source text.

    Args:
        text: Python source; a text that is none has no loops.
    """

    def __init__(self, text: str) -> None:
        try:
            self._tree = ast.parse(text)
        except (SyntaxError, ValueError):
            self._tree = ast.parse("")
        self._parents = {id(c): p for p in ast.walk(self._tree) for c in ast.iter_child_nodes(p)}
        self.names = {name for node in ast.walk(self._tree) if (name := loop_name(node)) is not None}

    def at(self, line: int) -> Nest:
        """The loops around a line, through the functions that it is called by where those are plain to see."""
        inner: ast.AST = self._tree
        for node in ast.walk(self._tree):
            if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
                inner = node  # breadth first: the last one is the innermost
        return self._around(inner, line, frozenset())

    def _around(self, node: ast.AST, line: int, seen: frozenset[str]) -> Nest:
        loops: list[str] = []
        here: ast.AST | None = node
        while here is not None and not isinstance(here, (*_FUNCTIONS, ast.Lambda)):
            name = loop_name(here)
            if (
                name is not None
                and isinstance(here, ast.For)
                and here.body[0].lineno <= line <= _last(here.body)
            ):
                loops.insert(0, name)
            here = self._parents.get(id(here))
        if here is None:
            return Nest(tuple(loops), complete=True)
        if not isinstance(here, _FUNCTIONS) or here.name in seen:
            return Nest(tuple(loops), complete=False)
        outer = {self._around(call, call.lineno, seen | {here.name}) for call in self._calls(here.name)}
        if len(outer) != 1:
            return Nest(tuple(loops), complete=False)
        around = outer.pop()
        return Nest((*around.loops, *loops), around.complete)

    def _calls(self, name: str) -> list[ast.Call]:
        return [
            node
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Call)
            and (
                (isinstance(node.func, ast.Name) and node.func.id == name)
                or (isinstance(node.func, ast.Attribute) and node.func.attr == name)
            )
        ]


def loop_name(node: ast.AST) -> str | None:
    """The name of the `flor.loop` that a `for` statement goes over, None where it is another loop."""
    if not isinstance(node, ast.For):
        return None
    for call in ast.walk(node.iter):
        if isinstance(call, ast.Call) and call.args:
            called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            first = call.args[0]
            if called == "loop" and isinstance(first, ast.Constant) and isinstance(first.value, str):
                return first.value
    return None


def _last(body: list[ast.stmt]) -> int:
    return body[-1].end_lineno or body[-1].lineno


def same_loops(new: Nesting, new_line: int, old: Nesting, old_line: int) -> bool:
    """Whether two places run in the same named loops, as far as both versions have them."""
    wanted, found = new.at(new_line), old.at(old_line)
    mine = tuple(name for name in wanted.loops if name in old.names)
    theirs = tuple(name for name in found.loops if name in new.names)
    if wanted.complete and found.complete:
        return mine == theirs
    shorter, longer = sorted((mine, theirs), key=len)
    return longer[len(longer) - len(shorter) :] == shorter


def propagate_in_loops(new_text: str, old_text: str, lines: list[int]) -> Propagated:
    """Propagate, and refuse what would run in other named loops than in the newest version.

    Args:
        new_text: the newest version's file.
        old_text: the old version's file.
        lines: first lines of the new statements.
    """
    outcome = propagate(new_text, old_text, lines)
    new, old = Nesting(new_text), Nesting(outcome.source)
    strays = [
        p
        for p in outcome.placements
        if p.status == "placed" and not same_loops(new, p.statement.lines[0], old, p.lines[0])
    ]
    if not strays:
        return outcome
    kept = propagate(new_text, old_text, [line for line in lines if not _within(line, strays)])
    refusals = [_refusal(p, new, old) for p in strays]
    return replace(kept, refusals=(*kept.refusals, *refusals))


def _within(line: int, strays: list[Placement]) -> bool:
    return any(p.statement.lines[0] <= line <= p.statement.lines[1] for p in strays)


def _refusal(placement: Placement, new: Nesting, old: Nesting) -> Refusal:
    wanted = " > ".join(new.at(placement.statement.lines[0]).loops) or "no loop"
    found = " > ".join(old.at(placement.lines[0]).loops) or "no loop"
    sentence = (
        f"`{placement.statement.name}` belongs in {wanted}, and the best place that this version has for it, "
        f"line {placement.lines[0]}, is in {found}."
    )
    return Refusal(placement.statement, "weak-place", "", placement.lines[0], placement.score, sentence)
