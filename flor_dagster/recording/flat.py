"""Digests of a planned state: the text that they are of is made once, and only what changes is made anew.

A digest of a root is a digest of a text: all nodes that the root leads to, one after the other (see `state.graph_digest`). For
a plan that text is cut into pieces once. A later digest replaces the pieces of those nodes that have other numbers, joins,
and hashes everything in one call, which runs without the interpreter's lock; the training is not held up by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from flor_dagster.recording.state import parts_of, text_of

MOST_PIECES = 200_000
"""The texts of larger states are not kept."""


@dataclass(slots=True)
class FlatRoot:
    """The text behind one root, in pieces.

    Args:
        pieces: joined they are the text.
        places: per node that may change, where its own pieces are, and the nodes that it refers to.
    """

    pieces: list[bytes]
    places: dict[int, tuple[list[int], list[int]]]


def flatten(nodes: list[Any], root: int, changing: Collection[int]) -> FlatRoot | None:
    """Cut the text behind a root into pieces; None where it is too long to be kept.

    Args:
        nodes: a captured graph.
        root: the root's node.
        changing: the nodes that may change.
    """
    pieces: list[bytes] = []
    fixed: list[bytes] = []
    places: dict[int, tuple[list[int], list[int]]] = {}
    numbers: dict[int, int] = {}
    stack: list[tuple[Any, int]] = [(root, -1)]
    while stack:
        part, owner = stack.pop()
        if not isinstance(part, int):
            if owner in places:
                if fixed:
                    pieces.append(b"".join(fixed))
                    fixed.clear()
                places[owner][0].append(len(pieces))
                pieces.append(part)
            else:
                fixed.append(part)
            continue
        seen = numbers.get(part)
        fixed.append(b"#%d;" % (len(numbers) if seen is None else seen))
        if seen is None:
            numbers[part] = len(numbers)
            texts, refs = cut(nodes[part])
            if part in changing:
                places[part] = [], refs
            stack.append((texts[-1], part))
            for text, ref in zip(reversed(texts[:-1]), reversed(refs), strict=True):
                stack.append((ref, part))
                stack.append((text, part))
        if len(pieces) + len(numbers) > MOST_PIECES:
            return None
    pieces.append(b"".join(fixed))
    return FlatRoot(pieces, places)


def cut(node: list[Any]) -> tuple[list[bytes], list[int]]:
    """A node's own text, cut where its references stand, and the references: one text more than there are of them."""
    texts: list[list[bytes]] = [[]]
    refs: list[int] = []
    for part in parts_of(node):
        if isinstance(part, int):
            refs.append(part)
            texts.append([])
        else:
            texts[-1].append(part if isinstance(part, bytes) else text_of(part))
    return [b"".join(text) for text in texts], refs


class FlatState:
    """The texts behind the roots of a plan.

    Args:
        nodes: of the plan.
        roots: root name → its node.
        changing: the nodes that change with every checkpoint.
    """

    def __init__(self, nodes: list[Any], roots: dict[str, int], changing: Collection[int]) -> None:
        self._roots = {name: flatten(nodes, ref, changing) for name, ref in roots.items()}
        self._changing = changing

    def digest(self, root: str, nodes: list[Any], patched: Collection[int]) -> str | None:
        """The digest of a root, as `graph_digest` gives it; None where it must be asked.

        Args:
            root: the root's name.
            nodes: the captured graph, with the plan's numbering.
            patched: the nodes in it that are not the plan's.
        """
        flat = self._roots.get(root)
        if flat is None or any(number not in self._changing for number in patched):
            return None
        pieces = list(flat.pieces)
        for number, (places, refs) in flat.places.items():
            texts, now = cut(nodes[number])
            if now != refs:
                return None
            for place, text in zip(places, texts, strict=True):
                pieces[place] = text
        return hashlib.blake2b(b"".join(pieces), digest_size=16).hexdigest()
