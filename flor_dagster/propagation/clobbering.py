"""What added code must leave alone: names that the old version uses, and work that it does itself."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from flor_dagster.propagation.analysis import Pair
from flor_dagster.propagation.effects import classify
from flor_dagster.propagation.gaps import Gap
from flor_dagster.propagation.names import expressions, imported, stored
from flor_dagster.propagation.paths import scope_of
from flor_dagster.propagation.rewriting import rewritten
from flor_dagster.propagation.syntax import SCOPES, block_parts
from flor_dagster.propagation.units import Unit


def spared(pair: Pair, unit: Unit, place: Gap) -> dict[str, str] | str:
    """Other names for what a unit binds itself, where the old version has a use for the ones that it came with.

    Returns:
        Names of the unit with those to write instead, or one that it can't be without.
    """
    scope = scope_of(place.block)
    nodes = pair.old.nodes if not scope.number else pair.old.nodes[scope.number : scope.last + 1]
    used = {name for node in nodes for name in (*node.facts.names, *node.facts.bound)}
    used |= pair.definitions_old.local_names(scope)
    fresh: dict[str, str] = {}
    fixed = _fixed(unit.syntax)
    taken = used | {n.id for n in ast.walk(unit.syntax) if isinstance(n, ast.Name)} | fixed
    for name in binds(unit.syntax):
        if name not in used:
            continue
        if name in fixed:
            return name
        other = f"{name}_logged"
        while other in taken:
            other += "_"
        fresh[name] = other
        taken.add(other)
    return fresh


def binds(syntax: ast.stmt) -> list[str]:
    """Names that running a statement binds around it."""
    names: dict[str, None] = {}
    todo = [syntax]
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(dict.fromkeys(name for name, _ in imported(node)))
        elif isinstance(node, SCOPES):
            names.setdefault(node.name)
            continue
        for expression in expressions(node):
            names.update(dict.fromkeys(stored(expression)))
        for _, _, body in block_parts(node):
            todo.extend(body)
        if isinstance(node, (ast.Try, ast.TryStar)):
            names.update(dict.fromkeys(h.name for h in node.handlers if h.name))
        elif isinstance(node, ast.Match):
            names.update(dict.fromkeys(n for case in node.cases for n in stored(case.pattern)))
    return list(names)


def _fixed(syntax: ast.stmt) -> set[str]:
    """Names that are bound other than by a plain `Name`, so that they can't be written otherwise."""
    fixed: set[str] = set()
    for node in ast.walk(syntax):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            fixed.update(name for name, _ in imported(node))
        elif isinstance(node, (*SCOPES, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            fixed.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            fixed.add(node.rest)
        elif isinstance(node, ast.arg):
            fixed.add(node.arg)
    return fixed


def runs_again(pair: Pair, unit: Unit, place: Gap, renamed: Mapping[str, str]) -> tuple[str, int] | None:
    """A call of unknown effect that the old version makes itself where the new one makes only the logged one.

    `train(model)` that became `flor.log("loss", train(model))` is no new code: put beside the old line, it would train
    twice.

    Returns:
        The call in the old version's names and the line there, or None.
    """
    calls = [
        n for n in ast.walk(unit.syntax) if isinstance(n, ast.Call) and not pair.parsed_new.spelled.is_log(n)
    ]
    texts = {rewritten(ast.unparse(c), renamed) for c in calls if classify(c) == "unknown"}
    if not texts:
        return None
    scope = scope_of(place.block)
    for node in pair.old.nodes[scope.number + 1 : scope.last + 1]:
        if node.scope is not scope or pair.matching.new_of(node) is not None:
            continue
        for expression in expressions(node.syntax):
            for call in ast.walk(expression):
                if isinstance(call, ast.Call) and ast.unparse(call) in texts:
                    return ast.unparse(call), node.line
    return None
