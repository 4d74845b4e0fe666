"""What differs between two captured states: the way to each place, and both values; and what no replay can give again.

A value of the clock, of `hash()` or an address may be kept in any object, a library's too. It is recognised by what it is: a
time near each process's own clock, what `hash()` gave in this process, an address in an object's own description. Such a
difference is left out of the comparison and listed; everything else has to be equal.
"""

from __future__ import annotations

import builtins
import datetime as dt
import json
import math
import pickle
import re
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flor_dagster.recording.modules import clock_facts
from flor_dagster.recording.state import parts_of, text_of

MOST = 200
"""So many differences of a root are looked at; where there are more, it counts as another state."""

_AROUND = 2.0
_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Difference:
    """One place at which two states differ.

    Args:
        path: the way to it from its root.
        recorded: the reference there in the recorded state; None where there is no single value.
        here: the same of the state here.
        words: both, where they are no single values.
    """

    path: str
    recorded: Any = None
    here: Any = None
    words: str = ""

    @property
    def sentence(self) -> str:
        """Both values, in words."""
        return self.words or f"was {shown_ref(self.recorded)} and is {shown_ref(self.here)}"


Buffers = Callable[[str], Any]
Graph = tuple[list[Any], Any, Buffers]
"""The nodes of a captured state, a reference into them, and what gives the content of a buffer."""


def differences(recorded: Graph, here: Graph, most: int = MOST) -> Iterator[Difference]:
    """Where the state behind one reference differs from that behind another one, at most so many times.

    Args:
        recorded: the recorded state.
        here: the state here.
        most: after so many it ends.
    """
    numbers: tuple[dict[int, int], dict[int, int]] = {}, {}
    stack: list[tuple[str, Any, Any]] = [("", recorded[1], here[1])]
    told = 0
    while stack and told < most:
        path, old, new = stack.pop()
        if not (isinstance(old, int) and isinstance(new, int)):
            if isinstance(old, int) or isinstance(new, int) or text_of(old) != text_of(new):
                told += 1
                single = not isinstance(old, int) and not isinstance(new, int)
                yield (
                    Difference(path, old, new)
                    if single
                    else Difference(path, words=f"was {_kind(recorded[0], old)} and is {_kind(here[0], new)}")
                )
            continue
        if old in numbers[0] or new in numbers[1]:
            if numbers[0].get(old) != new or numbers[1].get(new) != old:
                told += 1
                yield Difference(path, words="is another object of those that are equal")
            continue
        numbers[0][old], numbers[1][new] = new, old
        mine, theirs = recorded[0][old], here[0][new]
        steps, others = list(_steps(mine)), list(_steps(theirs))
        heads = [part for part in steps if part[0] is None], [part for part in others if part[0] is None]
        if heads[0] != heads[1] or len(steps) != len(others):
            told += 1
            yield _of_nodes(path, (mine, recorded[2]), (theirs, here[2]))
            continue
        below = [
            (path + name, ref, other)
            for (name, ref), (_, other) in zip(steps, others, strict=True)
            if name is not None
        ]
        stack.extend(reversed(below))


def _steps(node: list[Any]) -> Iterator[tuple[str | None, Any]]:
    """A node's references, each by the step to it; its own text has none."""
    kind, label, number, key = node[0], "", 0, None
    for part in parts_of(node):
        if isinstance(part, bytes):
            if part.startswith(b".") and part.endswith(b"="):
                label = part[:-1].decode("utf-8", "replace")
            yield None, part
            continue
        if label:
            step = label
        elif kind == "dict" or (kind == "object" and node[4] and node[4][0] in ("dict", "defaultdict")):
            if number % 2 == 0:
                key, step = part, "[key]"
            else:
                step = f"[{shown_ref(key)}]" if not isinstance(key, int) else f"[item {number // 2}]"
            number += 1
        elif kind in ("list", "tuple", "set", "frozenset", "oarray", "object"):
            step, number = f"[{number}]", number + 1
        else:
            step = ""
        yield step, part
        # The class of an object and its attributes come before what it holds as a container.
        label = ""


def _of_nodes(path: str, recorded: tuple[list[Any], Buffers], here: tuple[list[Any], Buffers]) -> Difference:
    """The first difference between two nodes themselves."""
    (old, read), (new, look) = recorded, here
    if old[0] == new[0] and old[0] in ("npscalar", "pickle") and old[1] == new[1]:
        return Difference(path, old, new)
    if old[0] == new[0] == "array" and old[1:4] == new[1:4]:
        words = _of_bytes(read(old[4]), look(new[4]), str(old[1]))
        return Difference(path, words=words or f"is an array of {old[1]} with other values")
    if old[0] == new[0] == "storage" and old[1:3] == new[1:3]:
        return Difference(path, words="is a tensor with other values")
    if old[0] == new[0] and old[0] in ("list", "tuple", "dict", "set", "frozenset", "oarray"):
        count = len(old[2] if old[0] == "oarray" else old[1]), len(new[2] if old[0] == "oarray" else new[1])
        if count[0] != count[1]:
            return Difference(path, words=f"was a {old[0]} of {count[0]} and is one of {count[1]}")
        return Difference(path, words=f"is a {old[0]} that holds others")
    if old[0] == new[0] == "object" and old[1] == new[1]:
        lost, more = sorted(old[3].keys() - new[3].keys()), sorted(new[3].keys() - old[3].keys())
        said = [f"lacks {', '.join(lost)}"] * bool(lost) + [f"has {', '.join(more)} besides"] * bool(more)
        return Difference(path, words=" and ".join(said) or f"is a {old[1]} that holds others")
    if old[0] == new[0] and old[0].startswith("rng."):
        return Difference(path, words="is a random generator that stands elsewhere")
    return Difference(path, words=f"was {_text(old)} and is {_text(new)}")


_FORMATS = {
    "f8": "d",
    "f4": "f",
    "f2": "e",
    "i8": "q",
    "i4": "i",
    "i2": "h",
    "i1": "b",
    "u8": "Q",
    "u4": "I",
    "u1": "B",
}


def _of_bytes(recorded: Any, here: Any, dtype: str) -> str:
    """Where the values of two arrays first differ; empty where that can't be told."""
    letter = _FORMATS.get(dtype.lstrip("<|="))
    if recorded is None or here is None or letter is None or len(recorded) != len(here):
        return ""
    size = struct.calcsize(letter)
    one, other = memoryview(recorded).cast("B"), memoryview(here).cast("B")
    for begin in range(0, len(one), 1 << 16):
        if one[begin : begin + (1 << 16)] != other[begin : begin + (1 << 16)]:
            for at in range(begin, len(one), size):
                if one[at : at + size] != other[at : at + size]:
                    (old,), (new,) = (
                        struct.unpack(f"<{letter}", bytes(m[at : at + size])) for m in (one, other)
                    )
                    return f"was {old!r} and is {new!r} at its item {at // size}"
    return ""


def shown_ref(ref: Any) -> str:
    """A scalar of a captured state as a person reads it."""
    if not isinstance(ref, list) or not ref:
        return _text(ref)
    value = value_of(ref)
    return _text(ref) if value is None and ref != ["v", None] else _cut(repr(value))


def value_of(ref: Any) -> Any:
    """The value of a scalar reference, of a number of numpy's, or of a moment; None for anything else."""
    tag: str = ref[0]
    content: Any = ref[1] if len(ref) > 1 else None
    match tag:
        case "v" | "s":
            return content
        case "p" | "k":
            return str(content).replace("\0", "…")
        case "f":
            return struct.unpack(">d", bytes.fromhex(content))[0]
        case "i":
            return int(content, 16)
        case "b":
            return bytes.fromhex(content)
        case "npscalar":
            letter = _FORMATS.get(str(content).lstrip("<|="))
            return struct.unpack(f"<{letter}", bytes.fromhex(ref[2]))[0] if letter else None
        case "pickle" if content in (
            "datetime.datetime",
            "datetime.date",
            "datetime.time",
            "datetime.timedelta",
        ):
            return pickle.loads(bytes.fromhex(ref[2]))
        case _:
            return None


def _kind(nodes: list[Any], ref: Any) -> str:
    return (
        f"a {nodes[ref][1] if nodes[ref][0] == 'object' else nodes[ref][0]}"
        if isinstance(ref, int)
        else shown_ref(ref)
    )


def _text(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


# What no replay can give again ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moments:
    """The time of a process: wall clock seconds, and those of the clock that only goes forward, where it is known."""

    first: float
    last: float
    monotonic: float | None

    def has(self, value: Any) -> bool:
        """Whether a value is a moment of it, in any usual form."""
        if isinstance(value, bool):
            return False
        if isinstance(value, dt.datetime):
            return self._around(value.timestamp()) or self._around(value.replace(tzinfo=dt.UTC).timestamp())
        if isinstance(value, float):
            return math.isfinite(value) and (
                any(self._around(value / scale) for scale in (1.0, 1e3))
                or (not value.is_integer() and self._forward(value))
            )
        if isinstance(value, int):
            return any(self._around(value / scale) for scale in (1, 1e3, 1e6, 1e9)) or self._forward(
                value / 1e9
            )
        return isinstance(value, str) and self._named(value)

    def _around(self, seconds: float) -> bool:
        return self.first - _AROUND <= seconds <= self.last + _AROUND

    def _forward(self, seconds: float) -> bool:
        if self.monotonic is None:
            return False
        return self.monotonic - _AROUND <= seconds <= self.monotonic + (self.last - self.first) + _AROUND

    def _named(self, text: str) -> bool:
        """Whether a text names a moment: by its time of the day, with the date before it where there is one, or by a number."""
        for found in _TIMES.finditer(text):
            year, month, day, hour, minute, second = (int(part) if part else None for part in found.groups())
            for zone in (None, dt.UTC):
                moments = (dt.datetime.fromtimestamp(at, zone) for at in (self.first, self.last))
                for moment in moments:
                    try:
                        said = moment.replace(
                            year=year or moment.year, month=month or moment.month, day=day or moment.day,
                            hour=hour or 0, minute=minute or 0, second=second or 0, microsecond=0,
                        )  # fmt: skip
                    except ValueError:
                        continue
                    if self._around(said.timestamp()):
                        return True
        numbers = re.findall(r"(?<![\d.])\d{10}(?:\.\d+|\d{3}|\d{6}|\d{9})?(?![\d.])", text)
        return any(self.has(float(n) if "." in n else int(n)) for n in numbers)


_TIMES = re.compile(
    r"(?<!\d)(?:(\d{4})[-_./]?(\d\d)[-_./]?(\d\d)[T _./-]*)?(\d\d)[-_:.h]?(\d\d)[-_:.m]?(\d\d)(?:[._,-]?\d{3,6})?(?!\d)"
)
_DIGITS = re.compile(r"\d+")
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")


class Recogniser:
    """Tells values that no replay can give again from values that are not as they were.

    Args:
        clock: what the recorded process's header says of its clocks, with its end as `ended`; empty where nothing is known.
        unseeded: whether the recorded process drew its hash seed itself.
    """

    def __init__(self, clock: Mapping[str, Any], *, unseeded: bool) -> None:
        self._then = (
            Moments(clock["began"], clock["ended"], clock.get("monotonic")) if clock.get("began") else None
        )
        self._facts = clock_facts()
        self._unseeded = unseeded

    def kind(self, one: Difference) -> str:
        """What a difference comes from: `the clock`, `hash()` or `an address`; empty where from something else."""
        if one.recorded is None or one.here is None:
            return ""
        old, new = value_of(one.recorded), value_of(one.here)
        if type(old) is not type(new) or old is None:
            return ""
        if isinstance(old, str) and _ADDRESS.search(old) and _ADDRESS.sub("", old) == _ADDRESS.sub("", new):
            return "an address"
        if self._unseeded and type(old) is int and abs(old) >= _LEAST_HASH and new in hashes:
            return "hash()"
        if self._then is None or (isinstance(old, str) and _DIGITS.sub("0", old) != _DIGITS.sub("0", new)):
            return ""
        now = Moments(self._facts["began"], time.time(), self._facts["monotonic"])
        return "the clock" if self._then.has(old) and now.has(new) else ""


_LEAST_HASH = 1 << 24
hashes: set[int] = set()
"""What `hash()` gave in this process for what hangs on the hash seed, or on an address."""

MOST_HASHES = 100_000


def watch_hashes() -> None:
    """Note from here on what `hash()` gives for texts, and for what holds texts or lies somewhere."""
    plain = builtins.hash

    def hash(value: Any, /) -> int:  # noqa: A001 - it stands in its place
        found = plain(value)
        if len(hashes) < MOST_HASHES and _changes(value):
            hashes.add(found)
        return found

    hash.__module__, hash.__qualname__ = "builtins", "hash"
    builtins.hash = hash


def _changes(value: Any, depth: int = 3) -> bool:
    kind = type(value)
    if kind in (str, bytes) or kind.__hash__ is object.__hash__:
        return True
    if kind in (tuple, frozenset) and depth:
        return any(_changes(item, depth - 1) for item in value)
    return False
