"""The asset `log_view`, and the IO manager by which downstream assets get it as a DataFrame."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from flor_dagster.orchestration.metadata import column_schema, picture_value, table
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.orchestration.specs import spec_of
from flor_dagster.orchestration.translator import DagsterFlorTranslator
from flor_dagster.replay.workspace import Workspace
from flor_dagster.showing import shown

PREVIEW_ROWS = 50
PLOTTED_RUNS = 12


class FlorLogViewIOManager(dg.ConfigurableIOManager):
    """Loads the log view from the store whenever a downstream asset asks; nothing is pickled, nothing goes stale."""

    repo: str = Field(description="The folder of the project's git repository.")
    entrypoints: list[str] = Field(
        default=[], description="The project's entry points; empty: every recorded one."
    )
    store_url: str = Field(
        default="", description="SQLAlchemy URL of the log store; empty: SQLite in .flor/."
    )

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Keep nothing: the store is the record."""

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """The log view as it is now."""
        with Workspace.open(
            self.repo, entrypoints=tuple(self.entrypoints), store_url=self.store_url or None
        ) as workspace:
            return log_view_frame(workspace)


def io_manager_key(project: FlorProject) -> str:
    """The resource key of the project's IO manager."""
    return f"{project.name}_log_view_io_manager"


def build_log_view_io_manager(project: FlorProject) -> FlorLogViewIOManager:
    """The IO manager of the project's `log_view`."""
    return FlorLogViewIOManager(
        repo=str(project.root), entrypoints=list(project.scripts), store_url=project.store_url
    )


def log_view_names(workspace: Workspace) -> tuple[str, ...]:
    """The columns of the log view: every statement's name, and the older definitions that are still asked for."""
    newest: dict[str, int] = {}
    rows = workspace.store.statements()
    for row in rows:
        newest[row.name] = max(row.id, newest.get(row.name, 0))
    older = [row.key for row in rows if row.question and row.id != newest[row.name]]
    return (*newest, *(key if ":" in key else f"{key}:1" for key in older))


def log_view_frame(workspace: Workspace) -> pd.DataFrame:
    """The pivot of everything that is known: one row per training run and loop context."""
    names = log_view_names(workspace)
    return (
        workspace.store.dataframe(*names) if names else pd.DataFrame({"run": pd.Series([], dtype="string")})
    )


def build_log_view_asset(
    project: FlorProject, *, translator: DagsterFlorTranslator | None = None
) -> dg.AssetsDefinition:
    """The asset `log_view`. Its IO manager's key is `<project>_log_view_io_manager`.

    Args:
        project: the project.
        translator: renames, regroups, annotates.
    """
    spec = spec_of(project, "log_view", translator).with_io_manager_key(io_manager_key(project))

    @dg.multi_asset(name=spec.key.to_python_identifier(), specs=[spec])
    def log_view(context: dg.AssetExecutionContext) -> Any:
        with project.workspace() as workspace:
            workspace.sync()
            frame = log_view_frame(workspace)
            descriptions = _column_descriptions(workspace, frame)
        metadata: dict[str, Any] = {
            "dagster/row_count": len(frame),
            "dagster/column_schema": column_schema(frame, descriptions),
            "first rows": table(frame.head(PREVIEW_ROWS)),
        }
        plot = _plot(frame)
        if plot is not None:
            metadata["plot"] = plot
        context.log.info(f"{len(frame)} rows, {len(frame.columns)} columns")
        return dg.MaterializeResult(asset_key=spec.key, value=frame, metadata=metadata)

    return log_view


def _column_descriptions(workspace: Workspace, frame: pd.DataFrame) -> dict[str, str]:
    """Where each column comes from: a training run, a loop, or a statement; of several definitions the newest."""
    found = {str(name): f"Loop `{name}`: which iteration, from 0." for name in frame.columns}
    found["run"] = "The training run's key: its partition in `runs`."
    for row in workspace.store.statements():
        text = f"{row.file}:{row.line} · {row.expression}"
        found[row.name] = text
        found[row.key if ":" in row.key else f"{row.key}:1"] = text
    return found


def _plot(frame: pd.DataFrame) -> dg.MetadataValue[Any] | None:
    """Every numeric name over the rows of the newest training runs, as a PNG; None without matplotlib or numbers."""
    if find_spec("matplotlib") is None or frame.empty:
        return None
    numeric = _numeric_names(frame)
    if not numeric:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.2 * len(numeric)), layout="constrained")
    for position, name in enumerate(numeric, start=1):
        axes = figure.add_subplot(len(numeric), 1, position)
        for run in list(dict.fromkeys(frame["run"]))[-PLOTTED_RUNS:]:
            values = pd.to_numeric(frame.loc[frame["run"] == run, name], errors="coerce").dropna()
            axes.plot(range(len(values)), values.astype(float).to_numpy(), label=str(run)[-13:], linewidth=1)
        axes.set_ylabel(shown(name, "plot"))
    figure.axes[0].legend(fontsize=6, ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return picture_value("log view", buffer.getvalue())


def _numeric_names(frame: pd.DataFrame) -> Sequence[str]:
    """The first few columns of measured numbers; loops are integers, and their values say nothing on an axis."""
    floats = [str(name) for name in frame.columns if pd.api.types.is_float_dtype(frame[name])]
    return [name for name in floats if not name.endswith("_value")][:6]
