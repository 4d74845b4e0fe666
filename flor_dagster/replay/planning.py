"""Just enough of one training run: which loop executions to execute, to skip, and where to begin and end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flor_dagster.replay.agreeing import Agreement, Bounds, Offer, agree, died_in, last_common
from flor_dagster.replay.coverage import NOWHERE, Coverage
from flor_dagster.replay.estimating import UNMEASURED, Rates
from flor_dagster.replay.holding import NOTHING, Held, Reads, joined
from flor_dagster.replay.iterations import Iterations, asked_indices
from flor_dagster.replay.lines import shifted
from flor_dagster.replay.pricing import sentence_of, work_of
from flor_dagster.replay.reach import Reach, Site
from flor_dagster.replay.record import Execution, RunRecord, cut_after


@dataclass(frozen=True, slots=True)
class Target:
    """A hindsight statement at its place in the old version that it was put into.

    Args:
        key: the statement's key.
        file: the old version's file.
        function: the qualified name of the function that it stands in, `<module>` at the top.
        line: its first line there.
        reads: what it reads, itself or in the functions that it calls.
    """

    key: str
    file: str
    function: str
    line: int
    reads: Reads = NOTHING


@dataclass(frozen=True, slots=True)
class LoopPlan:
    """What one replay does with the loops.

    `loops` is what the child reads: path → action, checkpoint, points, count, how, start, stop. `executed` and `skipped`
    are numbers of loop executions. `sentence` says it in words. `cut` is the position in the recorded journal that the
    replay ends before, None where it goes to the record's end. `notes` say why loops are executed; `cost` are the parts of
    the estimate: seconds of the recorded run that are executed again, end states that are put back. `split` is the
    outermost loop that segments may begin in: its path, the iterations that it can be entered at, the wanted ones (None: all).
    Of several ranks it is the first one's plan, with the others' in `peers`.
    """

    loops: dict[str, dict[str, Any]]
    executed: int
    skipped: int
    iterations: int
    estimated_seconds: float
    sentence: str
    cut: int | None
    start: tuple[str, int] | None
    notes: tuple[str, ...] = ()
    cost: dict[str, float] = field(default_factory=dict[str, float])
    split: tuple[str, tuple[int, ...], tuple[int, ...] | None] | None = None
    peers: tuple[LoopPlan, ...] = ()

    @property
    def ranks(self) -> tuple[LoopPlan, ...]:
        """The plans of all ranks, this one first."""
        return (self, *self.peers)


def plan_loops(
    record: RunRecord,
    reach: Reach,
    targets: list[Target],
    *,
    iterations: Iterations | None = None,
    without: frozenset[str] = frozenset(),
    jump: bool = True,
    held: Callable[[str], Held] | None = None,
    added: Mapping[str, tuple[int, ...]] | None = None,
    unskippable: Mapping[tuple[str, int, int], str] | None = None,
    rates: Rates = UNMEASURED,
    covered: Coverage = NOWHERE,
) -> LoopPlan:
    """Plan the replay of one run for statements at their places.

    Args:
        record: the run's journal.
        reach: the old version's sources, the statements in them.
        targets: the statements.
        iterations: loop name → wanted iterations; None wants all.
        without: names of checkpoints that must not be used (`*`: none at all).
        jump: whether the outermost loop may be entered in the middle.
        held: tells of a checkpoint by its name what of the targets' reads it lacks; None: every one holds everything.
        added: file → the lines that the statements added to it; the record's lines are those of the file without them.
        unskippable: (file, line, column) of loops that an audit found to come out otherwise when they are skipped → why.
        rates: what replays have cost here.
        covered: what earlier replays answered; it is not wanted again.

    Returns:
        The plan; at worst it executes everything from the beginning.
    """
    planners = [
        _Planner(one, reach, targets, iterations, without, held or _holds_all, added or {}, unskippable or {}, rates,
                 covered)
        for one in record.ranks
    ]  # fmt: skip
    return planners[0].plan(jump) if len(planners) == 1 else _together(planners, record, jump)


def _together(planners: Sequence[_Planner], record: RunRecord, jump: bool) -> LoopPlan:
    """One plan per rank, alike in everything that the others wait for."""
    agreement = agree([planner.offer(jump) for planner in planners], last_common(record))
    for planner in planners:
        planner.agreed = agreement
    ends = {planner.end_path() for planner in planners}
    if len(ends) == 1:
        for planner in planners:
            planner.agreed = replace(agreement, end=ends.copy().pop())
    plans = [replace(planner.plan(jump), split=None) for planner in planners]
    return replace(
        plans[0], peers=tuple(plans[1:]), estimated_seconds=max(plan.estimated_seconds for plan in plans),
        sentence=f"on {len(plans)} ranks together: {plans[0].sentence}",
    )  # fmt: skip


def _holds_all(_: str) -> Held:
    return Held()


def never_reached(
    record: RunRecord, reach: Reach, targets: Iterable[Target], added: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Statements that a run which died never came to: those behind the loop that it died in.

    Args:
        record: the run's journal.
        reach: as for `plan_loops`.
        targets: the statements.
        added: as for `plan_loops`.

    Returns:
        Statement key → why, in words.
    """
    found: dict[str, str] = {}
    for one in record.ranks:
        who = f"rank {one.rank} of this training run" if record.peers else "this training run"
        found = _never_reached(one, reach, targets, added, who) | found
    return found


def _never_reached(
    record: RunRecord,
    reach: Reach,
    targets: Iterable[Target],
    added: Mapping[str, tuple[int, ...]],
    who: str,
) -> dict[str, str]:
    last = died_in(record)
    if last is None:
        return {}
    site = Site(last.file, shifted(last.line, added.get(last.file, ())), last.column)
    where = f"{last.name}[{last.count - 1}]" if last.count else f"the first iteration of {last.name}"
    behind: dict[str, bool] = {}
    for target in targets:
        after = reach.only_after(target.file, target.function, target.line, site)
        behind[target.key] = behind.get(target.key, True) and after
    return {key: f"{who} never got there: it ended in {where}" for key, after in behind.items() if after}


class _Planner:
    def __init__(
        self, record: RunRecord, reach: Reach, targets: list[Target], iterations: Iterations | None,
        without: frozenset[str], held: Callable[[str], Held], added: Mapping[str, tuple[int, ...]],
        unskippable: Mapping[tuple[str, int, int], str], rates: Rates, covered: Coverage,
    ) -> None:  # fmt: skip
        self.record = record
        self.reach = reach
        self.targets = targets
        self.iterations = iterations
        self.without = without
        self.held = held
        self.added = added
        self.unskippable = unskippable
        self.rates = rates
        self.covered = covered
        self.reads = joined(target.reads for target in targets)
        self._must_sites: dict[Site, bool] = {}
        self._held: dict[str, str] = {}
        self.agreed: Agreement | None = None
        self.must = self._executions_that_must_run()

    # Which executions must run -----------------------------------------------------------------------------------

    def _executions_that_must_run(self) -> set[int]:
        must: set[int] = set()
        for execution in self.record.executions.values():
            if self._site_must(execution) and self._wanted(execution) and not self._is_answered(execution):
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
        return self.reach.may_run(site, target.function, target.file)

    def wanted_indices(self, execution: Execution) -> set[int] | None:
        """The wanted iterations of an execution, None for all."""
        wanted = asked_indices(self.iterations, execution)
        if not self.covered:
            return wanted
        asked = range(execution.count) if wanted is None else wanted
        left = {index for index in asked if not self.covered.covers(execution.path, index)}
        return wanted if len(left) == len(asked) else left

    def _is_answered(self, execution: Execution) -> bool:
        """Whether earlier replays answered all that is asked of an execution."""
        return bool(self.covered) and execution.count > 0 and self.wanted_indices(execution) == set() != asked_indices(
            self.iterations, execution
        )  # fmt: skip

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

    def _lacks(self, name: str) -> str:
        """What the targets read and a checkpoint does not hold."""
        if name not in self._held:
            self._held[name] = self.held(name).missing_for(self.reads)
        return self._held[name]

    def _usable(self, name: str | None) -> bool:
        return name is not None and not self._forbidden(name) and not self._lacks(name)

    def _audited(self, execution: Execution) -> str | None:
        return self.unskippable.get((execution.file, execution.line, execution.column))

    def _forbidden(self, name: str) -> bool:
        return "*" in self.without or name in self.without

    def why_executed(self, execution: Execution) -> str:
        """Why a loop execution is not skipped; empty where it is."""
        return self._why_here(execution) or (
            self.agreed.executed.get(execution.path, "") if self.agreed else ""
        )

    def _why_here(self, execution: Execution) -> str:
        if execution.id in self.must:
            return "a statement may run in it"
        if execution.how not in ("exhausted", "break"):
            return {"open": "the run ended in it"}.get(execution.how, f"it was left by {execution.how}")
        if execution.reasons:
            return f"its end state can't be captured: {execution.reasons[0]}"
        audited = self._audited(execution)
        if audited is not None:
            return f"an audit found that skipping it is not the same as executing it: {audited}"
        if execution.checkpoint is None:
            return "its checkpoint was let go of" if execution.let_go else "no checkpoint of it was taken"
        if self._forbidden(execution.checkpoint):
            return "its checkpoint is not to be used"
        if self._lacks(execution.checkpoint):
            return f"`{self._lacks(execution.checkpoint)}` is read and its checkpoint does not hold that"
        # A loop with an `else` that was broken out of: skipping it would run the `else`.
        if execution.how == "break" and self.reach.has_else(self._site(execution)):
            return "it was broken out of and has an `else`"
        return ""

    # Several ranks -------------------------------------------------------------------------------------------------

    def offer(self, jump: bool) -> Offer:
        """What this rank could do by itself."""
        executions = list(self.record.executions.values())
        executed = {e.path: why for e in executions if (why := self._why_here(e))}
        bounds = {e.path: b for e in executions if e.parent is None and (b := self._offered(e, jump))}
        places = {e.path: (e.file, e.line, e.column) for e in executions}
        return Offer(self.record.rank, places, executed, bounds)

    def end_path(self) -> str | None:
        """The path of the loop that a replay may end before; see `_end`."""
        end = self._end()
        return None if end is None else end.path

    # The plan ----------------------------------------------------------------------------------------------------

    def plan(self, jump: bool) -> LoopPlan:
        """Put it together."""
        loops: dict[str, dict[str, Any]] = {}
        why: dict[str, str] = {}
        cut: int | None = None
        start: tuple[str, int] | None = None
        hidden: set[int] = set()
        end = self._end() if self.agreed is None or self.agreed.end is not None else None
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
            reason = self.why_executed(execution)
            if not reason:
                spec["action"] = "skip"
                hidden.add(execution.id)
                continue
            why[execution.path] = reason
            if execution.parent is None and cut is None:
                start_at, stop_at = self._bounds(execution, jump)
                if start_at and start is None:
                    spec["start"] = start_at
                    start = (execution.path, start_at)
                if stop_at is not None:
                    spec["stop"] = stop_at
                    cut = cut_after(self.record, execution, stop_at)
        if end is not None and (cut is None or end.opened < cut):
            cut = self._stop_at(end, loops)
        self._drop_outside(loops, start, cut)
        executed = sum(spec["action"] == "execute" for spec in loops.values())
        skipped = sum(spec["action"] == "skip" for spec in loops.values())
        setup_only = executed == skipped == 0 and cut is not None
        sentence = sentence_of(executed, skipped, start, loops, setup_only)
        work, restores, iterations = work_of(self.record, loops, cut)
        return LoopPlan(
            loops, executed, skipped, iterations, self.rates.seconds(work, restores), sentence, cut, start,
            self._notes(loops, why), {"work": work, "restores": restores}, self._split(loops) if jump else None,
        )  # fmt: skip

    def _split(
        self, loops: Mapping[str, Mapping[str, Any]]
    ) -> tuple[str, tuple[int, ...], tuple[int, ...] | None] | None:
        """The loop that segments may begin in: the one that is bounded already, else the one that took longest."""
        able = [e for e in self.record.executions.values()
                if e.parent is None and loops.get(e.path, {}).get("action") == "execute"]  # fmt: skip
        bounded = [e for e in able if {"start", "stop"} & loops[e.path].keys()]
        if not able:
            return None
        chosen = max(bounded or able, key=lambda e: e.seconds)
        entries = tuple(
            sorted(
                i + 1
                for i, n in chosen.points.items()
                if i + 1 < chosen.count and self._usable(n) and self._audited(chosen) is None
            )
        )
        wanted = self.wanted_indices(chosen) if chosen.id in self.must else None
        return chosen.path, entries, None if wanted is None else tuple(sorted(wanted))

    def _end(self) -> Execution | None:
        """The first outermost loop that every statement's place lies before, where executing it would be a waste.

        What can be skipped costs next to nothing, and what is compared behind it makes the replay's verdict better.
        """
        if self.agreed is not None and self.agreed.end is not None:
            return self.record.by_path[self.agreed.end]
        outermost = [e for e in self.record.executions.values() if e.parent is None]
        outermost.sort(key=lambda e: e.opened)
        sites: set[Site] = set()
        for number, execution in enumerate(outermost):
            site = self._site(execution)
            if site not in sites and self.targets and execution.id not in self.must and all(
                self.reach.only_before(t.file, t.function, t.line, site) for t in self.targets
            ):  # fmt: skip
                rest = outermost[number:]
                return execution if number == 0 or any(self.why_executed(e) for e in rest) else None
            sites.add(site)
        return None

    def _stop_at(self, end: Execution, loops: dict[str, dict[str, Any]]) -> int:
        """End at a loop; where something was restored before it, one iteration of it shows whether that was right."""
        restored = any(
            (spec["action"] == "skip" or spec.get("start")) and self.record.by_path[path].opened < end.opened
            for path, spec in loops.items()
        )
        spec = loops[end.path]
        # Ranks must end at one place: one of them may have no iteration to look at.
        if not restored or end.count == 0 or spec["action"] == "skip" or self.agreed is not None:
            loops[end.path] = {**spec, "action": "stop"}
            return end.opened
        spec["stop"] = 0
        return cut_after(self.record, end, 0)

    def _notes(self, loops: Mapping[str, Mapping[str, Any]], why: Mapping[str, str]) -> tuple[str, ...]:
        """Why loops are executed, a sentence per loop name and reason."""
        counts: Counter[tuple[str, str]] = Counter(
            (self.record.by_path[path].name, why[path])
            for path, spec in loops.items()
            if spec["action"] == "execute" and path in why
        )
        return tuple(
            f"{name} is executed{f' {count} times' if count > 1 else ''}: {reason}"
            for (name, reason), count in counts.items()
        )

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
        """Where a loop is entered and left."""
        if self.agreed is not None:
            return self.agreed.bounds.get(execution.path, (0, None))
        offered = self._offered(execution, jump)
        if offered is None:
            return 0, None
        return max((entry for entry in offered.entries if entry <= offered.first), default=0), offered.last

    def _offered(self, execution: Execution, jump: bool) -> Bounds | None:
        wanted = self.wanted_indices(execution)
        if execution.id not in self.must or wanted is None:
            return None
        inside = sorted(i for i in wanted if 0 <= i < execution.count)
        if not inside:
            return None
        later = any(e.parent is None and e.opened > execution.opened and e.id in self.must
                    for e in self.record.executions.values())  # fmt: skip
        stop = None if later or self._tail_targets(execution) else inside[-1]
        if stop == execution.count - 1:
            stop = None
        able = jump and self._audited(execution) is None
        entries = (i + 1 for i, name in execution.points.items() if able and self._usable(name))
        return Bounds(inside[0], stop, frozenset(entries))

    def _tail_targets(self, execution: Execution) -> bool:
        site = self._site(execution)
        return not all(self._holds(site, target) for target in self.targets)
