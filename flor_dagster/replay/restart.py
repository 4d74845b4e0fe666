"""Where can a training that died go on? The way to its last restore point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flor_dagster.replay.record import Execution, RunRecord


@dataclass(frozen=True, slots=True)
class Restart:
    """How a new process comes to where the dead one can be put back.

    Args:
        loops: path of a loop execution → what is done with it: `skip` it, or `execute` it (from `start`, where given).
        last: path and iteration (None: the execution's end) of the last end state that is put back; the training goes on behind it.
        checkpoint: the name of that checkpoint.
        sentence: the same in words.
    """

    loops: dict[str, dict[str, Any]]
    last: tuple[str, int | None]
    checkpoint: str
    sentence: str


def plan_restart(
    record: RunRecord, skippable: Callable[[Execution], bool], usable: Callable[[str], bool]
) -> Restart | None:
    """The way to the last restore point of a run.

    What lies before it is skipped where its end state can stand for it, and executed where it holds such loops in turn.
    The first loop execution that must really run again ends the way: it runs in the new training, with records of its own.

    Args:
        record: the run's journal.
        skippable: whether an execution's end state can be put back.
        usable: whether a checkpoint, by its name, can be read.

    Returns:
        None where nothing can be put back.
    """
    way = _Way(record, skippable, usable)
    for execution in sorted(
        (e for e in record.executions.values() if e.parent is None), key=lambda e: e.opened
    ):
        if not way.passes(execution):
            break
    if way.last is None:
        return None
    path, index, name = way.last
    where = f"behind {_words(path)}" if index is None else f"behind iteration {index} of {_words(path)}"
    return Restart(way.loops, (path, index), name, f"goes on {where}")


class _Way:
    def __init__(
        self, record: RunRecord, skippable: Callable[[Execution], bool], usable: Callable[[str], bool]
    ) -> None:
        self._record = record
        self._skippable = skippable
        self._usable = usable
        self.loops: dict[str, dict[str, Any]] = {}
        self.last: tuple[str, int | None, str] | None = None

    def passes(self, execution: Execution) -> bool:
        """Take an execution into the way; whether the way leads on behind it."""
        spec: dict[str, Any] = {
            "action": "execute", "checkpoint": execution.checkpoint, "count": execution.count, "how": execution.how,
            "points": {str(k): v for k, v in execution.points.items()},
        }  # fmt: skip
        if (
            execution.checkpoint is not None
            and self._skippable(execution)
            and self._usable(execution.checkpoint)
        ):
            self.loops[execution.path] = {**spec, "action": "skip"}
            self.last = (execution.path, None, execution.checkpoint)
            return True
        start = 0
        if execution.parent is None:
            for index in sorted(execution.points, reverse=True):
                if self._usable(execution.points[index]):
                    start = spec["start"] = index + 1
                    self.last = (execution.path, index, execution.points[index])
                    break
        self.loops[execution.path] = spec
        children = [self._record.executions[c] for c in execution.children]
        children = [c for c in children if (c.parent_index or 0) >= start]
        for child in children:
            if not self.passes(child):
                return False
        return bool(children) and execution.ended is not None


def _words(path: str) -> str:
    """`epoch#0[3]/step#0` as `epoch[3]/step`."""
    return "/".join(part.replace("#0", "") for part in path.split("/"))
