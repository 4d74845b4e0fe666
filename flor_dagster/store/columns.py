"""The columns of the log view: what an asked name means, and the values that it has."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, func, or_, select

from flor_dagster.computed import HOLE, fits, is_computed, told
from flor_dagster.errors import UnknownNameError
from flor_dagster.store.chunks import Part, read_parts
from flor_dagster.store.conditions import RUN_FIELDS
from flor_dagster.store.database import slices
from flor_dagster.store.packing import label
from flor_dagster.store.schema import (
    args,
    call_sites,
    cells,
    journals,
    loops,
    names,
    replays,
    runs,
    statements,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flor_dagster.store.models import RunRow

Fidelities = Literal["default", "exact", "any"]

_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Column:
    """One asked column: the call sites whose values it shows, or the argument or the field of the run of that name.

    `statement_id` is the definition whose replayed values it shows, where statements of the name are known; `others` are the call
    sites of the name's other definitions, whose recorded values it shows.
    """

    label: str
    name: str
    statement_id: int | None = None
    sites: tuple[int, ...] = ()
    source: Literal["log", "args", "run"] = "log"
    others: tuple[int, ...] = ()

    @property
    def is_logged(self) -> bool:
        """Whether it has values at places within a run; else it is one thing of the run as a whole."""
        return self.source == "log"


@dataclass(frozen=True, slots=True)
class _Journal:
    run: int
    fresh: bool
    replay: str | None
    fidelity: str


def resolve(connection: Connection, asked: str) -> Column:
    """What an asked name means: every recorded value of a name, `name:2` one definition alone, `arg:name` an argument.

    Raises:
        UnknownNameError: when nothing of that name is known.
    """
    kind, dot, rest = asked.partition(":" if asked.startswith("arg:") else ".")
    if kind == "arg" and dot:
        return Column(asked, rest, source="args")
    if kind == "args" and dot and is_argument(connection, rest):
        return Column(asked, rest, source="args")
    if kind == "run" and rest in RUN_FIELDS:
        return Column(asked, rest, source="run")
    kept = label(asked)
    name_key = connection.execute(select(names.c.name_id).where(names.c.name == kept)).scalar_one_or_none()
    if name_key is not None:
        sites = call_sites.c
        # A statement that computes its names has one of its own, `norm/{}`; it is known by what it logged.
        logging = select(sites.statement_id).where(sites.name_id == name_key)
        newest = connection.execute(
            select(func.max(statements.c.id)).where(
                or_(
                    statements.c.name_id == name_key,
                    statements.c.id.in_(logging.where(sites.statement_id.is_not(None))),
                )
            )
        ).scalar_one_or_none()
        mine = sites.statement_id.is_(None)
        if newest is not None:
            mine |= sites.statement_id == newest
        found = tuple(connection.execute(select(sites.site).where(mine, sites.name_id == name_key)).scalars())
        all_of_name = connection.execute(select(sites.site).where(sites.name_id == name_key)).scalars()
        if found or newest is not None:
            return Column(asked, kept, newest, found, others=tuple(sorted({*all_of_name} - {*found})))
    statement = _by_key(connection, asked)
    if statement is not None:
        found = tuple(
            connection.execute(
                select(call_sites.c.site).where(call_sites.c.statement_id == statement[0])
            ).scalars()
        )
        return Column(asked, statement[1], statement[0], found)
    if is_argument(connection, kept):
        return Column(asked, kept, source="args")
    computing = _computing(connection, kept)
    if computing is not None:
        return Column(asked, kept, computing)
    raise UnknownNameError(_unknown(connection, asked))


def _computing(connection: Connection, name: str) -> int | None:
    """The newest statement that computes its names and may log this one; one that may log any name is no evidence."""
    query = select(statements.c.id, names.c.name).join(names, names.c.name_id == statements.c.name_id)
    rows = connection.execute(query.where(names.c.name.contains(HOLE)).order_by(statements.c.id.desc()))
    return next((number for number, pattern in rows if told(pattern) and fits(pattern, name)), None)


def is_argument(connection: Connection, name: str) -> bool:
    """Whether any training run has an argument of that name."""
    return (
        connection.execute(select(args.c.name).where(args.c.name == name).limit(1)).one_or_none() is not None
    )


def resolve_all(connection: Connection, asked: Sequence[str]) -> list[Column]:
    """The columns of names, and of globs: `val_*` means logged names, `args.*` arguments, `run.*` fields of the run.

    None asked means every logged name and every argument.

    Raises:
        UnknownNameError: nothing is called like one of them.
    """
    found: dict[str, Column] = {}
    for one in asked or known_names(connection):
        for name in _matching(connection, one) if asked and _GLOB.search(one) else (one,):
            found.setdefault(name, resolve(connection, name))
    return list(found.values())


def _matching(connection: Connection, glob: str) -> list[str]:
    logged = _logged_names(connection)
    if label(glob) in logged:
        return [glob]
    kind, dot, rest = glob.partition(".")
    if dot and kind == "run":
        found = [f"run.{name}" for name in RUN_FIELDS if fnmatchcase(name, rest)]
    elif dot and kind == "args":
        given = connection.execute(select(args.c.name).distinct()).scalars()
        found = [f"args.{name}" for name in sorted(given) if fnmatchcase(name, rest)]
    else:
        found = [name for name in sorted(logged) if fnmatchcase(name, label(glob))]
    if not found:
        raise UnknownNameError(
            f"No name is like {glob!r}. Known names: {', '.join(known_names(connection)[:20])}."
        )
    return found


def _by_key(connection: Connection, key: str) -> tuple[int, str] | None:
    query = select(statements.c.id, names.c.name).join(names, names.c.name_id == statements.c.name_id)
    row = connection.execute(query.where(statements.c.key == key)).one_or_none()
    if row is None and key.endswith(":1"):
        row = connection.execute(query.where(statements.c.key == key[:-2])).one_or_none()
    return None if row is None else (row[0], row[1])


def known_names(connection: Connection) -> list[str]:
    """Every name that was logged or asked for, and every argument."""
    return sorted({*_logged_names(connection), *connection.execute(select(args.c.name).distinct()).scalars()})


def _logged_names(connection: Connection) -> list[str]:
    """Every name that was logged or asked for; patterns of computed names are none, whatever stands for them."""
    found = list(connection.execute(select(names.c.name)).scalars())
    if not any(map(is_computed, found)):
        return found
    sites = call_sites.c
    real = select(names.c.name).join(call_sites, sites.name_id == names.c.name_id)
    kept = set(connection.execute(real.where(names.c.name.contains(HOLE), sites.col >= 0)).scalars())
    return [name for name in found if not is_computed(name) or name in kept]


def _unknown(connection: Connection, asked: str) -> str:
    known = known_names(connection)
    near = difflib.get_close_matches(asked, known, n=3)
    if near:
        return f"No name {asked!r} was ever logged. Did you mean {' or '.join(map(repr, near))}?"
    if not known:
        return f"No name {asked!r} was ever logged: the store holds no values yet."
    return f"No name {asked!r} was ever logged. Known names: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}."


def run_numbers(connection: Connection, picked: Sequence[RunRow], all_runs: bool) -> dict[int, RunRow]:
    """Training runs by their numbers in the store, in the given order."""
    by_id = {run.id: run for run in picked}
    numbers: dict[str, int] = {}
    if all_runs:
        numbers = {row[0]: row[1] for row in connection.execute(select(runs.c.id, runs.c.run))}
    else:
        for some in slices(list(by_id)):
            rows = connection.execute(select(runs.c.id, runs.c.run).where(runs.c.id.in_(some)))
            numbers.update({row[0]: row[1] for row in rows})
    return {numbers[run_id]: run for run_id, run in by_id.items() if run_id in numbers}


def _journals(
    connection: Connection, numbers: dict[int, RunRow], all_runs: bool, rank: int
) -> dict[int, _Journal]:
    j = journals.c
    query = (
        select(j.journal, j.run, j.upto, j.chunked_upto, j.replay_id, replays.c.fidelity)
        .outerjoin(replays, replays.c.id == j.replay_id)
        .where(j.rank == rank)
        .order_by(j.journal)
    )
    found: dict[int, _Journal] = {}
    for query_part in (
        [query] if all_runs else [query.where(j.run.in_(some)) for some in slices(list(numbers))]
    ):
        for number, run, upto, packed, replay, fidelity in connection.execute(query_part):
            if run in numbers:
                found[number] = _Journal(
                    run, upto == packed, replay, "recorded" if replay is None else fidelity or "unverified"
                )
    return found


@dataclass(frozen=True, slots=True)
class Read:
    """The values of columns.

    Attributes:
        by_run: run → column → its parts, replayed ones first, since what was recorded wins.
        shown: (journal, column) → fidelity.
        places: (journal, column) → place.
    """

    by_run: dict[int, dict[str, list[Part]]]
    shown: dict[tuple[int, str], str]
    places: dict[tuple[int, str], str]


def read_columns(
    connection: Connection,
    columns: Sequence[Column],
    numbers: dict[int, RunRow],
    *,
    all_runs: bool,
    fidelity: Fidelities,
    rank: int,
) -> Read:
    """The values of columns in training runs.

    Args:
        connection: a reading transaction.
        columns: which.
        numbers: the runs by their numbers in the store.
        all_runs: whether these are all there are.
        fidelity: which values count.
        rank: whose records.
    """
    sources = _journals(connection, numbers, all_runs, rank)
    owner: dict[int, list[Column]] = {}
    for column in columns:
        for site in (*column.sites, *column.others):
            owner.setdefault(site, []).append(column)
    elsewhere = {(column.label, site) for column in columns for site in column.others}
    fresh = {number: source.fresh for number, source in sources.items()}
    read = read_parts(connection, list(owner), fresh, few=not all_runs)
    read.sort(key=lambda part: (sources[part.journal].replay is None, part.journal, part.site))
    of_cells = _cell_fidelities(connection, columns) if any(s.replay for s in sources.values()) else {}
    found: dict[int, dict[str, list[Part]]] = {}
    shown: dict[tuple[int, str], str] = {}
    places: dict[tuple[int, str], str] = {}
    for part in read:
        source = sources[part.journal]
        for column in owner[part.site]:
            other = (column.label, part.site) in elsewhere
            if other and source.replay is not None:
                continue  # hindsight fills the definition that was asked
            cell = of_cells.get((source.run, column.statement_id or -1))
            told = _fidelity(source, cell)
            if fidelity != "any" and (
                told == "diverged" or (fidelity == "exact" and told not in ("recorded", "exact"))
            ):
                continue
            shown[part.journal, column.label] = told
            # What a run recorded itself stands where its author put it.
            places[part.journal, column.label] = (
                "certain" if source.replay is None else (cell and cell[2]) or "unchecked"
            )
            mine = found.setdefault(source.run, {}).setdefault(column.label, [])
            # Where two definitions have a value in one context, the newest one's is shown.
            mine.insert(0 if other else len(mine), part)
    return Read(found, shown, places)


def _cell_fidelities(
    connection: Connection, columns: Sequence[Column]
) -> dict[tuple[int, int], tuple[str | None, str | None, str | None]]:
    """(run, statement) → replay, fidelity and place of its cell."""
    asked = [column.statement_id for column in columns if column.statement_id is not None]
    found: dict[tuple[int, int], tuple[str | None, str | None, str | None]] = {}
    c = cells.c
    for some in slices(asked):
        for run, statement, replay, fidelity, place in connection.execute(
            select(c.run, c.statement_id, c.replay_id, c.fidelity, c.place).where(c.statement_id.in_(some))
        ):
            found[run, statement] = (replay, fidelity, place)
    return found


def _fidelity(source: _Journal, cell: tuple[str | None, str | None, str | None] | None) -> str:
    """A replayed value's fidelity is its cell's where this replay gave the cell its answer, else its replay's."""
    if source.replay is not None and cell is not None and cell[0] == source.replay and cell[1]:
        return cell[1]
    return source.fidelity


def is_loop(connection: Connection, name: str) -> bool:
    """Whether any training run has a loop of that name."""
    query = select(loops.c.name).where(loops.c.name == name).limit(1)
    return connection.execute(query).one_or_none() is not None


def near_arguments(connection: Connection, name: str) -> str:
    """The arguments that come near a name, or else all, in words."""
    given = sorted(connection.execute(select(args.c.name).distinct()).scalars())
    near = difflib.get_close_matches(name, given, n=3)
    if near:
        return f". Did you mean {' or '.join(f'args.{one}' for one in near)}?"
    return f" (their arguments: {', '.join(given[:20]) or 'none'})"
