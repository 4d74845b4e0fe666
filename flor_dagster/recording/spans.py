"""Memory that belongs to something else only matters where something else in the captured graph leads to it."""

from __future__ import annotations

from typing import Any


class MemorySpans:
    """The stretches of host memory that a walk's arrays and storages lie in.

    A node's last element says whether its memory belongs to an object that the walk can't see. `settle` keeps that mark
    only where another stretch of the same walk overlaps.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, list[Any]]] = []

    def add(self, start: int, end: int, node: list[Any]) -> None:
        """Note a stretch: from the first byte to behind the last."""
        self._spans.append((start, end, node))

    def settle(self) -> None:
        """Correct the marks; the stretches are forgotten."""
        if any(node[-1] is True for _, _, node in self._spans):
            spans = sorted(self._spans, key=lambda span: span[:2])
            shared: set[int] = set()
            reach, holder = -1, -1
            for start, end, node in spans:
                if start < reach:
                    shared |= {id(node), holder}
                if end > reach:
                    reach, holder = end, id(node)
            for _, _, node in spans:
                if node[0] in ("array", "storage"):
                    node[-1] = node[-1] and id(node) in shared
        self._spans.clear()
