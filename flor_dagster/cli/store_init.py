"""`flor store`: what a store for a team needs."""

from __future__ import annotations

import os

import click

from flor_dagster.cli.output import DONE, FAILED, Output
from flor_dagster.errors import FlorError


@click.group("store")
def store_command() -> None:
    """Set up a log store that several people share."""


@store_command.command("init")
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def init_command(url: str, as_json: bool) -> None:
    """Make the log store of the PostgreSQL URL, and the role `flor_reader` that SQL runs as, which may read the documented views alone.

    URL is its owner's: a role that may make roles. FLOR_READER_PASSWORD gives the new role a password, where the server asks for one.
    """
    output = Output(as_json)
    raise click.exceptions.Exit(_init(output, url))


def _init(output: Output, url: str) -> int:
    from flor_dagster.store import LogStore
    from flor_dagster.store.reader_role import READER, READER_URL

    try:
        with LogStore.open(url) as store:
            store.make_reader(os.environ.get("FLOR_READER_PASSWORD"))
            store.query("SELECT count(*) FROM runs")
    except FlorError as error:
        output.complain(str(error))
        output.document({"error": {"kind": type(error).__name__, "message": str(error)}})
        return FAILED
    output.document({"reader": READER})
    output.text(
        f"The store is made. SQL runs as {READER}, which may read the documented views and nothing else; {READER_URL} says how to "
        "connect as it where it has a password."
    )
    return DONE
