"""Where places lie relative to each other, following code into functions that are called from one place only."""

from __future__ import annotations

from typing import Literal

from flor_dagster.propagation.tree import Block, Node, Tree

Step = tuple[int, int]  # block number, index in it
Side = Literal["before", "after", "inside", "apart"]


class Paths:
    """Paths of one tree: a step for every enclosing block, outermost first."""

    def __init__(self, tree: Tree, sites: dict[int, Node]) -> None:
        self._tree = tree
        self._sites = sites
        self._of_blocks: dict[int, tuple[Step, ...]] = {}

    def of_block(self, block: Block) -> tuple[Step, ...]:
        """Steps to the statement that holds a block; starts anew in a function that has no single caller."""
        known = self._of_blocks.get(block.number)
        if known is None:
            owner = block.owner
            site = self._sites.get(owner.number)
            if site is not None:
                known = self.of_node(site)
            elif owner.is_scope or owner.block is None:
                known = ()
            else:
                known = self.of_node(owner)
            self._of_blocks[block.number] = known
        return known

    def of_node(self, node: Node) -> tuple[Step, ...]:
        """Steps to a statement, itself included."""
        block = node.block
        return () if block is None else (*self.of_block(block), (block.number, node.index))

    def innermost_loop(self, block: Block, *, through_calls: bool) -> Node | None:
        """The loop that a place in `block` is repeated by."""
        while True:
            loop = loop_of(block)
            if loop is not None or not through_calls:
                return loop
            scope = block.owner if block.owner.is_scope else block.owner.scope
            site = None if scope is None else self._sites.get(scope.number)
            if site is None or site.block is None:
                return None
            block = site.block


def loop_of(block: Block) -> Node | None:
    """The innermost loop around a block within its function."""
    owner = block.owner
    if owner.is_scope:
        return None
    return owner if owner.kind == "loop" and block.role == "body" else owner.loop


def scope_of(block: Block) -> Node:
    """The function, class or module that a block belongs to."""
    owner = block.owner
    return owner if owner.is_scope or owner.scope is None else owner.scope


def compare_in_scope(place: tuple[Block, int], node: Node) -> Side:
    """On which side of a place of the same function a statement lies; `apart` where it is in another one."""
    block, index = place
    if node.scope is not scope_of(block):
        return "apart"
    start = block.items[index].number if index < len(block.items) else block.owner.last + 1
    return "after" if node.number >= start else "before"


def compare(place: tuple[Step, ...], node: tuple[Step, ...]) -> tuple[Side, int]:
    """On which side of a place a statement lies, and by how many levels one is nested deeper than the other.

    The last step of `place` is a gap: its index is that of the statement after it.
    """
    for depth, ((block_a, a), (block_b, b)) in enumerate(zip(place, node, strict=False)):
        if block_a != block_b:
            return "apart", 0
        rest_place, rest_node = len(place) - 1 - depth, len(node) - 1 - depth
        if not rest_place:
            return ("before" if b < a else "after"), rest_node
        if a != b:
            return ("before" if b < a else "after"), rest_place + rest_node
        if not rest_node:
            return "inside", rest_place
    return "apart", 0
