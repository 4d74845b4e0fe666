"""The `flor` command: train, look, ask. The one room that prints.

Results go to standard output, errors to standard error. With `--json` standard output holds one JSON document and nothing
else. Exit status: 0 when everything that was asked is done, 1 when part of it failed (each part is named), 2 when the command
line itself is wrong: an unknown option, a folder without a repository, a name that nothing has.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec

import click

from flor_dagster.errors import FlorError, NoRepositoryError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, RenderableType
    from rich.text import Text

    from flor_dagster.replay.model import CellAnswer, Question, Report, RunPlan
    from flor_dagster.replay.workspace import Workspace
    from flor_dagster.store.models import RunRow

P = ParamSpec("P")

PIPED_WIDTH = 110
"""Columns of the output where it does not go to a terminal."""

VIEW_ROWS = 50
"""Rows that `flor view` prints unless asked for more."""

DONE, FAILED, USAGE = 0, 1, 2

STATUS_STYLES = {
    "recorded": "green",
    "replayed": "green",
    "finished": "green",
    "placed": "green",
    "already-there": "green",
    "refused": "yellow",
    "excluded": "yellow",
    "interrupted": "yellow",
    "running": "cyan",
    "open": "dim",
    "failed": "red",
    "lost": "red",
}


class Output:
    """Where a command writes: text by rich, or one JSON document.

    Args:
        as_json: whether the document is wanted and the text is not.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    @functools.cached_property
    def console(self) -> Console:
        """Standard output as rich sees it; made when first used, since importing rich takes time."""
        return _console(sys.stdout)

    def text(self, *parts: RenderableType) -> None:
        """Print a part of the answer; nothing with `--json`. Lines stay whole, so that they can be searched."""
        from rich.text import Text

        for part in parts if not self.as_json else ():
            self.console.print(part, soft_wrap=isinstance(part, str | Text))

    def progress(self, line: str) -> None:
        """Print a line that a child process wrote; with `--json` it goes to standard error."""
        print(line, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def document(self, value: Any) -> None:
        """Print the JSON document; nothing without `--json`."""
        if self.as_json:
            print(json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False))

    def complain(self, sentence: str, tail: Iterable[str] = ()) -> None:
        """Say on standard error what went wrong, then the last lines of a child process, indented."""
        from rich.text import Text

        console = _console(sys.stderr)
        console.print(Text.assemble(("flor: ", "bold red"), sentence))
        for line in tail:
            console.print(Text(f"    {line}"))


def _console(stream: Any) -> Console:
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else PIPED_WIDTH, highlight=False, emoji=False)


def jsonable(value: Any) -> Any:
    """Plain JSON of rows and values: dataclasses as objects, times as ISO 8601, NaN and infinities as text.

    JSON has no NaN: a float that is not finite becomes "NaN", "Infinity" or "-Infinity".
    """
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [jsonable(item) for item in value]
    return str(value)


def project_command(
    function: Callable[Concatenate[Workspace, Output, P], int],
) -> Callable[..., None]:
    """Give a command `--project` and `--json`, an open workspace, an output, and errors that a person understands.

    The command returns its exit status.
    """

    @click.option(
        "--project",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="The project's folder; default: the git repository around the working directory.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
    @functools.wraps(function)
    def command(project: Path | None, as_json: bool, *args: P.args, **kwargs: P.kwargs) -> None:
        output = Output(as_json)
        try:
            from flor_dagster.replay.workspace import Workspace

            with Workspace.open(project) as workspace:
                code = function(workspace, output, *args, **kwargs)
        except FlorError as error:
            output.complain(str(error))
            about = {"kind": type(error).__name__, "message": str(error)}
            run: RunRow | None = getattr(error, "run", None)
            output.document({"error": about | ({} if run is None else {"run": run.key})})
            code = USAGE if isinstance(error, NoRepositoryError | UnknownNameError) else FAILED
        raise click.exceptions.Exit(code)

    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flor-dagster", prog_name="flor")
def cli() -> None:
    """Add a log statement today; get its values for every training run you ever made.

    Exit status: 0 all done, 1 part of it failed (each part is named), 2 wrong usage.
    """


# ---------------------------------------------------------------------------------------------------------- flor run


def parse_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs as a dict; a value is read as JSON where it is JSON, else as text.

    Raises:
        click.BadParameter: for a pair without `=` or without a name.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--arg")
        try:
            arguments[name] = json.loads(text)
        except ValueError:
            arguments[name] = text
    return arguments


def _entrypoint(script: Path, root: Path) -> str:
    """The script's path from the repository's root, found from the working directory or from that root."""
    for candidate in (script, root / script):
        if candidate.is_file():
            path = candidate.resolve()
            if not path.is_relative_to(root.resolve()):
                raise click.BadParameter(f"{script} lies outside the repository {root}", param_hint="SCRIPT")
            return path.relative_to(root.resolve()).as_posix()
    raise click.BadParameter(f"there is no file {script} here or in {root}", param_hint="SCRIPT")


@cli.command("run")
@click.argument("script", type=click.Path(path_type=Path))
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value for flor.arg(NAME); JSON or text. May be given several times.",
)
@project_command
def run_command(workspace: Workspace, output: Output, script: Path, arguments: tuple[str, ...]) -> int:
    """Train: run SCRIPT and record it.

    The same as `python SCRIPT`, with a fixed hash seed and with arguments.
    """
    run = workspace.train(
        _entrypoint(script, workspace.root), parse_arguments(arguments), on_line=output.progress
    )
    output.document({"run": run})
    output.text(_run_line(run))
    if run.status != "finished":
        output.complain(f"Training run {run.key} is {run.status}{_because(run.reason)}.")
        return FAILED
    return DONE


def _run_line(run: RunRow) -> Text:
    from rich.text import Text

    seconds = "" if run.seconds is None else f" in {run.seconds:.1f} s"
    return Text.assemble("training run ", (run.key, "bold"), f" {run.status}{seconds}")


def _because(reason: str) -> str:
    return f": {reason.rstrip('.')}" if reason else ""


# --------------------------------------------------------------------------------------------------------- flor runs


@cli.command("runs")
@click.option("--latest", type=click.IntRange(min=1), metavar="N", help="Only the latest N.")
@project_command
def runs_command(workspace: Workspace, output: Output, latest: int | None) -> int:
    """List the training runs, oldest first."""
    workspace.sync()
    runs = _latest(workspace.runs(), latest)
    output.document({"runs": runs})
    if not runs:
        output.text(f"No training runs yet in {workspace.root}.")
        output.text("Run a script that uses flor_dagster: python SCRIPT, or flor run SCRIPT.")
        return DONE
    shared = {
        name: value for name, value in runs[0].args.items() if all(_same(run, name, value) for run in runs)
    }
    table = _table("run", "status", "script", "args", "seconds")
    for run in runs:
        own = {name: value for name, value in run.args.items() if name not in shared}
        seconds = "" if run.seconds is None else f"{run.seconds:.1f}"
        table.add_row(run.key, _status(run.status), run.entrypoint, _arguments(own), seconds)
    output.text(table)
    if shared:
        output.text(f"{'In all of them' if len(runs) > 1 else 'Its args'}: {_arguments(shared)}")
    return DONE


def _same(run: RunRow, name: str, value: Any) -> bool:
    return name in run.args and run.args[name] == value


def _arguments(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_cell_text(value)}" for name, value in values.items())


def _latest(runs: Sequence[RunRow], latest: int | None) -> tuple[RunRow, ...]:
    return tuple(runs if latest is None else runs[-latest:])


# --------------------------------------------------------------------------------------------------------- flor view


@cli.command("view")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--runs", "keys", multiple=True, metavar="RUN", help="Only this training run (key or its start)."
)
@click.option("--latest", type=click.IntRange(min=1), metavar="N", help="Only the latest N training runs.")
@click.option(
    "--fidelity",
    type=click.Choice(["exact", "any"]),
    help="exact: only recorded and exact values; any: diverged ones too. Default: all but diverged ones.",
)
@click.option("--provenance", is_flag=True, help="Add the origin and the fidelity of each value.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="ROWS",
    help=f"Rows to print; 0 prints all. Default: {VIEW_ROWS}, with --json all.",
)
@project_command
def view_command(
    workspace: Workspace,
    output: Output,
    names: tuple[str, ...],
    keys: tuple[str, ...],
    latest: int | None,
    fidelity: Literal["exact", "any"] | None,
    provenance: bool,
    limit: int | None,
) -> int:
    """Show logged values: a row per training run and loop context, a column per NAME."""
    workspace.sync()
    runs = _chosen_runs(workspace, keys, latest)
    wanted = None if not keys and latest is None else [run.key for run in runs]
    frame = workspace.store.dataframe(*names, runs=wanted, fidelity=fidelity or "default", provenance=True)
    columns = [name for name in frame.columns if provenance or not _is_provenance(name, frame, fidelity)]
    limit = limit if limit is not None else 0 if output.as_json else VIEW_ROWS
    rows = frame_rows(frame.head(limit) if limit else frame, columns)
    empty = [
        {"run": run, "name": name, "reason": reason}
        for (run, name), reason in frame.attrs.get("empty", {}).items()
    ]
    output.document({"columns": columns, "rows": rows, "row_count": len(frame), "empty": empty})
    table = _table(*columns, right={name for name in columns if frame[name].dtype.kind in "iuf"})
    for row in rows:
        table.add_row(*(_cell_text(value) for value in row.values()))
    output.text(table)
    if len(rows) < len(frame):
        output.text(f"{len(frame) - len(rows)} more rows; --limit 0 prints all.")
    said = ((f"{place['name']} is empty, {place['reason']}", place["run"]) for place in empty)
    for sentence, without in _grouped(said):
        output.text(f"{_these(without)}: {sentence}")
    return DONE


def _chosen_runs(workspace: Workspace, keys: Sequence[str], latest: int | None) -> tuple[RunRow, ...]:
    """The training runs that the options name; all of them without options.

    Raises:
        NoRunsError: when there is none in the project.
    """
    workspace.require_runs()
    runs = workspace.runs()
    if keys:
        named = {workspace.store.run(key).id for key in keys}
        runs = tuple(run for run in runs if run.id in named)
    return _latest(runs, latest)


def _is_provenance(column: str, frame: pd.DataFrame, fidelity: str | None) -> bool:
    name, _, kind = column.rpartition("_")
    return name in frame.columns and (kind == "origin" or (kind == "fidelity" and fidelity != "any"))


def frame_rows(frame: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """A frame's rows as plain values: an absent value is None, a logged NaN stays NaN, numpy scalars are Python's own.

    Args:
        frame: a log view with provenance; a float column shows an absent value as NaN, its origin tells them apart.
        columns: which of its columns.
    """
    listed = [_column(frame, name) for name in columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*listed, strict=True)]


def _column(frame: pd.DataFrame, name: str) -> list[Any]:
    known = frame[f"{name}_origin"] if f"{name}_origin" in frame.columns else frame[name]
    return [
        _python(value) if present else None
        for value, present in zip(frame[name].tolist(), known.notna().tolist(), strict=True)
    ]


def _python(value: Any) -> Any:
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------------------------- flor propagate


@cli.command("propagate")
@click.argument("name")
@project_command
def propagate_command(workspace: Workspace, output: Output, name: str) -> int:
    """Show where the statement NAME goes in every version; nothing is run or written."""
    from rich.text import Text

    places = workspace.propagation(name)
    output.document({"name": name, "versions": places})
    for place in places:
        runs = f"{place.runs} training run{'s' if place.runs != 1 else ''}"
        about = f"  {place.date:%Y-%m-%d}  {place.subject}  ({runs})"
        output.text(Text.assemble((place.commit[:8], "bold"), about))
        placement = place.placement
        output.text(Text.assemble("  ", _status(placement.status), _because(placement.sentence)))
        if placement.status == "placed":
            output.text(diff_text(placement.diff))
        output.text("")
    counts = Counter(place.placement.status for place in places)
    output.text(f"{name}: {_counted(counts)}, of {len(places)} versions. Nothing was run or written.")
    return DONE


def diff_text(diff: str) -> Text:
    """A unified diff without its file header, indented, in colour where the output has colours."""
    from rich.text import Text

    text = Text()
    styles = {"+": "green", "-": "red", "@": "cyan"}
    lines = [line for line in diff.splitlines() if not line.startswith(("--- ", "+++ "))]
    for number, line in enumerate(lines):
        text.append(("\n" if number else "") + "    " + line, style=styles.get(line[:1], "dim"))
    return text


# ---------------------------------------------------------------------------------------------------- flor hindsight


def parse_iterations(values: Sequence[str]) -> dict[str, tuple[int | Literal["last"], ...]] | None:
    """`LOOP=0,5,last` as loop name → iterations; None where nothing was given.

    Raises:
        click.BadParameter: for anything else.
    """
    chosen: dict[str, tuple[int | Literal["last"], ...]] = {}
    for value in values:
        loop, equals, text = value.partition("=")
        parts = [part.strip() for part in text.split(",")]
        if not equals or not loop or not all(part == "last" or part.isdecimal() for part in parts):
            raise click.BadParameter(
                f"{value!r} is not LOOP=0,5,last (iteration indices from 0, or last)",
                param_hint="--iterations",
            )
        chosen[loop] = tuple("last" if part == "last" else int(part) for part in parts)
    return chosen or None


@cli.command("hindsight")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--plan", "plan_only", is_flag=True, help="Only show what would be done and what it should cost."
)
@click.option(
    "--runs", "keys", multiple=True, metavar="RUN", help="Ask this training run (key or its start)."
)
@click.option("--latest", type=click.IntRange(min=1), metavar="N", help="Ask the latest N training runs.")
@click.option(
    "--iterations",
    multiple=True,
    metavar="LOOP=0,5,last",
    help="Only these iterations of a loop; the question stays open.",
)
@click.option("--max-seconds", type=click.FloatRange(min=0), help="Start nothing more beyond this estimate.")
@click.option("--without-checkpoints", is_flag=True, help="Execute each training run from its beginning.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="Child processes at once; 0: one per core."
)
@project_command
def hindsight_command(
    workspace: Workspace,
    output: Output,
    names: tuple[str, ...],
    plan_only: bool,
    keys: tuple[str, ...],
    latest: int | None,
    iterations: tuple[str, ...],
    max_seconds: float | None,
    workers: int,
    without_checkpoints: bool,
) -> int:
    """Get the values of the statements NAME... from past training runs.

    A statement is looked up in the newest source. What is settled already is not computed again.
    """
    from flor_dagster.replay.model import Question

    wanted = parse_iterations(iterations)
    workspace.sync()
    runs = _chosen_runs(workspace, keys, latest)
    everything = not keys and latest is None
    question = Question(
        statements=names,
        runs=None if everything else tuple(run.key for run in runs),
        iterations=wanted,
        max_seconds=max_seconds,
        workers=workers,
        without_checkpoints=without_checkpoints,
    )
    for name in names:
        workspace.ask(name)
    return _show_plan(workspace, output, question) if plan_only else _answer(workspace, output, question)


def _show_plan(workspace: Workspace, output: Output, question: Question) -> int:
    plan = workspace.plan(question)
    output.document({"plan": plan, "estimated_seconds": plan.estimated_seconds})
    table = _table("run", "to do", "settled", "estimate", "trained in", right=("estimate", "trained in"))
    for part in plan.runs:
        table.add_row(
            part.run.key,
            ", ".join(statement.key for statement in part.todo),
            ", ".join(statement.key for statement in part.settled),
            _seconds(part.estimated_seconds if part.todo else None),
            _seconds(part.recorded_seconds),
        )
    output.text(table)
    said = [(part.sentence, part.run.key) for part in plan.runs]
    said += [
        (f"{statement.key} is refused{_because(placement.sentence)}", part.run.key)
        for part in plan.runs
        for statement, placement in part.refused
    ]
    for sentence, keys in _grouped(said):
        output.text(f"{_these(keys)}: {sentence}")
    todo = [part for part in plan.runs if part.todo]
    output.text(
        f"{len(todo)} of {len(plan.runs)} training runs to replay, about {plan.estimated_seconds:.1f} s on one worker; "
        f"training them took {_trained(todo):.1f} s. Nothing was run."
    )
    return DONE


def _trained(parts: Iterable[RunPlan]) -> float:
    return sum(part.recorded_seconds or 0.0 for part in parts)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _answer(workspace: Workspace, output: Output, question: Question) -> int:
    def tell(answer: CellAnswer) -> None:
        output.text(_cell_line(answer))

    report = workspace.answer(question, on_cell=tell)
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
        f"{len(report.cells)} cells: {_counted(counts)}"
        + (f" ({_counted(fidelities)})" if fidelities else "")
    )
    if report.children:
        output.text(
            f"{report.seconds:.1f} s, {report.children} child process{'es' * (report.children != 1)}; "
            f"training these runs took {_replayed_training(report):.1f} s."
        )
    for answer in report.failed:
        named = _named(answer)
        output.complain(f"{named['statement']} of {named['run']} failed: {named['reason']}", named["tail"])
    return DONE if report.complete else FAILED


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
        _status(answer.cell.status),
        _because(answer.cell.sentence),
    )


# ------------------------------------------------------------------------------------------------------- small parts


def _table(*columns: str, right: Iterable[str] = ("seconds",)) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    to_the_right = set(right)
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in to_the_right else "left",
            no_wrap=name in ("run", "status", "script", "estimate", "trained in"),
        )
    return table


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Sentences about training runs, each once, with the keys of the runs that it is about."""
    groups: dict[str, list[str]] = {}
    for sentence, key in pairs:
        groups.setdefault(sentence, []).append(key)
    return list(groups.items())


def _these(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{len(keys)} training runs ({keys[0]} …)"


def _status(status: str) -> Text:
    from rich.text import Text

    return Text(status, style=STATUS_STYLES.get(status, ""))


def _counted(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "none"


def main() -> None:
    """The entry point of the `flor` command."""
    cli()


if __name__ == "__main__":
    main()
