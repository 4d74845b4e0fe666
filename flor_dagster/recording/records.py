"""Records: the call sites, the loop contexts and the values of one journal."""

from __future__ import annotations

import errno
import importlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from flor_dagster.recording import layout
from flor_dagster.recording.context import Iteration, current
from flor_dagster.recording.journal import line_bytes
from flor_dagster.recording.masking import known_secrets
from flor_dagster.recording.source import call_position
from flor_dagster.recording.values import encode

if TYPE_CHECKING:
    from flor_dagster.recording.artifacts import ArtifactStore
    from flor_dagster.recording.journal import JournalWriter
    from flor_dagster.recording.loops import LoopExecution
    from flor_dagster.recording.trouble import Troubles


APPEND_NEWLINE = 1 << 10
"""orjson's option of that name."""


Site = tuple[CodeType, int, int, int, "JournalWriter", "Maker", "Records"]
"""A call site of `flor.log` that the fast way knows: code, instruction, number, file, journal, what makes a line, records.

Whoever calls from elsewhere by this name goes the long way. A tuple is taken apart in less time than attributes are looked up.
"""

hot: dict[str, Site] = {}
"""By name, the call site that logged it last; empty while nothing is recorded. Only `Records` writes here."""


class CallSite:
    """Where a call stands, when its frame has gone on.

    Args:
        frame: the caller's, as it is now.
    """

    __slots__ = ("f_code", "f_lasti", "f_lineno")

    def __init__(self, frame: FrameType) -> None:
        self.f_code, self.f_lasti, self.f_lineno = frame.f_code, frame.f_lasti, frame.f_lineno


class EndedError(Exception):
    """The run has ended while a record was made: it belongs to the next one."""


class Records:
    """Writes the records of one process.

    Args:
        journal: where they go.
        root: what files are named relative to.
        troubles: told once when the disk fails.
        artifacts: where large values, figures and images go.
    """

    def __init__(
        self, journal: JournalWriter, root: Path, troubles: Troubles, artifacts: ArtifactStore | None = None
    ) -> None:
        self.artifacts = artifacts
        self.calls: dict[tuple[int, int, str], int] = {}
        self._journal = journal
        self._root = root
        self.moved: tuple[str, str] | None = None
        """In a replay: the folder that its code lies in, and the one where the recorded run's lay, as JSON writes them."""
        self._troubles = troubles
        self._codes: list[Any] = []
        self.line, self.text = makers()
        self._contexts = 0
        self._files: dict[str, str] = {}
        self._calls_made = 0
        self._ended = False
        self._lock = threading.RLock()
        journal.moved = hot.clear

    def go_on_behind(self, calls: int, contexts: int) -> None:
        """Number on behind what the journal was begun with: so many call sites and contexts of another process."""
        self._calls_made = calls
        self._contexts = contexts

    @property
    def journal(self) -> JournalWriter:
        """Where they go."""
        return self._journal

    def revive(self) -> bool:
        """Write the journal anew where its file was deleted; whether that was so.

        Raises:
            OSError: it can't be.
        """
        with self._lock:
            if not self._journal.deleted:
                return False
            self._journal.revive()
            return True

    def end(self) -> None:
        """No record is taken from here on."""
        with self._lock:
            self._ended = True
            hot.clear()

    def disown(self) -> None:
        """The same in a forked child, where another thread may have held the lock."""
        self._ended = True
        hot.clear()

    def record(self, name: str, value: Any, frame: FrameType | CallSite) -> None:
        """One record, on disk when this returns.

        Raises:
            EndedError: another thread has ended the run.
        """
        if type(name) is not str:
            name = str(name)
        code = frame.f_code
        call = self.calls.get((id(code), frame.f_lasti, name)) or self.intern_call(name, frame)
        site = hot.get(name)
        if site is None or site[2] != call:
            journal = self._journal
            self._heat(name, (code, frame.f_lasti, call, journal.fd, journal, self.line, self))
        text = self.text(value) if type(value) is float and value - value == 0.0 else self._encoded(value)
        iteration = current.get()
        if iteration is None or iteration.owner is not self._journal:
            kept = self._journal.write(b"[%d,0,%b]\n" % (call, text))
        elif iteration.id is not None:
            kept = self._journal.write(b"[%d,%d,%b]\n" % (call, iteration.id, text))
        elif (
            iteration.execution is not None
            and iteration.execution.noted
            and type(iteration.value) is int
            and iteration.value == iteration.index
        ):
            # What `_with_places` does, for what nearly every step begins with.
            with self._lock:
                self._contexts += 1
                context = self._contexts
                line = b'["c",%d,%d,%d,null]\n[%d,%d,%b]\n'
                kept = self._journal.write(
                    line % (context, iteration.execution.id, iteration.index, call, context, text)
                )
                iteration.id = context if kept else None
        else:
            kept = self._with_places(iteration, lambda context: b"[%d,%d,%b]\n" % (call, context, text))
        if not kept:
            if self._ended and self._journal.closed:
                raise EndedError
            self._not_written()

    def _encoded(self, value: Any) -> bytes:
        """A value's text, without the secrets that this process knows."""
        text = encode(value, self.artifacts)
        if self.moved is not None and self.moved[0] in text:
            text = text.replace(*self.moved)
        return (known_secrets.mask(text) if known_secrets else text).encode()

    def _heat(self, name: str, site: Site) -> None:
        with self._lock:
            # While a torn line waits to be ended, every record must go the long way.
            if not self._ended and not self._journal.torn:
                hot[name] = site

    def broke(self, data: bytes, written: int, error: OSError | None) -> None:
        """The fast way wrote only a part of a record, or nothing."""
        with self._lock:
            hot.clear()
            if error is not None and error.errno == errno.EBADF and self._journal.write(data):
                return  # the program had closed our descriptor
            if error is None or error.errno != errno.EBADF:
                self._journal.broke(written, len(data), error)
        self._not_written()

    def _not_written(self) -> None:
        if not self._journal.closed:
            self._troubles.tell(
                f"records can't be written to {self._journal.path}: {self._journal.error}; the training goes on",
                disk=True,
            )

    def lose(self, name: object, error: BaseException) -> None:
        """A record could not be made: said once per name, counted always."""
        self._journal.lose()
        shown = name if isinstance(name, str) else type(name).__name__
        self._troubles.tell(
            f"records of {shown!r} are lost: {type(error).__name__}: {error}"[:500],
            disk=isinstance(error, OSError),
        )

    def intern_call(self, name: str, frame: FrameType | CallSite) -> int:
        """The number of a call site of `flor.log`."""
        code = frame.f_code
        file = layout.relative_file(code.co_filename, self._root)
        with self._lock:
            self._codes.append(code)  # its id stays its own
            key = (id(code), frame.f_lasti, name)
            line = frame.f_lineno or 0
            # Two calls on one line are two call sites.
            at, column = call_position(code, frame.f_lasti)
            return self.calls.get(key) or self.new_call(
                key, name, file, code.co_qualname, line, column if at == line else 0
            )

    def new_call(
        self, key: tuple[int, int, str], name: str, file: str, function: str, line: int, column: int = 0
    ) -> int:
        """Number a call site; the line that says so is in the journal before the number is known."""
        with self._lock:
            self._calls_made += 1
            number = self._calls_made
            # A number that the journal does not know is not used again: the next record says it anew.
            if self._journal.entry("n", number, known_secrets.mask(name), file, function, line, column):
                self.calls[key] = number
        return number

    def context_id(self, iteration: Iteration) -> int:
        """The number of a loop context, written when it is first needed."""
        if iteration.id is None:
            self._with_places(iteration, lambda _: b"")
        return iteration.id or 0

    def note_loop(self, execution: LoopExecution) -> None:
        """Say that a loop execution begins."""
        with self._lock:
            fresh: list[Iteration | LoopExecution] = []
            self._write_places(self._loop(execution, fresh), fresh)

    def _with_places(self, iteration: Iteration, rest: Callable[[int], bytes]) -> bool:
        """Write where a loop context is and what is in it, at once.

        No other thread may use its number before it is on disk.
        """
        with self._lock:
            fresh: list[Iteration | LoopExecution] = []
            lines = self._context(iteration, fresh)
            return self._write_places(lines + rest(iteration.id or 0), fresh)

    def _write_places(self, lines: bytes, fresh: list[Iteration | LoopExecution]) -> bool:
        kept = self._journal.write(lines)
        if not kept:
            # Said again with the next record in it: what is kept must always be findable.
            for place in fresh:
                if isinstance(place, Iteration):
                    place.id = None
                else:
                    place.noted = False
        return kept

    def _context(self, iteration: Iteration, fresh: list[Iteration | LoopExecution]) -> bytes:
        """Number a loop context and those around it that have no number yet; the lines that say so."""
        execution = iteration.execution
        if execution is None or iteration.id is not None:
            return b""
        around = b"" if execution.noted else self._loop(execution, fresh)
        value, index = iteration.value, iteration.index
        if type(value) is int:
            text = b"null" if value == index else encode(value).encode()
        else:
            text = encode(value).encode() if type(value) in (str, float, bool) else b"null"
        self._contexts += 1
        iteration.id = self._contexts
        fresh.append(iteration)
        return b'%b["c",%d,%d,%d,%b]\n' % (around, iteration.id, execution.id, index, text)

    def _relative(self, file: str) -> str:
        """A file's name as the journal knows it; to resolve it takes several calls of the system."""
        known = self._files.get(file)
        if known is None:
            known = self._files[file] = layout.relative_file(file, self._root)
        return known

    def _loop(self, execution: LoopExecution, fresh: list[Iteration | LoopExecution]) -> bytes:
        around = self._context(execution.parent, fresh)
        execution.noted = True
        fresh.append(execution)
        file, line, column = execution.site
        entry = (
            "l", execution.id, execution.parent.id or 0, execution.name, execution.ordinal,
            self._relative(file), execution.function, line, column, execution.opened,
        )  # fmt: skip
        return around + line_bytes(*entry)


def _plain_line(record: tuple[int, int, float], _default: None, _option: int) -> bytes:
    return f"[{record[0]},{record[1]},{record[2]!r}]\n".encode()


def _plain_text(value: float) -> bytes:
    return repr(value).encode()


Maker = Callable[[tuple[int, int, float], None, int], bytes]


def makers() -> tuple[Maker, Callable[[float], bytes]]:
    """What makes a finite float into a record (to be called with `None, APPEND_NEWLINE`) and into its text.

    Either way it is the shortest text that reads as the same number; orjson's is five times as fast.
    """
    try:
        orjson = importlib.import_module("orjson")
    except Exception:  # noqa: BLE001 - an extension that does not fit this interpreter is none
        return _plain_line, _plain_text
    if getattr(orjson, "OPT_APPEND_NEWLINE", 0) != APPEND_NEWLINE:
        return _plain_line, _plain_text
    return orjson.dumps, orjson.dumps
