"""`flor hindsight`: values of new statements from past training runs."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from flor_dagster.cli.command import project_command
from flor_dagster.cli.interpreting import (
    environment_option,
    one_interpreter,
    parse_tolerance,
    parse_variables,
    python_option,
    rtol_option,
    variable_files_option,
    variables_option,
)
from flor_dagster.cli.output import DONE, FAILED, Output
from flor_dagster.cli.progress import Remaining, shown
from flor_dagster.cli.wording import because, counted, grouped, make_table, seconds_text, status_text, these

if TYPE_CHECKING:
    from rich.text import Text

    from flor_dagster.replay.model import CellAnswer, Plan, Question, Report, RunPlan
    from flor_dagster.replay.workspace import Workspace


_ITERATION = re.compile(r"last|\d+|-?\d*:-?\d*(:-?[1-9]\d*)?")


def parse_iterations(values: Sequence[str]) -> dict[str, tuple[int | str, ...]] | None:
    """`LOOP=0,5,10:20,last` as loop name → iterations; None where nothing was given.

    Raises:
        click.BadParameter: for anything else.
    """
    chosen: dict[str, tuple[int | str, ...]] = {}
    for value in values:
        loop, equals, text = value.partition("=")
        parts = [part.strip() for part in text.split(",")]
        if not equals or not loop or not all(_ITERATION.fullmatch(part) for part in parts):
            raise click.BadParameter(
                f"{value!r} is not LOOP=0,5,last (iteration indices from 0, last, or a range like 0:10 or ::5)",
                param_hint="--iterations",
            )
        chosen[loop] = tuple(int(part) if part.isdecimal() else part for part in parts)
    return chosen or None


@click.command("hindsight")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--plan", "plan_only", is_flag=True, help="Only show what would be done and what it should cost."
)
@click.option(
    "--runs", "keys", multiple=True, metavar="RUN", help="Ask this training run (key or its start)."
)
@click.option(
    "--where",
    metavar="CONDITION",
    help="Ask the training runs that fulfil it: 'args.lr > 0.01 and last(loss) < 2'. Also tags.NAME, first, min, max, mean, "
    "count, key, status, entrypoint, origin, commit, started, ended, seconds.",
)
@click.option("--latest", type=click.IntRange(min=1), metavar="N", help="Ask the latest N training runs.")
@click.option(
    "--iterations",
    multiple=True,
    metavar="LOOP=0,5,last",
    help="Only these iterations of a loop (indices from 0, last, 0:10, ::5); the question stays open.",
)
@click.option("--max-seconds", type=click.FloatRange(min=0), help="Start nothing more beyond this estimate.")
@click.option("--without-checkpoints", is_flag=True, help="Execute each training run from its beginning.")
@click.option(
    "--allow-effects",
    is_flag=True,
    help="Also put in expressions that are known to change the training.",
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="Child processes at once; 0: one per core."
)
@rtol_option
@python_option
@environment_option
@variables_option
@variable_files_option
@click.option(
    "--segments",
    type=click.IntRange(min=0),
    default=0,
    help="Into how many parts a training run is split at most; 0: as it pays.",
)
@click.option(
    "--cold",
    is_flag=True,
    help="Start each child in a fresh interpreter, instead of forking it from one that has the libraries.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End a child after this time and name the statement that it hangs in; default: twenty times the training, ten minutes at least.",
)
@project_command
def hindsight_command(
    workspace: Workspace,
    output: Output,
    names: tuple[str, ...],
    plan_only: bool,
    keys: tuple[str, ...],
    where: str | None,
    latest: int | None,
    iterations: tuple[str, ...],
    max_seconds: float | None,
    workers: int,
    without_checkpoints: bool,
    allow_effects: bool,
    rtol: tuple[str, ...],
    python: str | None,
    environment: str | None,
    variables: tuple[str, ...],
    variable_files: tuple[str, ...],
    segments: int,
    cold: bool,
    timeout_seconds: float | None,
) -> int:
    """Get the values of the statements NAME... from past training runs.

    A statement is looked up in the newest source. What is settled already is not computed again.
    """
    from flor_dagster.replay.model import Question

    wanted = parse_iterations(iterations)
    workspace.sync()
    workspace.require_runs()
    question = Question(
        statements=names,
        runs=keys or None,
        where=where,
        latest=latest,
        iterations=wanted,
        max_seconds=max_seconds,
        workers=workers,
        without_checkpoints=without_checkpoints,
        allow_effects=allow_effects,
        tolerance=parse_tolerance(rtol),
        python=python,
        environment=environment,
        variables=parse_variables(variables, variable_files),
        segments=segments,
        warm=not cold,
        timeout_seconds=timeout_seconds,
    )
    one_interpreter(python, environment)
    for name in names:
        workspace.ask(name)
    return _show_plan(workspace, output, question) if plan_only else _answer(workspace, output, question)


def _show_plan(workspace: Workspace, output: Output, question: Question) -> int:
    plan = workspace.plan(question)
    rates = plan.rates
    output.document(
        {
            "plan": plan,
            "estimated_seconds": plan.estimated_seconds,
            "estimate_error": rates.error,
            "replays_known": rates.replays,
        }
    )
    table = make_table("run", "to do", "settled", "estimate", "trained in", right=("estimate", "trained in"))
    for part in plan.runs:
        table.add_row(
            part.run.key,
            ", ".join(statement.key for statement in part.todo),
            ", ".join(statement.key for statement in part.settled),
            seconds_text(part.estimated_seconds if part.todo else None),
            seconds_text(part.recorded_seconds),
        )
    output.text(table)
    said = [(part.sentence, part.run.key) for part in plan.runs]
    said += [
        (f"  {note}", part.run.key)
        for part in plan.runs
        if part.todo
        for note in part.detail.get("notes", ())
    ]
    said += _warnings(plan)
    said += [
        (f"{statement_key} {sentence}", part.run.key)
        for part in plan.runs
        for statement_key, sentence in _placed(part)
    ]
    for sentence, keys in grouped(said):
        output.text(f"{these(keys)}: {sentence}")
    todo = [part for part in plan.runs if part.todo]
    known = f" ({rates.sentence})" if rates.sentence else ""
    output.text(
        f"{len(todo)} of {len(plan.runs)} training runs to replay, about {plan.estimated_seconds:.1f} s on one worker{known}; "
        f"training them took {_trained(todo):.1f} s. Nothing was run."
    )
    return DONE


def _placed(part: RunPlan) -> list[tuple[str, str]]:
    """Where each statement stands in the run's version, or why it is refused there."""
    refused = {statement.id for statement, _ in part.refused}
    names = {statement.id: statement.key for statement in (*part.todo, *part.settled)}
    names |= {statement.id: statement.key for statement, _ in part.refused}
    return [
        (
            names[p.statement_id],
            f"is refused{because(p.sentence)}" if p.statement_id in refused else p.sentence,
        )
        for p in part.placements
        if p.statement_id in names
    ]


def _trained(parts: Iterable[RunPlan]) -> float:
    return sum(part.recorded_seconds or 0.0 for part in parts)


def _answer(workspace: Workspace, output: Output, question: Question) -> int:
    remaining = Remaining(question.workers or os.cpu_count() or 1)

    def tell(answer: CellAnswer) -> None:
        remaining.told(answer.run.id)
        output.text(_cell_line(answer))

    def begin(plan: Plan) -> None:
        remaining.planned(plan)
        for sentence, keys in grouped(_warnings(plan)):
            output.text(f"{these(keys)}: {sentence}")

    with shown(output, remaining):
        report = workspace.answer(question, on_cell=tell, on_plan=begin)
    unanswered = [
        answer for answer in report.cells if answer.cell.status == "open" and answer.cell.replay_id is None
    ]
    output.document(
        {
            "cells": report.cells,
            "failed": [_named(answer) for answer in report.failed],
            "unanswered": [_named(answer) for answer in unanswered],
            "children": report.children,
            "seconds": report.seconds,
            "training_seconds": _replayed_training(report),
            "complete": report.complete and not unanswered,
        }
    )
    counts = Counter(answer.cell.status for answer in report.cells)
    fidelities = Counter(
        answer.cell.fidelity
        for answer in report.cells
        if answer.cell.status == "replayed" and answer.cell.fidelity
    )
    output.text("")
    output.text(
        f"{len(report.cells)} cells: {counted(counts)}" + (f" ({counted(fidelities)})" if fidelities else "")
    )
    if report.children:
        output.text(
            f"{report.seconds:.1f} s, {report.children} child process{'es' * (report.children != 1)}; "
            f"training these runs took {_replayed_training(report):.1f} s."
        )
    for answer in report.failed:
        named = _named(answer)
        output.complain(
            f"{named['statement']} of {named['run']} failed: {named['reason'].removeprefix('failed: ')}",
            named["tail"],
        )
    return DONE if report.complete else FAILED


def _warnings(plan: Plan) -> list[tuple[str, str]]:
    """How the environments of what is to be replayed differ from the recorded ones."""
    return [
        (f"warning: {warning}", part.run.key)
        for part in plan.runs
        if part.todo
        for warning in part.detail.get("warnings", ())
    ]


def _replayed_training(report: Report) -> float:
    """What training the replayed runs took, in seconds."""
    replayed = {replay.run_id for replay in report.replays}
    return _trained(part for part in report.plan.runs if part.run.id in replayed)


def _named(answer: CellAnswer) -> dict[str, Any]:
    return {
        "run": answer.run.key,
        "statement": answer.statement.key,
        "reason": answer.cell.sentence,
        "tail": answer.cell.detail.get("tail", []),
    }


def _cell_line(answer: CellAnswer) -> Text:
    from rich.text import Text

    return Text.assemble(
        f"{answer.run.key}  ",
        (answer.statement.key, "bold"),
        "  ",
        status_text(answer.cell.status),
        because(answer.cell.sentence),
    )
