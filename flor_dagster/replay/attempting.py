"""One pass over a training run by one plan: its segments in children, their journals compared with the record and merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from flor_dagster.errors import JournalError
from flor_dagster.replay.exactness import machine_difference
from flor_dagster.replay.executing import Job, Outcome, execute
from flor_dagster.replay.merging import merge_journals
from flor_dagster.replay.planning import LoopPlan
from flor_dagster.replay.record import RunRecord, read_record, read_together, together
from flor_dagster.replay.run_lock import StoppedError
from flor_dagster.replay.units import Backend
from flor_dagster.replay.verifying import Verdict, verify

Tainted = frozenset[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Failed:
    """A pass that did not come through: the segment that failed first, and why."""

    outcome: Outcome
    reason: str
    segments: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """A pass that came through: what its segments did, together.

    `differs` are the numbers of the segments that diverged. `journals` are one per rank.
    """

    outcomes: tuple[Outcome, ...]
    verdict: Verdict
    journals: tuple[Path, ...]
    replayed: RunRecord
    sentence: str
    differs: tuple[int, ...] = ()
    diagnosis: str = ""

    @property
    def statements(self) -> Mapping[str, Mapping[int, str]]:
        """File → line of the patched source → statement key; the same in every segment."""
        return self.outcomes[0].statements

    @property
    def seconds(self) -> float:
        """The sum over the segments."""
        return sum(outcome.seconds for outcome in self.outcomes)

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines of the last segment."""
        return self.outcomes[-1].tail


@dataclass(frozen=True, slots=True)
class Passing:
    """How passes are carried out.

    Args:
        backend: starts the children.
        tainted: (file, line) of recorded statements whose values are not compared.
        on_line: told of what goes on.
        started: called for every child.
        tolerance: name → the relative difference that is declared to be good enough (see `verify`).
        doubt: why nothing that it comes to can be called exact; empty where it can.
    """

    backend: Backend
    tainted: Tainted
    on_line: Callable[[str], None] | None
    started: Callable[[], None]
    tolerance: Mapping[str, float] | None = None
    doubt: str = ""

    def carry_out(self, job: Job, plans: Sequence[LoopPlan], name: str) -> Attempt | Failed:
        """Execute all segments, compare and merge them.

        Args:
            job: the run's job; each segment's has its own plan and part.
            plans: the segments' plans, in the order of the loop.
            name: tells the pass from others of the same replay.

        Raises:
            StoppedError: it was stopped from outside.
            ReplayError: a child can't be started.
        """
        jobs = [self._segment(job, plan, f"{name}{number}") for number, plan in enumerate(plans)]
        outcomes = self._all(jobs)
        for outcome in outcomes:
            if outcome.ended.why == "stopped":
                raise StoppedError
        for outcome in outcomes:
            if outcome.status:
                return Failed(outcome, outcome.reason, len(plans))
        replayed = [[read_record(journal) for journal in outcome.journals] for outcome in outcomes]
        verdicts = [self._compare(*one) for one in zip(jobs, outcomes, replayed, strict=True)]
        folder = outcomes[0].journal.parent
        journals = tuple(folder / f"journal.{record.rank}.jsonl" for record in job.record.ranks)
        try:
            split = job.loops.split
            begins = [plan.start[1] if plan.start is not None else 0 for plan in plans]
            if len(plans) == 1 or split is None:
                for part, journal in zip(outcomes[0].journals, journals, strict=True):
                    part.replace(journal)
                outcomes = [replace(outcomes[0], journal=journals[0], journals=journals)]
            else:
                parts = list(zip((o.journal for o in outcomes), begins, strict=True))
                merge_journals(parts, split[0], journals[0])
        except (JournalError, KeyError, IndexError) as error:
            return Failed(outcomes[0], f"its journals can't be merged: {error}", len(plans))
        # What was merged is read again: its positions are others.
        whole = together(replayed[0]) if len(plans) == 1 or split is None else read_together(journals)
        differs = tuple(i for i, verdict in enumerate(verdicts) if verdict.fidelity == "diverged")
        return Attempt(
            tuple(outcomes),
            combined(verdicts),
            journals,
            whole,
            job.loops.sentence,
            differs,
        )

    def repeat(self, job: Job, plan: LoopPlan, part: str) -> tuple[Outcome, RunRecord] | None:
        """Execute one segment once more; None where it fails."""
        outcome = self._one(self._segment(job, plan, part))
        if outcome.ended.why == "stopped":
            raise StoppedError
        return None if outcome.status else (outcome, read_together(outcome.journals))

    def _compare(self, job: Job, outcome: Outcome, replayed: Sequence[RunRecord]) -> Verdict:
        """One segment's journals against the record, rank by rank."""
        lines = {file: tuple(by_line) for file, by_line in outcome.statements.items()}
        verdicts = [
            self._compare_one(job, record, again, loops, lines)
            for record, again, loops in zip(job.record.ranks, replayed, job.loops.ranks, strict=True)
        ]
        if len(verdicts) == 1:
            return verdicts[0]
        return combined([
            replace(verdict, difference=f"rank {record.rank}: {verdict.difference}" if verdict.difference else "")
            for record, verdict in zip(job.record.ranks, verdicts, strict=True)
        ])  # fmt: skip

    def _compare_one(
        self,
        job: Job,
        record: RunRecord,
        replayed: RunRecord,
        loops: LoopPlan,
        lines: Mapping[str, tuple[int, ...]],
    ) -> Verdict:
        verdict = verify(record, replayed, loops, lines, self.tainted, self.tolerance)
        given = job.record.given.doubt if job.record.given is not None else ""
        doubts = (self.doubt, given, machine_difference(record.header, replayed.header))
        doubt = "; ".join(filter(None, doubts))
        if doubt and verdict.fidelity in ("exact", "within tolerance"):
            return replace(verdict, fidelity="unverified", difference=doubt)
        return verdict

    def _segment(self, job: Job, plan: LoopPlan, part: str) -> Job:
        return replace(job, loops=plan, part=part)

    def _all(self, jobs: Sequence[Job]) -> list[Outcome]:
        if len(jobs) == 1:
            return [self._one(jobs[0])]
        with ThreadPoolExecutor(min(len(jobs), 2 * self.backend.slots), "flor-segment") as pool:
            return list(pool.map(self._one, jobs))

    def _one(self, job: Job) -> Outcome:
        """One segment; where its child or its worker was killed by somebody else, once more."""
        self.started()
        outcome = execute(job, self.backend, self.on_line)
        killed = outcome.ended.status == -9 and outcome.ended.why in ("", "worker")
        if not killed:
            return outcome
        if self.on_line is not None:
            self.on_line(f"{job.run.key}: {outcome.reason}; trying once more")
        self.started()
        # Cold: whatever ended the worker, this attempt does not depend on one that others share.
        job = replace(job, part=f"{job.part}.again", libraries=None)
        again = execute(job, self.backend, self.on_line)
        if again.ended.status == -9 and again.ended.why in ("", "worker"):
            return replace(again, reason=f"{again.reason}; a second attempt ended the same way")
        return again


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict over all segments: the worst fidelity, the first difference, everything that was compared."""
    for fidelity in ("diverged", "unverified", "within tolerance", "exact"):
        worst = next((v for v in verdicts if v.fidelity == fidelity), None)
        if worst is not None:
            return replace(
                worst, records=sum(v.records for v in verdicts), digests=sum(v.digests for v in verdicts),
                restores=sum(v.restores for v in verdicts),
                left_out=tuple(sorted({name for v in verdicts for name in v.left_out})),
                kept=tuple(sorted({place for v in verdicts for place in v.kept}, key=lambda place: place.path)),
            )  # fmt: skip
    raise ValueError("a replay has at least one segment")
