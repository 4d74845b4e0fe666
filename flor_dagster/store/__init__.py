"""The log store: journals in, rows and the log view out. The only room that speaks SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["LogStore"]

if TYPE_CHECKING:
    from flor_dagster.store.log_store import LogStore
else:

    def __getattr__(name: str) -> object:
        if name == "LogStore":
            from flor_dagster.store.log_store import LogStore

            return LogStore
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return [*globals(), *__all__]
