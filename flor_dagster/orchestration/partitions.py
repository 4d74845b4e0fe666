"""The two dynamic dimensions of a project, and the one place where keys are registered with Dagster."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import dagster as dg

from flor_dagster.errors import FlorError
from flor_dagster.orchestration.project import FlorProject

RUN = "run"
STATEMENT = "statement"


class TooManyCellsError(FlorError):
    """More cells were to be registered with Dagster than the project allows."""


def run_partitions(project: FlorProject) -> dg.DynamicPartitionsDefinition:
    """One key per training run; registered in time order, so that ranges of keys are ranges of time."""
    return dg.DynamicPartitionsDefinition(name=f"flor/{project.name}/runs")


def statement_partitions(project: FlorProject) -> dg.DynamicPartitionsDefinition:
    """One key per open hindsight question."""
    return dg.DynamicPartitionsDefinition(name=f"flor/{project.name}/statements")


def hindsight_partitions(project: FlorProject) -> dg.MultiPartitionsDefinition:
    """The matrix of what is known: training run by statement."""
    return dg.MultiPartitionsDefinition(
        {RUN: run_partitions(project), STATEMENT: statement_partitions(project)}
    )


def cell_key(run_key: str, statement_key: str) -> dg.MultiPartitionKey:
    """The partition key of one cell."""
    return dg.MultiPartitionKey({RUN: run_key, STATEMENT: statement_key})


def cell_of(partition_key: str) -> tuple[str, str]:
    """(training run's key, statement's key) of a partition key of `hindsight`.

    Dimensions are joined in the order of their names, and no key of ours holds a `|`.
    """
    run_key, _, statement_key = partition_key.partition("|")
    return run_key, statement_key


@dataclass(frozen=True, slots=True)
class Registration:
    """Which keys are still unknown to Dagster, in the order given, and which to take away."""

    runs: tuple[str, ...]
    statements: tuple[str, ...]
    closed: tuple[str, ...]


def plan_registration(
    instance: dg.DagsterInstance, project: FlorProject, runs: Iterable[str], questions: Iterable[str] | None
) -> Registration:
    """The keys to add and to remove, checked against `max_cells`.

    Args:
        instance: where the keys are registered.
        project: whose dimensions they are.
        runs: keys of training runs that shall be there, in time order.
        questions: keys of *all* open questions; known keys beyond them are to be removed. None leaves them as they are.

    Raises:
        TooManyCellsError: with both counts.
    """
    run_dimension, statement_dimension = f"flor/{project.name}/runs", f"flor/{project.name}/statements"
    known_runs = set(instance.get_dynamic_partitions(run_dimension))
    known_statements = list(instance.get_dynamic_partitions(statement_dimension))
    new_runs = tuple(key for key in dict.fromkeys(runs) if key not in known_runs)
    wanted = known_statements if questions is None else list(dict.fromkeys(questions))
    new_statements = tuple(key for key in wanted if key not in known_statements)
    closed = tuple(key for key in known_statements if key not in wanted)
    if new_runs or new_statements:
        _check_size(project, len(known_runs) + len(new_runs), len(wanted))
    return Registration(new_runs, new_statements, closed)


def register(
    instance: dg.DagsterInstance,
    project: FlorProject,
    runs: Iterable[str],
    questions: Iterable[str] | None = None,
) -> Registration:
    """`plan_registration`, carried out."""
    plan = plan_registration(instance, project, runs, questions)
    if plan.runs:
        instance.add_dynamic_partitions(f"flor/{project.name}/runs", plan.runs)
    if plan.statements:
        instance.add_dynamic_partitions(f"flor/{project.name}/statements", plan.statements)
    for key in plan.closed:
        instance.delete_dynamic_partition(f"flor/{project.name}/statements", key)
    return plan


def _check_size(project: FlorProject, runs: int, statements: int) -> None:
    if runs * statements <= project.max_cells:
        return
    raise TooManyCellsError(
        f"{project.name}: {runs} training runs by {statements} open questions are {runs * statements} cells; "
        f"{project.max_cells} are allowed (max_cells). Close a question, archive training runs, or raise max_cells; "
        "values that are known stay known."
    )
