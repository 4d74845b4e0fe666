"""The demo project in Dagster: `make demo` makes it, `make ui` opens it."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

import flor_dagster as flor

DEMO = Path(os.environ.get("FLOR_DEMO") or Path(__file__).parent / "demo" / "digits")


def _demo() -> dg.Definitions:
    project = flor.FlorProject("digits", repo=DEMO, entrypoints=["train.py"])
    nightly = flor.build_hindsight_schedule(project, cron_schedule="0 2 * * *", max_seconds=600)
    return flor.build_flor_definitions(project, schedules=[nightly])


def _message() -> dg.Definitions:
    """Something to read where the demo has not been made yet."""
    text = f"There is no demo project at {DEMO}. Run `make demo` to make it, or set FLOR_DEMO to where it is."
    return dg.Definitions(assets=[dg.AssetSpec("run_make_demo", description=text, group_name="flor")])


# Replays run in children of their own, so one process per Dagster run is enough.
defs = dg.Definitions.merge(
    _demo() if (DEMO / ".git").exists() else _message(), dg.Definitions(executor=dg.in_process_executor)
)
