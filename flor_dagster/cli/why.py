"""`flor why`: why a value is not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from flor_dagster.cli.command import records_command
from flor_dagster.cli.output import DONE, Output
from flor_dagster.cli.wording import cell_text

if TYPE_CHECKING:
    from flor_dagster.replay.outside_git import Records
    from flor_dagster.replay.workspace import Workspace


def parse_place(values: Sequence[str]) -> dict[str, Any]:
    """`epoch=3` and `step=0,…` as loop → iteration; a number is an index.

    Raises:
        click.BadParameter: for anything else.
    """
    place: dict[str, Any] = {}
    for text in (part for value in values for part in value.split(",")):
        loop, equals, iteration = text.partition("=")
        if not (equals and loop.strip() and iteration.strip()):
            raise click.BadParameter(
                f"{text!r} is not LOOP=3 (an index from 0) or LOOP_value=b (the iteration's value).",
                param_hint="--at",
            )
        number = iteration.strip()
        place[loop.strip()] = int(number) if number.removeprefix("-").isdecimal() else number
    return place


@click.command("why")
@click.argument("run")
@click.argument("name")
@click.option(
    "--at",
    "places",
    multiple=True,
    metavar="LOOP=3",
    help="In this iteration (index from 0; LOOP_value=b by its value); again, or behind a comma, for a loop within it.",
)
@click.option(
    "--rank", type=click.IntRange(min=0), default=0, help="Of a distributed training. Default: rank 0."
)
@records_command
def why_command(
    workspace: Workspace | Records, output: Output, run: str, name: str, places: tuple[str, ...], rank: int
) -> int:
    """Say why the log view shows no value of NAME in the training run RUN, or what it shows."""
    place = parse_place(places)
    workspace.sync()
    workspace.require_runs()
    said = workspace.store.why(run, name, place, rank=rank)
    output.document(said)
    where = "".join(f", {loop}={iteration}" for loop, iteration in said.at.items())
    if said.reason:
        output.text(f"{said.run}{where}: {name} is empty: {said.reason}")
    elif said.values == 1:
        output.text(f"{said.run}{where}: {name} is there: {cell_text(said.value)}")
    else:
        output.text(
            f"{said.run}{where}: {name} has {said.values} values there; the last one is {cell_text(said.value)}"
        )
    return DONE
