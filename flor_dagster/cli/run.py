"""`flor run`: train and record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flor_dagster.cli.command import project_command
from flor_dagster.cli.interpreting import parse_variables, variable_files_option, variables_option
from flor_dagster.cli.output import DONE, FAILED, Output, styled
from flor_dagster.cli.wording import because

if TYPE_CHECKING:
    from rich.text import Text

    from flor_dagster.replay.workspace import Workspace
    from flor_dagster.store.models import RunRow


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


@click.command("run")
@click.argument("script", type=click.Path(path_type=Path))
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value for flor.arg(NAME); JSON or text. May be given several times.",
)
@click.option(
    "--resume",
    metavar="RUN",
    help="Go on with this training run (key or its start), which died, from its last restore point.",
)
@click.option(
    "--allow-changed", is_flag=True, help="With --resume: go on also where code, libraries or setup differ."
)
@click.option(
    "--portable",
    is_flag=True,
    help="Train with kernels and threads that every x86-64-v3 (or arm64) machine gives alike, so that replays elsewhere can be exact.",
)
@variables_option
@variable_files_option
@project_command
def run_command(
    workspace: Workspace,
    output: Output,
    script: Path,
    arguments: tuple[str, ...],
    resume: str | None,
    allow_changed: bool,
    portable: bool,
    variables: tuple[str, ...],
    variable_files: tuple[str, ...],
) -> int:
    """Train: run SCRIPT and record it.

    The same as `python SCRIPT`, with a fixed hash seed and with arguments.

    With --resume RUN it goes on with a training that failed, was interrupted or was killed, or that left its loop early (by
    a break or by sys.exit, because it was asked to end), as a new training run whose tag flor/parent names the old one. It
    ends as one that was never stopped; the arguments are those of the old one.
    """
    entrypoint = _entrypoint(script, workspace.root)
    if resume is not None:
        if arguments:
            raise click.UsageError(
                "--resume takes the arguments of the training run that died; --arg can't change them"
            )
        if portable:
            raise click.UsageError(
                "--resume goes on as the training run that died was started: leave out --portable"
            )
        from flor_dagster.replay.resuming import resume as go_on

        run = go_on(
            workspace, resume, entrypoint, allow_changed=allow_changed,
            variables=parse_variables(variables, variable_files), on_line=output.progress,
        )  # fmt: skip
    else:
        run = workspace.train(
            entrypoint, parse_arguments(arguments), portable=portable or None,
            variables=parse_variables(variables, variable_files), on_line=output.progress,
        )  # fmt: skip
    output.document({"run": run})
    output.text(_run_line(run))
    if run.status != "finished":
        output.complain(f"Training run {run.key} is {run.status}{because(run.reason)}.")
        return FAILED
    return DONE


def _run_line(run: RunRow) -> Text:
    seconds = "" if run.seconds is None else f" in {run.seconds:.1f} s"
    return styled("training run ", (run.key, "bold"), f" {run.status}{seconds}")
