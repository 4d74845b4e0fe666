"""What a checkpoint does not hold, in short: said in the journal, so that a plan need not read every manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flor_dagster.recording.checkpoints import Manifest

MOST_CHAINS = 50
Lacks = tuple[list[str], list[list[str]]]


def lacks_of(manifest: Manifest) -> Lacks | None:
    """The names that could not be captured, and the chains of attributes that lead to objects known by their place alone.

    Args:
        manifest: the checkpoint.

    Returns:
        Names, and chains that each begin with a name (`["self", "log"]`); None where there are too many chains to say.
    """
    names = sorted({root.rpartition(":")[2] for root in manifest.unavailable})
    attributes = {
        number: {name: ref for name, ref in node[3].items() if isinstance(ref, int)}
        for number, node in enumerate(manifest.nodes)
        if node[0] == "object" and isinstance(node[3], dict)
    }
    leading = {number for number, node in enumerate(manifest.nodes) if node[0] == "opaque"}
    opaque = frozenset(leading)
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
    return names, sorted(chains)
