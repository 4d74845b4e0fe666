"""The options of commands that execute old versions and compare: by which interpreter, and how near."""

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
