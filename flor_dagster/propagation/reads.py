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
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                if isinstance(node.slice.value, str):
                    keys.setdefault(node.slice.value)
    for root in nodes:
        for node in ast.walk(root):
            if isinstance(node, ast.Attribute) and id(node) in called and isinstance(node.value, ast.Name):
                # `loss.item()` needs `loss` itself, whatever its attributes are.
                if node.value.id != "self":
                    bare.add(node.value.id)
    return Reads(tuple(names), frozenset(bare), tuple(chains), tuple(keys))
