"""The text of a loop context's path, as the SQL views show it."""

from __future__ import annotations

import json

_dumps = json.JSONEncoder(ensure_ascii=True).encode


def child_path(parent: str, name: str, ordinal: int, index: int) -> str:
    """`"epoch":3,"step":17` (no braces): the path of an iteration within `parent`.

    A second execution of a loop in the same iteration is told apart as `"step#1"`.
    """
    key = _dumps(name if ordinal == 0 else f"{name}#{ordinal}")
    return f"{parent},{key}:{index}" if parent else f"{key}:{index}"
