"""What changes the things that a statement reads must stand on the same side of it in both versions.

A name keeps its definitions while calls and stores change the object behind it: `timer.stop()`, `row["norm"] = …`,
`train_epoch(model, data)`. A place on the other side of one of them reads another value, however alike its surroundings.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from flor_dagster.propagation.attributes import CONFIG
from flor_dagster.propagation.effects import classify
from flor_dagster.propagation.gaps import Gap
from flor_dagster.propagation.matching import Matching
from flor_dagster.propagation.names import dotted, expressions, parameters
from flor_dagster.propagation.paths import Paths, compare, scope_of
from flor_dagster.propagation.reads import Reads
from flor_dagster.propagation.syntax import FUNCTIONS
from flor_dagster.propagation.tree import Node, Tree

Side = Literal["before", "after"]
_DEEP = 3  # so many calls are followed
# What is told a value does not change it.
_TELLS = re.compile(r"(add_|log|write|print|info$|debug$|warn|record|set_postfix|set_description|save|dump)")
# Numbers can't be changed by who gets them.
_NUMBERS = re.compile(
    r"(^|_|\.)(steps?|epochs?|it|iters?|iterations?|idx|index|i|j|k|n|num|count|size|rank|seed|lr|name|path|dir)$"
)


@dataclass(frozen=True, slots=True)
class Change:
    """A call or a store that may change an object.

    `chain` is the dotted name of the object, `key` what is called or stored; `plain` where the statement does nothing else:
    a store, or a call whose value nobody takes. `given` is how a call gets the object: the number or the name of an
    argument, `self` where it is called on it, empty for a store.
    """

    chain: str
    key: str
    plain: bool
    given: int | str = ""


@dataclass(frozen=True, slots=True)
class Crossing:
    """A change of what is read that stands on another side than in the new version."""

    chain: str
    node: Node
    side: Side


class Agreement:
    """Compares the sides of changes at two places.

    Args:
        matching: The two versions.
        new_paths: Where places of the new version lie.
        old_paths: Where places of the old one lie.
    """

    def __init__(self, matching: Matching, new_paths: Paths, old_paths: Paths) -> None:
        self._matching = matching
        self._new_paths, self._old_paths = new_paths, old_paths
        self._changes: dict[tuple[bool, int], tuple[Change, ...]] = {}
        self._functions = {True: _functions(matching.new), False: _functions(matching.old)}
        self._known: dict[tuple[int, int, Reads], list[tuple[Node, Side, Change]]] = {}

    def crossing(self, gap: Gap, place: Gap, reads: Reads, renamed: Mapping[str, str]) -> Crossing | None:
        """A change of something read that a place is on the wrong side of.

        Args:
            gap: Where the statement stands in the new version.
            place: Where it would stand in the old one.
            reads: What it reads.
            renamed: What names and dotted names are called in the old version.
        """
        key = (gap.block.number, gap.index, reads)
        if key not in self._known:
            self._known[key] = list(self._around(gap, reads))
        around = self._known[key]
        path = (*self._old_paths.of_block(place.block), (place.block.number, place.index))
        for node, side, change in around:
            other = self._matching.old_of(node)
            if other is None or not self._changes_of(other, new=False):
                continue
            found, _ = compare(path, self._old_paths.of_node(other))
            if found in ("before", "after") and found != side:
                return Crossing(change.chain, other, side)
        theirs = [renamed.get(c, _renamed(c, renamed)) for c in _chains(reads)]
        return self._beside(around, place, theirs)

    def _beside(
        self, around: list[tuple[Node, Side, Change]], place: Gap, chains: list[str]
    ) -> Crossing | None:
        """A change that only the old version has, between the same neighbours: it belongs to the side that all others are on."""
        sides: set[Side] = {side for _, side, _ in around}
        items = place.block.items
        runs: tuple[tuple[Side, list[Node]], ...] = (
            ("after", items[place.index :]),
            ("before", items[: place.index][::-1]),
        )
        for here, run in runs:
            for item in run:
                if self._matching.new_of(item) is not None:
                    break
                for node, change in self._plain_inside(item, chains):
                    wanted = self._wanted(around, sides, change)
                    if wanted is not None and wanted != here:
                        return Crossing(change.chain, node, wanted)
        return None

    def _wanted(
        self, around: list[tuple[Node, Side, Change]], sides: set[Side], change: Change
    ) -> Side | None:
        alike: set[Side] = {
            s for n, s, c in around if c.key == change.key and self._matching.old_of(n) is None
        }
        if len(alike) == 1:
            return alike.pop()
        if "after" not in sides:
            return "before"
        return None if "before" in sides else "after"

    def _plain_inside(self, item: Node, chains: list[str]) -> Iterator[tuple[Node, Change]]:
        for node in item.walk():
            if node.scope is item.scope and self._matching.new_of(node) is None:
                for change in self._changes_of(node, new=False):
                    if change.plain and any(_concerns(change.chain, c) for c in chains):
                        yield node, change

    def _around(self, gap: Gap, reads: Reads) -> Iterator[tuple[Node, Side, Change]]:
        """Changes of what is read in the function of a place, and in functions that it calls."""
        path = (*self._new_paths.of_block(gap.block), (gap.block.number, gap.index))
        scope = scope_of(gap.block)
        chains = _chains(reads)
        for node in self._matching.new.nodes[scope.number + 1 : scope.last + 1]:
            if node.scope is not scope or node.is_scope:
                continue
            changes = [
                c for c in self._changes_of(node, new=True) if any(_concerns(c.chain, r) for r in chains)
            ]
            if not changes:
                continue
            side, _ = compare(path, self._new_paths.of_node(node))
            if side not in ("before", "after"):
                continue
            for change in changes:
                for inner, within in self._followed(node, change, chains, _DEEP):
                    yield inner, side, within

    def _followed(
        self, node: Node, change: Change, reads: list[str], depth: int
    ) -> Iterator[tuple[Node, Change]]:
        """A change itself, or those that the called function makes of what it is given where it is to be seen."""
        function = self._functions[True].get(change.key) if change.given != "" else None
        if function is None or function.contains(node) or not isinstance(function.syntax, FUNCTIONS):
            yield node, change
            return
        name = _parameter(function, change)
        inner_reads = [
            name + r.removeprefix(change.chain) if r.startswith(change.chain) else name for r in reads
        ]
        if not name or not depth:
            return
        found = False
        for inner in self._matching.new.nodes[function.number + 1 : function.last + 1]:
            for within in self._changes_of(inner, new=True):
                if any(_concerns(within.chain, r) for r in inner_reads):
                    for one in self._followed(inner, within, inner_reads, depth - 1):
                        found = True
                        yield one
        if found:
            yield node, change

    def _changes_of(self, node: Node, *, new: bool) -> tuple[Change, ...]:
        known = self._changes.get((new, node.number))
        if known is None:
            known = self._changes[new, node.number] = () if node.is_scope else tuple(_changes(node.syntax))
        return known


def _chains(reads: Reads) -> list[str]:
    """Objects that are read: names, where they stand alone, and dotted names."""
    led = {c.partition(".")[0] for c in reads.chains}
    return [*(n for n in reads.names if n in reads.bare or n not in led), *reads.chains]


def _renamed(chain: str, renamed: Mapping[str, str]) -> str:
    root, dot, rest = chain.partition(".")
    return renamed.get(root, root) + dot + rest


def _concerns(changed: str, read: str) -> bool:
    """Whether a change of one object may be seen through another dotted name."""
    return changed == read or read.startswith(changed + ".") or changed.startswith(read + ".")


def _functions(tree: Tree) -> dict[str, Node]:
    """Functions by name, where there is one of the name."""
    found: dict[str, list[Node]] = {}
    for node in tree.nodes:
        if node.kind == "def":
            found.setdefault(node.name, []).append(node)
    return {name: nodes[0] for name, nodes in found.items() if len(nodes) == 1}


def _changes(syntax: ast.stmt | ast.Module) -> Iterator[Change]:
    """Calls on objects, stores into them, and objects that are handed to calls, in a statement's own line."""
    sole = syntax.value if isinstance(syntax, ast.Expr) else None
    sole = sole.value if isinstance(sole, ast.Await) else sole
    for expression in expressions(syntax):
        for node in ast.walk(expression):
            if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
                chain = dotted(node) if isinstance(node, ast.Attribute) else _object(node)
                if chain:
                    yield Change(chain, f"={ast.unparse(node)}", plain=True)
            elif isinstance(node, ast.Call) and classify(node) != "pure":
                yield from _changed_by(node, plain=node is sole)


def _changed_by(call: ast.Call, *, plain: bool) -> Iterator[Change]:
    key = ""
    if isinstance(call.func, ast.Attribute):
        key = call.func.attr
        chain = _object(call.func.value)
        if chain:
            yield Change(chain, key, plain, "self")
    elif isinstance(call.func, ast.Name):
        key = call.func.id
        yield Change(key, key, plain=False)
    if _TELLS.match(key):
        return
    arguments = [*enumerate(call.args), *((k.arg or "", k.value) for k in call.keywords)]
    for where, argument in arguments:
        for chain in _handed(argument):
            if not _NUMBERS.search(chain) and not CONFIG.match(chain):
                yield Change(chain, key, plain=False, given=where)


def _parameter(function: Node, change: Change) -> str:
    """What a function calls the object that it is given; empty where that is not plain to see."""
    assert isinstance(function.syntax, FUNCTIONS)  # for the type checker
    names = parameters(function.syntax.args)
    method = function.scope is not None and function.scope.kind == "class"
    if change.given == "self":
        return names[0] if method and names else ""
    if isinstance(change.given, str):
        return change.given if change.given in names else ""
    at = change.given + method
    return names[at] if at < len(names) else ""


def _handed(argument: ast.AST) -> Iterator[str]:
    if isinstance(argument, (ast.List, ast.Tuple, ast.Set)):
        for element in argument.elts:
            yield from _handed(element)
    elif isinstance(argument, ast.Starred):
        yield from _handed(argument.value)
    elif isinstance(argument, (ast.Name, ast.Attribute)) and dotted(argument):
        yield dotted(argument)


def _object(node: ast.AST) -> str:
    """The dotted name of what an expression takes a part of."""
    while isinstance(node, (ast.Subscript, ast.Call)):
        node = node.value if isinstance(node, ast.Subscript) else node.func
    return dotted(node)
