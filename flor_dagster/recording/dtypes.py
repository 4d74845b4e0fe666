"""numpy's dtypes as text."""

from __future__ import annotations

import pickle
from typing import Any

_texts: dict[Any, str] = {}


def dtype_text(dtype: Any) -> str:
    """A dtype as text: its short name where that says all."""
    known = _texts.get(dtype)
    if known is None or dtype.metadata is not None:
        plain = dtype.names is None and dtype.subdtype is None and dtype.metadata is None
        known = dtype.str if plain else "pickle:" + pickle.dumps(dtype, 5).hex()
        if plain and len(_texts) < 1000:
            _texts[dtype] = known
    return known


def dtype_from_text(text: str, numpy: Any) -> Any:
    """The dtype of such a text."""
    kind, _, data = text.partition(":")
    return pickle.loads(bytes.fromhex(data)) if kind == "pickle" else numpy.dtype(text)


def same_dtype(dtype: Any, text: str) -> bool:
    """Whether a live dtype is the one of a text."""
    return dtype_text(dtype) == text
