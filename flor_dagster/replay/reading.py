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
    where: str | None = None,
    runs: Sequence[str] | None = None,
    latest: int | None = None,
    at: str | None = None,
    fill: bool = False,
    keep: Literal["last", "first", "all"] = "last",
    fidelity: Literal["default", "exact", "any"] = "default",
    provenance: bool = False,
    ranks: Sequence[int] | Literal["all"] | None = None,
    project: Path | str | None = None,
) -> pd.DataFrame:
    """The log view.

    Args:
        names: columns: logged names, keys of statements such as `loss:1`, arguments (`args.lr`), fields of the training run
            (`run.status`), or patterns of such: `val_*`, `args.*`, `run.*`.
        where: a condition on rows and training runs: `epoch >= 3 and args.lr > 0.01 and last(loss) < 2`.
        runs: keys of training runs; None takes all.
        latest: only so many of the youngest runs that fulfil what the condition says of runs.
        at: a row per iteration of this loop; `run` makes one row of each run.
        fill: show in an empty place what the row before it has.
        keep: of several values of a name in one place the last, the first, or all, in a row each with its `ordinal`.
        fidelity: `default` leaves diverged values out, `exact` takes only what was compared and found equal, `any`
            shows everything, beside a column that says what it is.
        provenance: add columns of origin, fidelity and place per name.
        ranks: of a distributed training, the ranks that are shown, or `all`; None shows rank 0.
        project: a folder in the project; None takes the working directory.

    Returns:
        One row per training run and loop context: column `run` (the run's key), one column per loop (the iteration's
        index), one typed column per name. Its `attrs` say why columns are empty, and what they mix or leave out.

    Raises:
        UnknownNameError: a name, a run or a loop is not known.
        QueryError: the condition can't be read, or does not fit; the message points at the character.
    """
    with open_records(project) as workspace:
        workspace.sync()
        return workspace.store.dataframe(
            *names, where=where, runs=runs, latest=latest, at=at, fill=fill, keep=keep, fidelity=fidelity,
            provenance=provenance, ranks=ranks,
        )  # fmt: skip


def runs(
    *, where: str | None = None, latest: int | None = None, project: Path | str | None = None
) -> pd.DataFrame:
    """The training runs, oldest first: their fields and their arguments, without the `run.` and `args.` of the log view.

    Args:
        where: a condition: `args.lr > 0.01 and last(loss) < 2 and run.status = 'finished'`.
        latest: only so many of the youngest that fulfil it.
        project: a folder in the project; None takes the working directory.

    Returns:
        One row per training run: `run` (its key), `status`, `version`, `started`, `seconds`, …, then `args.<name>`.

    Raises:
        QueryError: the condition can't be read, or does not fit; the message points at the character.
    """
    with open_records(project) as workspace:
        workspace.sync()
        store = workspace.store
        if where:
            store.runs_where(where, ())  # what speaks of rows is refused before anything is read
        given = sorted({name for run in workspace.runs() for name in run.args})
        frame = store.dataframe("run.*", *(f"args.{name}" for name in given), where=where, latest=latest)
    frame.attrs = {}
    return frame.drop(columns="run.key").rename(columns=lambda name: name.removeprefix("run."))


def latest(
    *names: str, where: str | None = None, at: str | None = None, project: Path | str | None = None
) -> pd.DataFrame:
    """The log view of the youngest training run that fulfils a condition.

    Args:
        names: as in `dataframe`.
        where: as in `dataframe`.
        at: as in `dataframe`.
        project: as in `dataframe`.
    """
    return dataframe(*names, where=where, latest=1, at=at, project=project)


def query(
    sql: str,
    /,
    *,
    seconds: float | None = None,
    rows: int | None = None,
    project: Path | str | None = None,
    **params: Any,
) -> pd.DataFrame:
    """The result of one reading SQL statement over the documented views: `records`, `runs`, `args`, … (`flor sql` lists them).

    Args:
        sql: the statement; `:name` stands for a parameter.
        seconds: how long it may take; None means a minute.
        rows: how many rows it may give; None means a million.
        project: a folder in the project; None takes the working directory.
        params: the parameters' values.

    Raises:
        QueryError: it writes, reads something else than the views, is wrong, takes too long, or gives too many rows.
    """
    with open_records(project) as workspace:
        workspace.sync()
        return workspace.store.query(sql, params, seconds=seconds, rows=rows)


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
