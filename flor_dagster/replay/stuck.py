"""Where did a child hang? From the stack that it wrote down when its time was up, and from its journal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flor_dagster.errors import JournalError
from flor_dagster.parsing import source_lines
from flor_dagster.replay.record import read_record

_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$')
_NEAR = 3
"""A patched statement's guard takes a few lines around its `flor.log`."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """Where, in words, and the key of the hindsight statement that it is; both empty where that is not known."""

    where: str
    statement: str


def where_stuck(stack: Path, root: Path, statements: Mapping[str, Mapping[int, str]]) -> Stuck:
    """Read what `faulthandler` wrote.

    Args:
        stack: its file.
        root: the checkout.
        statements: file → line of the patched source → key of a hindsight statement.
    """
    try:
        lines = stack.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return Stuck("", "")
    top = str(root.resolve()) + "/"
    frames: list[tuple[str, int, str]] = []
    for text in lines:
        found = _FRAME.match(text)
        if found is None:
            # The next thread: the main one comes last.
            frames = [] if text.endswith("(most recent call first):") else frames
        elif found["file"].startswith(top):
            frames.append((found["file"].removeprefix(top), int(found["line"]), found["function"]))
    if not frames:
        return Stuck("", "")
    for file, line, _ in frames:
        by_line = statements.get(file, {})
        near = [key for at, key in by_line.items() if abs(at - line) <= _NEAR]
        if line in by_line or (near and _inside_a_guard(root / file, line)):
            key = by_line.get(line) or near[0]
            return Stuck(f" it was in the statement `{key}` ({file})", key)
    file, line, function = frames[0]
    return Stuck(f" it was in {function} ({file}, line {line} of the patched file)", "")


def _inside_a_guard(file: Path, line: int) -> bool:
    try:
        return "flor.log(" in source_lines(file.read_text(encoding="utf-8", errors="replace"))[line - 1]
    except (OSError, IndexError):
        return False


def last_context(journal: Path) -> str:
    """The loop context that the last record of a journal was made in; empty where there is none."""
    try:
        record = read_record(journal)
    except (OSError, JournalError, KeyError, ValueError):
        return ""
    return record.records[-1].path if record.records else ""
