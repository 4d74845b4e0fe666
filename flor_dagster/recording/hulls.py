"""Which bytes of a storage its tensors show: the rest is nobody's state.

A reduction may leave its small result on the memory of what it reduced, so that a loss of eight bytes lies on a storage of
thousands, the others of any content. Only the stretch from the first to behind the last byte that a captured tensor
shows is kept, compared and put back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

Hull = tuple[int, int]


def storage_hulls(nodes: Iterable[list[Any]]) -> dict[int, Hull]:
    """Storage's node number → first byte and the one behind the last that its tensors show; (0, 0) where none does.

    Args:
        nodes: a captured graph, whole.
    """
    torch: Any = sys.modules.get("torch")
    hulls: dict[int, Hull] = {}
    for node in nodes:
        if not node or node[0] != "tensor":
            continue
        _, _, storage, dtype, form, stride, offset = node[:7]
        begin = end = 0
        if 0 not in form:
            size = getattr(torch, dtype).itemsize
            begin = offset * size
            end = begin + (sum((n - 1) * step for n, step in zip(form, stride, strict=True)) + 1) * size
        known = hulls.get(storage)
        if known is None or known[0] == known[1]:
            hulls[storage] = (begin, end)
        elif begin != end:
            hulls[storage] = (min(known[0], begin), max(known[1], end))
    return hulls
