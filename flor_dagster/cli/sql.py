"""`flor sql`: reading SQL over the documented views."""

from __future__ import annotations

import csv
import json
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import click

from flor_dagster.cli.command import records_command
from flor_dagster.cli.output import DONE, Output, jsonable
from flor_dagster.cli.wording import cell_text, make_table

if TYPE_CHECKING:
    from flor_dagster.replay.outside_git import Records
    from flor_dagster.replay.workspace import Workspace
    from flor_dagster.store.query import Rows

TABLE_ROWS = 200
"""Rows of a table unless asked for more; other formats are streamed to their end."""


@click.command("sql")
@click.argument("statement", required=False)
@click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE", help="A value for `:NAME` in the statement."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    help="How it is written; csv is streamed. Default: table. json is the same as --json.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="ROWS",
    help=f"Rows to print; 0 prints all. Default: {TABLE_ROWS} in a table, else all.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    help="End it after this time. Default: 60.",
)
@records_command
def sql_command(
    workspace: Workspace | Records,
    output: Output,
    statement: str | None,
    params: tuple[str, ...],
    form: Literal["table", "csv", "json"] | None,
    limit: int | None,
    seconds: float,
) -> int:
    """Read the log store by SQL: one SELECT over the documented views; without STATEMENT they are listed.

    Nothing else is read, and nothing is written.
    """
    output.as_json = output.as_json or form == "json"
    if statement is None:
        return _list_views(output)
    named = [text.partition("=") for text in params]
    if not all(name.isidentifier() and equals for name, equals, _ in named):
        raise click.BadParameter("write --param NAME=VALUE.", param_hint="--param")
    values = {name: _value(text) for name, _, text in named}
    workspace.sync()
    with workspace.store.stream(statement, values, seconds=seconds) as result:
        if output.as_json:
            rows = list(islice(result.rows, limit or None))
            output.document({"columns": result.names, "rows": rows})
        elif form == "csv":
            _write_csv(result, limit)
        else:
            _write_table(output, result, TABLE_ROWS if limit is None else limit)
    return DONE


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float | str) or value is None else text


def _write_csv(result: Rows, limit: int | None) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(result.names)
    for row in islice(result.rows, limit or None):
        writer.writerow(["" if value is None else jsonable(value) for value in row])


def _write_table(output: Output, result: Rows, limit: int) -> None:
    rows = list(islice(result.rows, limit or None))
    more = bool(limit) and next(result.rows, None) is not None
    numbers = {
        name
        for place, name in enumerate(result.names)
        if all(isinstance(row[place], int | float | None) for row in rows)
    }
    table = make_table(*result.names, right=numbers, piped_whole=True)
    for row in rows:
        table.add_row(*map(cell_text, row))
    output.text(table)
    if more:
        output.text(f"These are the first {limit} rows; --limit 0 prints all.")


def _list_views(output: Output) -> int:
    from flor_dagster.store.sql_views import VIEWS

    output.document({"views": VIEWS})
    table = make_table("view", "a row is", "columns")
    for view in VIEWS:
        table.add_row(view.name, view.row, ", ".join(view.columns))
    output.text(table)
    return DONE
