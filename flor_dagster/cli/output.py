"""Where a command writes: text by rich, or one JSON document."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPED_WIDTH = 110
"""Columns of the output where it does not go to a terminal."""

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

    def text(self, *parts: RenderableType) -> None:
        """Print a part of the answer; nothing with `--json`. Lines stay whole, so that they can be searched."""
        from rich.text import Text

        for part in parts if not self.as_json else ():
            self.console.print(part, soft_wrap=isinstance(part, str | Text))

    def progress(self, line: str) -> None:
        """Print a line that a child process wrote; with `--json` it goes to standard error."""
        print(line, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def document(self, value: Any) -> None:
        """Print the JSON document; nothing without `--json`."""
        if self.as_json:
            print(json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False))

    def complain(self, sentence: str, tail: Iterable[str] = ()) -> None:
        """Say on standard error what went wrong, then the last lines of a child process, indented."""
        from rich.text import Text

        console = _console(sys.stderr)
        console.print(Text.assemble(("flor: ", "bold red"), sentence))
        for line in tail:
            console.print(Text(f"    {line}"))


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
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [jsonable(item) for item in value]
    return str(value)
