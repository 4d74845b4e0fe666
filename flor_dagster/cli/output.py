"""Where a command writes: text by rich, or one JSON document."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from flor_dagster.showing import json_text, shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

PIPED_WIDTH = 110
"""Columns of the output where it does not go to a terminal."""

_ENDLESS = 100_000

DONE, FAILED, USAGE, STOPPED = 0, 1, 2, 130


class Output:
    """Where a command writes: text by rich, or one JSON document.

    Args:
        as_json: whether the document is wanted and the text is not.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    @functools.cached_property
    def console(self) -> Console:
        """Standard output as rich sees it; made when first used, since importing rich takes time."""
        return _console(sys.stdout)

    def text(self, *parts: str | Text | Rows) -> None:
        """Print a part of the answer; nothing with `--json`. Lines stay whole, so that they can be searched."""
        for part in parts if not self.as_json else ():
            if isinstance(part, Rows):
                self._rows(part)
            else:
                self.console.print(styled(part), soft_wrap=True)

    def _rows(self, rows: Rows) -> None:
        console = self.console
        width = console.width
        if rows.piped_whole and not console.is_terminal:
            # Who reads a file or a pipe searches and cuts lines: a row is one of them.
            console.width = max(
                width, console.measure(rows.table, options=console.options.update(width=_ENDLESS)).maximum
            )
        console.print(rows.table)
        console.width = width

    def progress(self, line: str) -> None:
        """Print a line that a child process wrote; with `--json` it goes to standard error."""
        print(shown(line, "stream"), file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def document(self, value: Any) -> None:
        """Print the JSON document; nothing without `--json`."""
        if self.as_json:
            print(json_text(jsonable(value)))

    def complain(self, sentence: str, tail: Iterable[str] = ()) -> None:
        """Say on standard error what went wrong, then the last lines of a child process, indented."""
        console = _console(sys.stderr)
        console.print(styled(("flor: ", "bold red"), sentence))
        for line in tail:
            console.print(styled(f"    {line}"))


class Rows:
    """A table whose cells and headings are texts and no markup.

    Args:
        table: an empty table of rich.
        piped_whole: whether its rows are never broken where the output does not go to a terminal.
    """

    def __init__(self, table: Table, *, piped_whole: bool = False) -> None:
        self.table = table
        self.piped_whole = piped_whole

    def add_column(self, name: str, *, right: bool = False, whole: bool = False) -> None:
        """Add a column.

        Args:
            name: its heading.
            right: whether it is aligned to the right.
            whole: whether its lines are never broken.
        """
        self.table.add_column(styled(name), justify="right" if right else "left", no_wrap=whole)

    def add_row(self, *cells: str | Text) -> None:
        """Add a row."""
        self.table.add_row(*map(styled, cells))


def styled(*parts: str | Text | tuple[str, str]) -> Text:
    """One text of several, each with its style or without one; what they hold is shown and never read as markup."""
    from rich.text import Text

    whole = Text()
    for part in parts:
        if isinstance(part, Text):
            whole.append_text(part)
        else:
            text, style = part if isinstance(part, tuple) else (part, "")
            whole.append(shown(text), style=style or None)
    return whole


def _console(stream: Any) -> Console:
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else PIPED_WIDTH, highlight=False, emoji=False)


def jsonable(value: Any) -> Any:
    """Plain JSON of rows and values: dataclasses as objects, times as ISO 8601, NaN and infinities as text.

    JSON has no NaN: a float that is not finite becomes "NaN", "Infinity" or "-Infinity".
    """
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = [field for field in dataclasses.fields(value) if not field.metadata.get("secret")]
        return {field.name: jsonable(getattr(value, field.name)) for field in shown}
    as_list = getattr(value, "tolist", None)
    if as_list is not None:
        return jsonable(as_list())  # an array, or a number, of numpy
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [jsonable(item) for item in value]
    return str(value)
