"""A journal value as typed columns (kind, num, whole, text) and back, bit for bit.

SQLite stores NaN as NULL, loses the sign of -0.0 and has 64-bit integers; PostgreSQL's text has no NUL; neither has lone
surrogates. What a typed column can't hold lies in `text`, which then is the truth.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

from flor_dagster.recording.values import decode

NULL, FLOAT, INT, BOOL, TEXT, TAGGED, ERROR, UNSTORED = range(8)

Packed = tuple[int, float | None, int | None, str | None]

_MAX = 1 << 63
_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode
_NONE: Packed = (NULL, None, None, None)
_TRUE: Packed = (BOOL, None, 1, None)
_FALSE: Packed = (BOOL, None, 0, None)


def pack(value: Any) -> Packed:
    """The columns of a parsed journal value."""
    kind = type(value)
    if kind is float:
        if math.isfinite(value) and (value or math.copysign(1.0, value) > 0):
            return (FLOAT, value, None, None)
        return _bits(struct.pack(">d", value).hex())
    if kind is int:
        return (INT, None, value, None) if -_MAX <= value < _MAX else (INT, None, None, hex(value))
    if kind is str:
        return (TEXT, None, None, value) if storable(value) else (TAGGED, None, None, _dumps(value))
    if kind is bool:
        return _TRUE if value else _FALSE
    if value is None:
        return _NONE
    return _pack_tagged(value)


def _bits(text: str) -> Packed:
    number = struct.unpack(">d", bytes.fromhex(text))[0]
    return (FLOAT, 0.0 if number == 0 else None, None, text)


def _pack_tagged(value: Any) -> Packed:
    tag = value.get("$") if isinstance(value, dict) else None
    match tag:
        case "float":
            return _bits(value["bits"])
        case "int":
            return pack(int(value["hex"], 16))
        case "error":
            return (ERROR, None, None, _dumps(value))
        case "unstored":
            return (UNSTORED, None, None, _dumps(value))
        case _:
            return (TAGGED, None, None, _dumps(value))


def unpack(kind: int, num: float | None, whole: int | None, text: str | None) -> Any:
    """The Python value of the columns."""
    if kind == FLOAT:
        return num if text is None else struct.unpack(">d", bytes.fromhex(text))[0]
    if kind == INT:
        return whole if text is None else int(text, 16)
    if kind == TEXT:
        return text
    if kind == BOOL:
        return bool(whole)
    if kind == NULL or text is None:
        return None
    return decode(json.loads(text))


def storable(text: str) -> bool:
    """Whether any database's text column gives this text back as it is."""
    if text.isascii():
        return "\0" not in text
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def label(text: str) -> str:
    """A name as the store keeps it: characters that no text column holds become backslash escapes."""
    if storable(text):
        return text
    return "".join(c if c != "\0" and not "\ud800" <= c <= "\udfff" else f"\\u{ord(c):04x}" for c in text)


def to_json(value: Any) -> str:
    """JSON text in ASCII for a structured column."""
    return _dumps(value)
