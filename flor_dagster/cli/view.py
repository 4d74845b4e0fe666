"""`flor view`: the log view in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from flor_dagster.cli.command import chosen_runs, records_command
from flor_dagster.cli.output import DONE, Output
from flor_dagster.cli.wording import cell_text, grouped, make_table, these

if TYPE_CHECKING:
    import pandas as pd

    from flor_dagster.replay.outside_git import Records
    from flor_dagster.replay.workspace import Workspace

VIEW_ROWS = 50
"""Rows that `flor view` prints unless asked for more."""


@click.command("view")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--runs", "keys", multiple=True, metavar="RUN", help="Only this training run (key or its start)."
)
@click.option("--latest", type=click.IntRange(min=1), metavar="N", help="Only the latest N training runs.")
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
    "--limit",
    type=click.IntRange(min=0),
    metavar="ROWS",
    help=f"Rows to print; 0 prints all. Default: {VIEW_ROWS}, with --json all.",
)
@records_command
def view_command(
    workspace: Workspace | Records,
    output: Output,
    names: tuple[str, ...],
    keys: tuple[str, ...],
    latest: int | None,
    fidelity: Literal["exact", "any"] | None,
    ranks: str | None,
    provenance: bool,
    limit: int | None,
) -> int:
    """Show logged values: a row per training run and loop context, a column per NAME."""
    workspace.sync()
    runs = chosen_runs(workspace, keys, latest)
    wanted = None if not keys and latest is None else [run.key for run in runs]
    frame = workspace.store.dataframe(
        *names, runs=wanted, fidelity=fidelity or "default", provenance=True, ranks=_ranks(ranks)
    )
    columns = [name for name in frame.columns if provenance or not _is_provenance(name, frame, fidelity)]
    values = [name for name in frame.columns if not _is_provenance(name, frame, None)]
    limit = limit if limit is not None else 0 if output.as_json else VIEW_ROWS
    rows = frame_rows(frame.head(limit) if limit else frame, columns)
    empty = [
        {"run": run, "name": name, "reason": reason}
        for (run, name), reason in frame.attrs.get("empty", {}).items()
    ]
    places = [
        {"run": run, "name": name, "reason": reason}
        for (run, name), reason in frame.attrs.get("places", {}).items()
    ]
    output.document(
        {
            "columns": columns,
            "rows": rows,
            "row_count": len(frame),
            "empty": empty,
            "partly": _partly(frame, values),
            "places": places,
            "definitions": frame.attrs.get("definitions", {}),
            "several": frame.attrs.get("several", {}),
        }
    )
    if not output.as_json:
        _show(output, frame.head(limit) if limit else frame, values, marked=provenance or fidelity == "any")
    if len(rows) < len(frame):
        output.text(f"{len(frame) - len(rows)} more rows; --limit 0 prints all.")
    for name, definitions in frame.attrs.get("definitions", {}).items():
        told = ", ".join(f"{key} (runs: {count})" for key, count in definitions.items())
        output.text(
            f"{name} shows the values of {len(definitions)} definitions: {told}; name one to see it alone."
        )
    for name, count in frame.attrs.get("several", {}).items():
        output.text(
            f"{name}: {count} more values stand in a context with a later one, which is shown; SQL shows all."
        )
    said = ((f"{place['name']} is empty, {place['reason']}", place["run"]) for place in empty)
    for sentence, without in grouped(said):
        output.text(f"{these(without)}: {sentence}")
    for name, count in Counter(part["name"] for part in _partly(frame, values)).items():
        output.text(
            f"{name} is empty in some rows of {count} training run{'s' * (count != 1)}: `flor why RUN {name} --at LOOP=0` "
            "says why of each."
        )
    for sentence, with_it in grouped(
        (f"{place['name']}: {place['reason']}", place["run"]) for place in places
    ):
        output.text(f"{these(with_it)}: {sentence}")
    return DONE


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


def _partly(frame: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """The runs in which a name has a value in some rows and none in others, with the number of those."""
    found: list[dict[str, Any]] = []
    for name in names:
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
