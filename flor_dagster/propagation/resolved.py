"""What became of a name: the answer of the resolvers."""

from __future__ import annotations

from dataclasses import dataclass

from flor_dagster.propagation.model import RefusalKind
from flor_dagster.propagation.tree import Block

Position = tuple[Block, int]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A name, what it is called in the old version, and how well the definitions agree.

    `refused` is why it can't be read there; `carry` says that an import or helper must come along, made by the
    `definitions` of the new version.
    """

    name: str
    old_name: str
    score: float
    refused: RefusalKind | None = None
    carry: bool = False
    definitions: frozenset[int] = frozenset()
