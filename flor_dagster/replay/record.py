"""A journal read whole: the loop executions, the checkpoints and the sequence of records of one training run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flor_dagster.recording.journal import read_journal


@dataclass(slots=True)
class Execution:
    """One loop execution. `opened` and `closed` are positions in the journal's sequence of entries."""

    id: int
    path: str
    name: str
    parent: int | None
    parent_index: int | None
    file: str
    function: str
    line: int
    column: int
    opened: int
    started: int
    ended: int | None = None
    closed: int | None = None
    how: str = "open"
    count: int = 0
    checkpoint: str | None = None
    points: dict[int, str] = field(default_factory=dict[int, str])
    reasons: list[str] = field(default_factory=list[str])
    children: list[int] = field(default_factory=list[int])
    last_index: int = -1

    @property
    def seconds(self) -> float:
        """How long it took; 0 where it never ended."""
        return 0.0 if self.ended is None else (self.ended - self.started) / 1e9


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `text` is its value as journal text, `path` its loop context (empty for the run itself)."""

    position: int
    path: str
    name: str
    file: str
    line: int
    text: str


@dataclass(slots=True)
class RunRecord:
    """What a journal says of a run or a replay."""

    header: dict[str, Any]
    executions: dict[int, Execution]
    by_path: dict[str, Execution]
    records: list[Record]
    events: list[tuple[int, str, list[Any]]]
    args: dict[str, Any]
    generators: dict[str, Any]
    ended: list[Any] | None

    @property
    def finished(self) -> bool:
        """Whether the run came to its own end."""
        return self.ended is not None and self.ended[1] == "finished"


def read_record(path: Path) -> RunRecord:
    """Read a journal.

    Args:
        path: a run's or a replay's journal.

    Raises:
        JournalError: when it is none of ours.
    """
    record = RunRecord({}, {}, {}, [], [], {}, {}, None)
    contexts: dict[int, str] = {0: ""}
    owners: dict[int, tuple[int, int]] = {}
    calls: dict[int, tuple[str, str, int]] = {}
    for position, entry in enumerate(read_journal(path)):
        parts = entry.parts
        kind = parts[0]
        if isinstance(kind, int):
            name, file, line = calls[kind]
            record.records.append(Record(position, contexts[parts[1]], name, file, line, json.dumps(parts[2])))
        elif kind == "flor":
            record.header = parts[2]
        elif kind == "n":
            calls[parts[1]] = (parts[2], parts[3], parts[5])
        elif kind == "c":
            _, number, loop, index, _value = parts
            execution = record.executions[loop]
            contexts[number] = f"{execution.path}[{index}]"
            owners[number] = (loop, index)
            execution.last_index = max(execution.last_index, index)
        elif kind == "l":
            _open(record, parts, position, contexts, owners)
        elif kind == "e":
            execution = record.executions[parts[1]]
            execution.how, execution.count, execution.ended, execution.closed = parts[2], parts[3], parts[4], position
        elif kind == "a":
            record.args[parts[1]] = parts[2]
        elif kind == "g":
            record.generators[parts[1]] = parts[2]
        elif kind == "k":
            _checkpoint(record, parts[1])
        elif kind == "u":
            if parts[2] is None:
                record.executions[parts[1]].reasons = parts[3]
        elif kind == "z":
            record.ended = parts
        elif kind in ("s", "d", "x", "i", "m"):
            record.events.append((position, kind, parts))
    for execution in record.executions.values():
        if execution.how == "open":
            execution.count = execution.last_index + 1
    return record


def _open(
    record: RunRecord, parts: list[Any], position: int, contexts: dict[int, str], owners: dict[int, tuple[int, int]]
) -> None:
    _, number, context, name, ordinal, file, function, line, column, started = parts
    around = contexts[context]
    parent, index = owners.get(context, (None, None))
    path = f"{around}/{name}#{ordinal}" if around else f"{name}#{ordinal}"
    execution = Execution(number, path, name, parent, index, file, function, line, column, position, started)
    record.executions[number] = execution
    record.by_path[path] = execution
    if parent is not None:
        record.executions[parent].children.append(number)


def _checkpoint(record: RunRecord, fields: dict[str, Any]) -> None:
    execution = record.executions[fields["loop"]]
    if fields["index"] is None:
        execution.checkpoint = fields["name"]
    else:
        execution.points[fields["index"]] = fields["name"]
