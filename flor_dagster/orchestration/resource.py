"""`FlorResource`: a project's workspace inside a user's own assets."""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from flor_dagster.orchestration.project import FlorProject
from flor_dagster.replay.workspace import Workspace


class FlorResource(dg.ConfigurableResource[Workspace]):
    """Opens a project's workspace: its training runs, its log view, its questions.

    Example:
        @dg.asset
        def report(flor: FlorResource) -> pd.DataFrame:
            with flor.workspace() as workspace:
                return workspace.store.dataframe("loss")
    """

    repo: str = Field(description="The folder of the git repository whose training runs are meant.")
    entrypoints: list[str] = Field(
        default=[],
        description="Training scripts relative to the repository; empty: every recorded entry point.",
    )
    store_url: str = Field(
        default="", description="SQLAlchemy URL of the log store; empty: SQLite in the repository's .flor/."
    )

    @classmethod
    def of(cls, project: FlorProject) -> FlorResource:
        """The resource of a project."""
        return cls(repo=str(project.root), entrypoints=list(project.scripts), store_url=project.store_url)

    def workspace(self) -> Workspace:
        """Open the workspace; use it as a context manager.

        Raises:
            NoRepositoryError: the folder is not (in) a git repository.
            StoreError: the log store can't be opened.
        """
        return Workspace.open(
            self.repo, entrypoints=tuple(self.entrypoints), store_url=self.store_url or None
        )
