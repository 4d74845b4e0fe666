"""Hindsight from Python: `flor.plan(…)` looks first, `flor.hindsight(…)` asks; both for the project around the working directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flor_dagster.replay.model import CellAnswer, Plan, Question, Report
from flor_dagster.replay.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path

Iterations = Mapping[str, Sequence[int | str] | int | str]


def plan(
    *names: str,
    runs: Sequence[str] | None = None,
    where: str | None = None,
    latest: int | None = None,
    iterations: Iterations | None = None,
    project: Path | str | None = None,
) -> Plan:
    """What a hindsight question would execute and cost; nothing is run.

    Args:
        names: statements, looked up in the newest source (the files as they lie on disk).
        runs: keys, ids or unique beginnings of training runs; None asks all of them.
        where: a condition that they fulfil, like `args.lr > 0.01 and last(loss) < 2`.
        latest: only so many of the youngest.
        iterations: loop name → indices, `last`, or slices such as `0:10` and `::5`; None wants all.
        project: a folder in the repository; None takes the working directory.

    Raises:
        UnknownNameError: no such statement, run or logged name.
        QueryError: the condition makes no sense.
    """
    with Workspace.open(project) as workspace:
        return workspace.plan(_question(workspace, names, runs, where, latest, iterations))


def hindsight(
    *names: str,
    runs: Sequence[str] | None = None,
    where: str | None = None,
    latest: int | None = None,
    iterations: Iterations | None = None,
    max_seconds: float | None = None,
    workers: int = 0,
    variables: Mapping[str, str] | None = None,
    on_cell: Callable[[CellAnswer], None] | None = None,
    accept_likely: bool = False,
    project: Path | str | None = None,
) -> Report:
    """Get the values of statements from past training runs; what is settled is not computed again.

    The values are in the log view afterwards: `flor.dataframe(...)`.

    Args:
        names: as for `plan`, and likewise `runs`, `where`, `latest`, `iterations`, `project`.
        runs: as for `plan`.
        where: as for `plan`.
        latest: as for `plan`.
        iterations: as for `plan`.
        max_seconds: start nothing more once the estimate of what was started exceeds it.
        workers: children at once; 0 takes one per core.
        variables: environment variables, and secrets of the command line, that the replays are given, by name: what a training
            run read and that is not kept with it.
        on_cell: told of each asked cell as soon as it is known.
        accept_likely: answer also where a statement's place is likely and not certain: who asks confirms these places, as
            `plan` shows them in `likely`, and the answers say so. Else their cells stay open.
        project: as for `plan`.

    Returns:
        The cells, each with its values' fidelity and its statement's `place`; `failed` are those that could not be
        answered, `unconfirmed` those whose place is to be confirmed first.
    """
    with Workspace.open(project) as workspace:
        question = _question(workspace, names, runs, where, latest, iterations, max_seconds, workers)
        question = replace(question, variables=variables or {}, accept_likely=accept_likely)
        return workspace.answer(question, on_cell=on_cell)


def _question(
    workspace: Workspace, names: Sequence[str], runs: Sequence[str] | None, where: str | None, latest: int | None,
    iterations: Iterations | None, max_seconds: float | None = None, workers: int = 0,
) -> Question:  # fmt: skip
    workspace.sync()
    workspace.require_runs()
    for name in names:
        workspace.ask(name)
    chosen = None if iterations is None else {loop: _several(wanted) for loop, wanted in iterations.items()}
    return Question(
        tuple(names), None if runs is None else tuple(runs), where, latest, chosen, max_seconds=max_seconds,
        workers=workers,
    )  # fmt: skip


def _several(wanted: Sequence[int | str] | int | str) -> tuple[int | str, ...]:
    return (wanted,) if isinstance(wanted, int | str) else tuple(wanted)
