"""A journal read whole: the loop executions, the checkpoints and the sequence of records of one training run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from flor_dagster.errors import ODD, JournalError, odd_content
from flor_dagster.recording import layout
from flor_dagster.recording.journal import checked_header, read_journal
from flor_dagster.recording.variable_notes import CHILDREN
from flor_dagster.replay.given import Given, VariableRead, variables_of


@dataclass(slots=True)
class Execution:
    """One loop execution. `opened` and `closed` are positions in the journal's sequence of entries.

    `values` are its iterations' where they are not their indices. `thread` is what an outermost one ran in, 0 the main thread. `reasons` say why its end state could not be captured, `no_points` why those of its iterations could not.
    """

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
    no_points: list[str] = field(default_factory=list[str])
    children: list[int] = field(default_factory=list[int])
    last_index: int = -1
    let_go: bool = False
    thread: int = 0
    values: dict[int, Any] = field(default_factory=dict[int, Any])

    @property
    def seconds(self) -> float:
        """How long it took; 0 where it never ended."""
        return 0.0 if self.ended is None else (self.ended - self.started) / 1e9


class Record(NamedTuple):
    """One record. `value` is its value as the journal holds it, `path` its loop context (empty for the run itself)."""

    position: int
    path: str
    name: str
    file: str
    line: int
    value: Any

    @property
    def text(self) -> str:
        """Its value as journal text: equal for equal bits."""
        return json.dumps(self.value)


@dataclass(slots=True)
class RunRecord:
    """What a journal says of a run or a replay.

    `drawn` says of the generators whose `begin` is that of the import of this package whether they were drawn from before it.
    `facts` are what the journal says of each checkpoint, by its name; `last_time` is the last time in it, in nanoseconds.
    `sources` say of each argument whether it was `given` or the `default` in the code.
    `variables` are the environment variables that the program read; `given` is what its replays are given, once that is known.
    Of several ranks it is the first one's, with the others' in `peers`, in the order of their ranks.
    """

    header: dict[str, Any]
    executions: dict[int, Execution]
    by_path: dict[str, Execution]
    records: list[Record]
    events: list[tuple[int, str, list[Any]]]
    args: dict[str, Any]
    begin: dict[str, Any]
    generators: dict[str, Any]
    ended: list[Any] | None
    drawn: dict[str, bool] = field(default_factory=dict[str, bool])
    facts: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    last_time: int = 0
    peers: tuple[RunRecord, ...] = ()
    variables: dict[str, VariableRead] = field(default_factory=dict[str, VariableRead])
    sources: dict[str, str] = field(default_factory=dict[str, str])
    given: Given | None = None

    @property
    def ranks(self) -> tuple[RunRecord, ...]:
        """The journals of all ranks, this one first."""
        return (self, *self.peers)

    @property
    def pinned(self) -> dict[str, str]:
        """Checkpoint → digest of its manifest; those of older releases have none."""
        return {name: str(facts["digest"]) for name, facts in self.facts.items() if "digest" in facts}

    @property
    def rank(self) -> int:
        """Whose journal it is."""
        return int(self.header.get("rank") or 0)

    @property
    def finished(self) -> bool:
        """Whether the run came to its own end."""
        return self.ended is not None and self.ended[1] == "finished" and not self.cut

    @property
    def cut(self) -> bool:
        """Whether it ended within a loop: by a signal, an error, a full disk or an exit. There its replay ends, too."""
        return any(execution.how == "open" for execution in self.executions.values())


def read_record(path: Path) -> RunRecord:
    """Read a journal.

    Args:
        path: a run's or a replay's journal.

    Raises:
        JournalError: when it is none of ours.
    """
    reader = _Reader()
    offset = 0
    try:
        for position, entry in enumerate(read_journal(path)):
            offset = entry.offset
            reader.take(position, entry.parts)
    except OSError as error:
        raise JournalError(f"{path} can't be read: {error}. Put the file back to replay this run") from error
    except ODD:
        with odd_content(f"{path}, at byte {offset},"):
            raise
    for execution in reader.record.executions.values():
        if execution.how == "raise" and (execution.closed or 0) > reader.last_event and reader.record.ended:
            execution.how = (
                "open"  # what raised it is no part of the record: its last iteration is not complete
            )
        elif execution.how == "open":
            execution.count = execution.last_index + 1
    return reader.record


def read_run(folder: Path) -> RunRecord:
    """Read the journals of a training run: the first rank's, with the others' in its `peers`.

    Args:
        folder: the run's.

    Raises:
        JournalError: when one is none of ours.
    """
    numbers = [path.name.split(".")[1] for path in folder.glob("journal.*.jsonl")]
    ranks = sorted(int(number) for number in numbers if number.isdecimal()) or [0]
    record = read_together([folder / f"journal.{rank}.jsonl" for rank in ranks])
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / CHILDREN).read_text(encoding="utf-8", errors="replace").split("\n"):
            read = _read_by_child(line)
            if read is not None:
                record.variables.setdefault(read.name, read)
    return record


def _read_by_child(line: str) -> VariableRead | None:
    """A variable that a process read which the training made; None where its line was cut off."""
    try:
        return variables_of(json.loads(line))
    except (ValueError, LookupError, TypeError):
        return None


def read_together(paths: Sequence[Path]) -> RunRecord:
    """Read the journals of several ranks, the first one's first."""
    return together([read_record(path) for path in paths])


def together(ranks: Sequence[RunRecord]) -> RunRecord:
    """The journals of several ranks as one record: the first one's, with the others' in its `peers`."""
    first, *others = ranks
    first.peers = tuple(one for one in others if one.header)
    return first


def let_go_of(record: RunRecord, there: Container[str]) -> RunRecord:
    """Take out the checkpoints that the journal tells of and that were deleted since, for the room that they took.

    Args:
        record: a run's; it is changed.
        there: names of the checkpoints that the run still has.
    """
    for execution in (e for one in record.ranks for e in one.executions.values()):
        if execution.checkpoint is not None and execution.checkpoint not in there:
            execution.checkpoint, execution.let_go = None, True
        execution.points = {index: name for index, name in execution.points.items() if name in there}
    return record


def cut_after(record: RunRecord, execution: Execution, stop: int) -> int:
    """The first position in the journal that belongs to a later iteration of an execution, or to its end."""
    prefix = execution.path + "["

    def later(path: str) -> bool:
        return path.startswith(prefix) and int(path[len(prefix) :].partition("]")[0]) > stop

    positions = [e.opened for e in record.executions.values() if later(e.path)]
    positions += [r.position for r in record.records if later(r.path)]
    if execution.closed is not None:
        positions.append(execution.closed)
    return min(positions, default=10**18)


def checkpoints_of(record: RunRecord) -> set[str]:
    """The names of all checkpoints that plans may use."""
    found: set[str] = set()
    for execution in (e for one in record.ranks for e in one.executions.values()):
        found.update(execution.points.values())
        if execution.checkpoint is not None:
            found.add(execution.checkpoint)
    return found


_DOINGS = frozenset({"c", "l", "a", "o", "t"})


class _Reader:
    """Takes a journal's entries one by one; the kinds are described in `recording.journal`."""

    def __init__(self) -> None:
        self.last_event = -1
        """Where the journal tells last of what the program did, other than that a loop ended."""
        self.record = RunRecord({}, {}, {}, [], [], {}, {}, {}, None)
        self._contexts: dict[int, str] = {0: ""}
        self._owners: dict[int, tuple[int, int]] = {}
        self._calls: dict[int, tuple[str, str, int]] = {}
        self._kinds: dict[str, Callable[[int, list[Any]], None]] = {
            "flor": self._header, "n": self._call, "c": self._context, "l": self._open, "e": self._close, "p": self._beside,
            "a": self._argument, "b": self._begun, "g": self._generators, "k": self._checkpoint, "u": self._uncaptured, "r": self._variable, "z": self._end,
        }  # fmt: skip

    def take(self, position: int, parts: list[Any]) -> None:
        kind = parts[0]
        if isinstance(kind, int) or kind in _DOINGS:
            self.last_event = position
        if isinstance(kind, int):
            name, file, line = self._calls[kind]
            self.record.records.append(Record(position, self._contexts[parts[1]], name, file, line, parts[2]))
        elif kind in self._kinds:
            self._kinds[kind](position, parts)
        elif kind in ("s", "d", "x", "i", "m"):
            self.record.events.append((position, kind, parts))

    def _header(self, _: int, parts: list[Any]) -> None:
        self.record.header = checked_header(parts[2])
        self._saw(parts[2].get("started"))

    def _call(self, _: int, parts: list[Any]) -> None:
        self._calls[parts[1]] = (parts[2], parts[3], parts[5])

    def _context(self, _: int, parts: list[Any]) -> None:
        number, loop, index = parts[1:4]
        execution = self.record.executions[loop]
        self._contexts[number] = f"{execution.path}[{index}]"
        self._owners[number] = (loop, index)
        execution.last_index = max(execution.last_index, index)
        if parts[4] != index:
            execution.values[index] = parts[4]

    def _open(self, position: int, parts: list[Any]) -> None:
        _, number, context, name, ordinal, file, function, line, column, started = parts
        around = self._contexts[context]
        parent, index = self._owners.get(context, (None, None))
        path = f"{around}/{name}#{ordinal}" if around else f"{name}#{ordinal}"
        execution = Execution(
            number, path, name, parent, index, file, function, line, column, position, started
        )
        self._saw(started)
        self.record.executions[number] = execution
        self.record.by_path[path] = execution
        if parent is not None:
            self.record.executions[parent].children.append(number)

    def _beside(self, _: int, parts: list[Any]) -> None:
        self.record.executions[parts[1]].thread = parts[2]

    def _close(self, position: int, parts: list[Any]) -> None:
        self._saw(parts[4])
        execution = self.record.executions[parts[1]]
        execution.how, execution.count, execution.ended, execution.closed = (
            parts[2],
            parts[3],
            parts[4],
            position,
        )

    def _argument(self, _: int, parts: list[Any]) -> None:
        self.record.args[parts[1]] = parts[2]
        self.record.sources[parts[1]] = parts[4] if len(parts) > 4 else ""

    def _variable(self, _: int, parts: list[Any]) -> None:
        read = variables_of(parts)
        known = self.record.variables.get(read.name)
        if known is None or known.by != "own":
            self.record.variables[read.name] = read

    def _begun(self, _: int, parts: list[Any]) -> None:
        self.record.begin[parts[1]] = parts[2]
        if len(parts) > 3:
            self.record.drawn[parts[1]] = parts[3]

    def _generators(self, _: int, parts: list[Any]) -> None:
        self.record.generators[parts[1]] = parts[2]

    def _checkpoint(self, _: int, parts: list[Any]) -> None:
        fields = parts[1]
        self._saw(fields.get("t"))
        if not layout.is_name(fields["name"]):
            raise ValueError(f"{fields['name']!r} is no name of a checkpoint")
        self.record.facts[fields["name"]] = fields
        execution = self.record.executions[fields["loop"]]
        if fields["index"] is None:
            execution.checkpoint = fields["name"]
        else:
            execution.points[fields["index"]] = fields["name"]

    def _uncaptured(self, _: int, parts: list[Any]) -> None:
        execution = self.record.executions[parts[1]]
        if parts[2] is None:
            execution.reasons = parts[3]
        else:
            execution.no_points = parts[3]

    def _saw(self, time: Any) -> None:
        if isinstance(time, int):
            self.record.last_time = max(self.record.last_time, time)

    def _end(self, _: int, parts: list[Any]) -> None:
        self._saw(parts[3])
        self.record.ended = parts


def loaded_files(record: RunRecord) -> frozenset[str]:
    """The repository's files that a run said it had loaded."""
    events = (event for one in record.ranks for event in one.events)
    return frozenset(name for _, kind, parts in events if kind == "m" for name in parts[1])
