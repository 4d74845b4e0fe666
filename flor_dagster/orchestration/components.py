"""`FlorProjectComponent`: a project in a `defs.yaml`. This module is what `dg` reads; it holds nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from flor_dagster.orchestration.build import build_flor_definitions
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.orchestration.schedules import build_hindsight_schedule


class FlorProjectScaffolder(dg.Scaffolder[Any]):
    """Writes a `defs.yaml` to fill in."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the file."""
        dg.scaffold_component(
            request,
            {
                "name": request.target_path.name.replace("-", "_"),
                "repo": "{{ context.project_root }}",
                "entrypoints": ["train.py"],
            },
        )


@dg.scaffold_with(FlorProjectScaffolder)
class FlorProjectComponent(dg.Component, dg.Model, dg.Resolvable):
    """A git repository and its training scripts: every training run a partition, every question a backfill."""

    name: str = Field(description="Prefix of the project's assets, jobs and sensors.")
    repo: str = Field(
        description="The repository's folder; a relative path counts from the folder of this file.",
        examples=["{{ context.project_root }}"],
    )
    entrypoints: list[str] = Field(
        default_factory=list,
        description="Training scripts relative to the repository; empty: every recorded one.",
    )
    store_url: str = Field(
        default="", description="SQLAlchemy URL of the log store; empty: SQLite in .flor/."
    )
    group_name: str = Field(
        default="", description="Dagster group of the assets; the project's name by default."
    )
    remote_url: str = Field(
        default="", description="Web address of the repository, for links to commits and lines."
    )
    max_cells: int = Field(
        default=50_000, description="Most cells (training runs by open questions) in Dagster."
    )
    env_vars: list[str] = Field(
        default_factory=list,
        description="Environment variables that replays take from the Dagster run's environment, such as renewed secrets.",
    )
    env_file: str = Field(
        default="",
        description="A file of NAME=VALUE lines that replays are given; relative to the repository.",
    )
    hindsight_cron: str = Field(
        default="",
        description="When open questions are answered by themselves, as a cron expression; empty: never.",
    )
    hindsight_max_seconds: float = Field(
        default=600.0, description="Most seconds that one such tick may take."
    )

    def project(self, folder: Path) -> FlorProject:
        """The project; a relative `repo` counts from `folder`."""
        return FlorProject(
            self.name,
            folder / self.repo,
            entrypoints=self.entrypoints,
            store_url=self.store_url,
            group_name=self.group_name,
            remote_url=self.remote_url,
            max_cells=self.max_cells,
            env_vars=self.env_vars,
            env_file=self.env_file,
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The project's definitions."""
        project = self.project(context.path)
        schedules: list[dg.ScheduleDefinition] = []
        if self.hindsight_cron:
            cron, most = self.hindsight_cron, self.hindsight_max_seconds
            schedules.append(build_hindsight_schedule(project, cron_schedule=cron, max_seconds=most))
        return build_flor_definitions(project, schedules=schedules)
