"""`flor propagate`: where a statement goes in every version."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from flor_dagster.cli.command import keys_where, project_command, where_option
from flor_dagster.cli.output import DONE, Output, styled
from flor_dagster.cli.wording import because, counted, diff_text, place_words, status_text

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import VersionPlacement, Workspace
    from flor_dagster.store.models import PlacementRow


@click.command("propagate")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--runs", "keys", multiple=True, metavar="RUN", help="Only the version of this training run.")
@click.option(
    "--version",
    "versions",
    multiple=True,
    metavar="COMMIT",
    help="Only this version: a commit, an abbreviation, a branch or a tag.",
)
@click.option(
    "--allow-effects",
    is_flag=True,
    help="Also place expressions that are known to change the training.",
)
@where_option
@project_command
def propagate_command(
    workspace: Workspace,
    output: Output,
    names: tuple[str, ...],
    keys: tuple[str, ...],
    versions: tuple[str, ...],
    allow_effects: bool,
    where: str | None,
) -> int:
    """Show where the statements NAME... go in every version; nothing is run or written.

    For each version that was trained: the lines that it would gain, what comes along with them and under which names,
    whether the place is certain or only likely, and why; or why it takes none, and with which commit what it lacks came.
    """
    runs = keys_where(workspace, keys, where)
    found = [
        (
            name,
            workspace.propagation(name, runs=runs, versions=versions or None, allow_effects=allow_effects),
        )
        for name in names
    ]
    output.document(
        {
            "names": names,
            "versions": [{"name": name} | _fields(place) for name, places in found for place in places],
        }
    )
    for name, places in found:
        for place in places:
            runs = f"{place.runs} training run{'s' if place.runs != 1 else ''}"
            about = f"  {place.date:%Y-%m-%d}  {place.subject}  ({runs})"
            output.text(styled((place.commit[:8], "bold"), about))
            placement = place.placement
            output.text(styled("  ", status_text(placement.status), because(placement.sentence)))
            if placement.status != "refused":
                output.text(f"  place {place_words(placement)}")
            if placement.status == "placed":
                output.text(diff_text(placement.diff))
            output.text("")
        counts = Counter(_counted_as(place.placement) for place in places)
        likely = any(place.placement.waits for place in places)
        output.text(f"{name}: {counted(counts)}, of {len(places)} versions. Nothing was run or written.")
        if likely:
            output.text(
                f"A likely place is answered once it was confirmed: `flor hindsight {name} --accept-likely`."
            )
    return DONE


def _counted_as(placement: PlacementRow) -> str:
    if placement.status != "placed" or placement.said in (None, "certain"):
        return placement.status
    return f"placed ({placement.said})"


def _fields(place: VersionPlacement) -> dict[str, Any]:
    return {field.name: getattr(place, field.name) for field in dataclasses.fields(place)}
