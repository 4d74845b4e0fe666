"""Logged values as journal text and back, exactly.

A value is JSON where JSON holds it exactly; everything else is a tagged object `{"$": kind, ...}`:

    {"$": "float", "bits": "7ff8000000000000"}       NaN, infinities: IEEE 754 bits, big-endian hex
    {"$": "json", "v": {...}}                         a dict or a list/tuple that JSON holds
    {"$": "dict", "v": [[key, value], ...]}           a dict in it that has a key "$" of its own
    {"$": "array", "dtype": "<f8", "shape": [2], "data": "<base64>"}     little arrays, C order
    {"$": "datetime", "v": "2026-11-21T00:00:00+00:00"}
    {"$": "unstored", "type": "...", "text": "..."}   what could be said of a value that can't be kept
    {"$": "error", "type": "ValueError", "message": "...", "line": 7}    a hindsight expression that failed

Floats that JSON holds are written by `repr`, which round-trips; -0.0 is kept; integers of any size are kept.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
import struct
import sys
from dataclasses import dataclass
from typing import Any

MAX_ARRAY_BYTES = 64 * 1024
MAX_TEXT = 1_000_000

_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Unstored:
    """A logged value that could not be kept: its type, and the beginning of its text."""

    type: str
    text: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A hindsight expression that raised: the error's type, its message, and the line in the old version's file."""

    type: str
    message: str
    line: int


@dataclass(frozen=True, slots=True)
class ArrayValue:
    """A small array, without numpy: dtype string, shape and C-order bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def encode(value: Any) -> str:
    """The journal text of any value. Never raises: what can't be kept becomes an `unstored` tag."""
    kind = type(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else _tag_float(value)
    if kind is bool:
        return "true" if value else "false"
    if value is None:
        return "null"
    if kind is int:
        return _int_text(value)
    if kind is str:
        return _dumps(value) if len(value) <= MAX_TEXT else _unstored(value)
    try:
        return _encode_other(value)
    except Exception:  # noqa: BLE001 - a value must never break the training that logs it
        return _unstored(value)


def _int_text(value: int) -> str:
    try:
        return repr(value)
    except ValueError:  # beyond sys.get_int_max_str_digits(): hex has no such limit
        return _dumps({"$": "int", "hex": hex(value)})


def _tag_float(value: float) -> str:
    return f'{{"$":"float","bits":"{struct.pack(">d", value).hex()}"}}'


def _encode_other(value: Any) -> str:
    if isinstance(value, Failure):
        return _dumps({"$": "error", "type": value.type, "message": value.message, "line": value.line})
    # Subclasses (numpy.float64, IntEnum, str enums): the plain value, whatever their own __str__ says.
    if isinstance(value, int):
        return encode(int.__int__(value))
    if isinstance(value, float):
        return encode(float.__float__(value))
    if isinstance(value, str):
        return encode(str.__str__(value))
    if isinstance(value, dt.datetime | dt.date):
        return _dumps({"$": "datetime", "v": value.isoformat()})
    if isinstance(value, ArrayValue):
        return _array(value.dtype, value.shape, value.data)
    numeric = _numeric(value)
    if numeric is not None:
        return numeric
    if isinstance(value, dict | list | tuple):
        return f'{{"$":"json","v":{_dumps(_jsonable(value))}}}'
    return _unstored(value)


def _numeric(value: Any) -> str | None:
    """Numpy scalars and arrays, torch tensors; None for anything else."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        if tensor.ndim == 0:
            return encode(tensor.item())
        value = tensor.resolve_conj().resolve_neg().numpy()
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, numpy.generic):
        item = value.item()
        return encode(item) if not isinstance(item, numpy.generic) else encode(float(item))
    if isinstance(value, numpy.ndarray):
        if value.ndim == 0:
            return encode(value.item())
        if value.nbytes <= MAX_ARRAY_BYTES and not value.dtype.hasobject:
            little = numpy.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"), copy=False))
            return _array(little.dtype.str, value.shape, little.tobytes())
        return _unstored(value)
    return None


def _array(dtype: str, shape: tuple[int, ...], data: bytes) -> str:
    return _dumps(
        {"$": "array", "dtype": dtype, "shape": list(shape), "data": base64.b64encode(data).decode("ascii")}
    )


def _jsonable(value: Any, depth: int = 0) -> Any:
    if depth > 100:
        raise ValueError("nested too deeply")
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int:
        return json.loads(_int_text(value))
    if type(value) is float:
        return value if math.isfinite(value) else {"$": "float", "bits": struct.pack(">d", value).hex()}
    if isinstance(value, dict):
        items = {_key(k): _jsonable(v, depth + 1) for k, v in value.items()}
        if len(items) != len(value):
            raise ValueError("two keys with the same text")
        # A user's own "$" key must not be read back as one of our tags.
        return {"$": "dict", "v": list(items.items())} if "$" in items else items
    if isinstance(value, list | tuple):
        return [_jsonable(v, depth + 1) for v in value]
    return json.loads(encode(value))


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    if key is None or isinstance(key, bool | int | float):
        return repr(key)
    raise TypeError(f"a {type(key).__name__} as a key")


def _unstored(value: Any) -> str:
    try:
        text = repr(value) if not isinstance(value, str) else value
    except Exception as error:  # noqa: BLE001 - a broken __repr__ is still only a value
        text = f"<repr failed: {type(error).__name__}>"
    kind = type(value)
    return _dumps({"$": "unstored", "type": f"{kind.__module__}.{kind.__qualname__}", "text": text[:500]})


def decode(value: Any) -> Any:
    """The Python value of a parsed journal value (`json.loads` of what `encode` wrote)."""
    if not isinstance(value, dict):
        return value
    match value.get("$"):
        case "float":
            return struct.unpack(">d", bytes.fromhex(value["bits"]))[0]
        case "int":
            return int(value["hex"], 16)
        case "json":
            return _decode_json(value["v"])
        case "dict":
            return {k: _decode_json(v) for k, v in value["v"]}
        case "array":
            return ArrayValue(value["dtype"], tuple(value["shape"]), base64.b64decode(value["data"]))
        case "datetime":
            text = value["v"]
            return dt.datetime.fromisoformat(text) if "T" in text else dt.date.fromisoformat(text)
        case "error":
            return Failure(value["type"], value["message"], value["line"])
        case _:
            return Unstored(str(value.get("type")), str(value.get("text")))


def _decode_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode_json(v) for v in value]
    if isinstance(value, dict):
        if "$" in value:
            return decode(value)
        return {k: _decode_json(v) for k, v in value.items()}
    return value
