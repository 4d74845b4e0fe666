"""A place between statements."""

from __future__ import annotations

from dataclasses import dataclass

from flor_dagster.propagation.tree import Block, Node


@dataclass(frozen=True, slots=True)
class Gap:
    """A place between statements: before item `index` of `block`."""

    block: Block
    index: int

    @property
    def before(self) -> Node | None:
        """The statement just before."""
        return self.block.items[self.index - 1] if self.index else None

    @property
    def after(self) -> Node | None:
        """The statement just after."""
        return self.block.items[self.index] if self.index < len(self.block.items) else None
