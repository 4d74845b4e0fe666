"""The `flor` command: train, look, ask. The one room that prints.

Results go to standard output, errors to standard error. With `--json` standard output holds one JSON document and nothing
else. Exit status: 0 when everything that was asked is done, 1 when part of it failed (each part is named), 2 when the command
line itself is wrong: an unknown option, a folder without a repository, a name that nothing has; 130 when it was stopped by
Ctrl-C (143 by SIGTERM, 129 by SIGHUP), and what was finished is kept.

Each command is a module of its own, imported when it is called for.
"""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "run": "run:run_command",
    "runs": "runs:runs_command",
    "view": "view:view_command",
    "why": "why:why_command",
    "sql": "sql:sql_command",
    "output": "said:output_command",
    "propagate": "propagate:propagate_command",
    "hindsight": "hindsight:hindsight_command",
    "verify": "verify:verify_command",
    "doctor": "doctor:doctor_command",
    "gc": "gc:gc_command",
    "rebuild": "rebuild:rebuild_command",
    "store": "store_init:store_command",
}
"""Command → module of this package and the command in it, in the order in which `flor --help` shows them."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        return getattr(importlib.import_module(f"flor_dagster.cli.{module}"), attribute)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flor-dagster", prog_name="flor")
def cli() -> None:
    """Add a log statement today; get its values for every training run you ever made.

    Exit status: 0 all done, 1 part of it failed (each part is named), 2 wrong usage, 130 stopped by Ctrl-C.
    """


def main() -> None:
    """The entry point of the `flor` command."""
    cli()
