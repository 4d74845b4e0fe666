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
from flor_dagster.propagation.syntax import FUNCTIONS
from flor_dagster.propagation.tree import Block, Node

_NUMBERS = frozenset(
    [
        "sum",
        "any",
        "all",
        "abs",
        "max",
        "min",
        "round",
        "pow",
        "divmod",
        "bool",
        "int",
        "float",
        "complex",
        "str",
        "object",
        "range",
    ]
)
SHADOWING = {
    "numpy": _NUMBERS,
    "pylab": _NUMBERS,
    "matplotlib.pylab": _NUMBERS,
    "scipy": _NUMBERS,
    "jax.numpy": _NUMBERS,
    "torch": _NUMBERS,
    "math": frozenset({"pow"}),
    "os": frozenset({"open"}),
    "codecs": frozenset({"open"}),
    "operator": frozenset({"abs", "pow"}),
}
"""Builtin names that a star import of a module puts something else behind."""


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
        self._names_of: dict[int, frozenset[str]] = {}
        for node in matching.new.nodes:
            for name in node.facts.names:
                self._uses.setdefault(name, set()).add(node.number)

    def pack(
        self, name: str, old_block: Block, old_index: int, definitions: frozenset[int] | None = None
    ) -> Luggage | None:
        """Everything that must travel for a name of the new version to be read at a place.

        Args:
            name: The name.
            old_block: Block of the place in the old version.
            old_index: Index of the place in it.
            definitions: Statements of the new version that define the name; by default those at module level.
        """
        packed: dict[str, ast.stmt] = {}
        sites = self._new.module_sites(name) if definitions is None else definitions
        if not self._pack(name, sites, (old_block, old_index), packed, set()):
            return None
        return Luggage(tuple(packed), tuple(dict.fromkeys(packed.values())))

    def _pack(
        self,
        name: str,
        sites: frozenset[int],
        at: tuple[Block, int],
        packed: dict[str, ast.stmt],
        within: set[int],
    ) -> bool:
        if name in packed:
            return True
        if self._used(name, at[0]):
            return False  # the old version means something else by it
        nodes = [self._matching.new.nodes[d] for d in sorted(sites)]
        if not nodes:
            return self._pack_from_star(name, packed)
        if len(nodes) != 1:
            return self._pack_alternatives(nodes, at, packed)
        node = nodes[0]
        if isinstance(node.syntax, (ast.Import, ast.ImportFrom)):
            packed[name] = _only(node.syntax, name)
            return True
        if isinstance(node.syntax, FUNCTIONS):
            return self._pack_function(name, node, at, packed, within)
        if node.kind == "assign" and self._is_private_constant(name, node, within):
            packed[name] = node.syntax  # pyright: ignore[reportArgumentType]  # no module among definitions
            return True
        return False

    def _used(self, name: str, block: Block) -> bool:
        """Whether binding a name there would change what the old version's own code means by it."""
        scope = scope_of(block)
        known = self._names_of.get(scope.number)
        if known is None:
            inside = self._matching.old.nodes[scope.number : scope.last + 1]
            found = {n for node in inside for n in (*node.facts.names, *node.facts.bound)}
            known = self._names_of[scope.number] = frozenset(found | self._old.local_names(scope))
        return name in known or bool(self._old.module_sites(name))

    def _pack_alternatives(
        self, nodes: list[Node], at: tuple[Block, int], packed: dict[str, ast.stmt]
    ) -> bool:
        """A `try` that imports one module or another in its place travels whole."""
        owners = {n.block.owner for n in nodes if n.block is not None}
        owner = owners.pop() if len(owners) == 1 else None
        if owner is None or not isinstance(owner.syntax, ast.Try):
            return False
        inside = list(owner.walk())[1:]
        names = {name for n in inside for name in n.facts.bound}
        plain = all(n.kind in ("import", "Pass") or _is_literal(n) for n in inside)
        if not plain or any(self._used(name, at[0]) for name in names):
            return False
        packed.update(dict.fromkeys(sorted(names), owner.syntax))
        return True

    def _pack_from_star(self, name: str, packed: dict[str, ast.stmt]) -> bool:
        """Spell out what only the new version's single star import can have brought."""
        modules = stars(self._matching.new.nodes)
        if len(modules) != 1:
            return False
        (module,) = modules
        level = len(module) - len(module.lstrip("."))
        packed[name] = ast.ImportFrom(module[level:] or None, [ast.alias(name)], level)
        return True

    def _pack_function(
        self, name: str, node: Node, at: tuple[Block, int], packed: dict[str, ast.stmt], within: set[int]
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
            sites = self._new.module_sites(read)
            reach = self._new.reach(self._matching.new.root.blocks[0], node.index, read)
            if reach.origin == "builtin" and not sites:
                if self._old.reach(*at, read).origin != "builtin":
                    return False
                continue
            if self._same_in_old(read, *at):
                continue
            if not self._pack(read, sites, at, packed, inside):
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
        return _is_literal(node) and self._uses[name] <= within | {node.number}


def _is_literal(node: Node) -> bool:
    """Whether a statement assigns a value that is written out."""
    value = getattr(node.syntax, "value", None)
    return value is not None and not any(
        isinstance(n, (ast.Name, ast.Call, ast.Attribute)) for n in ast.walk(value)
    )


def _only(syntax: ast.Import | ast.ImportFrom, name: str) -> ast.stmt:
    """The import of one name alone."""
    for alias, (bound, _) in zip(syntax.names, imported(syntax), strict=True):
        if bound == name:
            if isinstance(syntax, ast.Import):
                return ast.Import(names=[alias])
            return ast.ImportFrom(module=syntax.module, names=[alias], level=syntax.level)
    return syntax


def stars(nodes: list[Node]) -> frozenset[str]:
    """Modules that a file imports everything from, relative ones with their dots."""
    found: set[str] = set()
    for node in nodes:
        syntax = node.syntax
        if isinstance(syntax, ast.ImportFrom) and any(a.name == "*" for a in syntax.names):
            found.add("." * syntax.level + (syntax.module or ""))
    return frozenset(found)


def is_ours(syntax: ast.stmt) -> bool:
    """Whether an import is of this package, which every replay has."""
    if isinstance(syntax, ast.Import):
        return syntax.names[0].name.split(".")[0] in PACKAGES
    return isinstance(syntax, ast.ImportFrom) and (syntax.module or "").split(".")[0] in PACKAGES
