"""The command line's reference, made from its help: `python -m flor_dagster.cli.reference > docs/cli.md`."""

from __future__ import annotations

import click

from flor_dagster.cli import cli

WIDTH = 100


def reference() -> str:
    """Every command's help, as a page of Markdown."""
    root = cli.make_context("flor", [], max_content_width=WIDTH, terminal_width=WIDTH, resilient_parsing=True)
    parts = ["# The `flor` command\n", _block(root)]
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        if command is not None:
            parts += _sections(f"flor {name}", click.Context(command, root, name))
    return "\n".join(parts)


def _sections(called: str, context: click.Context) -> list[str]:
    """A command's help, and behind it those of the commands in it."""
    parts = [f"## `{called}`\n", _block(context)]
    if isinstance(context.command, click.Group):
        for name, command in context.command.commands.items():
            parts += _sections(f"{called} {name}", click.Context(command, context, name))
    return parts


def _block(context: click.Context) -> str:
    return f"```text\n{context.get_help().rstrip()}\n```\n"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
