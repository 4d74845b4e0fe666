"""`flor hindsight`: values of new statements from past training runs."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from flor_dagster.cli.command import project_command, where_option
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
from flor_dagster.cli.output import DONE, FAILED, Output, styled
from flor_dagster.cli.progress import Remaining, shown
from flor_dagster.cli.wording import (
    because,
    because_of_place,
    counted,
    diff_text,
    grouped,
    make_table,
    place_words,
    seconds_text,
    status_text,
    these,
)
from flor_dagster.store.models import once

if TYPE_CHECKING:
    from rich.text import Text

    from flor_dagster.replay.model import CellAnswer, Plan, Question, Report, RunPlan
    from flor_dagster.replay.workspace import Workspace
    from flor_dagster.store.models import PlacementRow


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
        by_value = loop.endswith("_value") and all(parts)
        if not equals or not loop or not (by_value or all(_ITERATION.fullmatch(part) for part in parts)):
            raise click.BadParameter(
                f"{value!r} is not LOOP=0,5,last (iteration indices from 0, last, or a range like 0:10 or ::5) and not "
                "LOOP_value=a,b (the iterations' values)",
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
@where_option
@click.option("--latest", type=click.IntRange(min=1), metavar="N", help="Ask the latest N training runs.")
@click.option(
    "--iterations",
    multiple=True,
    metavar="LOOP=0,5,last",
    help="Only these iterations of a loop (indices from 0, last, 0:10, ::5; LOOP_value=a,b by their values); the question "
    "stays open.",
)
@click.option("--max-seconds", type=click.FloatRange(min=0), help="Start nothing more beyond this estimate.")
@click.option("--without-checkpoints", is_flag=True, help="Execute each training run from its beginning.")
@click.option(
    "--allow-effects",
    is_flag=True,
    help="Also put in expressions that are known to change the training.",
)
@click.option(
    "--accept-likely",
    is_flag=True,
    help="Confirm the likely places of what is asked, as --plan shows them, and answer from there; the values say so.",
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
    accept_likely: bool,
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

    A statement is looked up in the newest source. NAME may be one of the names that a statement computes (norm/conv1), and a
    glob (norm/*). What is settled already is not computed again. Each answer has two verdicts:
    the place (is the statement where its author would have put it?) and the replay (is this the recorded run?). A place that
    is likely and not certain is answered once a person has confirmed it.
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
        accept_likely=accept_likely,
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
    table = make_table(
        "run",
        "to do",
        "settled",
        "to confirm",
        "lacking",
        "estimate",
        "trained in",
        right=("estimate", "trained in"),
    )
    for part in plan.runs:
        todo = {statement.id for statement in part.todo}
        table.add_row(
            part.run.key,
            ", ".join(statement.shown for statement in part.todo),
            ", ".join(statement.shown for statement in part.settled),
            ", ".join(statement.shown for statement, _ in part.likely if statement.id not in todo),
            ", ".join(statement.shown for statement in part.lacking),
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
    _show_likely(plan, output)
    todo = [part for part in plan.runs if part.todo]
    known = f" ({rates.sentence})" if rates.sentence else ""
    cost = f", about {plan.estimated_seconds:.1f} s on one worker{known}; training them took {_trained(todo):.1f} s"
    output.text(
        f"{len(todo)} of {len(plan.runs)} training runs to replay{cost if todo else ''}. Nothing was run."
    )
    return DONE


def _show_likely(plan: Plan, output: Output) -> None:
    """The likely places, each once, with the lines that a person is to look at."""
    likely: dict[tuple[str, str, str], tuple[PlacementRow, list[str]]] = {}
    for part in plan.runs:
        for statement, row in part.likely:
            likely.setdefault((statement.shown, row.commit, row.place), (row, []))[1].append(part.run.key)
    for (key, commit, _), (row, keys) in likely.items():
        output.text(f"{these(keys)}: {key} in {commit[:8]}, place {place_words(row)}")
        output.text(diff_text(row.diff))
    if likely:
        names = " ".join(map(shlex.quote, dict.fromkeys(key for key, _, _ in likely)))
        accepted = plan.question.accept_likely
        output.text(
            f"{len(likely)} place{'s' * (len(likely) != 1)} "
            + (
                "would be confirmed."
                if accepted
                else f"to confirm: `flor hindsight {names} --accept-likely`."
            )
        )


def _placed(part: RunPlan) -> list[tuple[str, str]]:
    """Where each statement stands in the run's version, or why it is refused there."""
    refused = {statement.id for statement, _ in part.refused}
    names = {statement.id: statement.shown for statement in (*part.todo, *part.settled)}
    names |= {statement.id: statement.shown for statement, _ in part.refused}
    return [
        (
            names[p.statement_id],
            f"is refused{because(p.sentence)}"
            if p.statement_id in refused
            else f"{p.sentence}{because_of_place(p)}",
        )
        for p in part.placements
        if p.statement_id in names
    ]


def _trained(parts: Iterable[RunPlan]) -> float:
    return sum(part.recorded_seconds or 0.0 for part in parts)


def _answer(workspace: Workspace, output: Output, question: Question) -> int:
    remaining = Remaining(question.workers or os.cpu_count() or 1)
    seen: set[str] = set()

    def tell(answer: CellAnswer) -> None:
        remaining.told(answer.run.id)
        output.text(_cell_line(answer))
        diff = str(answer.cell.detail.get("diff") or "")
        if answer.cell.status == "open" and answer.cell.place == "likely" and diff not in seen:
            seen.add(diff)
            output.text(diff_text(diff))

    def begin(plan: Plan) -> None:
        remaining.planned(plan)
        idle = [(part.sentence, part.run.key) for part in plan.runs if not part.todo]
        absent = [(sentence, key) for sentence, key in idle if sentence.startswith("nothing to replay")]
        for sentence, keys in grouped([*absent, *_warnings(plan)]):
            output.text(f"{these(keys)}: {sentence}")
        if question.accept_likely:
            _show_likely(plan, output)

    with shown(output, remaining):
        report = workspace.answer(question, on_cell=tell, on_plan=begin)
    unanswered = [
        answer for answer in report.cells if answer.cell.status == "open" and answer.cell.replay_id is None
    ]
    unconfirmed = report.unconfirmed
    output.document(
        {
            "cells": report.cells,
            "failed": [_named(answer) for answer in report.failed],
            "unanswered": [_named(answer) for answer in unanswered],
            "unconfirmed": [_named(answer) for answer in unconfirmed],
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
    places = Counter(
        f"place {answer.cell.place or 'unchecked'}"
        for answer in report.cells
        if answer.cell.status == "replayed"
    )
    output.text("")
    output.text(
        f"{len(report.cells)} cells: {counted(counts)}"
        + (f" ({counted(fidelities)}; {counted(places)})" if fidelities else "")
    )
    if report.children:
        output.text(
            f"{report.seconds:.1f} s, {report.children} child process{'es' * (report.children != 1)}; "
            f"training these runs took {_replayed_training(report):.1f} s."
        )
    for (reason, tail), answers in _by_reason(report.failed).items():
        names = ", ".join(dict.fromkeys(answer.statement.shown for answer in answers))
        keys = list(dict.fromkeys(answer.run.key for answer in answers))
        how = "refused" if reason.startswith("refused: ") else "failed"
        output.complain(
            f"{names} of {these(keys)} {how}: {once('refused', once('failed', reason))}",
            list(tail),
        )
    for (statement, reason), keys in _waiting(unconfirmed).items():
        output.complain(f"{statement} of {these(keys)} waits for a person: {once('open', reason)}")
    return DONE if report.complete else FAILED


def _by_reason(failed: Sequence[CellAnswer]) -> dict[tuple[str, tuple[str, ...]], list[CellAnswer]]:
    """What failed, once for each reason and each last lines of a child."""
    found: dict[tuple[str, tuple[str, ...]], list[CellAnswer]] = {}
    for answer in failed:
        named = _named(answer)
        found.setdefault((named["reason"], tuple(named["tail"])), []).append(answer)
    return found


def _waiting(unconfirmed: Sequence[CellAnswer]) -> dict[tuple[str, str], list[str]]:
    """What has to be confirmed, once for all training runs of a version."""
    waiting: dict[tuple[str, str], list[str]] = {}
    for answer in unconfirmed:
        waiting.setdefault((answer.statement.shown, answer.cell.sentence), []).append(answer.run.key)
    return waiting


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
    cell = answer.cell
    # A statement that fired otherwise than was to be expected is no plain green answer.
    style = "yellow" if cell.status == "replayed" and "firing" in cell.detail else None
    return styled(
        f"{answer.run.key}  ",
        (answer.statement.shown, "bold"),
        "  ",
        status_text(cell.status) if style is None else (cell.status, style),
        because(once(cell.status, cell.sentence)),
    )
