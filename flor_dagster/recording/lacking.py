"""What a checkpoint does not hold, in short: said in the journal, so that a plan need not read every manifest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flor_dagster.recording.checkpoints import Manifest

MOST_CHAINS = 50
Lacks = tuple[list[str], list[list[str]], list[str]]
_PLAIN = frozenset({"list", "tuple", "set", "frozenset"})


def lacks_of(manifest: Manifest) -> Lacks | None:
    """The names that could not be captured, and the ways to objects that are known by their place alone.

    Args:
        manifest: the checkpoint.

    Returns:
        Names, chains of attributes that each begin with a name (`["self", "log"]`), and every attribute under which any
        object holds such an object; None where there are too many chains to say.
    """
    names = sorted({root.rpartition(":")[2] for root in manifest.unavailable})
    attributes = {
        number: {name: ref for name, ref in node[3].items() if isinstance(ref, int)}
        for number, node in enumerate(manifest.nodes)
        if node[0] == "object" and isinstance(node[3], dict)
    }
    opaque = known_by_place(manifest.nodes)
    leading = set(opaque)
    grown = bool(leading)
    while grown:
        more = {
            n for n, refs in attributes.items() if n not in leading and not leading.isdisjoint(refs.values())
        }
        leading |= more
        grown = bool(more)
    chains: list[list[str]] = []
    todo = [
        ([root.rpartition(":")[2]], ref, frozenset[int]())
        for root, ref in manifest.roots.items()
        if isinstance(ref, int) and ref in leading
    ]
    while todo:
        chain, ref, passed = todo.pop()
        if ref in opaque:
            chains.append(chain)
            continue
        if ref in passed or len(chains) + len(todo) > MOST_CHAINS:
            return None  # objects that refer to one another: there is no end to the chains
        todo += [
            ([*chain, name], inner, passed | {ref})
            for name, inner in attributes[ref].items()
            if inner in leading
        ]
    return names, sorted(chains), sorted(holding_attributes(manifest.nodes, opaque))


def known_by_place(nodes: list[Any]) -> frozenset[int]:
    """The nodes of objects of which a checkpoint holds nothing (an open file, a logger), and of containers of such."""
    found = {number for number, node in enumerate(nodes) if node[0] == "opaque"}
    grown = bool(found)
    while grown:
        more = {n for n, node in enumerate(nodes) if n not in found and not found.isdisjoint(_items(node))}
        found |= more
        grown = bool(more)
    return frozenset(found)


def holding_attributes(nodes: list[Any], opaque: frozenset[int]) -> frozenset[str]:
    """The attributes under which any object or class holds one of some nodes."""
    found: set[str] = set()
    for node in nodes:
        attributes = node[3] if node[0] == "object" else node[2] if node[0] == "class" else None
        if isinstance(attributes, dict):
            found |= {name for name, ref in attributes.items() if isinstance(ref, int) and ref in opaque}
    return frozenset(found)


def _items(node: Any) -> Iterator[int]:
    """What a container holds, the keys of a dictionary too."""
    if node[0] in _PLAIN:
        yield from (ref for ref in node[1] if isinstance(ref, int))
    elif node[0] == "dict":
        yield from (ref for pair in node[1] for ref in pair if isinstance(ref, int))
