"""The log view, filtered, sorted and cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flor_dagster.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from flor_dagster.store.log_store import LogStore


def narrowed(
    store: LogStore,
    columns: Sequence[str],
    where: str | None,
    order_by: str | Sequence[str] | None,
    limit: int | None,
    runs: Sequence[str] | None,
) -> pd.DataFrame:
    """See `LogStore.view`."""
    if limit is not None and limit < 0:
        raise QueryError(f"limit={limit} is below zero.")
    order = [order_by] if isinstance(order_by, str) else list(order_by or ())
    keys = [key.removeprefix("-") for key in order]
    known = set(store.names())
    loops = [name for name in columns if name not in known and (name == "run" or store.has_loop(name))]
    shown = [name for name in columns if name not in loops]
    more = [name for name in keys if name in known and name not in shown]
    frame = store.dataframe(*dict.fromkeys((*shown, *(more if shown else ()))), where=where, runs=runs)
    for key in keys:
        if key not in frame.columns:
            raise QueryError(f"The view has no column {key!r}; it has {', '.join(map(str, frame.columns))}.")
    attributes = dict(frame.attrs)
    if keys:
        frame = frame.sort_values(keys, ascending=[not key.startswith("-") for key in order], kind="stable")
    if limit is not None:
        frame = frame.head(limit)
    if shown:
        frame = frame[[name for name in frame.columns if name not in more]]
    frame = frame.reset_index(drop=True)
    frame.attrs.update(attributes)
    return frame
