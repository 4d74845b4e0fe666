"""One reading of a journal from its watermark on, sorted into what the tables take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import ODD
from flor_dagster.recording.journal import journal_end, read_journal
from flor_dagster.recording.layout import is_name
from flor_dagster.recording.values import decode
from flor_dagster.store.packing import to_json

if TYPE_CHECKING:
    from pathlib import Path

#: How a run may end.
ENDS = ("finished", "failed", "interrupted", "lost")

#: call, context, raw value, byte offset
RawRecord = tuple[int, int, Any, int]


@dataclass(slots=True)
class Lines:
    """What stands in a journal between `start` and `end`, by kind, in journal order.

    A loop's number, a context's number and a call's number are the journal's own.
    """

    start: int
    end: int
    header: dict[str, Any] | None = None
    calls: dict[int, tuple[str, str, str, int, int]] = field(
        default_factory=dict[int, tuple[str, str, str, int, int]]
    )
    loops: dict[int, list[Any]] = field(default_factory=dict[int, list[Any]])
    contexts: dict[int, tuple[int, int, Any]] = field(default_factory=dict[int, tuple[int, int, Any]])
    ends: dict[int, list[Any]] = field(default_factory=dict[int, list[Any]])
    records: list[RawRecord] = field(default_factory=list[RawRecord])
    args: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    checkpoints: list[tuple[int, dict[str, Any]]] = field(default_factory=list[tuple[int, dict[str, Any]]])
    uncaptured: list[tuple[int, list[Any]]] = field(default_factory=list[tuple[int, list[Any]]])
    warnings: list[tuple[int, str, str]] = field(default_factory=list[tuple[int, str, str]])
    modules: dict[str, str] = field(default_factory=dict[str, str])
    tags: dict[str, str] = field(default_factory=dict[str, str])
    outputs: list[tuple[int, int, int, str, str, str]] = field(
        default_factory=list[tuple[int, int, int, str, str, str]]
    )
    odd: list[int] = field(default_factory=list[int])
    """Where something stands that no recorder writes: it was passed over."""
    lost: int = 0
    last: list[Any] | None = None


def read_lines(path: Path, start: int = 0) -> Lines:
    """Everything whole that was appended since `start`; lines of kinds that this release does not know are passed over.

    Raises:
        JournalError: when the file is no journal, or of a later format.
    """
    # The end is taken first: what is appended meanwhile belongs to the next reading.
    lines = Lines(start, journal_end(path))
    if lines.end <= start:
        lines.end = start
        return lines
    take = lines.records.append
    for entry in read_journal(path, start):
        offset = entry.offset
        if offset >= lines.end:
            break
        parts = entry.parts
        if type(parts[0]) is int:
            if len(parts) == 3 and type(parts[1]) is int:
                take((parts[0], parts[1], parts[2], offset))
        else:
            _sort(lines, offset, parts)
    return lines


def _sort(lines: Lines, offset: int, parts: list[Any]) -> None:
    try:
        _take(lines, offset, parts)
    except ODD:
        lines.odd.append(offset)


def _whole(value: object, most: int = 1 << 63) -> int:
    """A whole number that every database holds."""
    if type(value) is not int or not -most <= value < most:
        raise ValueError(value)
    return value


def _time(value: object) -> int | None:
    return None if value is None else _whole(value)


def _line_number(value: object) -> int:
    return _whole(value, 1 << 31)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _value(value: Any) -> Any:
    """A value that can be read again."""
    if isinstance(value, dict | list):
        decode(value)
        to_json(value)
    return value


def _checkpoint(entry: dict[str, Any]) -> dict[str, Any]:
    if not is_name(entry.get("name", "1")):
        raise ValueError(entry["name"])
    _whole(entry["loop"])
    _time(entry["index"])
    return entry


def _take(lines: Lines, offset: int, parts: list[Any]) -> None:  # noqa: C901 - one case a kind
    match parts:
        case ["flor", _, dict(header)]:
            lines.header = header
        case ["n", call, name, file, function, line, column]:
            place = _text(file), _text(function), _line_number(line), _line_number(column)
            lines.calls[_whole(call)] = (_text(name), *place)
        case ["l", loop, parent, name, ordinal, file, function, line, column, t]:
            place = [_text(file), _text(function), _line_number(line), _line_number(column)]
            lines.loops[_whole(loop)] = [_whole(parent), _text(name), _whole(ordinal), *place, _time(t)]
        case ["c", context, loop, index, value]:
            lines.contexts[_whole(context)] = (_whole(loop), _whole(index), _value(value))
        case ["e", loop, how, count, t]:
            lines.ends[_whole(loop)] = [_text(how), _whole(count), _time(t)]
        case ["a", str(name), value, preset, source]:
            lines.args[name] = [_value(value), _value(preset), _text(source)]
        case ["k", dict(entry)]:
            lines.checkpoints.append((offset, _checkpoint(entry)))
        case ["u", loop, index, list(reasons)]:
            lines.uncaptured.append((offset, [_whole(loop), _time(index), [_text(one) for one in reasons]]))
        case ["m", dict(modules)]:
            lines.modules.update(modules)
        case ["w", code, message]:
            lines.warnings.append((offset, str(code), str(message)))
            lines.lost += _lost(code, str(message))
        case ["t", dict(tags)]:
            lines.tags.update({str(name): str(value) for name, value in tags.items()})
        case ["o", context, t, channel, source, text]:
            told = _text(channel), _text(source), _text(text)
            lines.outputs.append((offset, _whole(context), _whole(t), *told))
        case ["z", str(status), reason, t] if status in ENDS:
            lines.last = [status, _text(reason or ""), _time(t)]
        case ["n" | "l" | "c" | "e" | "a" | "k" | "u" | "m" | "w" | "t" | "o" | "z", *_]:
            raise ValueError(parts[0])
        case _:
            pass


def _lost(code: object, message: str) -> int:
    """How many lines a warning says could not be written."""
    count = message.partition(" ")[0]
    return int(count) if code == "lost" and count.isdecimal() else 0
