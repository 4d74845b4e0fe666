"""How the demo prints: readable in a terminal, plain text when piped."""

import sys
import textwrap
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 110

console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, emoji=False)


def say(*lines: str, style: str = "") -> None:
    """Print lines; where one is too long it goes on below, two columns further in than it began."""
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        wrapped = textwrap.fill(line, console.width, subsequent_indent=indent, break_on_hyphens=False)
        console.print(Text(wrapped, style=style), soft_wrap=True)


def heading(number: int, text: str) -> None:
    """The title of a part."""
    console.print()
    console.rule(f"[bold]{number}. {text}", align="left", characters="-")
    console.print()


def plain_table(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table without borders; the columns in `right` are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    return table


def show_diff(diff: str, indent: int = 2) -> None:
    """Print a diff, indented; added lines are green and removed ones red where there are colours."""
    styles = {"+": "green", "-": "red", "@": "cyan"}
    for line in diff.splitlines():
        text = " " * indent + line
        shown = text if len(text) <= console.width else text[: console.width - 1] + "…"
        console.print(Text(shown.rstrip(), style=styles.get(line[:1], "dim")), soft_wrap=True)


def near_the_change(diff: str) -> str:
    """The changed lines of a unified diff, with the line before each change and the line after."""
    lines = [line for line in diff.splitlines() if not line.startswith(("--- ", "+++ ", "@@"))]
    changed = [number for number, line in enumerate(lines) if line[:1] in "+-"]
    kept = {number + offset for number in changed for offset in (-1, 0, 1)}
    return "\n".join(line for number, line in enumerate(lines) if number in kept and line.strip())


def counted(count: int, what: str) -> str:
    """A count with its noun."""
    return f"{count} {what}{'s' * (count != 1)}"
