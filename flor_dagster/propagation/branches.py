"""Which branches of the old version may hold a statement: what runs always must not land where it runs sometimes."""

from __future__ import annotations

from flor_dagster.propagation.gaps import Gap
from flor_dagster.propagation.matching import Matching
from flor_dagster.propagation.tree import Block, Node

_CONDITIONAL = ("if", "match")


class Branches:
    """The branches that correspond to those around one place of the new version.

    Args:
        matching: The two versions.
        gap: The place in the new one.
    """

    def __init__(self, matching: Matching, gap: Gap) -> None:
        self._matching = matching
        self._around: set[tuple[int, str]] = set()
        block: Block | None = gap.block
        while block is not None:
            other = matching.old_of(block.owner)
            if other is not None:
                self._around.add((other.number, block.role))
            block = block.owner.block
        self._beside = [o for n in gap.block.items if (o := matching.old_of(n)) is not None]
        self._known: dict[int, bool] = {}

    def may_hold(self, block: Block) -> bool:
        """Whether every branch around a block of the old version is the counterpart of one around the place.

        A branch that the new version does not have may hold what it holds next to the statement.
        """
        known = self._known.get(block.number)
        if known is None:
            outer = block.owner.block
            inner = not is_branch(block) or self._corresponds(block)
            known = inner and (outer is None or block.owner.is_scope or self.may_hold(outer))
            self._known[block.number] = known
        return known

    def _corresponds(self, block: Block) -> bool:
        if (block.owner.number, block.role) in self._around:
            return True
        return any(_holds(block, node) for node in self._beside)


def is_branch(block: Block) -> bool:
    """Whether a block may be passed over although its statement runs."""
    return block.owner.kind in _CONDITIONAL or block.role in ("handler", "orelse")


def _holds(block: Block, node: Node) -> bool:
    return any(item.contains(node) for item in block.items)
