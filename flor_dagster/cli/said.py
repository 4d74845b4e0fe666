"""`flor output`: what a training printed and logged, where `flor.capture` kept it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flor_dagster.cli.command import records_command
from flor_dagster.cli.output import DONE, Output
from flor_dagster.cli.wording import make_table

if TYPE_CHECKING:
    from flor_dagster.replay.outside_git import Records
    from flor_dagster.replay.workspace import Workspace


@click.command("output")
@click.argument("run", metavar="RUN")
@click.option("--channel", type=click.Choice(["print", "logging"]), help="Only one of the channels.")
@records_command
def output_command(workspace: Workspace | Records, output: Output, run: str, channel: str | None) -> int:
    """Show what RUN (a key or its start) printed and logged, where it was recorded under `flor.capture()`."""
    workspace.sync()
    workspace.require_runs()
    chosen = workspace.store.run(run)
    lines = [line for line in workspace.store.output(chosen.id) if channel in (None, line["channel"])]
    output.document({"run": chosen.key, "lines": lines})
    if not lines:
        output.text(f"{chosen.key} kept no output: its script did not call flor.capture().")
        return DONE
    table = make_table("where", "channel", "source", "text")
    for line in lines:
        table.add_row(line["path"], line["channel"], line["source"], line["text"])
    output.text(table)
    return DONE
