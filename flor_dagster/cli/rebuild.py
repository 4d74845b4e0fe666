"""`flor rebuild`: the log store made anew from what lies in files."""

from __future__ import annotations

from pathlib import Path

import click

from flor_dagster.cli.output import DONE, FAILED, USAGE, Output
from flor_dagster.errors import FlorError, NoRepositoryError


@click.command("rebuild")
@click.option(
    "--accept-loss", is_flag=True, help="Go on where the database holds what the files do not have any more."
)
@click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The project's folder; default: the git repository around the working directory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def rebuild_command(accept_loss: bool, project: Path | None, as_json: bool) -> None:
    """Make the log store anew: from the journals of runs and replays, the ledger and the repository.

    All of it or nothing. Where the database holds what the files do not have any more, it is left as it is, and what it is
    is named. A database that can't be read is put away beside the new one. A missing one is made by every command.
    """
    output = Output(as_json)
    raise click.exceptions.Exit(_rebuild(output, project, accept_loss))


def _rebuild(output: Output, project: Path | None, accept_loss: bool) -> int:
    from flor_dagster.replay.rebuilding import rebuild_project

    try:
        done = rebuild_project(project, accept_loss=accept_loss)
    except FlorError as error:
        output.complain(str(error))
        output.document({"error": {"kind": type(error).__name__, "message": str(error)}})
        return USAGE if isinstance(error, NoRepositoryError) else FAILED
    found = done.rebuilt
    output.document(
        {"counts": found.counts, "lost": found.missing, "problems": found.problems, "put_away": done.put_away}
    )
    for path in done.put_away:
        output.text(f"Put away: {path}")
    output.text("Made anew: " + ", ".join(f"{count} {kind}" for kind, count in found.counts.items()) + ".")
    for sentence in (*(f"lost: {words}" for words in found.missing), *found.problems):
        output.complain(sentence)
    return FAILED if found.missing or found.problems else DONE
