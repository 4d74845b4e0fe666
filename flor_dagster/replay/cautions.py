"""What a reader of replayed values should know of a run's code and data: values and branches of the clock, changed files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from flor_dagster.parsing import parse_python
from flor_dagster.recording.tainting import tainted_branches, tainted_names_at
from flor_dagster.replay.inputs import SHOWN, changed_since, read_inputs, shown
from flor_dagster.replay.placing import PlacedVersion
from flor_dagster.replay.record import RunRecord
from flor_dagster.replay.verifying import tainted_statements
from flor_dagster.store.models import RunRow, StatementRow

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace

Read = Callable[[str], str | None]
"""The text of a file of the run's version."""


def clock_values(placed: PlacedVersion, statement: StatementRow) -> str:
    """What of the clock, the process or the machine a placed statement logs; empty where nothing."""
    file, placement = placed.placements[statement.id]
    lines = range(placement.lines[0], placement.lines[1] + 1)
    names = tainted_names_at(parse_python(placed.files[file].text), lines, "log")
    return names[0] if names else ""


def clock_branches(record: RunRecord, read: Read) -> tuple[str, ...]:
    """Where the run's code branches on a value of the clock, the process or the machine: a replay may take another branch."""
    found: list[str] = []
    for file in logging_files(record):
        with contextlib.suppress(SyntaxError, ValueError):
            found += [f"{file}:{line}" for line in tainted_branches(parse_python(read(file) or ""))]
    return tuple(found)


def clock_statements(record: RunRecord, read: Read) -> frozenset[tuple[str, int]]:
    """(file, line) of the run's own statements whose values are not compared."""
    texts = {file: read(file) for file in logging_files(record)}
    return frozenset(
        place for file, text in texts.items() if text is not None for place in tainted_statements(file, text)
    )


def logging_files(record: RunRecord) -> list[str]:
    """The files that records of a run come from."""
    return sorted({r.file for one in record.ranks for r in one.records})


def data_warnings(workspace: Workspace, run: RunRow, record: RunRecord) -> tuple[str, ...]:
    """The data files that a run read, listed or asked for and that are missing, or others, now."""
    versioned = frozenset(workspace.placer().tree(run.commit or "").paths())
    inputs = read_inputs(workspace.home, run.id, record)
    changed = changed_since(inputs, workspace.root, versioned)
    known = {c.name for c in changed}
    gone = [
        words
        for words in inputs.answers.gone(workspace.root, versioned)
        if words.partition(",")[0] not in known
    ]
    return (*shown(changed), *gone[:SHOWN])
