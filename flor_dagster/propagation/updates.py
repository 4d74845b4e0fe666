"""Values that are made out of the value before: which version makes them, and on which side of a statement.

`g = self.gradient(x)`, then `g = clip(g)`: the name has two values in turn. An old version that has one of the two
statements, or a function that does both, has no value for a statement between them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from flor_dagster.propagation.definitions import Definitions
from flor_dagster.propagation.matching import Matching
from flor_dagster.propagation.names import dotted, expressions
from flor_dagster.propagation.paths import compare_in_scope, scope_of
from flor_dagster.propagation.resolved import Position
from flor_dagster.propagation.tree import Node

# Calls that give what they are given in another form or at another place.
_CONVERSIONS = frozenset(
    ["Path", "str", "int", "float", "list", "tuple", "to", "cuda", "cpu", "detach", "clone", "numpy", "item", "double"]
)  # fmt: skip


def updates(node: Node, name: str) -> bool:
    """Whether a statement makes another value of a name, or dotted name, out of the one that it had."""
    if node.kind != "assign" or name not in node.facts.targets or not _reads(node, name):
        return False
    value = node.syntax.value if isinstance(node.syntax, (ast.Assign, ast.AnnAssign)) else None
    if not isinstance(value, ast.Call):
        return True
    called = value.func.attr if isinstance(value.func, ast.Attribute) else dotted(value.func)
    given = value.func.value if isinstance(value.func, ast.Attribute) else (*value.args, None)[0]
    return not (called in _CONVERSIONS and given is not None and dotted(given) == name)


def converts(node: Node, name: str) -> bool:
    """Whether a statement gives a name its own value in another form."""
    return (
        node.kind == "assign"
        and name in node.facts.targets
        and _reads(node, name)
        and not updates(node, name)
    )


def _reads(node: Node, name: str) -> bool:
    if "." not in name:
        return name in node.facts.certain
    if isinstance(node.syntax, ast.AugAssign) and dotted(node.syntax.target) == name:
        return True
    return any(
        isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load) and dotted(n) == name
        for e in expressions(node.syntax)
        for n in ast.walk(e)
    )


class Updates:
    """Compares what two versions make of a value.

    Args:
        matching: The two versions.
        new: Definitions of the new one.
    """

    def __init__(self, matching: Matching, new: Definitions) -> None:
        self._matching = matching
        self._new = new
        self._functions = {n.name for n in matching.old.nodes if n.kind == "def"}

    def differ(
        self, name: str, reaching: Iterable[int], found: frozenset[int], at: Position, old_at: Position
    ) -> bool:
        """Whether what reaches a place of the old version may be what the new one makes only behind the statement.

        Args:
            name: The name, or dotted name, in the new version.
            reaching: Its definitions that reach the statement.
            found: The definitions that reach the place.
            at: Where the statement stands.
            old_at: The place.
        """
        pairs = [(self._matching.new.nodes[d], self._matching.partner.get(d)) for d in reaching]
        met = [(d, o) for d, o in pairs if o is not None and o.number in found]
        if any(self._other_maker(d, o) for d, o in met):
            return True
        for update in self._behind(name, frozenset(d.number for d, _ in pairs), at):
            other = self._matching.old_of(update)
            if other is not None:
                if compare_in_scope(old_at, other) != "after":
                    return True
            elif any(not self._same(d, o) for d, o in met):
                return True
        return False

    def _behind(self, name: str, reaching: frozenset[int], at: Position) -> list[Node]:
        """Statements behind a place that make another value out of the one that reaches it."""
        block, index = at
        scope = scope_of(block)
        start = block.items[index].number if index < len(block.items) else block.owner.last + 1
        return [
            n
            for n in self._matching.new.nodes[start : scope.last + 1]
            if n.scope is scope
            and n.block is not None
            and updates(n, name)
            and self._new.reach(n.block, n.index, name).definitions & reaching
        ]

    def _other_maker(self, mine: Node, theirs: Node) -> bool:
        """Whether a value is made by another function of the old version than the one of its name."""
        a, b = mine.facts.makes.rpartition(".")[2], theirs.facts.makes.rpartition(".")[2]
        return a != b and a in self._functions and b in self._functions and not self._renamed(a, b)

    def _renamed(self, name: str, other: str) -> bool:
        """Whether a function of the new version is the counterpart of another name's in the old one."""
        mine = [n for n in self._matching.new.nodes if n.kind == "def" and n.name == name]
        return any(o.name == other for n in mine if (o := self._matching.old_of(n)) is not None)

    def _same(self, mine: Node, theirs: Node) -> bool:
        """Whether two definitions are one: the same text, and the same functions of these files behind it."""
        if mine.text != theirs.text:
            return False
        called = {name for name, _, _ in mine.facts.mentions}
        for function in self._matching.new.nodes:
            if function.kind == "def" and function.name in called:
                other = self._matching.old_of(function)
                if other is None or other.digest != function.digest:
                    return False
        return True
