"""Records: the call sites, the loop contexts and the values of one journal."""

from __future__ import annotations

import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from flor_dagster.recording import layout
from flor_dagster.recording.context import Iteration, current
from flor_dagster.recording.values import encode

if TYPE_CHECKING:
    from flor_dagster.recording.journal import JournalWriter
    from flor_dagster.recording.trouble import Troubles


class Records:
    """Writes the records of one process.

    Args:
        journal: where they go.
        root: what files are named relative to.
        troubles: told once when the disk fails.
    """

    def __init__(self, journal: JournalWriter, root: Path, troubles: Troubles) -> None:
        self.calls: dict[tuple[int, int, str], int] = {}
        self._journal = journal
        self._root = root
        self._troubles = troubles
        self._codes: list[Any] = []
        self._contexts = 0
        self._lock = threading.RLock()

    def go_on_behind(self, calls: int, contexts: int) -> None:
        """Number on behind what the journal was begun with: so many call sites and contexts of another process."""
        self.calls.update({(-number, -1, ""): number for number in range(1, calls + 1)})
        self._contexts = contexts

    def record(self, name: str, value: Any, frame: FrameType) -> None:
        """One record, on disk when this returns."""
        call = self.calls.get((id(frame.f_code), frame.f_lasti, name)) or self.intern_call(name, frame)
        # A finite float's repr is its JSON and round-trips; the subtraction is 0.0 for nothing else.
        text = repr(value) if type(value) is float and value - value == 0.0 else encode(value)
        iteration = current.get()
        if iteration is None:
            kept = self._journal.write(f"[{call},0,{text}]\n")
        elif iteration.id is not None:
            kept = self._journal.write(f"[{call},{iteration.id},{text}]\n")
        else:
            # One write for the context and the record; no other thread may use its number before it is on disk.
            with self._lock:
                lines = self._new_contexts(iteration)
                kept = self._journal.write(f"{lines}[{call},{iteration.id},{text}]\n")
        if not kept and not self._journal.closed:
            self._troubles.tell(
                f"records can't be written to {self._journal.path}: {self._journal.error}; the training goes on"
            )

    def lose(self, name: object, error: BaseException) -> None:
        """A record could not be made: said once per name, counted always."""
        self._journal.lost += 1
        shown = name if isinstance(name, str) else type(name).__name__
        self._troubles.tell(f"records of {shown!r} are lost: {type(error).__name__}: {error}"[:500])

    def intern_call(self, name: str, frame: FrameType) -> int:
        """The number of a call site of `flor.log`."""
        code = frame.f_code
        file = layout.relative_file(code.co_filename, self._root)
        with self._lock:
            self._codes.append(code)  # its id stays its own
            key = (id(code), frame.f_lasti, name)
            return self.calls.get(key) or self.new_call(
                key, str(name), file, code.co_qualname, frame.f_lineno or 0
            )

    def new_call(self, key: tuple[int, int, str], name: str, file: str, function: str, line: int) -> int:
        """Number a call site; the line that says so is in the journal before the number is known."""
        with self._lock:
            number = len(self.calls) + 1
            self._journal.entry("n", number, name, file, function, line, 0)
            self.calls[key] = number
        return number

    def context_id(self, iteration: Iteration) -> int:
        """The number of a loop context, written when it is first needed."""
        if iteration.id is None:
            with self._lock:
                self._journal.write(self._new_contexts(iteration))
        return iteration.id or 0

    def _new_contexts(self, iteration: Iteration) -> str:
        """Number a loop context and those around it that have no number yet; the lines that say so."""
        lines: list[str] = []
        for here in reversed(list(iteration.chain())):
            if here.id is None and here.execution is not None:
                self._contexts += 1
                here.id = self._contexts
                value = encode(here.value) if type(here.value) in (str, int, float, bool) else "null"
                if value == str(here.index):
                    value = "null"
                lines.append(f'["c",{here.id},{here.execution.id},{here.index},{value}]\n')
        return "".join(lines)
