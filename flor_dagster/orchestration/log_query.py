"""The asset `log_query`: a question to the log view, typed into Dagster's launchpad."""

from itertools import islice
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from flor_dagster.errors import FlorError
from flor_dagster.orchestration.metadata import code_value, column_schema, fence_value, table
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.orchestration.specs import spec_of
from flor_dagster.orchestration.translator import DagsterFlorTranslator
from flor_dagster.replay.workspace import Workspace
from flor_dagster.showing import shown

MAX_LIMIT = 500


class LogQueryConfig(dg.Config):
    """A query of the log view. Every field has a plain default, so that the launchpad shows it."""

    columns: list[str] = Field(default=[], description="Names to show; empty: all of them.")
    where: str = Field(
        default="", description='Which rows, e.g. "epoch >= 3 and loss < 0.5 and args.lr > 0.01"; empty: all.'
    )
    order_by: str = Field(
        default="", description='A column, "-" before it for descending order, e.g. "-loss".'
    )
    limit: int = Field(default=50, description="How many rows to show, at most 500.", ge=1, le=MAX_LIMIT)
    sql: str = Field(
        default="",
        description="A SELECT over the documented views (`records`, `runs`, `args`, …) instead of the fields above.",
    )


def run_query(workspace: Workspace, query: LogQueryConfig) -> pd.DataFrame:
    """The result of a query: at most `limit` rows.

    Raises:
        QueryError: the query is wrong, or would write.
    """
    if query.sql.strip():
        with workspace.store.stream(query.sql) as result:
            return pd.DataFrame(list(islice(result.rows, query.limit)), columns=result.names)
    return workspace.store.view(query.columns, query.where or None, query.order_by or None, query.limit)


def build_log_query_asset(
    project: FlorProject, *, translator: DagsterFlorTranslator | None = None
) -> dg.AssetsDefinition:
    """The asset `log_query`: its latest materialization is the result of the latest query.

    Args:
        project: the project.
        translator: renames, regroups, annotates.
    """
    spec = spec_of(project, "log_query", translator)

    @dg.multi_asset(name=spec.key.to_python_identifier(), specs=[spec])
    def log_query(context: dg.AssetExecutionContext, config: LogQueryConfig) -> Any:
        with project.workspace() as workspace:
            workspace.sync()
            try:
                frame = run_query(workspace, config)
            except FlorError as error:
                raise dg.Failure(description=shown(error), allow_retries=False) from error
        context.log.info(f"{len(frame)} rows")
        return dg.MaterializeResult(
            asset_key=spec.key,
            metadata={
                "query": _words(config),
                "result": table(frame),
                "dagster/row_count": len(frame),
                "dagster/column_schema": column_schema(frame),
            },
        )

    return log_query


def _words(query: LogQueryConfig) -> dg.MetadataValue[Any]:
    if query.sql.strip():
        return fence_value(query.sql.strip(), language="sql")
    parts: list[str | tuple[str]] = []
    for name in query.columns:
        parts += [", ", (name,)] if parts else [(name,)]
    parts = parts or ["all columns"]
    parts += [" where ", (query.where,)] if query.where else []
    parts += [" ordered by ", (query.order_by,)] if query.order_by else []
    return code_value(*parts, f", at most {query.limit} rows")
