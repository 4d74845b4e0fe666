"""`flor view`: the log view in the terminal."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flor_dagster.cli.command import records_command
from flor_dagster.cli.output import DONE, Output, jsonable
from flor_dagster.cli.wording import cell_text, grouped, make_table, these
from flor_dagster.errors import FlorError

if TYPE_CHECKING:
    import pandas as pd

    from flor_dagster.replay.outside_git import Records
    from flor_dagster.replay.workspace import Workspace
    from flor_dagster.store.pivot import Keep

VIEW_ROWS = 50
"""Rows that `flor view` prints unless asked for more."""


Format = Literal["table", "csv", "json", "parquet"]


@click.command("view")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--where",
    metavar="CONDITION",
    help='Only the rows that fulfil it: "epoch >= 3 and loss < 0.5 and args.lr > 0.01"; of training runs as in `flor runs --where`.',
)
@click.option(
    "--runs", "keys", multiple=True, metavar="RUN", help="Only this training run (key or its start)."
)
@click.option(
    "--latest",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the latest N training runs of those that the condition selects.",
)
@click.option(
    "--at", metavar="LOOP", help="A row per iteration of this loop; `run` makes one row of each training run."
)
@click.option(
    "--keep",
    type=click.Choice(["last", "first", "all"]),
    default="last",
    help="Of several values of a name in one place: the last (default), the first, or all, in a row each.",
)
@click.option("--fill", is_flag=True, help="Show in an empty place what the row before it has.")
@click.option(
    "--fidelity",
    type=click.Choice(["exact", "any"]),
    help="exact: only recorded and exact values; any: diverged ones too. Default: all but diverged ones.",
)
@click.option(
    "--ranks",
    metavar="RANKS",
    help="Of distributed trainings, show these ranks (`0,3`) or `all`. Default: rank 0 alone.",
)
@click.option("--provenance", is_flag=True, help="Add the origin, the fidelity and the place of each value.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    help="How it is written. Default: table. json is the same as --json; parquet needs pyarrow and --output.",
)
@click.option(
    "--output",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write csv or parquet to this file.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="ROWS",
    help=f"Rows to print; 0 prints all. Default: {VIEW_ROWS} in a table, else all.",
)
@records_command
def view_command(
    workspace: Workspace | Records,
    output: Output,
    names: tuple[str, ...],
    where: str | None,
    keys: tuple[str, ...],
    latest: int | None,
    at: str | None,
    keep: Keep,
    fill: bool,
    fidelity: Literal["exact", "any"] | None,
    ranks: str | None,
    provenance: bool,
    form: Format | None,
    file: Path | None,
    limit: int | None,
) -> int:
    """Show logged values: a row per training run and loop context, a column per NAME.

    NAME is a logged name, one definition of it (loss:1), an argument (args.lr), a field of the training run (run.status), or a
    pattern of such (val_*, args.*).
    """
    output.as_json = output.as_json or form == "json"
    form = "json" if output.as_json else form or "table"
    if file is not None and form not in ("csv", "parquet"):
        raise click.UsageError("--output goes with --format csv or --format parquet.")
    if form == "parquet":
        _require_parquet(file)
    workspace.sync()
    workspace.require_runs()
    frame = workspace.store.dataframe(
        *names, where=where, runs=keys or None, latest=latest, at=at, fill=fill, keep=keep,
        fidelity=fidelity or "default", provenance=True, ranks=_ranks(ranks),
    )  # fmt: skip
    columns = [name for name in frame.columns if provenance or not _is_provenance(name, frame, fidelity)]
    limit = limit if limit is not None else VIEW_ROWS if form == "table" else 0
    cut = frame.head(limit) if limit else frame
    match form:
        case "json":
            _document(output, frame, frame_rows(cut, columns), columns)
        case "csv":
            _write_csv(cut, columns, file)
        case "parquet":
            cut[columns].to_parquet(str(file), index=False)
        case "table":
            _table(output, frame, cut, marked=provenance or fidelity == "any")
    return DONE


def _require_parquet(file: Path | None) -> None:
    from importlib.util import find_spec

    if file is None:
        raise click.UsageError("--format parquet needs --output FILE: it is no text.")
    if find_spec("pyarrow") is None:
        raise FlorError(
            "--format parquet needs pyarrow, which is not installed here: `pip install pyarrow`, or take --format csv"
        )


def _document(
    output: Output, frame: pd.DataFrame, rows: Sequence[dict[str, Any]], columns: Sequence[str]
) -> None:
    output.document(
        {
            "columns": columns,
            "rows": rows,
            "row_count": len(frame),
            "empty": _listed(frame, "empty"),
            "partly": _partly(frame),
            "places": _listed(frame, "places"),
            "definitions": frame.attrs.get("definitions", {}),
            "several": frame.attrs.get("several", {}),
            "elsewhere": frame.attrs.get("elsewhere", {}),
        }
    )


def _listed(frame: pd.DataFrame, what: str) -> list[dict[str, str]]:
    return [
        {"run": run, "name": name, "reason": reason}
        for run, said in frame.attrs.get(what, {}).items()
        for name, reason in said.items()
    ]


def _write_csv(frame: pd.DataFrame, columns: Sequence[str], file: Path | None) -> None:
    """A line a row: an absent value is empty, a logged NaN is NaN; what is no number and no text is JSON."""
    import csv

    with file.open("w", encoding="utf-8", newline="") if file else nullcontext(sys.stdout) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        for row in frame_rows(frame, columns):
            writer.writerow([_csv_text(value) for value in row.values()])


def _csv_text(value: Any) -> str:
    plain = jsonable(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain)


def _table(output: Output, frame: pd.DataFrame, cut: pd.DataFrame, *, marked: bool) -> None:
    """The table, and below it what has to be said of it."""
    values = [name for name in frame.columns if not _is_provenance(name, frame, None)]
    _show(output, cut, values, marked=marked)
    if len(cut) < len(frame):
        output.text(f"{len(frame) - len(cut)} more rows; --limit 0 prints all.")
    for name, definitions in frame.attrs.get("definitions", {}).items():
        told = ", ".join(f"{key} (runs: {count})" for key, count in definitions.items())
        output.text(
            f"{name} shows the values of {len(definitions)} definitions: {told}; name one to see it alone."
        )
    for name, count in frame.attrs.get("several", {}).items():
        if not (frame.columns == "ordinal").any():
            output.text(
                f"{name}: {count} more values stand in a context with another one, which is shown; --keep all shows them."
            )
    for name, count in frame.attrs.get("elsewhere", {}).items():
        output.text(f"{name}: {count} values lie outside of that loop and are not shown.")
    said = (
        (f"{place['name']} is empty, {place['reason']}", place["run"]) for place in _listed(frame, "empty")
    )
    for sentence, without in grouped(said):
        output.text(f"{these(without)}: {sentence}")
    for name, count in Counter(part["name"] for part in _partly(frame)).items():
        output.text(
            f"{name} is empty in some rows of {count} training run{'s' * (count != 1)}: `flor why RUN {name} --at LOOP=0` "
            "says why of each."
        )
    places = ((f"{place['name']}: {place['reason']}", place["run"]) for place in _listed(frame, "places"))
    for sentence, with_it in grouped(places):
        output.text(f"{these(with_it)}: {sentence}")


def _show(output: Output, frame: pd.DataFrame, columns: Sequence[str], *, marked: bool) -> None:
    """The table, and below it what the marks behind its values mean."""
    rows = frame_rows(frame, columns)
    legend: dict[str, str] = {}
    marks = {name: _marks(frame, name, legend) for name in columns if marked}
    numbers = {name for name in columns if frame[name].dtype.kind in "iuf"}
    table = make_table(*columns, right=numbers, piped_whole=True)
    for number, row in enumerate(rows):
        table.add_row(
            *(
                cell_text(value) + (marks[name][number] if marked and value is not None else "")
                for name, value in row.items()
            )
        )
    output.text(table)
    for words, mark in legend.items():
        output.text(f"{mark} {words}")


def _marks(frame: pd.DataFrame, name: str, legend: dict[str, str]) -> list[str]:
    """Behind each value of a column, the mark of its origin, fidelity and place; new ones are put in the legend."""
    kinds = [kind for kind in ("origin", "fidelity", "place") if f"{name}_{kind}" in frame.columns]
    if not kinds:
        return [""] * len(frame)
    told = [
        column.astype(object).where(column.notna(), None).tolist()
        for column in (frame[f"{name}_{kind}"] for kind in kinds)
    ]
    found: list[str] = []
    for parts in zip(*told, strict=True):
        words = _words(dict(zip(kinds, parts, strict=True)))
        found.append(
            f" {legend.setdefault(words, f'[{_letters(len(legend))}]')}" if parts[0] is not None else ""
        )
    return found


def _words(told: dict[str, str | None]) -> str:
    """`recorded`, or `replayed, exact, place confirmed`."""
    if told.get("origin") == "recorded":
        return "recorded"
    return ", ".join(f"place {said}" if kind == "place" else str(said) for kind, said in told.items())


def _letters(number: int) -> str:
    """As spreadsheets name columns: a, b, …, z, aa, ab."""
    rest, letter = divmod(number, 26)
    return (_letters(rest - 1) if rest else "") + chr(ord("a") + letter)


def _partly(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The runs in which a name has a value in some rows and none in others, with the number of those."""
    found: list[dict[str, Any]] = []
    for name in frame.columns:
        if f"{name}_origin" not in frame.columns:
            continue
        absent = frame[f"{name}_origin"].isna().groupby(frame["run"].astype(object), sort=False)
        for run, missing, of in zip(
            absent.sum().index, absent.sum().tolist(), absent.size().tolist(), strict=True
        ):
            if 0 < missing < of:
                found.append({"run": run, "name": name, "missing": missing, "rows": of})
    return found


def _ranks(text: str | None) -> Sequence[int] | Literal["all"] | None:
    if text is None or text == "all":
        return text
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise click.BadParameter(f"{text!r} is neither `all` nor numbers like `0,3`.", param_hint="--ranks")
    return [int(part) for part in text.split(",")]


def _is_provenance(column: str, frame: pd.DataFrame, fidelity: str | None) -> bool:
    name, _, kind = column.rpartition("_")
    return name in frame.columns and (
        kind in ("origin", "place") or (kind == "fidelity" and fidelity != "any")
    )


def frame_rows(frame: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """A frame's rows as plain values: an absent value is None, a logged NaN stays NaN, numpy scalars are Python's own.

    Args:
        frame: a log view with provenance; a float column shows an absent value as NaN, its origin tells them apart.
        columns: which of its columns.
    """
    listed = [_column(frame, name) for name in columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*listed, strict=True)]


def _column(frame: pd.DataFrame, name: str) -> list[Any]:
    known = frame[f"{name}_origin"] if f"{name}_origin" in frame.columns else frame[name]
    return [
        _python(value) if present else None
        for value, present in zip(frame[name].tolist(), known.notna().tolist(), strict=True)
    ]


def _python(value: Any) -> Any:
    return value.item() if getattr(value, "ndim", None) == 0 else value
