"""`flor.loop`: an iterator that knows where it is, how far it came and how it ended."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Generic, TypeVar

from flor_dagster.recording.context import Iteration, current
from flor_dagster.recording.scopes import parse_file
from flor_dagster.recording.source import LoopSource, call_position, loop_source

if TYPE_CHECKING:
    from flor_dagster.recording.entries import Entry
    from flor_dagster.recording.outside import Place
    from flor_dagster.recording.session import Session
    from flor_dagster.recording.switches import Readings

T = TypeVar("T")

_set_current = current.set


class LoopExecution:
    """One execution of one `flor.loop`, as the journal knows it.

    `path` is its place: `name#ordinal` within `[index]` of each execution around it. `site` is the file, line and column
    of its `flor.loop` call, `entry` which objects it found when it began, `switches` the process's settings then,
    `outside` the containers of libraries.
    """

    __slots__ = (
        "count", "entry", "frame", "function", "id", "name", "noted", "opened", "ordinal", "outside", "parent", "path", "site",
        "source", "switches",
    )  # fmt: skip

    def __init__(
        self, number: int, parent: Iteration, name: str, ordinal: int, frame: FrameType | None, source: LoopSource | None,
        site: tuple[str, int, int],
    ) -> None:  # fmt: skip
        self.id = number
        self.parent = parent
        self.name = name
        self.ordinal = ordinal
        self.frame = frame
        self.function = "" if frame is None else frame.f_code.co_qualname
        self.noted = False
        self.source = source
        self.count = 0
        self.site = site
        self.entry: Entry | None = None
        self.switches: Readings | None = None
        self.outside: dict[Place, object] = {}
        self.opened = time.time_ns()
        above = parent.execution
        prefix = "" if above is None else f"{above.path}[{parent.index}]/"
        self.path = f"{prefix}{name}#{ordinal}"

    @property
    def outermost(self) -> bool:
        """Whether no loop is around it."""
        return self.parent.execution is None

    def place(self, index: int | None) -> str:
        """What its checkpoints are estimated by: its site, and whether an iteration or the execution ended."""
        return f"{self.site}{'' if index is None else '[]'}"


class Loop(Generic[T]):
    """What `flor.loop` returns: iterate it once, or again for another execution."""

    __slots__ = ("_code", "_frame", "_iterable", "_lasti", "_name", "_session")

    def __init__(self, session: Session, name: str, iterable: Iterable[T], frame: FrameType) -> None:
        self._session = session
        self._name = name
        self._iterable = iterable
        self._frame = frame
        self._code = frame.f_code
        self._lasti = frame.f_lasti

    def __iter__(self) -> Iterator[T]:
        session = self._session
        if not session.enter(self):
            return iter(self._next())
        if session.ended:
            session.leave(self)
            return iter(self._iterable)
        line, column = call_position(self._code, self._lasti)
        execution = session.open_loop(self._name, self._frame, line, column)
        if execution.outermost:
            session.enter(execution)
        session.leave(self)
        return LoopIterator(session, execution, session.items(execution, self._iterable))

    def _next(self) -> Iterable[T]:
        """The same for the run that has taken the place of the session's."""
        session = self._session.successor()
        if session is None or session is self._session:
            return self._iterable
        again = Loop(session, self._name, self._iterable, self._frame)
        again._lasti = self._lasti
        return again

    def __len__(self) -> int:
        return len(self._iterable)  # pyright: ignore[reportArgumentType]  # as the iterable itself would answer

    def __bool__(self) -> bool:
        return True


class LoopIterator(Iterator[T]):
    """Pulls from the user's iterable and moves the loop context along."""

    __slots__ = ("__weakref__", "_execution", "_it", "_open", "_owner", "_session", "_watched")

    def __init__(self, session: Session, execution: LoopExecution, items: Iterator[tuple[int, T]]) -> None:
        self._session = session
        self._execution = execution
        self._it = items
        self._open = True
        self._watched = session.watches(execution)
        self._owner = session.journal

    def __next__(self) -> T:
        execution = self._execution
        if not self._open:
            raise StopIteration
        try:
            if self._watched and execution.count:
                self._session.iteration_over(execution)
            index, value = next(self._it)
        except StopIteration:
            self._close("exhausted")
            raise
        except BaseException:
            self._close("raise")
            raise
        execution.count = index + 1
        _set_current(Iteration(self._owner, execution, index, value))
        return value

    def _close(self, how: str) -> None:
        self._open = False
        execution = self._execution
        here = current.get()
        # An iterator that is let go of late must not move the context of loops that were opened since.
        if here is not None and any(i.execution is execution for i in here.chain()):
            current.set(execution.parent)
        self._session.close_loop(execution, how)
        self._session.leave(execution)
        execution.frame = None

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            frame = self._execution.frame
            self._close(_how_left(frame, self._execution.source) if frame is not None else "open")


def _how_left(frame: FrameType, source: LoopSource | None) -> str:
    """How a loop was left that did not exhaust its iterable, from where its frame stands now."""
    line, column = call_position(frame.f_code, frame.f_lasti)
    if source is not None and (line, column) in source.breaks:
        return "break"
    tree = parse_file(frame.f_code.co_filename)
    if tree is not None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Return) and node.lineno <= line <= (node.end_lineno or node.lineno):
                return "return"
    return "raise"


def find_source(frame: FrameType, line: int, column: int) -> LoopSource | None:
    """The `for` statement that a `flor.loop` call at a position feeds."""
    return loop_source(frame.f_code.co_filename, line, column)


def plain_items(iterable: Iterable[T]) -> Iterator[tuple[int, T]]:
    """Index and value, from 0."""
    return enumerate(iterable)
