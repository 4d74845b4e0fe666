"""In which named loops does a place run? The same question of two versions must have one answer.

`flor.loop("epoch", …)` names a loop for good: a statement that is logged once per epoch in the newest version belongs to
no other loop of that name's level in an old one, however alike the code around it is.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from flor_dagster.propagation.statements import Aliases, loop_name
from flor_dagster.propagation.tree import Block, Node, Tree


@dataclass(frozen=True, slots=True)
class Nest:
    """The named loops around a place, outermost first; `complete` unless callers that can't be seen may add some."""

    loops: tuple[str, ...]
    complete: bool

    def __str__(self) -> str:
        """In words."""
        return " > ".join(self.loops) or "no named loop"


class Nesting:
    """The `flor.loop`s of one source text.

    Args:
        tree: Its statements.
        spelled: How it spells our functions.
    """

    def __init__(self, tree: Tree, spelled: Aliases) -> None:
        self._loops: dict[int, str] = {}
        for node in tree.nodes:
            if isinstance(node.syntax, (ast.For, ast.AsyncFor)):
                name = loop_name(node.syntax, spelled)
                if name is not None:
                    self._loops[node.number] = name
        self.names = frozenset(self._loops.values())
        self._nests: dict[int, Nest] = {}
        self._calls: dict[int, Nest] = {}
        self._mentions: dict[str, list[tuple[Node, str]]] = {}
        functions = {n.name for n in tree.nodes if n.kind == "def"}
        for node in tree.nodes:
            for name, _, owner in node.facts.mentions:
                if name in functions:
                    self._mentions.setdefault(name, []).append((node, owner))

    def is_named(self, loop: Node) -> bool:
        """Whether a loop is a `flor.loop`."""
        return loop.number in self._loops

    def of(self, block: Block) -> Nest:
        """The named loops around a block, through the functions that it is called by where those are plain to see."""
        known = self._nests.get(block.number)
        if known is None:
            known = self._nests[block.number] = self._around(block, frozenset())
        return known

    def _around(self, block: Block | None, seen: frozenset[int]) -> Nest:
        loops: list[str] = []
        while block is not None and block.owner.kind != "def":
            if block.role == "body" and block.owner.number in self._loops:
                loops.insert(0, self._loops[block.owner.number])
            block = block.owner.block
        if block is None:
            return Nest(tuple(loops), complete=True)
        function = block.owner
        outer = self._calls.get(function.number)
        if outer is None and function.number not in seen:
            outer = self._around_calls(function, seen | {function.number})
            if outer is not None:
                self._calls[function.number] = outer
        return Nest(tuple(loops), complete=False) if outer is None else Nest((*outer.loops, *loops), True)

    def _around_calls(self, function: Node, seen: frozenset[int]) -> Nest | None:
        """The named loops around all calls of a function, None where they differ or can't be seen.

        The first that can't be seen decides: looking at every way through a large call graph would take for ever.
        """
        around: Nest | None = None
        for caller, how in self._mentions.get(function.name, []):
            if not how:  # handed on, or called who knows how often
                return None
            found = self._around(caller.block, seen)
            if not found.complete or (around is not None and found != around):
                return None
            around = found
        return around


def same_loops(new: Nesting, block: Block, old: Nesting, other: Block) -> bool:
    """Whether two blocks run in the same named loops, as far as both versions have them."""
    if not new.names or not old.names:
        return True
    wanted, found = new.of(block), old.of(other)
    mine = tuple(name for name in wanted.loops if name in old.names)
    theirs = tuple(name for name in found.loops if name in new.names)
    if wanted.complete and found.complete:
        return mine == theirs
    shorter, longer = sorted((mine, theirs), key=len)
    return longer[len(longer) - len(shorter) :] == shorter
