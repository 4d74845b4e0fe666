"""What was recorded and answered, from Python: for the project around the working directory, or a named one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flor_dagster.recording.artifacts import Artifact, ArtifactStore
from flor_dagster.replay.outside_git import open_records

if TYPE_CHECKING:
    import pandas as pd


def dataframe(
    *names: str,
    runs: Sequence[str] | None = None,
    fidelity: Literal["default", "exact", "any"] = "default",
    provenance: bool = False,
    ranks: Sequence[int] | Literal["all"] | None = None,
) -> pd.DataFrame:
    """The log view of the project around the working directory.

    Args:
        names: columns: logged names, arguments, or keys of statements such as `loss:1`.
        runs: keys of training runs; None takes all.
        fidelity: `default` leaves diverged values out, `exact` takes only what was compared and found equal, `any`
            shows everything, beside a column that says what it is.
        provenance: add columns of origin, fidelity and place per name.
        ranks: of a distributed training, the ranks that are shown, or `all`; None shows rank 0.

    Returns:
        One row per training run and loop context: column `run` (the run's key), one column per loop (the iteration's
        index), one typed column per name.
    """
    with open_records() as workspace:
        workspace.sync()
        return workspace.store.dataframe(
            *names, runs=runs, fidelity=fidelity, provenance=provenance, ranks=ranks
        )


def artifact(reference: str | Artifact, *, project: str | Path | None = None) -> Any:
    """A logged figure, image or large value as an object.

    Args:
        reference: the cell of a log view, or its text `artifact:0123456789abcdef`.
        project: a folder in the project; default: around the working directory.

    Raises:
        StoreError: when it is missing, or is not what was written.
    """
    with open_records(project) as workspace:
        store = ArtifactStore(workspace.home)
        return store.load(store.find(reference) if isinstance(reference, str) else reference)
