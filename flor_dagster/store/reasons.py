"""Why a place in the log view is empty, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Connection, select

from flor_dagster.store.database import slices
from flor_dagster.store.schema import call_sites, cells, journal_calls, journals, names, statements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flor_dagster.store.models import RunRow


class Asked(Protocol):
    """An asked column: what it is called, its name, its definition."""

    @property
    def label(self) -> str:
        """What the column is called."""
        ...

    @property
    def name(self) -> str:
        """The logged name."""
        ...

    @property
    def statement_id(self) -> int | None:
        """The definition that is shown, where one is known."""
        ...


def reasons_for(
    connection: Connection, gaps: Sequence[tuple[int, RunRow, Asked]]
) -> dict[tuple[str, str], str]:
    """(run key, column) → why the column is empty all over that run.

    Args:
        connection: a reading transaction.
        gaps: the run's number in the store, the run, the column.
    """
    asked = sorted({column.statement_id for _, _, column in gaps if column.statement_id is not None})
    settled = _cells(connection, asked)
    others = _other_definitions(connection, sorted({column.name for _, _, column in gaps}))
    found: dict[tuple[str, str], str] = {}
    for number, run, column in gaps:
        cell = settled.get((number, column.statement_id or -1))
        found[run.key, column.label] = _sentence(run, column, cell, others.get((number, column.name)))
    return found


def _cells(
    connection: Connection, asked: Sequence[int]
) -> dict[tuple[int, int], tuple[str, str | None, str]]:
    c = cells.c
    found: dict[tuple[int, int], tuple[str, str | None, str]] = {}
    for some in slices(asked):
        rows = connection.execute(
            select(c.run, c.statement_id, c.status, c.fidelity, c.sentence).where(c.statement_id.in_(some))
        )
        for run, statement, status, fidelity, sentence in rows:
            found[run, statement] = (status, fidelity, sentence)
    return found


def _other_definitions(connection: Connection, asked: Sequence[str]) -> dict[tuple[int, str], str]:
    """(run, name) → the key under which a run has values of that name, where they are another definition's."""
    found: dict[tuple[int, str], str] = {}
    for some in slices(asked):
        rows: Any = connection.execute(
            select(journals.c.run, names.c.name, statements.c.key)
            .select_from(journal_calls)
            .join(journals, journals.c.journal == journal_calls.c.journal)
            .join(call_sites, call_sites.c.site == journal_calls.c.site)
            .join(statements, statements.c.id == call_sites.c.statement_id)
            .join(names, names.c.name_id == call_sites.c.name_id)
            .where(names.c.name.in_(some))
            .distinct()
        )
        for run, name, key in rows:
            found[run, name] = key if ":" in key else f"{key}:1"
    return found


def _sentence(run: RunRow, column: Asked, cell: tuple[str, str | None, str] | None, other: str | None) -> str:
    if cell is not None:
        status, fidelity, sentence = cell
        if fidelity == "diverged":
            return f"diverged: {sentence}"
        match status:
            case "refused" | "failed" | "excluded":
                return f"{status}: {sentence.removeprefix(f'{status}: ')}"
            case "recorded" | "replayed":
                return f"{status}: the statement was never reached in this run. {sentence}".strip()
            case _:
                return (
                    f"still open: {sentence.removeprefix('open: ')}"
                    if sentence
                    else "still open: not replayed yet"
                )
    if other is not None:
        return f"another definition: this run's values of {column.name!r} are under {other!r}"
    if column.statement_id is not None:
        return "still open: not replayed yet"
    if run.status == "running":
        return "not logged so far: the run is still going"
    return "not logged: no statement of that name ran in this run"
