"""The log view: one row per training run and loop context, one typed column per name."""

from __future__ import annotations

import ast
import difflib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sqlalchemy import Connection, select

from flor_dagster.errors import UnknownNameError
from flor_dagster.recording.values import ArrayValue, decode
from flor_dagster.store.chunks import MIXED, Part, read_layouts, read_parts
from flor_dagster.store.database import Database, slices
from flor_dagster.store.packing import BOOL, FLOAT, INT, TEXT, label
from flor_dagster.store.pivot import Wide, widen
from flor_dagster.store.reasons import reasons_for
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
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from flor_dagster.store.models import RunRow

Fidelities = Literal["default", "exact", "any"]

_EXACT_INT = 1 << 53

# What is not recorded is replayed, whatever its fidelity.
_ORIGINS = {
    "recorded": "recorded",
    "exact": "replayed",
    "unverified": "replayed",
    "within tolerance": "replayed",
    "diverged": "replayed",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One asked column: the call sites whose values it shows, or the argument of that name.

    `statement_id` is the definition whose replayed values it shows, where statements of the name are known; `others` are the call
    sites of the name's other definitions, whose recorded values it shows.
    """

    label: str
    name: str
    statement_id: int | None
    sites: tuple[int, ...]
    is_arg: bool
    others: tuple[int, ...] = ()


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
    if asked.startswith("arg:"):
        return Column(asked, asked[4:], None, (), True)
    kept = label(asked)
    name_key = connection.execute(select(names.c.name_id).where(names.c.name == kept)).scalar_one_or_none()
    if name_key is not None:
        newest = connection.execute(
            select(statements.c.id)
            .where(statements.c.name_id == name_key)
            .order_by(statements.c.id.desc())
            .limit(1)
        ).scalar_one_or_none()
        sites = call_sites.c
        mine = sites.statement_id.is_(None) & (sites.name_id == name_key)
        if newest is not None:
            mine |= sites.statement_id == newest
        found = tuple(connection.execute(select(sites.site).where(mine)).scalars())
        all_of_name = connection.execute(select(sites.site).where(sites.name_id == name_key)).scalars()
        if found or newest is not None:
            return Column(asked, kept, newest, found, False, tuple(sorted({*all_of_name} - {*found})))
    statement = _by_key(connection, asked)
    if statement is not None:
        found = tuple(
            connection.execute(
                select(call_sites.c.site).where(call_sites.c.statement_id == statement[0])
            ).scalars()
        )
        return Column(asked, statement[1], statement[0], found, False)
    if connection.execute(select(args.c.name).where(args.c.name == kept).limit(1)).one_or_none() is not None:
        return Column(asked, kept, None, (), True)
    raise UnknownNameError(_unknown(connection, asked))


def _by_key(connection: Connection, key: str) -> tuple[int, str] | None:
    query = select(statements.c.id, names.c.name).join(names, names.c.name_id == statements.c.name_id)
    row = connection.execute(query.where(statements.c.key == key)).one_or_none()
    if row is None and key.endswith(":1"):
        row = connection.execute(query.where(statements.c.key == key[:-2])).one_or_none()
    return None if row is None else (row[0], row[1])


def known_names(connection: Connection) -> list[str]:
    """Every name that was logged or asked for, and every argument."""
    logged = connection.execute(select(names.c.name)).scalars()
    return sorted({*logged, *connection.execute(select(args.c.name).distinct()).scalars()})


def _unknown(connection: Connection, asked: str) -> str:
    known = known_names(connection)
    near = difflib.get_close_matches(asked, known, n=3)
    if near:
        return f"No name {asked!r} was ever logged. Did you mean {' or '.join(map(repr, near))}?"
    if not known:
        return f"No name {asked!r} was ever logged: the store holds no values yet."
    return f"No name {asked!r} was ever logged. Known names: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}."


def log_view(
    database: Database,
    asked: Sequence[str],
    picked: Sequence[RunRow],
    *,
    all_runs: bool,
    fidelity: Fidelities,
    provenance: bool,
    rank: int,
    ranks: bool = False,
) -> pd.DataFrame:
    """The wide frame of the asked names over the picked runs, of one rank, or as a part of several ranks' frame.

    See `LogStore.dataframe`.
    """
    with database.read() as connection:
        columns = [resolve(connection, name) for name in dict.fromkeys(asked or known_names(connection))]
        numbers = _run_numbers(connection, picked, all_runs)
        read = read_columns(connection, columns, numbers, all_runs=all_runs, fidelity=fidelity, rank=rank)
        logged = [column.label for column in columns if not column.is_arg]
        # A run has rows where it has values; only where nothing logged is asked, its arguments make one.
        wanted = (
            [run for run in numbers if run in read.by_run] if logged else _with_arguments(columns, numbers)
        )
        layouts = read_layouts(connection, wanted, rank)
        wides: list[tuple[RunRow, Wide, dict[str, list[Part]]]] = []
        for run in wanted:
            mine = read.by_run.get(run, {})
            wide = widen(layouts[run], {name: mine.get(name, []) for name in logged}, always=not logged)
            if wide.rows:
                wides.append((numbers[run], wide, mine))
        ours = {"run", "rank"} if ranks else {"run"}
        titles = _titles(connection, columns, ours)
        empty = reasons_for(connection, _gaps(columns, numbers, wides))
        mixed = _mixed(connection, wides)
    frame = _frame(columns, titles, ours, wides, read, provenance or fidelity == "any", provenance)
    frame.attrs["empty"] = empty
    frame.attrs["places"] = _doubted(wides, read.places)
    frame.attrs["definitions"] = mixed
    frame.attrs["several"] = {
        name: count for name in logged if (count := sum(wide.several.get(name, 0) for _, wide, _ in wides))
    }
    return frame


def _with_arguments(columns: Sequence[Column], numbers: dict[int, RunRow]) -> list[int]:
    return [number for number, run in numbers.items() if any(column.name in run.args for column in columns)]


def _titles(connection: Connection, columns: Sequence[Column], taken: set[str]) -> dict[str, str]:
    """Column → what it is called in the frame: by what the store holds, never by what else is asked.

    A loop's columns keep their names; what is called like one of them is `<name>_logged`, an argument `args.<name>`. So is what is
    called like another name's provenance.

    Args:
        connection: a reading transaction.
        columns: the asked ones.
        taken: what the frame calls columns of its own.
    """
    labels = [column.label for column in columns]
    stems = {label: _stem(label, ("_execution", "_value")) for label in labels}
    ours = {label: _stem(label, ("_origin", "_fidelity", "_place")) for label in labels}
    found = {*labels, *stems.values()}
    of_loops: set[str] = set()
    known: set[str] = set()
    for some in slices(sorted(found)):
        query = select(loops.c.name).where(loops.c.name.in_(some)).distinct()
        of_loops.update(connection.execute(query).scalars())
    for some in slices(sorted({stem for stem in ours.values() if stem})):
        known.update(connection.execute(select(names.c.name).where(names.c.name.in_(some))).scalars())
    titles: dict[str, str] = {}
    for column in columns:
        label = column.label
        clashes = label in taken or label in of_loops or stems[label] in of_loops or ours[label] in known
        titles[label] = label if not clashes else f"args.{label}" if column.is_arg else f"{label}_logged"
    return titles


def _stem(label: str, endings: Iterable[str]) -> str:
    """A label without one of these endings; empty where it has none."""
    return next((label.removesuffix(ending) for ending in endings if label.endswith(ending)), "")


def _run_numbers(connection: Connection, picked: Sequence[RunRow], all_runs: bool) -> dict[int, RunRow]:
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


_PLACES = {
    "confirmed": "its place in this version is likely, and was confirmed by a person",
    "unchecked": "its place in this version was found by an earlier release, and not checked",
    "likely": "its place in this version is likely, and no longer confirmed",
}


def _doubted(
    wides: Sequence[tuple[RunRow, Wide, dict[str, list[Part]]]], places: dict[tuple[int, str], str]
) -> dict[tuple[str, str], str]:
    """(run key, column) → what is to be said of the place of shown values that is not certain."""
    found: dict[tuple[str, str], str] = {}
    for run, wide, parts in wides:
        for name, mine in parts.items():
            if wide.columns.get(name) is None:
                continue
            said = {places[part.journal, name] for part in mine} - {"certain"}
            if said:
                found[run.key, name] = "; ".join(_PLACES.get(place, place) for place in sorted(said))
    return found


def _mixed(
    connection: Connection, wides: Sequence[tuple[RunRow, Wide, dict[str, list[Part]]]]
) -> dict[str, dict[str, int]]:
    """Column → of the definitions whose values it shows, where it shows several: the key of each, and in how many runs."""
    seen: dict[str, dict[int, set[str]]] = {}
    for run, wide, parts in wides:
        for name, mine in parts.items():
            for part in mine if wide.columns.get(name) is not None else ():
                seen.setdefault(name, {}).setdefault(part.site, set()).add(run.id)
    sites = sorted({site for by_site in seen.values() for site in by_site})
    keys: dict[int, str] = {}
    for some in slices(sites):
        rows = connection.execute(
            select(call_sites.c.site, statements.c.key)
            .join(statements, statements.c.id == call_sites.c.statement_id)
            .where(call_sites.c.site.in_(some))
        )
        keys.update((row[0], row[1]) for row in rows)
    found: dict[str, dict[str, int]] = {}
    for name, by_site in seen.items():
        runs_of: dict[str, set[str]] = {}
        for site, ids in by_site.items():
            runs_of.setdefault(keys.get(site, name), set()).update(ids)
        if len(runs_of) > 1:
            found[name] = {key: len(ids) for key, ids in sorted(runs_of.items())}
    return found


def _gaps(
    columns: Sequence[Column],
    numbers: dict[int, RunRow],
    wides: Sequence[tuple[RunRow, Wide, dict[str, list[Part]]]],
) -> list[tuple[int, RunRow, Column]]:
    """The columns that are empty all over a run."""
    filled = {
        (run.id, name)
        for run, wide, _ in wides
        for name, column in wide.columns.items()
        if column is not None
    }
    return [
        (number, run, column)
        for number, run in numbers.items()
        for column in columns
        if not column.is_arg and (run.id, column.label) not in filled
    ]


def _frame(
    columns: Sequence[Column],
    titles: dict[str, str],
    ours: set[str],
    wides: Sequence[tuple[RunRow, Wide, dict[str, list[Part]]]],
    read: Read,
    with_fidelity: bool,
    with_origin: bool,
) -> pd.DataFrame:
    import pandas as pd

    counts = [wide.rows for _, wide, _ in wides]
    keys = np.repeat(np.array([run.key for run, _, _ in wides], dtype=object), counts)
    data: dict[str, Any] = {"run": pd.array(keys, dtype="str")}
    for name in _loop_names(wides):
        data.update(_loop_data(name, f"{name}_loop" if name in ours else name, wides))
    for column in columns:
        title = titles[column.label]
        while title in data:  # whatever it is called: nothing is put in place of another column
            title += "_logged"
        if column.is_arg:
            values = [run.args.get(column.name) for run, _, _ in wides]
            data[title] = _arg_array(values, counts)
            continue
        data[title] = _value_array(column.label, wides)
        if with_origin:
            data[f"{title}_origin"] = _told(column.label, wides, read.shown, _ORIGINS)
        if with_fidelity:
            data[f"{title}_fidelity"] = _told(column.label, wides, read.shown, {})
        if with_origin:
            data[f"{title}_place"] = _told(column.label, wides, read.places, {})
    return pd.DataFrame(data, copy=False)


def _loop_names(wides: Iterable[tuple[RunRow, Wide, Any]]) -> list[str]:
    """All loops, each behind the ones that were seen around it."""
    order: list[str] = []
    for _, wide, _ in wides:
        place = 0
        for name in wide.loops:
            if name in order:
                place = order.index(name) + 1
            else:
                order.insert(place, name)
                place += 1
    return order


def _loop_data(name: str, title: str, wides: Sequence[tuple[RunRow, Wide, Any]]) -> dict[str, Any]:
    import pandas as pd

    got = [(wide.rows, wide.loops.get(name)) for _, wide, _ in wides]
    absent = ~np.concatenate([c.present if c is not None else np.zeros(n, dtype=bool) for n, c in got])
    index = np.concatenate([c.index if c is not None else np.zeros(n, dtype=np.int64) for n, c in got])
    found: dict[str, Any] = {title: pd.arrays.IntegerArray(index, absent)}
    if any(c is not None and bool(c.ordinal.any()) for _, c in got):
        ordinal = np.concatenate(
            [c.ordinal if c is not None else np.zeros(n, dtype=np.int64) for n, c in got]
        )
        found[f"{title}_execution"] = pd.arrays.IntegerArray(ordinal, absent)
    if any(c is not None and c.value is not None for _, c in got):
        values: list[Any] = []
        for n, c in got:
            if c is None:
                values.extend([None] * n)
            else:
                seen = c.value if c.value is not None else c.index
                values.extend(
                    decode(v) if here else None
                    for v, here in zip(seen.tolist(), c.present.tolist(), strict=True)
                )
        found[f"{title}_value"] = pd.Series(_objects(values)).infer_objects().array
    return found


def _arg_array(values: Sequence[Any], counts: Sequence[int]) -> Any:
    import pandas as pd

    repeated = np.repeat(_objects(values), counts)
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {float} or (kinds <= {int, float} and float in kinds and _exact(values)):
        return np.array([np.nan if v is None else v for v in repeated.tolist()], dtype=np.float64)
    if kinds == {int} and all(-(1 << 63) <= v < 1 << 63 for v in values if v is not None):
        return pd.array(repeated, dtype="Int64")
    if kinds == {bool}:
        return pd.array(repeated, dtype="boolean")
    if kinds == {str} and all(v.isascii() for v in values if v is not None):
        return pd.array(repeated, dtype="string")
    return repeated


def _exact(values: Iterable[Any]) -> bool:
    """Whether every integer here is the same number as a float."""
    return all(-_EXACT_INT <= value <= _EXACT_INT for value in values if type(value) is int)


def _value_array(name: str, wides: Sequence[tuple[RunRow, Wide, Any]]) -> Any:
    import pandas as pd

    got = [(wide.rows, wide.columns[name]) for _, wide, _ in wides]
    filled = [c for _, c in got if c is not None and bool(c.present.any())]
    kinds = {c.kind for c in filled}
    if kinds <= {FLOAT} or (
        kinds == {FLOAT, INT}
        and all(
            bool((np.abs(c.values[c.present].astype(object)) <= _EXACT_INT).all())
            for c in filled
            if c.kind == INT
        )
    ):
        return _stacked(got, np.dtype(np.float64), np.nan)
    absent = ~np.concatenate([c.present if c is not None else np.zeros(n, dtype=bool) for n, c in got])
    if kinds == {INT}:
        return pd.arrays.IntegerArray(_stacked(got, np.dtype(np.int64), 0), absent)
    if kinds == {BOOL}:
        return pd.arrays.BooleanArray(_stacked(got, np.dtype(np.bool_), False), absent)
    objects = _stacked(got, np.dtype(object), None)
    if kinds == {TEXT}:
        return pd.array(objects, dtype="string")
    if kinds & {MIXED}:
        _readable(objects)
    return objects


def _stacked(got: Sequence[tuple[int, Any]], dtype: np.dtype[Any], missing: Any) -> NDArray[Any]:
    out = np.empty(sum(n for n, _ in got), dtype=dtype)
    at = 0
    for n, c in got:
        piece = out[at : at + n]
        at += n
        if c is None:
            piece[:] = missing
            continue
        if dtype.hasobject and c.kind == BOOL:
            piece[:] = c.values.astype(bool)
        else:
            piece[:] = c.values
        if not c.present.all():
            piece[~c.present] = missing
    return out


def _readable(objects: NDArray[Any]) -> None:
    """Small arrays as numpy's own, where they stand."""
    for place, value in enumerate(objects):
        if isinstance(value, ArrayValue):
            objects[place] = _array(value)


def _array(value: ArrayValue) -> Any:
    # A structured dtype reads as the list of its fields.
    dtype = np.dtype(ast.literal_eval(value.dtype) if value.dtype.startswith("[") else value.dtype)
    return np.frombuffer(value.data, dtype=dtype).reshape(value.shape)


def _told(
    name: str,
    wides: Sequence[tuple[RunRow, Wide, dict[str, list[Part]]]],
    shown: dict[tuple[int, str], str],
    wording: dict[str, str],
) -> Any:
    import pandas as pd

    pieces: list[NDArray[Any]] = []
    for _, wide, parts in wides:
        column = wide.columns[name]
        if column is None:
            pieces.append(np.full(wide.rows, None, dtype=object))
            continue
        told = [shown[part.journal, name] for part in parts[name]]
        words = np.array([wording.get(fidelity, fidelity) for fidelity in told], dtype=object)
        piece = words[column.source]
        piece[~column.present] = None
        pieces.append(piece)
    return pd.array(np.concatenate(pieces) if pieces else np.array([], dtype=object), dtype="string")


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    out = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        out[place] = value
    return out


def arg_values(text: str) -> Any:
    """An argument's value from its column."""
    return decode(json.loads(text))
