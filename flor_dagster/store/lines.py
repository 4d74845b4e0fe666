"""One reading of a journal from its watermark on, sorted into what the tables take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flor_dagster.recording.journal import journal_end, read_journal

if TYPE_CHECKING:
    from pathlib import Path

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
            if len(parts) == 3:
                take((parts[0], parts[1], parts[2], offset))
        else:
            _sort(lines, offset, parts)
    return lines


def _sort(lines: Lines, offset: int, parts: list[Any]) -> None:
    match parts:
        case ["flor", _, dict(header)]:
            lines.header = header
        case ["n", int(call), str(name), file, function, line, column]:
            lines.calls[call] = (name, file, function, line, column)
        case ["l", int(loop), *rest] if len(rest) == 8:
            lines.loops[loop] = rest
        case ["c", int(context), int(loop), int(index), value]:
            lines.contexts[context] = (loop, index, value)
        case ["e", int(loop), how, count, t]:
            lines.ends[loop] = [how, count, t]
        case ["a", str(name), *rest] if len(rest) == 3:
            lines.args[name] = rest
        case ["k", dict(entry)]:
            lines.checkpoints.append((offset, entry))
        case ["u", loop, index, list(reasons)]:
            lines.uncaptured.append((offset, [loop, index, reasons]))
        case ["m", dict(modules)]:
            lines.modules.update(modules)
        case ["w", code, message]:
            lines.warnings.append((offset, str(code), str(message)))
            lines.lost += _lost(code, str(message))
        case ["t", dict(tags)]:
            lines.tags.update({str(name): str(value) for name, value in tags.items()})
        case ["o", int(context), int(t), str(channel), str(source), str(text)]:
            lines.outputs.append((offset, context, t, channel, source, text))
        case ["z", status, reason, t]:
            lines.last = [status, reason, t]
        case _:
            pass


def _lost(code: object, message: str) -> int:
    """How many lines a warning says could not be written."""
    count = message.partition(" ")[0]
    return int(count) if code == "lost" and count.isdecimal() else 0
