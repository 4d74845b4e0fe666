"""What a plan executes again, in seconds of the recorded run; what it restores; both in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flor_dagster.replay.record import Execution, RunRecord


def work_of(
    record: RunRecord, loops: Mapping[str, Mapping[str, Any]], cut: int | None
) -> tuple[float, int, int]:
    """Seconds of the recorded run that are executed again, end states put back, iterations executed.

    Args:
        record: the run's journal.
        loops: what the plan does with each loop execution, by path.
        cut: the position in the journal that the replay ends before, None where it goes to the record's end.
    """
    work = _outside_seconds(record, cut)
    restores = iterations = 0
    for path, spec in loops.items():
        execution = record.by_path[path]
        if spec["action"] == "skip":
            restores += 1
        elif spec["action"] == "execute":
            first, stop = spec.get("start", 0), spec.get("stop")
            count = (execution.count if stop is None else stop + 1) - first
            restores += bool(first)
            iterations += count
            work += _own_seconds(record, execution) * count / max(execution.count, 1)
    return work, restores, iterations


def _own_seconds(record: RunRecord, execution: Execution) -> float:
    spent = _seconds(record, execution) - sum(
        _seconds(record, record.executions[c]) for c in execution.children
    )
    return max(spent, 0.0)


def _seconds(record: RunRecord, execution: Execution) -> float:
    """How long an execution took; of one that never ended, up to the last sign of life."""
    if execution.ended is not None:
        return execution.seconds
    return max((record.last_time - execution.started) / 1e9, 0.0)


def _outside_seconds(record: RunRecord, cut: int | None) -> float:
    """What the run spent outside its loops, up to where the replay ends."""
    begun = record.header.get("started", 0)
    outermost = [e for e in record.executions.values() if e.parent is None]
    before = [e for e in outermost if cut is None or e.opened < cut]
    until = record.last_time
    if cut is not None:
        until = max((e.ended or e.started for e in before), default=begun)
        until = min((e.started for e in outermost if e.opened >= cut), default=until)
    return max((until - begun) / 1e9 - sum(_seconds(record, e) for e in before), 0.0)


def sentence_of(
    executed: int,
    skipped: int,
    start: tuple[str, int] | None,
    loops: Mapping[str, Mapping[str, Any]],
    setup_only: bool,
) -> str:
    """What a plan does, in words.

    Args:
        executed: how many loop executions run.
        skipped: how many are skipped.
        start: the loop that is entered in the middle, and the iteration.
        loops: as for `work_of`.
        setup_only: whether it stops before the first loop.
    """
    if setup_only:
        return "runs the setup and stops before the first loop"
    parts: list[str] = []
    if start is not None:
        parts.append(f"restores the end of iteration {start[1] - 1} of {start[0].partition('#')[0]}")
    if skipped:
        parts.append(f"skips {skipped} loop execution{'s' * (skipped != 1)} by restoring the end state")
    if executed:
        names = sorted(
            {p.rpartition("/")[2].partition("#")[0] for p, s in loops.items() if s["action"] == "execute"}
        )
        parts.append(f"executes {executed} loop execution{'s' * (executed != 1)} ({', '.join(names)})")
    stops = [s["stop"] for s in loops.values() if s.get("stop") is not None]
    if stops:
        parts.append(f"stops after iteration {stops[0]}")
    return "; ".join(parts) or "runs the script from its beginning"
