"""Lines of a file before and after statements were put into it."""

from __future__ import annotations


def shifted(line: int, added: tuple[int, ...]) -> int:
    """The line that a line of a file has after lines were added (their numbers are the new ones, ascending)."""
    for number in added:
        if number > line:
            break
        line += 1
    return line
