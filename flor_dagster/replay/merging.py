"""The journals of a replay's segments as one journal, in the order of the loop.

Every segment runs the setup: what comes before the loop is taken from the first one alone. A later segment gives what
lies in its own iterations, and, where it is the last, what comes after the loop. Loops, contexts and call sites are
numbered anew; values stay as they were written, but for the layout of their JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flor_dagster.recording.journal import read_journal

_ONCE = ("flor", "a", "g", "i", "m")


def merge_journals(parts: Sequence[tuple[Path, int]], loop: str, target: Path) -> None:
    """Write the segments' journals as one; it appears whole or not at all.

    Args:
        parts: each segment's journal and the iteration that it begins at, in the order of the loop.
        loop: the path of the loop execution that was split.
        target: the journal to write.

    Raises:
        JournalError: a part is none of ours.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with temporary.open("w", encoding="ascii") as file:
        merger = _Merger(loop)
        for number, (path, begin) in enumerate(parts):
            for entry in merger.take(path, begin, first=number == 0, last=number == len(parts) - 1):
                file.write(
                    json.dumps(entry, separators=(",", ":"), ensure_ascii=True, allow_nan=False) + "\n"
                )
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)


class _Merger:
    def __init__(self, loop: str) -> None:
        self._loop = loop
        self._calls: dict[tuple[Any, ...], int] = {}
        self._loops: dict[str, int] = {}
        self._contexts: dict[tuple[int, int], int] = {}

    def take(self, path: Path, begin: int, *, first: bool, last: bool) -> list[list[Any]]:
        """What one segment adds."""
        reader = _Part(self, begin, first=first, last=last)
        for entry in read_journal(path):
            reader.read(entry.parts)
        return reader.out

    def call(self, key: tuple[Any, ...], out: list[list[Any]]) -> int:
        if key not in self._calls:
            self._calls[key] = len(self._calls) + 1
            out.append(["n", self._calls[key], *key])
        return self._calls[key]

    def loop_number(self, path: str) -> tuple[int, bool]:
        new = path not in self._loops
        if new:
            self._loops[path] = len(self._loops) + 1
        return self._loops[path], new

    def context(self, loop: int, index: int, value: Any, out: list[list[Any]]) -> int:
        if (loop, index) not in self._contexts:
            self._contexts[loop, index] = len(self._contexts) + 1
            out.append(["c", self._contexts[loop, index], loop, index, value])
        return self._contexts[loop, index]

    def splits(self, path: str) -> bool:
        return path == self._loop

    def index_within(self, path: str) -> int | None:
        prefix = self._loop + "["
        return int(path[len(prefix) :].partition("]")[0]) if path.startswith(prefix) else None


class _Part:
    """One segment's journal on its way into the merged one: `kept` is false where another segment says it."""

    def __init__(self, merger: _Merger, begin: int, *, first: bool, last: bool) -> None:
        self.out: list[list[Any]] = []
        self._merger = merger
        self._begin = begin
        self._first = first
        self._last = last
        self._after = False
        self._calls: dict[int, tuple[Any, ...]] = {}
        self._paths: dict[int, str] = {}  # loop → path
        self._contexts: dict[int, tuple[int, int, Any]] = {}

    def read(self, parts: list[Any]) -> None:
        kind = parts[0]
        if isinstance(kind, int):
            if self._kept(self._around(parts[1])):
                context = self._context(parts[1])
                self.out.append([self._merger.call(self._calls[kind], self.out), context, *parts[2:]])
        elif kind == "n":
            self._calls[parts[1]] = tuple(parts[2:])
        elif kind == "c":
            self._contexts[parts[1]] = (parts[2], parts[3], parts[4])
        elif kind == "l":
            self._open(parts)
        elif kind == "e":
            self._close(parts)
        elif kind in ("s", "d"):
            path = self._paths[parts[1]]
            here = f"{path}[{parts[2]}]" if kind == "d" and parts[2] is not None else path
            if self._merger.splits(path) or self._kept(here):
                self.out.append([kind, self._merger.loop_number(path)[0], *parts[2:]])
        elif kind == "p":
            pass  # said of the segment, whose own journal was compared
        elif kind == "z":
            if self._last:
                self.out.append(parts)
        elif kind not in _ONCE or self._first:
            self.out.append(parts)

    def _around(self, context: int) -> str:
        """The path of a context, empty for the run itself."""
        if context == 0:
            return ""
        loop, index, _ = self._contexts[context]
        return f"{self._paths[loop]}[{index}]"

    def _kept(self, path: str) -> bool:
        index = self._merger.index_within(path)
        if index is not None:
            return index >= self._begin
        return self._last if self._after else self._first

    def _open(self, parts: list[Any]) -> None:
        _, number, context, name, ordinal, *rest = parts
        around = self._around(context)
        path = f"{around}/{name}#{ordinal}" if around else f"{name}#{ordinal}"
        self._paths[number] = path
        if self._merger.splits(path) or self._kept(path):
            merged, new = self._merger.loop_number(path)
            if new:
                self.out.append(["l", merged, self._context(context), name, ordinal, *rest])

    def _close(self, parts: list[Any]) -> None:
        path = self._paths[parts[1]]
        if self._merger.splits(path):
            self._after = True
            if self._last:
                self.out.append(["e", self._merger.loop_number(path)[0], *parts[2:]])
        elif self._kept(path):
            self.out.append(["e", self._merger.loop_number(path)[0], *parts[2:]])

    def _context(self, context: int) -> int:
        """The merged number of a context, written with those around it where it is new."""
        if context == 0:
            return 0
        loop, index, value = self._contexts[context]
        return self._merger.context(self._merger.loop_number(self._paths[loop])[0], index, value, self.out)
