"""What goes into hindsight and what comes out: questions, plans, reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flor_dagster.replay.estimating import UNMEASURED, Rates
from flor_dagster.store.models import CellRow, PlacementRow, ReplayRow, RunRow, StatementRow


@dataclass(frozen=True, slots=True)
class Question:
    """Statements asked of past training runs.

    Args:
        statements: names or keys; a name means its newest definition in the newest source.
        runs: keys, ids or unique prefixes of training runs; None asks all of them.
        where: a condition that the runs fulfil, like `args.lr > 0.01 and last(loss) < 2` (see `store.conditions`).
        latest: only so many of the youngest of them.
        iterations: loop name → the iterations wanted, as indices, `last`, or `first:end:step` as Python slices; None wants
            all. A question with iterations leaves its cells open.
        max_seconds: start nothing more once the estimate of what was started exceeds it.
        workers: children at once; 0 takes one per core.
        without_checkpoints: execute everything from the beginning.
        tolerance: name → the relative difference that its re-emitted numbers may have, `*` for every other name; None asks
            for equal bits. What is not equal is `within tolerance` then, never `exact`.
        python: the interpreter that executes the old versions; None takes the one that each run was recorded with.
        allow_effects: also put in expressions that are known to change the training; what they change shows as diverged.
        warm: whether children may be forked from a worker that has imported their libraries; else each one starts cold.
        segments: into how many parts each run is split at most; 0 takes as many as make the answer faster.
        timeout_seconds: the time that one child may take; None takes twenty times the run's, ten minutes at least.
        environment: `uv` makes the environment that each version's own lock file describes, and executes it there.
        variables: environment variables, and secrets of the command line, that replays are given, by name: what a run read and
            that is not kept with it, or that is to be another. They are kept nowhere.
        accept_likely: a person confirms every likely place of what is asked, as the plan shows it.
        accepted_by: who that is; empty takes the name of the process's user.
    """

    statements: tuple[str, ...]
    runs: tuple[str, ...] | None = None
    where: str | None = None
    latest: int | None = None
    iterations: Mapping[str, tuple[int | str, ...]] | None = None
    max_seconds: float | None = None
    workers: int = 0
    without_checkpoints: bool = False
    tolerance: Mapping[str, float] | None = None
    python: str | None = None
    allow_effects: bool = False
    warm: bool = True
    segments: int = 0
    timeout_seconds: float | None = None
    environment: str | None = None
    variables: Mapping[str, str] = field(
        default_factory=dict[str, str], repr=False, metadata={"secret": True}
    )
    accept_likely: bool = False
    accepted_by: str = ""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What will be done for one training run.

    `todo` are the statements that a replay will answer; `settled` the ones that are already; `refused` those that this
    version does not take; `likely` those whose place in it a person has to confirm first; `lacking` those that can't be answered
    until whoever asks gives what is missing here. `sentence` says in words what is restored, skipped and executed.
    """

    run: RunRow
    todo: tuple[StatementRow, ...]
    settled: tuple[StatementRow, ...]
    refused: tuple[tuple[StatementRow, PlacementRow], ...]
    placements: tuple[PlacementRow, ...]
    sentence: str
    estimated_seconds: float | None
    recorded_seconds: float | None
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])
    likely: tuple[tuple[StatementRow, PlacementRow], ...] = ()
    lacking: tuple[StatementRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of one question, a part per training run. `rates` are what its estimates are made with, and how good they were."""

    question: Question
    statements: tuple[StatementRow, ...]
    runs: tuple[RunPlan, ...]
    rates: Rates = UNMEASURED

    @property
    def estimated_seconds(self) -> float:
        """The sum over the runs that have something to do, in seconds on one worker."""
        return sum(plan.estimated_seconds or 0.0 for plan in self.runs if plan.todo)


@dataclass(frozen=True, slots=True)
class CellAnswer:
    """One cell's answer, as it is known: told to whoever watches while a question is being answered."""

    run: RunRow
    statement: StatementRow
    cell: CellRow
    placement: PlacementRow | None


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a question. `children` counts the processes that were started for it."""

    plan: Plan
    cells: tuple[CellAnswer, ...]
    replays: tuple[ReplayRow, ...]
    children: int
    seconds: float

    @property
    def failed(self) -> tuple[CellAnswer, ...]:
        """The cells whose replay failed or diverged, or that lack what the asker may give; each names its run and reason."""
        return tuple(
            answer
            for answer in self.cells
            if answer.cell.status == "failed" or (answer.cell.status == "refused" and not answer.cell.settled)
        )

    @property
    def unconfirmed(self) -> tuple[CellAnswer, ...]:
        """The cells that wait for a person to confirm their statement's place."""
        return tuple(
            answer for answer in self.cells if answer.cell.status == "open" and answer.cell.place == "likely"
        )

    @property
    def complete(self) -> bool:
        """Whether every asked cell is settled (or answered as far as its question went)."""
        return not self.failed and not self.unconfirmed
