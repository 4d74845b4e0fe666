"""`flor verify`: can these training runs still be reproduced?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flor_dagster.cli.command import keys_where, project_command, where_option
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
from flor_dagster.store.models import once

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace


@click.command("verify")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@where_option
@click.option(
    "--audit",
    is_flag=True,
    help="Compute one iteration both ways too, nested loops skipped and executed; where they differ, later replays execute.",
)
@rtol_option
@python_option
@environment_option
@variables_option
@variable_files_option
@project_command
def verify_command(
    workspace: Workspace,
    output: Output,
    runs: tuple[str, ...],
    where: str | None,
    audit: bool,
    rtol: tuple[str, ...],
    python: str | None,
    environment: str | None,
    variables: tuple[str, ...],
    variable_files: tuple[str, ...],
) -> int:
    """Execute each training run RUN again from its beginning and compare everything with its record, bit for bit.

    The verdict is kept with the run. Nothing of yours is touched: the old version runs in a checkout of its own.
    """
    from flor_dagster.replay.reproducing import verify_run

    chosen = keys_where(workspace, runs, where)
    if chosen is None:
        raise click.UsageError("Name the training runs, or choose some by --where.")
    one_interpreter(python, environment)
    supplied = parse_variables(variables, variable_files)
    found = [
        verify_run(
            workspace,
            name,
            audit=audit,
            tolerance=parse_tolerance(rtol),
            python=python,
            environment=environment,
            variables=supplied,
        )
        for name in chosen
    ]
    output.document({"verifications": found, "complete": all(one.good for one in found)})
    for one in found:
        style = "green" if one.good else "red"
        how = one.fidelity or "failed"
        output.text(styled(f"{one.run.key}  ", (how, style), f"  {once(how, one.sentence)}"))
        for warning in one.warnings:
            output.text(f"  {warning}")
    for one in found:
        if not one.good:
            output.complain(f"training run {one.run.key} is not shown to be reproducible", one.tail)
    return DONE if all(one.good for one in found) else FAILED
