"""Does a checkpoint hold what a new expression reads? What it could not capture, or only knows the place of, it does not."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from flor_dagster.recording.checkpoints import Manifest
from flor_dagster.recording.lacking import Lacks, holding_attributes, known_by_place

# Attributes that a value put back does not have as the running training had them.
UNHELD_ATTRIBUTES = frozenset({"grad_fn", "is_leaf", "next_functions", "retains_grad", "_version"})
_OF_AN_EXCEPTION = frozenset({"__traceback__", "__context__", "__cause__"})

Chain = tuple[str, ...]
"""A name and the attributes read from it: `model.head.bias` is ("model", "head", "bias")."""


@dataclass(frozen=True, slots=True)
class Reads:
    """What a piece of code reads.

    Args:
        names: the names.
        chains: each of them with the attributes that are read from it.
        attributes: every attribute that is read from anything.
        of_graph: whether it asks a value for something of its autograd graph, which no checkpoint holds.
    """

    names: frozenset[str] = frozenset()
    chains: frozenset[Chain] = frozenset()
    of_graph: bool = False
    attributes: frozenset[str] = frozenset()


NOTHING = Reads()


def reads_at(tree: ast.AST, lines: Container[int] | None = None, own: frozenset[str] = frozenset()) -> Reads:
    """What a piece of code reads.

    Args:
        tree: the code.
        lines: only what stands on these lines; None takes all.
        own: names that mean something else there (a function's parameters and variables).
    """
    names: set[str] = set()
    chains: set[Chain] = set()
    attributes: set[str] = set()
    inner: set[int] = set()
    of_graph = False
    for node in ast.walk(tree):  # breadth first: an attribute comes before what it is read from
        if not isinstance(node, ast.Name | ast.Attribute) or (lines is not None and node.lineno not in lines):
            continue
        if isinstance(node, ast.Attribute):
            attributes.add(node.attr)
            of_graph |= node.attr in UNHELD_ATTRIBUTES
        if id(node) not in inner:
            chain = _chain(node, inner)
            if chain and chain[0] not in own:
                names.add(chain[0])
                chains.add(chain)
    return Reads(frozenset(names), frozenset(chains), of_graph, frozenset(attributes))


def joined(parts: Iterable[Reads]) -> Reads:
    """Everything that several pieces of code read."""
    parts = list(parts)
    names = frozenset[str]().union(*(p.names for p in parts))
    chains = frozenset[Chain]().union(*(p.chains for p in parts))
    attributes = frozenset[str]().union(*(p.attributes for p in parts))
    return Reads(names, chains, any(p.of_graph for p in parts), attributes)


def _chain(node: ast.expr, inner: set[int]) -> Chain:
    parts: list[str] = []
    here: ast.expr = node
    while isinstance(here, ast.Attribute):
        parts.append(here.attr)
        inner.add(id(here.value))
        here = here.value
    if not isinstance(here, ast.Name):
        return ()
    return (here.id, *reversed(parts))


@dataclass(frozen=True, slots=True)
class Held:
    """What a checkpoint lacks.

    Args:
        lacking: names that it could not capture.
        opaque: chains that lead to an object of which only the live one is known (a logger, a progress bar, an open file).
        opaque_attributes: attributes under which any captured object holds one.
    """

    lacking: frozenset[str] = frozenset()
    opaque: frozenset[Chain] = field(default_factory=frozenset[Chain])
    opaque_attributes: frozenset[str] = frozenset()

    def missing_for(self, reads: Reads) -> str:
        """The name, as it is written in the expression, that the checkpoint does not hold; empty where it holds all."""
        if reads.of_graph:
            return "the autograd graph"
        for name in sorted(_OF_AN_EXCEPTION & reads.attributes):
            return f"….{name}"
        for name in sorted(self.lacking & reads.names):
            return name
        for chain in sorted(reads.chains):
            for length in range(1, len(chain) + 1):
                if chain[:length] in self.opaque:
                    return ".".join(chain[:length])
        # Read in a method that the expression calls, whatever it is called on.
        for name in sorted(self.opaque_attributes & reads.attributes):
            return f"….{name}"
        return ""


def held_by(manifest: Manifest, chains: frozenset[Chain]) -> Held:
    """What a checkpoint lacks of what is read.

    Args:
        manifest: the checkpoint.
        chains: what the expressions read.
    """
    lacking = frozenset(root.rpartition(":")[2] for root in manifest.unavailable)
    by_name: dict[str, list[object]] = {}
    for root, ref in manifest.roots.items():
        by_name.setdefault(root.rpartition(":")[2], []).append(ref)
    by_place = known_by_place(manifest.nodes)
    opaque: set[Chain] = set()
    for chain in chains:
        for ref in by_name.get(chain[0], ()):
            length = _opaque_at(manifest.nodes, by_place, ref, chain)
            if length:
                opaque.add(chain[:length])
    return Held(lacking, frozenset(opaque), holding_attributes(manifest.nodes, by_place))


def said_by(lacks: Lacks) -> Held:
    """The same, of what the journal says of a checkpoint."""
    names, chains, attributes = lacks
    return Held(frozenset(names), frozenset(map(tuple, chains)), frozenset(attributes))


def _opaque_at(nodes: list[list[object]], by_place: frozenset[int], ref: object, chain: Chain) -> int:
    """After how many parts of a chain an opaque object, or a container of such, is reached; 0 where none is."""
    for position in range(len(chain)):
        if not isinstance(ref, int):
            return 0
        if ref in by_place:
            return position + 1
        node = nodes[ref]
        attributes = node[3] if node[0] == "object" else None
        if (
            position + 1 >= len(chain)
            or not isinstance(attributes, dict)
            or chain[position + 1] not in attributes
        ):
            return 0
        ref = attributes[chain[position + 1]]
    return 0
