"""The log view: one row per training run and loop context, one typed column per name."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from sqlalchemy import Connection, select

from flor_dagster.errors import UnknownNameError
from flor_dagster.recording.values import ArrayValue, decode
from flor_dagster.store.chunks import MIXED, Part, read_layouts
from flor_dagster.store.columns import (
    Column,
    Fidelities,
    Read,
    is_loop,
    read_columns,
    resolve,
    resolve_all,
    run_numbers,
)
from flor_dagster.store.conditions import ColumnOf, read_condition, walk
from flor_dagster.store.database import Database, slices
from flor_dagster.store.judging import Values, fulfilled
from flor_dagster.store.packing import BOOL, FLOAT, INT, TEXT
from flor_dagster.store.pivot import Wide, filled, widen
from flor_dagster.store.reasons import reasons_for
from flor_dagster.store.run_values import RunSource, packed, run_field, runs_that_fulfil
from flor_dagster.store.schema import (
    call_sites,
    loops,
    names,
    statements,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from flor_dagster.store.conditions import Aggregate, Condition, OfRun
    from flor_dagster.store.models import RunRow
    from flor_dagster.store.pivot import Keep


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
class Request:
    """What is asked of the log view; see `LogStore.dataframe`.

    Attributes:
        names: the columns.
        where: a condition.
        latest: only so many of the youngest runs that fulfil what it says of runs.
        at: the loop whose iterations are the rows.
        fill: whether an empty place shows what the row before it has.
        keep: which of several values of one place.
        fidelity: which values count.
        provenance: whether columns tell where values come from.
        rank: whose records.
        of_ranks: whether the frame becomes a part of several ranks' one.
    """

    names: tuple[str, ...] = ()
    where: str | None = None
    latest: int | None = None
    at: str | None = None
    fill: bool = False
    keep: Keep = "last"
    fidelity: Fidelities = "default"
    provenance: bool = False
    rank: int = 0
    of_ranks: bool = False


_Wides: TypeAlias = "list[tuple[RunRow, Wide, dict[str, list[Part]]]]"


def log_view(
    database: Database, request: Request, picked: Sequence[RunRow], *, all_runs: bool
) -> pd.DataFrame:
    """The wide frame of the asked names over the picked runs, of one rank. See `LogStore.dataframe`."""
    of_runs, of_rows = (None, None) if not request.where else read_condition(request.where).split()
    with database.read() as connection:
        asked = resolve_all(connection, request.names)
        numbers = run_numbers(connection, picked, all_runs)
        known = len(numbers)
        if of_runs is not None:
            numbers = runs_that_fulfil(connection, of_runs, numbers, request.rank)
        if request.latest is not None:
            numbers = dict(list(numbers.items())[-request.latest :])
        all_runs = all_runs and len(numbers) == known
        ours = _own_columns(request)
        read_by = {} if of_rows is None else _read_by(connection, of_rows, asked, ours)
        columns = list({column.label: column for column in (*asked, *read_by.values())}.values())
        read = read_columns(
            connection, columns, numbers, all_runs=all_runs, fidelity=request.fidelity, rank=request.rank
        )
        wides = _widened(connection, request, columns, numbers, read)
        titles = _titles(connection, columns, ours)
        empty = reasons_for(connection, _gaps(asked, numbers, wides))
        mixed = _mixed(connection, wides)
        frame = _frame(request, columns, titles, ours, wides, read)
        if of_rows is not None:
            source = _Rows(
                RunSource(connection, _numbered(numbers, wides), request.rank), frame, read_by, wides
            )
            frame.rows = fulfilled(of_rows, source, frame.count)
    shown = {column.label for column in asked}
    found = frame.made(hidden=[title for name, title in frame.titles.items() if name not in shown])
    found.attrs["columns"] = {column.label: frame.titles[column.label] for column in asked}
    found.attrs["empty"] = _nested(empty)
    found.attrs["places"] = _nested(
        {key: said for key, said in _doubted(wides, read.places).items() if key[1] in shown}
    )
    found.attrs["definitions"] = {name: keys for name, keys in mixed.items() if name in shown}
    for what in ("several", "elsewhere"):
        counts = {name: sum(getattr(wide, what).get(name, 0) for _, wide, _ in wides) for name in shown}
        found.attrs[what] = {name: count for name, count in counts.items() if count}
    return found


def _nested(said: dict[tuple[str, str], str]) -> dict[str, dict[str, str]]:
    """Run → column → what is said of it: plain JSON, so that a frame can be kept in files that hold its attributes."""
    found: dict[str, dict[str, str]] = {}
    for (run, name), words in said.items():
        found.setdefault(run, {})[name] = words
    return found


def _own_columns(request: Request) -> set[str]:
    """What the frame calls columns of its own, besides loops."""
    return (
        {"run"}
        | ({"rank"} if request.of_ranks else set())
        | ({"ordinal"} if request.keep == "all" else set())
    )


def _widened(
    connection: Connection,
    request: Request,
    columns: Sequence[Column],
    numbers: dict[int, RunRow],
    read: Read,
) -> _Wides:
    """Each run's rows."""
    logged = [column.label for column in columns if column.is_logged]
    if request.at not in (None, "run"):
        _require_loop(connection, str(request.at))
    # A run has rows where it has values; only where nothing logged is asked, what it is itself makes one.
    wanted = [run for run in numbers if run in read.by_run] if logged else _with_something(columns, numbers)
    layouts = read_layouts(connection, wanted, request.rank)
    wides: _Wides = []
    for run in wanted:
        mine = read.by_run.get(run, {})
        wide = widen(
            layouts[run],
            {name: mine.get(name, []) for name in logged},
            not logged,
            request.keep,
            request.at if logged else None,
        )
        if request.fill:
            shown = {
                name: None if column is None else filled(column) for name, column in wide.columns.items()
            }
            wide = replace(wide, columns=shown)
        if wide.rows or wide.elsewhere:
            wides.append((numbers[run], wide, mine))
    return wides


def _require_loop(connection: Connection, name: str) -> None:
    known = sorted(connection.execute(select(loops.c.name).distinct()).scalars())
    if name not in known:
        raise UnknownNameError(
            f"no training run has a loop {name!r} (their loops: {', '.join(known[:20]) or 'none'}); `run` makes one row of each run"
        )


def _numbered(numbers: dict[int, RunRow], wides: _Wides) -> dict[int, RunRow]:
    by_id = {run.id: number for number, run in numbers.items()}
    return {by_id[run.id]: run for run, _, _ in wides}


def _read_by(
    connection: Connection, condition: Condition, asked: Sequence[Column], ours: set[str]
) -> dict[str, Column]:
    """The columns that a condition reads besides what is asked and besides loops: its word → the column."""
    titles = {title: label for label, title in _titles(connection, asked, ours).items()}
    by_label = {column.label: column for column in asked}
    found: dict[str, Column] = {}
    for node in walk(condition.tree):
        if not isinstance(node, ColumnOf) or node.name in ours:
            continue
        name = node.name
        if name in titles:
            found[name] = by_label[titles[name]]
        elif not is_loop(connection, name) and not is_loop(connection, _stem(name, ("_execution", "_value"))):
            try:
                found[name] = resolve(connection, name)
            except UnknownNameError as error:
                stem = name.removesuffix("_logged")
                if stem == name or not is_loop(connection, stem):
                    raise condition.unknown(node, str(error)) from None
                found[name] = resolve(connection, stem)
    return found


class _Rows:
    """The rows of a frame as those of a condition."""

    def __init__(self, runs: RunSource, frame: _Frame, read_by: dict[str, Column], wides: _Wides) -> None:
        self._runs = runs
        self._frame = frame
        self._read_by = read_by
        self._counts = [wide.rows for _, wide, _ in wides]

    def column(self, condition: Condition, node: ColumnOf) -> Values:
        """A column; what the frame does not have is nowhere."""
        frame = self._frame
        title = node.name
        if title in self._read_by:
            title = frame.titles[self._read_by[title].label]
        elif title not in frame.data and title.endswith("_value"):
            title = title.removesuffix("_value")  # a loop whose values are its indices
        if title not in frame.data:
            return Values(np.zeros(1), np.zeros(1, dtype=bool))
        return _values_of(frame.data[title], frame.present.get(title))

    def of_run(self, condition: Condition, node: OfRun | Aggregate) -> Values:
        """What a run has, for each of its rows."""
        value = self._runs.of_run(condition, node)
        return Values(np.repeat(value.data, self._counts), np.repeat(value.present, self._counts))


def _values_of(array: Any, present: NDArray[np.bool_] | None) -> Values:
    import pandas as pd

    if isinstance(array, np.ndarray):
        if present is None:
            present = (
                np.array([one is not None for one in array.tolist()])
                if array.dtype.hasobject
                else ~np.isnan(array)
            )
        return Values(array, present)
    there = ~np.asarray(pd.isna(array))
    kind = array.dtype.kind
    if kind in "iub":
        return Values(array.to_numpy(dtype=bool if kind == "b" else np.int64, na_value=0), there)
    return packed([one if here else None for one, here in zip(list(array), there.tolist(), strict=True)])


def _with_something(columns: Sequence[Column], numbers: dict[int, RunRow]) -> list[int]:
    """The runs that have one of the arguments; all of them where a field of the run is asked."""
    if any(column.source == "run" for column in columns):
        return list(numbers)
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
        titles[label] = (
            label if not clashes else f"args.{label}" if column.source == "args" else f"{label}_logged"
        )
    return titles


def _stem(label: str, endings: Iterable[str]) -> str:
    """A label without one of these endings; empty where it has none."""
    return next((label.removesuffix(ending) for ending in endings if label.endswith(ending)), "")


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
    shown = {
        (run.id, name)
        for run, wide, _ in wides
        for name, column in wide.columns.items()
        if column is not None
    }
    return [
        (number, run, column)
        for number, run in numbers.items()
        for column in columns
        if column.is_logged and (run.id, column.label) not in shown
    ]


class _Frame:
    """A frame's columns before it is one.

    Attributes:
        count: how many rows.
        data: title → column.
        present: title → which rows have a value, where the column itself does not tell.
        titles: label → title of the asked columns, and of those that a condition reads.
        beside: title → the titles of what tells where its values come from.
        rows: which rows are shown; None shows all.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.data: dict[str, Any] = {}
        self.present: dict[str, NDArray[np.bool_]] = {}
        self.titles: dict[str, str] = {}
        self.beside: dict[str, list[str]] = {}
        self.rows: NDArray[np.bool_] | None = None

    def made(self, hidden: Sequence[str]) -> pd.DataFrame:
        """The frame, without some of its columns."""
        import pandas as pd

        gone = {*hidden, *(beside for title in hidden for beside in self.beside.get(title, ()))}
        data = {title: column for title, column in self.data.items() if title not in gone}
        if self.rows is not None and not self.rows.all():
            data = {title: column[self.rows] for title, column in data.items()}
        return pd.DataFrame(data, copy=False)


def _frame(
    request: Request,
    columns: Sequence[Column],
    titles: dict[str, str],
    ours: set[str],
    wides: _Wides,
    read: Read,
) -> _Frame:
    import pandas as pd

    counts = [wide.rows for _, wide, _ in wides]
    frame = _Frame(sum(counts))
    data = frame.data
    keys = np.repeat(np.array([run.key for run, _, _ in wides], dtype=object), counts)
    data["run"] = pd.array(keys, dtype="str")
    for name in _loop_names(wides):
        data.update(_loop_data(name, f"{name}_loop" if name in ours else name, wides))
    if "ordinal" in ours:
        got = [wide.ordinal for _, wide, _ in wides if wide.ordinal is not None]
        data["ordinal"] = pd.array(np.concatenate([np.empty(0, dtype=np.int64), *got]), dtype="Int64")
    for column in columns:
        title = titles[column.label]
        while title in data:  # whatever it is called: nothing is put in place of another column
            title += "_logged"
        frame.titles[column.label] = title
        if not column.is_logged:
            values = [_of_run(run, column) for run, _, _ in wides]
            data[title] = _arg_array(values, counts)
            frame.present[title] = np.repeat(
                np.array([value is not None for value in values], dtype=bool), counts
            )
            continue
        data[title] = _value_array(column.label, wides)
        frame.present[title] = _present(column.label, wides)
        told: dict[str, Any] = {}
        if request.provenance:
            told["origin"] = _told(column.label, wides, read.shown, _ORIGINS)
        if request.provenance or request.fidelity == "any":
            told["fidelity"] = _told(column.label, wides, read.shown, {})
        if request.provenance:
            told["place"] = _told(column.label, wides, read.places, {})
        data.update({f"{title}_{kind}": said for kind, said in told.items()})
        frame.beside[title] = [f"{title}_{kind}" for kind in told]
    return frame


def _of_run(run: RunRow, column: Column) -> Any:
    return run.args.get(column.name) if column.source == "args" else run_field(run, column.name)


def _present(name: str, wides: _Wides) -> NDArray[np.bool_]:
    got = [(wide.rows, wide.columns[name]) for _, wide, _ in wides]
    return np.concatenate(
        [np.zeros(0, dtype=bool), *(np.zeros(n, dtype=bool) if c is None else c.present for n, c in got)]
    )


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
    if kinds == {datetime}:
        return pd.to_datetime(pd.Series(repeated), utc=True).array
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
        piece = words[np.maximum(column.source, 0)]
        piece[column.source < 0] = "filled" if wording else None  # of the row before it
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
