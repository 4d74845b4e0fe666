"""`flor runs`: what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from flor_dagster.cli.command import chosen_runs, records_command, where_option
from flor_dagster.cli.output import DONE, Output
from flor_dagster.cli.wording import cell_text, make_table, status_text

if TYPE_CHECKING:
    from flor_dagster.replay.outside_git import Records
    from flor_dagster.replay.workspace import Workspace
    from flor_dagster.store.models import RunRow


@click.command("runs")
@click.option("--latest", type=click.IntRange(min=1), metavar="N", help="Only the latest N.")
@where_option
@records_command
def runs_command(
    workspace: Workspace | Records, output: Output, latest: int | None, where: str | None
) -> int:
    """List the training runs, oldest first."""
    workspace.sync()
    runs = chosen_runs(workspace, where, latest)
    output.document({"runs": runs})
    if not runs and where and workspace.runs():
        output.text("No training run fulfils the condition.")
        return DONE
    if not runs:
        output.text(f"No training runs yet in {workspace.root}.")
        output.text("Run a script that uses flor_dagster: python SCRIPT, or flor run SCRIPT.")
        return DONE
    shared = {
        name: value for name, value in runs[0].args.items() if all(_same(run, name, value) for run in runs)
    }
    losing = any(run.lost for run in runs)
    columns = ("run", "status", "script", "args", "seconds", *(("lost",) if losing else ()))
    table = make_table(*columns, right=("seconds", "lost"))
    for run in runs:
        own = {name: value for name, value in run.args.items() if name not in shared}
        seconds = "" if run.seconds is None else f"{run.seconds:.1f}"
        lost = (f"{run.lost or ''}",) if losing else ()
        table.add_row(run.key, status_text(run.status), run.entrypoint, _arguments(own), seconds, *lost)
    output.text(table)
    if shared:
        output.text(f"{'In all of them' if len(runs) > 1 else 'Its args'}: {_arguments(shared)}")
    for run in runs:
        for code, message in workspace.store.warnings(run.id) if run.lost else ():
            if code == "trouble":
                output.text(f"{run.key}: {message}")
    if losing:
        output.text("Lost: lines of the journal that could not be written.")
    return DONE


def _same(run: RunRow, name: str, value: Any) -> bool:
    return name in run.args and run.args[name] == value


def _arguments(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={cell_text(value)}" for name, value in values.items())
