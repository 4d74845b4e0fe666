"""Loops that ran side by side in threads: which records have an order between them.

The records of one outermost loop come in the order of its thread, and so do those outside of any loop. Between two loops
that were open at once in two threads there is none: how the system let them take turns belongs to no training. Tasks of one
thread take their turns by the program's own doing, so that their order counts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from flor_dagster.replay.record import Execution, Record, RunRecord

_NEVER = 1 << 62


def strand_of(path: str) -> str:
    """The outermost loop execution of a loop context; empty for the run itself."""
    return path.partition("[")[0]


def loops_beside(record: RunRecord) -> str:
    """The loops of a journal that ran in a thread while something else was recorded, in words; empty where none did.

    Args:
        record: of a training run or a replay.
    """
    outermost = sorted((e for e in record.executions.values() if e.parent is None), key=lambda e: e.opened)
    if not any(execution.thread for execution in outermost):
        return ""
    outside = [r.position for r in record.records if not r.path]
    found: dict[str, None] = {}
    going: list[Execution] = []
    for execution in outermost:
        going = [other for other in going if _end(other) > execution.opened]
        for other in going:
            if other.thread != execution.thread:
                found |= {other.name: None, execution.name: None}
        if execution.thread and bisect_left(outside, _end(execution)) > bisect_right(
            outside, execution.opened
        ):
            found[execution.name] = None
        going.append(execution)
    names = [f"`{name}`" for name in found]
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def by_strand(
    expected: Iterable[Record], actual: Iterable[Record]
) -> list[tuple[list[Record], list[Record]]]:
    """Two sequences of records, cut into those that have an order: the pairs of each strand, in the order of the first."""
    pairs: dict[str, tuple[list[Record], list[Record]]] = {}
    for which, records in enumerate((expected, actual)):
        for record in records:
            pairs.setdefault(strand_of(record.path), ([], []))[which].append(record)
    return list(pairs.values())


def _end(execution: Execution) -> int:
    return _NEVER if execution.closed is None else execution.closed
