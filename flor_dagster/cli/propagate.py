"""`flor propagate`: where a statement goes in every version."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from flor_dagster.cli.command import project_command
from flor_dagster.cli.output import DONE, Output
from flor_dagster.cli.wording import because, counted, diff_text, status_text

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace


@click.command("propagate")
@click.argument("name")
@project_command
def propagate_command(workspace: Workspace, output: Output, name: str) -> int:
    """Show where the statement NAME goes in every version; nothing is run or written."""
    from rich.text import Text

    places = workspace.propagation(name)
    output.document({"name": name, "versions": places})
    for place in places:
        runs = f"{place.runs} training run{'s' if place.runs != 1 else ''}"
        about = f"  {place.date:%Y-%m-%d}  {place.subject}  ({runs})"
        output.text(Text.assemble((place.commit[:8], "bold"), about))
        placement = place.placement
        output.text(Text.assemble("  ", status_text(placement.status), because(placement.sentence)))
        if placement.status == "placed":
            output.text(diff_text(placement.diff))
        output.text("")
    counts = Counter(place.placement.status for place in places)
    output.text(f"{name}: {counted(counts)}, of {len(places)} versions. Nothing was run or written.")
    return DONE
