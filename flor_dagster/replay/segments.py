"""Split the replay of one run into contiguous segments that begin at restore points; pure functions on its plan.

A segment is a plan of its own: the outermost loop that holds the wanted iterations is entered at its first one and left
after its last. The first segment keeps what comes before the loop, the last one what comes after it. Every segment runs
the setup; so each costs a start, and a segment pays only where it saves more than that.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flor_dagster.replay.estimating import Rates
from flor_dagster.replay.planning import LoopPlan
from flor_dagster.replay.record import Execution, RunRecord, cut_after

# Another segment must make an answer this much faster to be worth its processor time.
GAIN = 0.85


@dataclass(frozen=True, slots=True)
class Costs:
    """What the parts of one run's replay should take, in seconds.

    Args:
        fixed: what every segment pays: the start, the setup, one restore.
        iterations: the cost of each iteration of the loop that is split, from `first` on.
        tail: what comes after the loop; the last segment pays it.
        first: the first iteration of the plan.
        entries: the iterations that the loop can be entered at, ascending.
        wanted: the iterations that are asked for; None for all.
        goes_on: whether the plan goes on after the loop.
    """

    fixed: float
    iterations: tuple[float, ...]
    tail: float
    first: int
    entries: tuple[int, ...]
    wanted: frozenset[int] | None
    goes_on: bool

    @property
    def last(self) -> int:
        """The last iteration of the plan."""
        return self.first + len(self.iterations) - 1

    def of(self, bounds: tuple[int, int]) -> float:
        """What one segment should take."""
        inside = self.iterations[bounds[0] - self.first : bounds[1] + 1 - self.first]
        return self.fixed + sum(inside) + (self.tail if bounds[1] == self.last else 0.0)


Bounds = tuple[tuple[int, int], ...]


def split_execution(record: RunRecord, plan: LoopPlan) -> Execution | None:
    """The loop execution that a plan can be split in, None where there is none."""
    return record.by_path.get(plan.split[0]) if plan.split else None


def costs_of(record: RunRecord, plan: LoopPlan, rates: Rates) -> Costs | None:
    """The parts of a plan's cost, None where it can't be split."""
    execution = split_execution(record, plan)
    if plan.split is None or execution is None or execution.count < 1:
        return None
    spec = plan.loops[execution.path]
    first, stop = spec.get("start", 0), spec.get("stop")
    last = execution.count - 1 if stop is None else stop
    iterations = _iteration_seconds(record, plan, execution, rates)[first : last + 1]
    rest = max(plan.estimated_seconds - sum(iterations), 0.0)
    fixed = min(rest, rates.start + rates.work * _before(record, plan, execution) + rates.restore)
    _, entries, wanted = plan.split
    return Costs(
        fixed, tuple(iterations), rest - fixed, first, tuple(e for e in entries if first < e <= last),
        None if wanted is None else frozenset(wanted), stop is None,
    )  # fmt: skip


def _before(record: RunRecord, plan: LoopPlan, execution: Execution) -> float:
    """Seconds of the recorded run that come before a loop, without those of the loops that the plan skips there."""
    begun = record.header.get("started", execution.started)
    seconds = (execution.started - begun) / 1e9
    for other in record.executions.values():
        if other.parent is None and other.opened < execution.opened:
            seconds -= other.seconds if plan.loops.get(other.path, {}).get("action") == "skip" else 0.0
    return max(seconds, 0.0)


def _iteration_seconds(record: RunRecord, plan: LoopPlan, execution: Execution, rates: Rates) -> list[float]:
    """What each iteration of a loop should take under a plan: skipped loops in it cost a restore."""
    children = [record.executions[c] for c in execution.children]
    own = max(execution.seconds - sum(c.seconds for c in children), 0.0) / execution.count
    seconds = [own * rates.work] * execution.count
    for child in children:
        index = child.parent_index or 0
        skipped = plan.loops.get(child.path, {}).get("action") == "skip"
        if index < len(seconds):
            seconds[index] += rates.restore if skipped else child.seconds * rates.work
    return seconds


def contiguous(costs: Costs) -> Bounds:
    """The fewest segments that leave out what is not asked for, where leaving it out pays."""
    asked = set(costs.wanted or ()) | ({costs.last} if costs.goes_on else set())
    wanted = sorted(i for i in asked if costs.first <= i <= costs.last)
    if costs.wanted is None or not wanted:
        return ((costs.first, costs.last),)
    parts: list[tuple[int, int]] = [(costs.first, wanted[0])]
    for index in wanted[1:]:
        begin, end = parts[-1]
        entry = max((e for e in costs.entries if end < e <= index), default=end + 1)
        gap = sum(costs.iterations[end + 1 - costs.first : entry - costs.first])
        if gap > costs.fixed:
            parts.append((entry, index))
        else:
            parts[-1] = (begin, index)
    return tuple(parts)


def divide(costs: Costs, parts: int) -> Bounds:
    """At most so many more segments, balanced: the dearest one is as cheap as the restore points allow."""
    base = contiguous(costs)
    if parts <= 1:
        return base
    result: list[tuple[int, int]] = []
    total = sum(costs.of(b) for b in base)
    for bounds in base:
        share = max(1, round(parts * costs.of(bounds) / total)) if len(base) > 1 else parts
        result += _balanced(costs, bounds, share)
    return tuple(result)


def _balanced(costs: Costs, bounds: tuple[int, int], parts: int) -> list[tuple[int, int]]:
    """Contiguous parts of one segment with the least maximal cost, by bisection over that maximum."""
    first, last = bounds
    borders = [first, *(e for e in costs.entries if first < e <= last)]
    sums = [0.0]
    for value in costs.iterations[first - costs.first : last + 1 - costs.first]:
        sums.append(sums[-1] + value)

    def cost(begin: int, end: int) -> float:
        own = sums[end + 1 - first] - sums[begin - first]
        return own + (costs.tail if end == costs.last else 0.0)

    def cut(limit: float) -> list[tuple[int, int]] | None:
        found: list[tuple[int, int]] = []
        begin = first
        for here, after in zip(borders, [*borders[1:], last + 1], strict=True):
            if cost(begin, after - 1) > limit:
                if begin == here:
                    return None
                found.append((begin, here - 1))
                begin = here
                if cost(begin, after - 1) > limit:
                    return None
        found.append((begin, last))
        return found if len(found) <= parts else None

    low, high = 0.0, cost(first, last)
    best = [bounds]
    for _ in range(40):
        middle = (low + high) / 2
        found = cut(middle)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return best


def choose(all_costs: Sequence[Costs | None], others: Sequence[float], workers: int) -> list[Bounds | None]:
    """How every run of a question is split, so that all of them together end soonest.

    Args:
        all_costs: a run each; None for one that can't be split.
        others: the seconds of the ones that can't be split, in their places.
        workers: units at once.

    Returns:
        The bounds of each run's segments; None for one that can't be split.
    """

    def units(bounds: Sequence[Bounds | None]) -> list[float]:
        seconds: list[float] = []
        for costs, parts, other in zip(all_costs, bounds, others, strict=True):
            seconds += [other] if costs is None or parts is None else [costs.of(b) for b in parts]
        return seconds

    def divided(parts: int) -> list[Bounds | None]:
        return [None if costs is None else divide(costs, parts) for costs in all_costs]

    best = divided(1)
    least = makespan(units(best), workers)
    for parts in range(2, workers + 1):
        bounds = divided(parts)
        seconds = makespan(units(bounds), workers)
        if seconds < GAIN * least:
            best, least = bounds, seconds
    return best


def makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last of some units ends, where the longest waiting one is begun first (Graham's LPT rule)."""
    free = [0.0] * max(1, workers)
    for unit in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + unit)
    return max(free)


def segment_plans(record: RunRecord, plan: LoopPlan, bounds: Bounds) -> list[LoopPlan]:
    """One plan per segment; the plan itself where there is one segment that is all of it."""
    execution = split_execution(record, plan)
    if execution is None:
        return [plan]
    spec = plan.loops[execution.path]
    first = spec.get("start", 0)
    stop = spec.get("stop")
    whole = (first, execution.count - 1 if stop is None else stop)
    if bounds == (whole,):
        return [plan]
    return [
        _segment(record, plan, execution, begin, end if (stop is not None or end < whole[1]) else None)
        for begin, end in bounds
    ]


def _segment(
    record: RunRecord, plan: LoopPlan, execution: Execution, begin: int, end: int | None
) -> LoopPlan:
    prefix = execution.path + "["
    cut = plan.cut if end is None else cut_after(record, execution, end)
    loops: dict[str, dict[str, object]] = {}
    for path, spec in plan.loops.items():
        opened = record.by_path[path].opened
        inside = int(path[len(prefix) :].partition("]")[0]) if path.startswith(prefix) else None
        if inside is not None and (inside < begin or (end is not None and inside > end)):
            continue
        if cut is not None and opened >= cut:
            continue
        loops[path] = dict(spec)
    mine = loops[execution.path]
    mine.pop("start", None)
    mine.pop("stop", None)
    if begin:
        mine["start"] = begin
    if end is not None:
        mine["stop"] = end
    executed = sum(spec["action"] == "execute" for spec in loops.values())
    skipped = sum(spec["action"] == "skip" for spec in loops.values())
    words = f"iterations {begin} to {execution.count - 1 if end is None else end} of {execution.name}"
    return replace(
        plan, loops=loops, executed=executed, skipped=skipped, cut=cut,
        start=(execution.path, begin) if begin else None, sentence=f"{plan.sentence} ({words})",
    )  # fmt: skip
