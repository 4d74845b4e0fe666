"""Why a place in the log view is empty: what is known of it, and one table of cases that puts it in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Connection, func, select

from flor_dagster.computed import is_computed
from flor_dagster.recording.values import Failure, decode
from flor_dagster.store.database import slices
from flor_dagster.store.models import once
from flor_dagster.store.packing import ERROR, NULL
from flor_dagster.store.schema import (
    call_sites,
    cells,
    journal_calls,
    journals,
    names,
    placements,
    records,
    statements,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flor_dagster.store.models import RunRow

MANY_RUNS = 400  # of more, what is known is read for all runs at once


class Asked(Protocol):
    """An asked column: what it is called, its name, its definition, the call sites of that one and of the others."""

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

    @property
    def sites(self) -> tuple[int, ...]:
        """Its call sites."""
        ...

    @property
    def others(self) -> tuple[int, ...]:
        """Call sites of other definitions whose values it shows, too."""
        ...


@dataclass(frozen=True, slots=True)
class Cell:
    """What is known of a training run and a definition: status, fidelity, sentence, and which iterations are answered."""

    status: str
    fidelity: str | None
    sentence: str
    coverage: Mapping[str, Sequence[Sequence[int]]]
    others: bool = False
    """Whether the statement computes its names and has values, of whatever name."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a place that shows no value.

    Attributes:
        name: what is asked.
        running: whether the training run is still going.
        known: whether the definition is one that the project knows.
        stands: whether the run's version has it.
        cell: what is known of the run and the definition.
        nones: how often None was logged there.
        raised: the error of its expression there.
        elsewhere: how many values the run has of it in other places.
        other: the definition under which the run has values of the name.
        covered: the iterations that were answered so far, in words.
        covers: whether this place is among them.
        here: the place within the run, in words; empty for the whole of it.
    """

    name: str
    running: bool = False
    known: bool = False
    stands: bool = False
    cell: Cell | None = None
    nones: int = 0
    raised: str = ""
    elsewhere: int = 0
    other: str = ""
    covered: str = ""
    covers: bool = False
    here: str = ""

    @property
    def status(self) -> str:
        """The cell's status; empty without a cell."""
        return "" if self.cell is None else self.cell.status

    @property
    def said(self) -> str:
        """The cell's sentence, without the status in front of it."""
        return "" if self.cell is None else once(self.cell.status, self.cell.sentence)

    @property
    def at(self) -> str:
        """` at epoch=3`; nothing for the whole run."""
        return f" at {self.here}" if self.here else ""


CASES: tuple[tuple[Callable[[Facts], Any], Callable[[Facts], str]], ...] = (
    (lambda f: f.raised, lambda f: f"failed: its expression raised {f.raised}{f.at}"),
    (lambda f: f.nones, lambda f: f"logged as None{f.at}"),
    (lambda f: f.cell and f.cell.fidelity == "diverged", lambda f: f"diverged: {f.said}"),
    (lambda f: f.status in ("refused", "failed", "excluded"), lambda f: f"{f.status}: {f.said}"),
    (
        lambda f: f.status in ("recorded", "replayed") and f.elsewhere,
        lambda f: f"{f.status}: the statement was not reached{f.at}; {_elsewhere(f)}",
    ),
    (
        lambda f: f.status in ("recorded", "replayed") and f.cell and f.cell.others,
        lambda f: f"{f.status}: the statement computes its names, and {f.name!r} was none of them. {f.said}",
    ),
    (
        lambda f: f.status in ("recorded", "replayed"),
        lambda f: f"{f.status}: the statement was never reached in this run. {f.said}".strip(),
    ),
    (
        lambda f: f.cell and f.covers,
        lambda f: (
            f"answered: the statement was not reached{f.at}. Of this run only {f.covered} was asked so far"
        ),
    ),
    (lambda f: f.cell and f.covered, lambda f: f"still open: only {f.covered} was asked so far"),
    (lambda f: f.cell, lambda f: f"still open: {f.said or 'not replayed yet'}"),
    (
        lambda f: f.other,
        lambda f: f"another definition: this run's values of {f.name!r} are under {f.other!r}",
    ),
    (lambda f: f.elsewhere, lambda f: f"not reached{f.at}{_so_far(f)}; {_elsewhere(f)}"),
    (
        lambda f: f.stands,
        lambda f: (
            f"never reached{_so_far(f)}: the run's version has the statement and the run did not come to it"
        ),
    ),
    (lambda f: f.known, lambda f: "still open: not replayed yet"),
    (lambda f: f.running, lambda f: "not logged so far: the run is still going"),
    (lambda f: True, lambda f: "not logged: no statement of that name ran in this run"),
)
"""When which reason holds: the first one that does."""


def reason(facts: Facts) -> str:
    """Why a place is empty, in words."""
    return next(says(facts) for holds, says in CASES if holds(facts))


def _elsewhere(facts: Facts) -> str:
    return f"this run has {facts.elsewhere} value{'s' * (facts.elsewhere != 1)} of it in other places"


def _so_far(facts: Facts) -> str:
    return " so far" if facts.running else ""


def reasons_for(
    connection: Connection, gaps: Sequence[tuple[int, RunRow, Asked]]
) -> dict[tuple[str, str], str]:
    """(run key, column) → why the column is empty all over that run.

    Args:
        connection: a reading transaction.
        gaps: the run's number in the store, the run, the column.
    """
    return {
        (run.key, column.label): reason(facts)
        for (_, run, column), facts in zip(gaps, facts_for(connection, gaps), strict=True)
    }


def facts_for(connection: Connection, gaps: Sequence[tuple[int, RunRow, Asked]]) -> list[Facts]:
    """What is known of columns in training runs, in the order of the gaps."""
    asked = sorted({column.statement_id for _, _, column in gaps if column.statement_id is not None})
    numbers = sorted({number for number, _, _ in gaps})
    few = numbers if len(numbers) <= MANY_RUNS else None
    settled = _cells(connection, asked)
    standing = _standing(connection, asked)
    ran = _ran(connection, sorted({column.name for _, _, column in gaps}), few)
    found: list[Facts] = []
    for number, run, column in gaps:
        statement = column.statement_id
        cell = None if statement is None else settled.get((number, statement))
        facts = Facts(
            column.name,
            running=run.status == "running",
            known=statement is not None,
            stands=statement is not None and (statement, run.commit) in standing,
            cell=cell,
            covered="" if cell is None else _words(cell.coverage),
        )
        found.append(_with_records(connection, facts, column, ran.get((number, column.name), ())))
    return found


def _with_records(
    connection: Connection, facts: Facts, column: Asked, ran: Iterable[tuple[int, int, str]]
) -> Facts:
    """What the records say: of the definition itself, of the others."""
    values, nones, raised, other = 0, 0, "", ""
    for journal, site, key in ran:
        own = site in column.sites
        if not own and site not in column.others:
            other = other or key
            continue
        kinds, error = kinds_of(connection, journal, site)
        real = sum(count for kind, count in kinds.items() if kind not in (NULL, ERROR))
        if own:
            values += real
            raised = raised or error
        elif real:
            other = other or key
        nones += kinds.get(NULL, 0)
    if values or other:
        return replace(facts, other=other)
    return replace(facts, nones=nones, raised=raised)


def kinds_of(connection: Connection, journal: int, site: int) -> tuple[dict[int, int], str]:
    """How many values of which kind a call site has in a journal, and the error of an expression that failed."""
    r = records.c
    rows = connection.execute(
        select(r.kind, func.count(), func.max(r.text))
        .where(r.site == site, r.journal == journal)
        .group_by(r.kind)
    ).all()
    errors = [text for kind, _, text in rows if kind == ERROR]
    return {kind: count for kind, count, _ in rows}, error_words(errors[0]) if errors else ""


def error_words(text: str) -> str:
    """The error that a replayed expression raised, from its column."""
    failure = decode(json.loads(text))
    return f"{failure.type}: {failure.message}" if isinstance(failure, Failure) else str(failure)


def _cells(connection: Connection, asked: Sequence[int]) -> dict[tuple[int, int], Cell]:
    c = cells.c
    found: dict[tuple[int, int], Cell] = {}
    for some in slices(asked):
        rows = connection.execute(
            select(c.run, c.statement_id, c.status, c.fidelity, c.sentence, c.coverage, c.rows, names.c.name)
            .join(statements, statements.c.id == c.statement_id)
            .join(names, names.c.name_id == statements.c.name_id)
            .where(c.statement_id.in_(some))
        )
        for run, statement, status, fidelity, sentence, coverage, count, name in rows:
            loops = json.loads(coverage).get("loops", {}) if coverage else {}
            found[run, statement] = Cell(status, fidelity, sentence, loops, bool(count) and is_computed(name))
    return found


def _standing(connection: Connection, asked: Sequence[int]) -> set[tuple[int, str | None]]:
    """(statement, version) where the version is known to have the statement itself."""
    found: set[tuple[int, str | None]] = set()
    for some in slices(asked):
        for query in (
            select(call_sites.c.statement_id, call_sites.c.scope).where(call_sites.c.statement_id.in_(some)),
            select(statements.c.id, statements.c.source).where(statements.c.id.in_(some)),
            select(placements.c.statement_id, placements.c.commit_id).where(
                placements.c.statement_id.in_(some), placements.c.status == "already-there"
            ),
        ):
            found.update((row[0], row[1]) for row in connection.execute(query.distinct()))
    return found


def _ran(
    connection: Connection, asked: Sequence[str], few: Sequence[int] | None
) -> dict[tuple[int, str], list[tuple[int, int, str]]]:
    """(run, name) → journal, call site and key of every definition of that name that ran there."""
    found: dict[tuple[int, str], list[tuple[int, int, str]]] = {}
    for some in slices(asked):
        query = (
            select(journals.c.run, names.c.name, journals.c.journal, call_sites.c.site, statements.c.key)
            .select_from(journal_calls)
            .join(journals, journals.c.journal == journal_calls.c.journal)
            .join(call_sites, call_sites.c.site == journal_calls.c.site)
            .outerjoin(statements, statements.c.id == call_sites.c.statement_id)
            .join(names, names.c.name_id == call_sites.c.name_id)
            .where(names.c.name.in_(some))
        )
        if few is not None:
            query = query.where(journals.c.run.in_(few))
        for run, name, journal, site, key in connection.execute(query):
            shown = key if key is None or ":" in key else f"{key}:1"
            found.setdefault((run, name), []).append((journal, site, shown or name))
    return found


def _words(coverage: Mapping[str, Sequence[Sequence[int]]]) -> str:
    """`epoch 0-2, 5`; of a loop in others with the iterations around it."""
    said: list[str] = []
    for path, ranges in sorted(coverage.items()):
        around, _, last = path.rpartition("/")
        loop = last.partition("#")[0]
        numbers = ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ranges)
        outside = around.replace("#0", "").replace("[", " ").replace("]", "")
        said.append(f"{loop} {numbers}" + (f" in {outside}" if outside else ""))
    return "; ".join(said[:3]) + (" …" if len(said) > 3 else "")


def covers(coverage: Mapping[str, Sequence[Sequence[int]]], path: Sequence[tuple[str, int]]) -> bool:
    """Whether an iteration, or one around it, is among the answered ones.

    Args:
        coverage: as it is kept with a cell.
        path: from the outside in, each loop execution's path and the iteration of it.
    """
    return any(low <= index <= high for loop, index in path for low, high in coverage.get(loop, ()))
