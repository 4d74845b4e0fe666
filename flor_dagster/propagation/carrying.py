"""What a statement needs and the old version lacks travels with it: imports, pure helper functions, their constants.

All of it is put right before the statement, so that a failing import or helper is the statement's own failure and not
the old program's.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from flor_dagster.propagation.definitions import Definitions
from flor_dagster.propagation.effects import classify_function
from flor_dagster.propagation.matching import Matching
from flor_dagster.propagation.names import free_names, imported
from flor_dagster.propagation.paths import scope_of
from flor_dagster.propagation.statements import PACKAGES
from flor_dagster.propagation.tree import FUNCTIONS, Block, Node


@dataclass(frozen=True, slots=True)
class Luggage:
    """Names that travel, and the nodes of the new version that define them, in an order that works."""

    names: tuple[str, ...]
    nodes: tuple[ast.stmt, ...]


class Carrier:
    """Decides what can travel from one new version to one old one."""

    def __init__(self, matching: Matching, new: Definitions, old: Definitions) -> None:
        self._matching = matching
        self._new = new
        self._old = old
        self._uses: dict[str, set[int]] = {}
        for node in matching.new.nodes:
            for name in node.facts.names:
                self._uses.setdefault(name, set()).add(node.number)

    def pack(self, name: str, old_block: Block, old_index: int) -> Luggage | None:
        """Everything that must travel for a module-level name of the new version to be read at a place."""
        packed: dict[str, ast.stmt] = {}
        if not self._pack(name, old_block, old_index, packed, set()):
            return None
        return Luggage(tuple(packed), tuple(packed.values()))

    def _pack(
        self, name: str, block: Block, index: int, packed: dict[str, ast.stmt], within: set[int]
    ) -> bool:
        if name in packed:
            return True
        if self._old.module_sites(name) or name in self._old.local_names(scope_of(block)):
            return False  # the old version means something else by it
        nodes = [self._matching.new.nodes[d] for d in sorted(self._new.module_sites(name))]
        if len(nodes) != 1:
            return False
        node = nodes[0]
        if isinstance(node.syntax, (ast.Import, ast.ImportFrom)):
            packed[name] = _only(node.syntax, name)
            return True
        if isinstance(node.syntax, FUNCTIONS):
            return self._pack_function(name, node, block, index, packed, within)
        if node.kind == "assign" and self._is_private_constant(name, node, within):
            packed[name] = node.syntax  # pyright: ignore[reportArgumentType]  # no module among definitions
            return True
        return False

    def _pack_function(
        self, name: str, node: Node, block: Block, index: int, packed: dict[str, ast.stmt], within: set[int]
    ) -> bool:
        syntax = node.syntax
        if not isinstance(syntax, ast.FunctionDef) or syntax.decorator_list or node.number in within:
            return False
        if self._matching.old_of(node) is not None or classify_function(syntax) == "changes-training":
            return False
        inside = within | set(range(node.number, node.last + 1))
        for read in free_names([syntax]):
            if read == name:
                continue
            reach = self._new.reach(self._matching.new.root.blocks[0], node.index, read)
            if reach.origin == "builtin" and not self._new.module_sites(read):
                continue
            if self._same_in_old(read, block, index):
                continue
            if not self._pack(read, block, index, packed, inside):
                return False
        packed[name] = syntax
        return True

    def _same_in_old(self, name: str, block: Block, index: int) -> bool:
        """Whether the old version has the same function, class or module under the same name."""
        found = self._old.reach(block, index, name)
        if found.origin not in ("module", "local", "enclosing") or not found.definite:
            return False
        mine = {self._matching.new.nodes[d] for d in self._new.module_sites(name)}
        theirs = {self._matching.old.nodes[d] for d in found.definitions}
        if all(n.kind == "import" for n in (*mine, *theirs)):
            return True
        return {self._matching.old_of(n) for n in mine} == theirs and all(
            n.kind in ("def", "class") for n in theirs
        )

    def _is_private_constant(self, name: str, node: Node, within: set[int]) -> bool:
        """A literal that nothing but what travels reads: it is no setting of the training."""
        value = getattr(node.syntax, "value", None)
        if value is None or not node.scope or node.scope.number:
            return False
        literal = not any(isinstance(n, (ast.Name, ast.Call, ast.Attribute)) for n in ast.walk(value))
        return literal and self._uses[name] <= within | {node.number}


def _only(syntax: ast.Import | ast.ImportFrom, name: str) -> ast.stmt:
    """The import of one name alone."""
    for alias, (bound, _) in zip(syntax.names, imported(syntax), strict=True):
        if bound == name:
            if isinstance(syntax, ast.Import):
                return ast.Import(names=[alias])
            return ast.ImportFrom(module=syntax.module, names=[alias], level=syntax.level)
    return syntax


def is_ours(syntax: ast.stmt) -> bool:
    """Whether an import is of this package, which every replay has."""
    if isinstance(syntax, ast.Import):
        return syntax.names[0].name.split(".")[0] in PACKAGES
    return isinstance(syntax, ast.ImportFrom) and (syntax.module or "").split(".")[0] in PACKAGES
