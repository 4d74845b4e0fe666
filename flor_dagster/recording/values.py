r"""Logged values as journal text and back, exactly.

A value is JSON where JSON holds it exactly; everything else is a tagged object `{"$": kind, ...}`:

    {"$": "float", "bits": "7ff8000000000000"}       NaN, infinities: IEEE 754 bits, big-endian hex
    {"$": "int", "hex": "0x…"}                        an integer of more digits than Python reads
    {"$": "complex", "v": [real, imaginary]}
    {"$": "json", "v": {...}}                         a dict or a list/tuple that JSON holds
    {"$": "dict", "v": [[key, value], ...]}           a dict in it that has a key "$" of its own
    {"$": "items", "v": [[key, value], ...]}          a dict with keys that are not all text
    {"$": "set", "v": [...]}                          a set or frozenset, in the order of its items' texts
    {"$": "array", "dtype": "<f8", "shape": [2], "data": "<base64>"}     little arrays and odd numpy scalars, C order
    {"$": "datetime", "v": "2026-11-21T00:00:00+00:00", "zone": "Europe/Berlin", "fold": 1}   zone, fold: where there
    {"$": "time" | "timedelta" | "decimal" | "fraction" | "uuid" | "path" | "bytes", "v": ...}
    {"$": "missing", "type": "pandas.NA"}             a library's own word for "no value"; read as None
    {"$": "object", "type": "m.Point", "v": {...}}    a dataclass, an enum, a frame: its parts by name
    {"$": "artifact", "digest": ..., "suffix": "png", "size": ..., "type": ..., "note": ...}    see `artifacts`
    {"$": "masked", "v": "\0api_key\0", "names": {"api_key": digest}}    a text that holds likely secrets: their names in NUL
                                                      characters in their places, and, of arguments, their keyed digests
    {"$": "unstored", "type": "...", "text": "..."}   what could be said of a value that can't be kept
    {"$": "error", "type": "ValueError", "message": "...", "line": 7}    a hindsight expression that failed

Floats that JSON holds are written by `repr`, which round-trips; -0.0 is kept; integers of any size are kept.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import json
import math
import reprlib
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from flor_dagster.recording.artifacts import VALUE_SUFFIX, Artifact, ArtifactStore, picture
from flor_dagster.recording.foreign import array_text, artifact_text, encode_foreign, structure
from flor_dagster.recording.masking import is_secret, known_secrets, masked_pairs

MAX_TEXT = 1_000_000
MAX_DEPTH = 100

_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Unstored:
    """A logged value that could not be kept: its type, and the beginning of its text."""

    type: str
    text: str


@dataclass(frozen=True, slots=True)
class Structure:
    """A value made of named parts, without its class: a dataclass, an enum's member, a frame of pandas."""

    type: str
    fields: dict[str, Any]


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


def encode(value: Any, store: ArtifactStore | None = None) -> str:
    """The journal text of any value. Never raises: what can't be kept becomes an `unstored` tag.

    Args:
        value: anything.
        store: where large values, figures and images go; without one they can't be kept.
    """
    kind = type(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else _tag_float(value)
    if kind is bool:
        return "true" if value else "false"
    if value is None:
        return "null"
    if kind is int:
        text = _int_text(value)
    elif kind is str:
        text = _dumps(value)
    else:
        try:
            text = _encode_other(value, store, 0)
        except Exception as error:  # noqa: BLE001 - a value must never break the training that logs it
            return _unstored(value, error)
    if len(text) <= MAX_TEXT:
        return text
    if store is None:
        return _unstored(value, ValueError(f"a text of {len(text)} characters"))
    try:
        return artifact_text(store.keep(text.encode(), VALUE_SUFFIX, _type_name(value)))
    except Exception as error:  # noqa: BLE001 - likewise
        return _unstored(value, error)


def _int_text(value: int) -> str:
    try:
        return repr(value)
    except ValueError:  # beyond sys.get_int_max_str_digits(): hex has no such limit
        return _dumps({"$": "int", "hex": hex(value)})


def _tag_float(value: float) -> str:
    return f'{{"$":"float","bits":"{struct.pack(">d", value).hex()}"}}'


def _encode_other(value: Any, store: ArtifactStore | None, depth: int) -> str:
    # Subclasses (numpy.float64, IntEnum, str enums): the plain value, whatever their own __str__ says.
    if isinstance(value, int):
        return encode(int.__int__(value))
    if isinstance(value, float):
        return encode(float.__float__(value))
    if isinstance(value, str):
        return encode(str.__str__(value))
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")

    def inner(part: Any) -> str:
        return _part(part, store, depth + 1)

    if isinstance(value, dict | list | tuple):
        return f'{{"$":"json","v":{_container(value, inner)}}}'
    kind = _type_name(value)
    foreign = encode_foreign(value, kind, inner, store)
    if foreign is not None:
        return foreign
    plain = _standard(value, inner) or _own(value, inner)
    if plain is not None:
        return plain
    if store is not None:
        drawn = picture(value, kind, store)
        if drawn is not None:
            return artifact_text(drawn)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return structure(
            kind, {name: _entry(name, getattr(value, name), inner) for name in names if hasattr(value, name)}
        )
    return _unstored(value)


def _own(value: Any, inner: Callable[[Any], str]) -> str | None:
    """What reading gives, logged again."""
    match value:
        case Failure():
            return _dumps({"$": "error", "type": value.type, "message": value.message, "line": value.line})
        case ArrayValue():
            return array_text(value.dtype, value.shape, value.data)
        case Structure():
            return structure(value.type, {name: inner(part) for name, part in value.fields.items()})
        case Artifact():
            return artifact_text(value)
        case _:
            return None


def _standard(value: Any, inner: Callable[[Any], str]) -> str | None:
    """What the standard library has types for."""
    match value:
        case complex():
            return f'{{"$":"complex","v":[{encode(value.real)},{encode(value.imag)}]}}'
        case dt.datetime():
            fields = {"$": "datetime", "v": value.isoformat()}
            zone = getattr(value.tzinfo, "key", None)
            extra = ({"zone": zone} if isinstance(zone, str) else {}) | ({"fold": 1} if value.fold else {})
            return _dumps(fields | extra)
        case dt.date():
            return _dumps({"$": "datetime", "v": value.isoformat()})
        case dt.time():
            return _dumps({"$": "time", "v": value.isoformat()})
        case dt.timedelta():
            return _dumps({"$": "timedelta", "v": [value.days, value.seconds, value.microseconds]})
        case decimal.Decimal():
            return _dumps({"$": "decimal", "v": str(value)})
        case fractions.Fraction():
            return f'{{"$":"fraction","v":[{_int_text(value.numerator)},{_int_text(value.denominator)}]}}'
        case uuid.UUID():
            return _dumps({"$": "uuid", "v": str(value)})
        case PurePath():
            return _dumps({"$": "path", "v": str(value)})
        case bytes() | bytearray() | memoryview():
            if known_secrets and known_secrets.mask.finds(text := bytes(value).decode("latin-1")):
                return encode(known_secrets.mask(text))
            return _dumps({"$": "bytes", "v": base64.b64encode(value).decode("ascii")})
        case set() | frozenset():
            return f'{{"$":"set","v":[{",".join(sorted(inner(item) for item in value))}]}}'
        case enum.Enum():
            return structure(_type_name(value), {"name": encode(value.name), "value": inner(value.value)})
        case _:
            return None


def _part(value: Any, store: ArtifactStore | None, depth: int) -> str:
    """A value inside another one: containers need no tag of their own there."""
    if isinstance(value, dict | list | tuple) and depth <= MAX_DEPTH:
        return _container(value, lambda part: _part(part, store, depth + 1))
    if value is None or type(value) in (bool, int, float, str):
        return encode(value)
    return _encode_other(value, store, depth)


def _container(value: Any, inner: Callable[[Any], str]) -> str:
    if not isinstance(value, dict):
        return f"[{','.join([inner(item) for item in value])}]"
    items: list[tuple[Any, Any]] = list(value.items())
    if all(isinstance(key, str) for key, _ in items):
        # A user's own "$" key must not be read back as one of our tags.
        if not any(key == "$" for key, _ in items):
            return (
                "{"
                + ",".join([f"{_dumps(str.__str__(k))}:{_entry(k, item, inner)}" for k, item in items])
                + "}"
            )
        tag = "dict"
    else:
        tag = "items"
    pairs = ",".join([f"[{inner(key)},{_entry(key, item, inner)}]" for key, item in items])
    return f'{{"$":"{tag}","v":[{pairs}]}}'


def _entry(name: Any, value: Any, inner: Callable[[Any], str]) -> str:
    """A value that has a name in another one: a likely secret is not kept."""
    if isinstance(value, str) and isinstance(name, str) and is_secret(name, value):
        known_secrets.add({name: str.__str__(value)})
        return _dumps({"$": "masked", "v": f"\0{name}\0", "names": {name: ""}})
    return inner(value)


_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxtuple = _SHORT.maxset = 20
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 500


def _unstored(value: Any, error: Exception | None = None) -> str:
    """What can be said of a value: its type, why it could not be kept, the beginning of its text."""
    try:
        # The whole text of a large container would take the training's time.
        text = str.__str__(value)[:500] if isinstance(value, str) else _SHORT.repr(value)
    except Exception as failure:  # noqa: BLE001 - a broken __repr__ is still only a value
        text = f"<repr failed: {type(failure).__name__}>"
    fields = {"$": "unstored", "type": _type_name(value), "text": masked_pairs(text[:500])}
    if error is not None:
        try:
            fields["why"] = f"{type(error).__name__}: {error}"[:200]
        except Exception:  # noqa: BLE001 - nor does a broken error
            fields["why"] = type(error).__name__
    return _dumps(fields)


def _type_name(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def decode(value: Any) -> Any:
    """The Python value of a parsed journal value (`json.loads` of what `encode` wrote)."""
    if not isinstance(value, dict):
        return value
    match value.get("$"):
        case "float" | "int" | "complex":
            return _decode_number(value)
        case "json":
            return _decode_json(value["v"])
        case "items":
            return {_hashable(_decode_json(k)): _decode_json(v) for k, v in value["v"]}
        case "set":
            return {_hashable(_decode_json(v)) for v in value["v"]}
        case "missing":
            return None
        case "object":
            return Structure(value["type"], {k: _decode_json(v) for k, v in value["v"].items()})
        case "artifact":
            return Artifact(*(value[k] for k in ("digest", "suffix", "size", "type", "note")))
        case "dict":
            return {k: _decode_json(v) for k, v in value["v"]}
        case "array":
            return ArrayValue(value["dtype"], tuple(value["shape"]), base64.b64decode(value["data"]))
        case "datetime" | "time" | "timedelta" | "decimal" | "fraction" | "uuid" | "path" | "bytes":
            return _decode_standard(value)
        case "masked":
            return known_secrets.unnamed_or_masked(value["v"])
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


def _decode_number(value: dict[str, Any]) -> Any:
    match value["$"]:
        case "float":
            return struct.unpack(">d", bytes.fromhex(value["bits"]))[0]
        case "int":
            return int(value["hex"], 16)
        case _:
            real, imaginary = (decode(part) for part in value["v"])
            return complex(real, imaginary)


def _decode_standard(value: dict[str, Any]) -> Any:
    text = value["v"]
    match value["$"]:
        case "datetime":
            return _decode_moment(value) if "T" in text else dt.date.fromisoformat(text)
        case "time":
            return dt.time.fromisoformat(text)
        case "timedelta":
            return dt.timedelta(*text)
        case "decimal":
            return decimal.Decimal(text)
        case "fraction":
            return fractions.Fraction(*(decode(part) for part in text))
        case "uuid":
            return uuid.UUID(text)
        case "path":
            return PurePath(text)
        case _:
            return base64.b64decode(text)


def _decode_moment(value: dict[str, Any]) -> dt.datetime:
    moment = dt.datetime.fromisoformat(value["v"])
    if "zone" in value:
        import zoneinfo

        try:
            zone = zoneinfo.ZoneInfo(value["zone"])
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            return moment  # a machine that does not know the zone: the moment and its offset are right
        zoned = moment.replace(tzinfo=zone, fold=value.get("fold", 0))
        return zoned if zoned.utcoffset() == moment.utcoffset() else moment
    return moment.replace(fold=value.get("fold", 0))


def _hashable(value: Any) -> Any:
    """A key or an item of a set, which was a tuple or a frozenset where it reads as a list or a set."""
    if isinstance(value, list):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, set):
        return frozenset(value)
    if isinstance(value, Structure):
        return f"{value.type}({', '.join(f'{k}={v!r}' for k, v in value.fields.items())})"
    return value
