"""How commands put things: tables, counts, sentences about several training runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flor_dagster.cli.output import Rows, styled
from flor_dagster.showing import shown

if TYPE_CHECKING:
    from rich.text import Text

    from flor_dagster.store.models import PlacementRow

STATUS_STYLES = {
    "recorded": "green",
    "replayed": "green",
    "finished": "green",
    "placed": "green",
    "already-there": "green",
    "refused": "yellow",
    "excluded": "yellow",
    "interrupted": "yellow",
    "running": "cyan",
    "open": "dim",
    "failed": "red",
    "lost": "red",
}


def make_table(*columns: str, right: Iterable[str] = ("seconds",), piped_whole: bool = False) -> Rows:
    """An empty table of rich.

    Args:
        columns: their headings.
        right: which of them hold numbers, aligned to the right.
        piped_whole: whether its rows are never broken where the output does not go to a terminal.
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    table = Rows(made, piped_whole=piped_whole)
    to_the_right = set(right)
    for name in columns:
        table.add_column(
            name,
            right=name in to_the_right,
            whole=name in ("run", "status", "script", "estimate", "trained in"),
        )
    return table


def grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Sentences about training runs, each once, with the keys of the runs that it is about."""
    groups: dict[str, list[str]] = {}
    for sentence, key in pairs:
        groups.setdefault(sentence, []).append(key)
    return list(groups.items())


def these(keys: Sequence[str]) -> str:
    """Training runs as the beginning of a sentence: the one's key, or how many and the first."""
    return keys[0] if len(keys) == 1 else f"{len(keys)} training runs ({keys[0]} …)"


def status_text(status: str) -> Text:
    """A status in its colour."""
    return styled((status, STATUS_STYLES.get(status, "")))


def counted(counts: Mapping[Any, int]) -> str:
    """`2 placed, 1 refused`; `none` where nothing was counted."""
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "none"


def because(reason: str) -> str:
    """A reason behind a colon; nothing where there is none."""
    from flor_dagster.store.models import once

    for status in ("refused", "failed"):
        reason = once(status, reason)
    return f": {reason.rstrip('.')}" if reason else ""


def place_words(row: PlacementRow) -> str:
    """The verdict on a place, in words; empty where nobody looked at it."""
    from flor_dagster.replay.places import place_words as words

    return words(row)


def because_of_place(row: PlacementRow) -> str:
    """The verdict on a place behind a comma; nothing where nobody looked at it."""
    words = place_words(row)
    return f", place {words}" if words else ""


def seconds_text(value: float | None) -> str:
    """Seconds with one digit; empty where they are not known."""
    return "" if value is None else f"{value:.1f} s"


def cell_text(value: Any) -> str:
    """A value as a table shows it; an absent one is empty."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else shown(value)


def diff_text(diff: str) -> Text:
    """A unified diff without its file header, indented, in colour where the output has colours."""
    styles = {"+": "green", "-": "red", "@": "cyan"}
    lines = [line for line in diff.rstrip("\n").split("\n") if not line.startswith(("--- ", "+++ "))]
    return styled(
        *(
            (("\n" if number else "") + "    " + line, styles.get(line[:1], "dim"))
            for number, line in enumerate(lines)
        )
    )
