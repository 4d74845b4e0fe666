"""What the old version calls the names of the new one, learnt from matched statements.

Two matched statements are read side by side as far as they have the same form; each pair of names met on the way is a
vote, kept per function, so that a name may have different counterparts in different scopes. Chains (`args.lr`,
`cfg.train.lr`) vote as wholes and by their parts.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from typing import cast

from flor_dagster.propagation.matching import Matching
from flor_dagster.propagation.names import dotted, expressions, parameters, stored
from flor_dagster.propagation.syntax import FUNCTIONS, TRIES
from flor_dagster.propagation.tokens import add_tokens
from flor_dagster.propagation.tree import Node


class Renames:
    """Votes for what a name of the new version is called in the old one."""

    def __init__(self, matching: Matching) -> None:
        self._matching = matching
        self._votes: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
        self._everywhere: dict[str, Counter[str]] = defaultdict(Counter)
        self._bindings: dict[tuple[int, str], str] = {}
        for number, other in sorted(matching.partner.items()):
            self._learn(matching.new.nodes[number], other)

    def votes(self, scope: Node, name: str) -> Counter[str]:
        """Votes of one function of the new version; weights are numbers of places."""
        return self._votes.get((scope.number, name), Counter())

    def everywhere(self, name: str) -> Counter[str]:
        """Votes of the whole file."""
        return self._everywhere.get(name, Counter())

    def binding(self, definition: int, name: str) -> str | None:
        """What the counterpart of a defining statement binds where the new one binds `name`."""
        return self._bindings.get((definition, name))

    def clean(self, new_names: frozenset[str], old_names: frozenset[str]) -> dict[str, str]:
        """One-to-one renames between names that the other side does not have at all."""
        chosen: dict[str, str] = {}
        for name, counter in sorted(self._everywhere.items()):
            if name in old_names or "." in name:
                continue
            options = [(w, o) for o, w in counter.items() if o not in new_names and o.isidentifier()]
            if options:
                weight, other = max(options, key=lambda c: (c[0], c[1]))
                if weight >= 1 and weight * 2 > counter.total():
                    chosen[name] = other
        taken = Counter(chosen.values())
        return {name: other for name, other in chosen.items() if taken[other] == 1}

    # ------------------------------------------------------------------ learning

    def _learn(self, a: Node, b: Node) -> None:
        scope = (a if a.is_scope else a.scope) or a
        alike = self._matching.likeness(a, b)
        weight = 1.0 if a.shape_text == b.shape_text else 0.5
        walk = _SideBySide()
        if isinstance(a.syntax, FUNCTIONS) and isinstance(b.syntax, FUNCTIONS):
            if a.name != b.name:
                outer = a.scope or a
                self._vote(outer, a.name, b.name, 2.0)
            mine, theirs = parameters(a.syntax.args), parameters(b.syntax.args)
            if len(mine) == len(theirs):
                for x, y in zip(mine, theirs, strict=True):
                    self._vote(scope, x, y, 0.5 if x != y and (y in mine or x in theirs) else 1.0)
                    self._bindings.setdefault((a.number, x), y)
            for x in mine:
                if x in theirs:
                    self._bindings[a.number, x] = x
        else:
            for x, y in _header_pairs(a, b):
                walk.read(x, y)
        for x, y in _caught(a, b):
            self._vote(scope, x, y, 2.0)
            self._bindings.setdefault((a.number, x), y)
        moved = any(stores and x != y for x, y, stores in walk.pairs)
        value = _value_likeness(a, b) if moved else 1.0
        for x, y, stores in walk.pairs:
            if x == y:
                self._vote(scope, x, y, weight)
            elif stores and value >= 0.5:
                self._vote(scope, x, y, 2 * weight)
            elif not stores and (alike >= 0.6 or a.shape_text == b.shape_text):
                self._vote(scope, x, y, weight)
            if stores and (x == y or value >= 0.5):
                self._bindings.setdefault((a.number, x), y)

    def _vote(self, scope: Node, name: str, other: str, weight: float) -> None:
        self._votes[scope.number, name][other] += weight  # pyright: ignore[reportArgumentType]  # weights are fractions
        self._everywhere[name][other] += weight  # pyright: ignore[reportArgumentType]


def _caught(a: Node, b: Node) -> list[tuple[str, str]]:
    """Names that corresponding handlers or cases bind: `except E as e`, `case [a, b]`."""
    pairs: list[tuple[str, str]] = []
    if isinstance(a.syntax, TRIES) and isinstance(b.syntax, TRIES):
        theirs = list(b.syntax.handlers)
        for handler in a.syntax.handlers:
            same = next((h for h in theirs if _dump(h.type) == _dump(handler.type)), None)
            if same is not None:
                theirs.remove(same)
                if handler.name and same.name:
                    pairs.append((handler.name, same.name))
    elif isinstance(a.syntax, ast.Match) and isinstance(b.syntax, ast.Match):
        for mine, other in zip(a.syntax.cases, b.syntax.cases, strict=False):
            names, others = list(stored(mine.pattern)), list(stored(other.pattern))
            if len(names) == len(others) and type(mine.pattern) is type(other.pattern):
                pairs.extend(zip(names, others, strict=True))
    return pairs


def _dump(node: ast.AST | None) -> str:
    return "" if node is None else ast.dump(node)


def _value_likeness(a: Node, b: Node) -> float:
    """How alike the values are that two statements bind; what they are bound to does not count."""
    x, y = _value_bag(a), _value_bag(b)
    total = x.total() + y.total()
    if not total:
        return 1.0
    shared, least = (x & y).total(), min(x.total(), y.total())
    # A value that went whole into a larger one is still what was named.
    return max(2 * shared / total, 0.7 * (shared == least >= 3))


def _value_bag(node: Node) -> Counter[str]:
    tokens: list[str] = []
    for expression in expressions(node.syntax):
        if not any(isinstance(getattr(n, "ctx", None), ast.Store) for n in ast.walk(expression)):
            add_tokens(expression, tokens, {})
    return Counter(t for t in tokens if t[0] not in "[-")


def _header_pairs(a: Node, b: Node) -> list[tuple[ast.AST, ast.AST]]:
    """Expressions of two statements that play the same part."""
    x, y = a.syntax, b.syntax
    if type(x) is type(y):
        mine, theirs = list(expressions(x)), list(expressions(y))
        return list(zip(mine, theirs, strict=True)) if len(mine) == len(theirs) else []
    values = [getattr(s, "value", None) for s in (x, y)]
    pairs = [(values[0], values[1])]
    targets = [_single_target(s) for s in (x, y)]
    pairs.append((targets[0], targets[1]))
    return [(p, q) for p, q in pairs if isinstance(p, ast.AST) and isinstance(q, ast.AST)]


def _single_target(syntax: ast.AST) -> ast.AST | None:
    if isinstance(syntax, ast.Assign):
        return syntax.targets[0] if len(syntax.targets) == 1 else None
    return (
        syntax.target if isinstance(syntax, (ast.AnnAssign, ast.AugAssign, ast.For, ast.AsyncFor)) else None
    )


class _SideBySide:
    """Reads two expressions together; collects the names in corresponding places."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str, bool]] = []

    def read(self, a: ast.AST, b: ast.AST) -> None:
        if isinstance(a, (ast.Name, ast.Attribute)) and isinstance(b, (ast.Name, ast.Attribute)):
            x, y = dotted(a), dotted(b)
            stores = isinstance(a.ctx, ast.Store)
            if x and y:
                self.pairs.append((x, y, stores))
            if isinstance(a, ast.Attribute) and isinstance(b, ast.Attribute) and a.attr == b.attr:
                self.read(a.value, b.value)
            return
        if type(a) is not type(b):
            return
        if isinstance(a, ast.Call) and isinstance(b, ast.Call):
            self._calls(a, b)
            return
        for (_, x), (_, y) in zip(ast.iter_fields(a), ast.iter_fields(b), strict=True):
            if isinstance(x, ast.AST) and isinstance(y, ast.AST):
                self.read(x, y)
            elif isinstance(x, list) and isinstance(y, list) and len(x) == len(y):
                for p, q in zip(cast("list[object]", x), cast("list[object]", y), strict=True):
                    if isinstance(p, ast.AST) and isinstance(q, ast.AST):
                        self.read(p, q)

    def _calls(self, a: ast.Call, b: ast.Call) -> None:
        self.read(a.func, b.func)
        if len(a.args) == len(b.args):
            for x, y in zip(a.args, b.args, strict=True):
                self.read(x, y)
        theirs = {k.arg: k.value for k in b.keywords if k.arg}
        for keyword in a.keywords:
            if keyword.arg in theirs:
                self.read(keyword.value, theirs[keyword.arg])
