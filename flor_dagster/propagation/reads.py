"""What a statement reads from around it: names, attributes, keys."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from flor_dagster.propagation.names import dotted, free_names


@dataclass(frozen=True, slots=True)
class Reads:
    """What a run of code reads.

    `names` are free names in order; `bare` those that occur other than before a dot. `chains` are dotted names on them,
    without methods that are called on other objects than `self`. `keys` are literal subscripts.
    """

    names: tuple[str, ...]
    bare: frozenset[str]
    chains: tuple[str, ...]
    keys: tuple[str, ...]


def reads_of(nodes: Sequence[ast.AST]) -> Reads:
    """Collect what code reads."""
    names = free_names(nodes)
    free = set(names)
    chains: dict[str, None] = {}
    keys: dict[str, None] = {}
    under: set[int] = set()
    called: set[int] = set()
    bare: set[str] = set()
    for root in nodes:
        for node in ast.walk(root):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called.add(id(node.func))
            if isinstance(node, ast.Attribute):
                under.add(id(node.value))
                chain = dotted(node)
                owner = chain.partition(".")[0]
                if owner in free and (id(node) not in called or owner == "self"):
                    chains.setdefault(chain)
            elif isinstance(node, ast.Name) and node.id in free and id(node) not in under:
                bare.add(node.id)
            elif isinstance(node, ast.Subscript):
                key = node.slice.value if isinstance(node.slice, ast.Constant) else None
                if isinstance(key, str):
                    keys.setdefault(key)
    for root in nodes:
        for node in ast.walk(root):
            # `loss.item()` needs `loss` itself, whatever its attributes are.
            owner = node.value if isinstance(node, ast.Attribute) and id(node) in called else None
            if isinstance(owner, ast.Name) and owner.id != "self":
                bare.add(owner.id)
    return Reads(tuple(names), frozenset(bare), tuple(chains), tuple(keys))
