"""Just enough of one training run: which loop executions to execute, to skip, and where to begin and end."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flor_dagster.replay.reach import Reach, Site
from flor_dagster.replay.record import Execution, RunRecord

RESTORE_SECONDS = 0.02
START_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """A hindsight statement at its place in the old version that it was put into.

    Args:
        key: the statement's key.
        file: the old version's file.
        function: the qualified name of the function that it stands in, `<module>` at the top.
        line: its first line there.
        reads: the names that its expression reads.
    """

    key: str
    file: str
    function: str
    line: int
    reads: frozenset[str]


@dataclass(frozen=True, slots=True)
class LoopPlan:
    """What one replay does with the loops.

    `loops` is what the child reads: path → action, checkpoint, points, count, how, start, stop. `executed` and `skipped`
    are numbers of loop executions. `sentence` says it in words. `cut` is the position in the recorded journal that the
    replay ends before, None where it goes to the record's end.
    """

    loops: dict[str, dict[str, Any]]
    executed: int
    skipped: int
    iterations: int
    estimated_seconds: float
    sentence: str
    cut: int | None
    start: tuple[str, int] | None
    detail: dict[str, Any] = field(default_factory=dict[str, Any])


Iterations = Mapping[str, tuple[int | Literal["last"], ...]]


def plan_loops(
    record: RunRecord,
    reach: Reach,
    targets: list[Target],
    *,
    iterations: Iterations | None = None,
    without: frozenset[str] = frozenset(),
    jump: bool = True,
    dead_names: Mapping[str, frozenset[str]] | None = None,
    added: Mapping[str, tuple[int, ...]] | None = None,
) -> LoopPlan:
    """Plan the replay of one run for statements at their places.

    Args:
        record: the run's journal.
        reach: the old version's sources, the statements in them.
        targets: the statements.
        iterations: loop name → wanted iterations; None wants all.
        without: names of checkpoints that must not be used (`*`: none at all).
        jump: whether the outermost loop may be entered in the middle.
        dead_names: checkpoint name → local names that it could not capture and that nothing of the old code reads later.
        added: file → the lines that the statements added to it; the record's lines are those of the file without them.

    Returns:
        The plan; at worst it executes everything from the beginning.
    """
    planner = _Planner(record, reach, targets, iterations, without, dead_names or {}, added or {})
    return planner.plan(jump)


class _Planner:
    def __init__(
        self, record: RunRecord, reach: Reach, targets: list[Target], iterations: Iterations | None,
        without: frozenset[str], dead_names: Mapping[str, frozenset[str]], added: Mapping[str, tuple[int, ...]],
    ) -> None:  # fmt: skip
        self.record = record
        self.reach = reach
        self.targets = targets
        self.iterations = iterations
        self.without = without
        self.dead_names = dead_names
        self.added = added
        self._must_sites: dict[Site, bool] = {}
        self.must = self._executions_that_must_run()

    # Which executions must run -----------------------------------------------------------------------------------

    def _executions_that_must_run(self) -> set[int]:
        must: set[int] = set()
        for execution in self.record.executions.values():
            if self._site_must(execution) and self._wanted(execution):
                here: int | None = execution.id
                while here is not None and here not in must:
                    must.add(here)
                    here = self.record.executions[here].parent
        return must

    def _site(self, execution: Execution) -> Site:
        line = shifted(execution.line, self.added.get(execution.file, ()))
        return Site(execution.file, line, execution.column)

    def _site_must(self, execution: Execution) -> bool:
        site = self._site(execution)
        known = self._must_sites.get(site)
        if known is None:
            known = any(self._holds(site, target) for target in self.targets)
            self._must_sites[site] = known
        return known

    def _holds(self, site: Site, target: Target) -> bool:
        span = self.reach.span(site)
        if span is None:
            return True
        if site.file == target.file and span[0] <= target.line <= span[1]:
            return True
        return target.function != "<module>" and self.reach.may_run(site, target.function)

    def wanted_indices(self, execution: Execution) -> set[int] | None:
        """The wanted iterations of an execution, None for all."""
        if self.iterations is None or execution.name not in self.iterations:
            return None
        last = execution.count - 1
        return {last if i == "last" else i for i in self.iterations[execution.name]}

    def _wanted(self, execution: Execution) -> bool:
        parent, index = execution.parent, execution.parent_index
        while parent is not None:
            around = self.record.executions[parent]
            wanted = self.wanted_indices(around)
            if wanted is not None and index not in wanted:
                return False
            parent, index = around.parent, around.parent_index
        return True

    # Which can be skipped ----------------------------------------------------------------------------------------

    def _usable(self, name: str | None) -> bool:
        if name is None or "*" in self.without or name in self.without:
            return False
        dead = self.dead_names.get(name, frozenset())
        return not any(dead & target.reads for target in self.targets)

    def _skippable(self, execution: Execution) -> bool:
        return (
            execution.id not in self.must and not execution.reasons and execution.how in ("exhausted", "break")
            and self._usable(execution.checkpoint) and self._leaves_cleanly(execution)
        )  # fmt: skip

    def _leaves_cleanly(self, execution: Execution) -> bool:
        """A loop with an `else` that was broken out of is executed: skipping it would run the `else`."""
        return execution.how == "exhausted" or not self.reach.has_else(self._site(execution))

    # The plan ----------------------------------------------------------------------------------------------------

    def plan(self, jump: bool) -> LoopPlan:
        """Put it together."""
        loops: dict[str, dict[str, Any]] = {}
        iterations = 0
        cut: int | None = None
        start: tuple[str, int] | None = None
        cost = START_SECONDS + self._setup_seconds()
        hidden: set[int] = set()
        for execution in self.record.executions.values():
            if execution.parent in hidden:
                hidden.add(execution.id)
                continue
            spec: dict[str, Any] = {
                "action": "execute", "checkpoint": execution.checkpoint,
                "points": {str(k): v for k, v in execution.points.items()},
                "count": execution.count, "how": execution.how,
            }  # fmt: skip
            loops[execution.path] = spec
            if self._skippable(execution):
                spec["action"] = "skip"
                hidden.add(execution.id)
                cost += RESTORE_SECONDS
                continue
            iterations += execution.count
            cost += self._own_seconds(execution)
            if execution.parent is None and cut is None:
                start_at, stop_at = self._bounds(execution, jump)
                if start_at:
                    spec["start"] = start_at
                    start = (execution.path, start_at)
                if stop_at is not None:
                    spec["stop"] = stop_at
                    cut = self._cut_after(execution, stop_at)
        before = self._stop_before_loops()
        if before is not None:
            loops[before.path]["action"] = "stop"
            cut = before.opened
            iterations = 0
            cost = START_SECONDS + self._setup_seconds()
        self._drop_outside(loops, start, cut)
        executed = sum(spec["action"] == "execute" for spec in loops.values())
        skipped = sum(spec["action"] == "skip" for spec in loops.values())
        sentence = _sentence(executed, skipped, start, loops, before is not None)
        return LoopPlan(loops, executed, skipped, iterations, cost, sentence, cut, start)

    def _drop_outside(
        self, loops: dict[str, dict[str, Any]], start: tuple[str, int] | None, cut: int | None
    ) -> None:
        """Executions that a bounded replay never comes to are no part of its plan."""
        for path in list(loops):
            execution = self.record.by_path[path]
            if cut is not None and execution.opened >= cut and loops[path]["action"] != "stop":
                del loops[path]
            elif start is not None and path.startswith(start[0] + "["):
                index = int(path[len(start[0]) + 1 :].partition("]")[0])
                if index < start[1]:
                    del loops[path]

    def _bounds(self, execution: Execution, jump: bool) -> tuple[int, int | None]:
        wanted = self.wanted_indices(execution)
        if execution.id not in self.must or wanted is None:
            return 0, None
        inside = sorted(i for i in wanted if 0 <= i < execution.count)
        if not inside:
            return 0, None
        later = any(e.parent is None and e.opened > execution.opened and e.id in self.must
                    for e in self.record.executions.values())  # fmt: skip
        stop = None if later or self._tail_targets(execution) else inside[-1]
        if stop == execution.count - 1:
            stop = None
        begin = 0
        if jump:
            points = [
                i + 1 for i, name in execution.points.items() if i + 1 <= inside[0] and self._usable(name)
            ]
            begin = max(points, default=0)
        return begin, stop

    def _tail_targets(self, execution: Execution) -> bool:
        site = self._site(execution)
        return not all(self._holds(site, target) for target in self.targets)

    def _cut_after(self, execution: Execution, stop: int) -> int:
        """The first position in the journal that belongs to a later iteration, or to the loop's end."""
        later = [
            child.opened
            for child in self.record.executions.values()
            if child.path.startswith(execution.path + "[") and _index(child.path, execution.path) > stop
        ]
        later += [
            r.position
            for r in self.record.records
            if r.path.startswith(execution.path + "[") and _index(r.path, execution.path) > stop
        ]
        if execution.closed is not None:
            later.append(execution.closed)
        return min(later, default=10**18)

    def _stop_before_loops(self) -> Execution | None:
        """The first outermost loop, where every statement stands before it at the top of the same function."""
        outermost = [e for e in self.record.executions.values() if e.parent is None]
        if not outermost or not self.targets:
            return None
        first = min(outermost, key=lambda e: e.opened)
        site = self._site(first)
        before = all(
            t.file == site.file and t.function == "<module>" and t.line < site.line for t in self.targets
        )
        return first if before and first.function == "<module>" else None

    # Costs ---------------------------------------------------------------------------------------------------------

    def _own_seconds(self, execution: Execution) -> float:
        return max(
            execution.seconds - sum(self.record.executions[c].seconds for c in execution.children), 0.0
        )

    def _setup_seconds(self) -> float:
        """From the run's start to its first loop, and from its last loop to its end."""
        outermost = [e for e in self.record.executions.values() if e.parent is None]
        begun = self.record.header.get("started", 0)
        if not outermost:
            return max((self.record.ended[3] - begun) / 1e9, 0.0) if self.record.ended else 0.0
        return max((min(e.started for e in outermost) - begun) / 1e9, 0.0)


def shifted(line: int, added: tuple[int, ...]) -> int:
    """The line that a line of a file has after lines were added (their numbers are the new ones, ascending)."""
    for number in added:
        if number > line:
            break
        line += 1
    return line


def _index(path: str, around: str) -> int:
    return int(path[len(around) + 1 :].partition("]")[0])


def _sentence(
    executed: int,
    skipped: int,
    start: tuple[str, int] | None,
    loops: Mapping[str, Mapping[str, Any]],
    setup_only: bool,
) -> str:
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


def names_read(expression: str) -> frozenset[str]:
    """The names that an expression reads."""
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError):
        return frozenset()
    return frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name))
