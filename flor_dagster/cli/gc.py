"""`flor gc`: let go of what nobody needs any more."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flor_dagster.cli.command import keys_where, project_command, where_option
from flor_dagster.cli.output import DONE, FAILED, Output
from flor_dagster.recording.settings import read_size

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace

_WORDS = {
    "checkpoints": "checkpoints",
    "versions": "versions of code without a training run (git frees them in its own time)",
    "artifacts": "artifacts that no record refers to",
    "packages": "lists of packages that no run refers to",
    "replays": "folders of replays that are over (journals that values came from stay)",
    "checkouts": "checkouts of old versions that were left",
}


class Size(click.ParamType[int]):
    """A number of bytes: `500 MB`, `2 GiB`."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        try:
            return read_size(value, "it")
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _with_room(command: Callable[..., None]) -> Callable[..., None]:
    """On a disk that is full, begin with the room that was kept for that."""

    @functools.wraps(command)
    def with_room(project: Path | None, **options: object) -> None:
        from flor_dagster.recording.layout import find_place
        from flor_dagster.replay.reserve import use_reserve

        place = find_place(project or Path.cwd())
        if place is not None:
            use_reserve(place.home)
        command(project=project, **options)

    return with_room


@click.command("gc")
@click.option("--plan", is_flag=True, help="Only say what would go; nothing is changed.")
@click.option(
    "--keep-bytes",
    type=Size(),
    metavar="SIZE",
    help="What the checkpoints of all runs may take, like 20GB; default: FLOR_CHECKPOINT_PROJECT_BYTES, or 100 GB.",
)
@click.option(
    "--runs", "keys", multiple=True, metavar="KEY", help="Thin only this training run; may be repeated."
)
@where_option
@_with_room
@project_command
def gc_command(
    workspace: Workspace,
    output: Output,
    plan: bool,
    keep_bytes: int | None,
    keys: tuple[str, ...],
    where: str | None,
) -> int:
    """Thin checkpoints to a number of bytes and delete what nothing refers to any more."""
    done = workspace.collect(keep_bytes, keys_where(workspace, keys, where), plan=plan)
    output.document(
        {
            "planned": done.planned,
            "bytes": done.bytes,
            "parts": done.parts,
            "slower": done.slower,
            "kept": done.kept,
            "refused": done.refused,
            "over": done.over,
        }
    )
    verb = "would go" if plan else "gone"
    for part in done.parts:
        size = f", {size_text(part.bytes)}" if part.bytes else ""
        output.text(f"{part.count} {_WORDS[part.kind]}{size}")
    if done.parts:
        output.text(f"In all {size_text(done.bytes)} {verb}.")
    else:
        output.text("Nothing to let go of.")
    for title, lines in (("Slower", [one.sentence for one in done.slower]), ("Kept", list(done.kept))):
        if lines:
            output.text(f"{title}:")
        for line in lines:
            output.text(f"  {line}")
    for sentence in done.refused:
        output.complain(sentence)
    return FAILED if done.refused else DONE


def size_text(size: int) -> str:
    """Bytes as people read them."""
    for unit, many in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= many:
            return f"{size / many:.1f} {unit}"
    return f"{size} bytes"
