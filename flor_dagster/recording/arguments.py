"""Arguments of a training run: given from outside, in the type of the default in the code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flor_dagster.recording.values import encode


def convert(name: str, given: Any, default: Any) -> Any:
    """A value from outside, in the type of the default in the code.

    Raises:
        ValueError: when the text does not read as that type.
    """
    if not isinstance(given, str) or isinstance(default, str):
        if isinstance(default, float) and isinstance(given, int) and not isinstance(given, bool):
            return float(given)
        return given
    text = given.strip()
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                text.lower()
            ]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            return float(text)
        if default is not None:
            return json.loads(text)
    except (KeyError, ValueError):
        kind = type(default).__name__
        raise ValueError(
            f"argument {name}={given!r} does not read as {kind}, the type of its default {default!r}"
        ) from None
    return given


def jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the journal's header keeps them."""
    return {name: json.loads(encode(value)) for name, value in values.items()}
