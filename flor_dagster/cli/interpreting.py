"""The options of commands that execute old versions and compare: by which interpreter, with which variables, and how near."""

from __future__ import annotations

from collections.abc import Sequence

import click

rtol_option = click.option(
    "--rtol",
    multiple=True,
    metavar="[NAME=]RTOL",
    help="Relative difference that re-emitted numbers (of NAME) may have; they are then `within tolerance`, never exact.",
)
python_option = click.option(
    "--python",
    metavar="PATH",
    help="The interpreter for the old versions; default: the one that each training run was recorded with.",
)
variables_option = click.option(
    "--env-var",
    "variables",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Give replays this environment variable, or secret of the command line, in place of what was kept; without VALUE today's.",
)
variable_files_option = click.option(
    "--env-file",
    "variable_files",
    multiple=True,
    metavar="FILE",
    help="Give replays the variables of this file, a NAME=VALUE per line: secrets stay off the command line.",
)
environment_option = click.option(
    "--env",
    "environment",
    type=click.Choice(["uv"]),
    help="Make the environment that each version's own uv.lock, requirements.txt or pyproject.toml describes, by uv; it is "
    "kept and used again.",
)


def one_interpreter(python: str | None, environment: str | None) -> None:
    """Refuse two ways to choose the interpreter at once.

    Raises:
        click.UsageError: both are given.
    """
    if python is not None and environment is not None:
        raise click.UsageError("--python and --env both choose the interpreter: give one of them.")


def parse_variables(values: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """`--env-var` and `--env-file` as name → value.

    Raises:
        click.BadParameter: for what gives no name or no value.
    """
    if not values and not files:
        return {}
    from flor_dagster.errors import ReplayError
    from flor_dagster.replay.given import read_supplied

    try:
        return read_supplied(values, files)
    except ReplayError as error:
        raise click.BadParameter(str(error), param_hint="--env-var / --env-file") from error


def parse_tolerance(values: Sequence[str]) -> dict[str, float] | None:
    """`1e-6` and `loss=1e-4` as name → relative difference, `*` for every other name; None where nothing was given.

    Raises:
        click.BadParameter: for what is no number, or is below zero.
    """
    chosen: dict[str, float] = {}
    for value in values:
        name, equals, text = value.rpartition("=")
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not 0 <= number < 1 or (equals and not name):
            raise click.BadParameter(
                f"{value!r} is not RTOL or NAME=RTOL, as in loss=1e-5", param_hint="--rtol"
            )
        chosen[name or "*"] = number
    return chosen or None
