"""`flor.iteration`: for a trainer that owns its loop and can only say where it is."""

from __future__ import annotations

import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from flor_dagster.recording.context import Iteration, current
from flor_dagster.recording.loops import LoopExecution
from flor_dagster.recording.source import call_position

if TYPE_CHECKING:
    from flor_dagster.recording.session import Session

REASON = "its iterations are told by `flor.iteration`, so that nothing of it can be skipped"


class ToldLoops:
    """The loops of a run whose iterations are told, by the loop execution around them and their name.

    Args:
        session: the run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._open: dict[tuple[int, str], LoopExecution] = {}

    def enter(self, name: str, index: int, value: Any, frame: FrameType) -> Iteration:
        """The next iteration of the loop of this name here; an index that does not grow begins another execution."""
        session = self._session
        parent = session.here()
        around = 0 if parent.execution is None else parent.execution.id
        execution = self._open.get((around, name))
        if execution is None or execution.parent is not parent or index < execution.count:
            if execution is not None:
                self._end(execution, "exhausted")
            line, column = call_position(frame.f_code, frame.f_lasti)
            execution = session.open_told(name, parent, frame, line, column)
            self._open[around, name] = execution
        session.told_iteration(execution, index)
        execution.count = index + 1
        return Iteration(session.journal, execution, index, value)

    def leave(self, iteration: Iteration, how: str) -> None:
        """An iteration is over, by an error or not."""
        execution = iteration.execution
        if execution is not None and how == "raise":
            self._forget(execution)
            self._end(execution, how)

    def end_all(self, how: str = "exhausted") -> None:
        """The run is over."""
        for execution in self._open.values():
            self._end(execution, how)
        self._open.clear()

    def _forget(self, execution: LoopExecution) -> None:
        for key, known in list(self._open.items()):
            if known is execution:
                del self._open[key]

    def _end(self, execution: LoopExecution, how: str) -> None:
        self._session.journal.entry("u", execution.id, None, [REASON])
        self._session.journal.entry("e", execution.id, how, execution.count, time.time_ns())


class Told:
    """One told iteration, as a `with` statement takes it."""

    __slots__ = ("_before", "_frame", "_index", "_iteration", "_name", "_session", "_value")

    def __init__(self, session: Session | None, name: str, index: int, value: Any, frame: FrameType) -> None:
        self._session = session
        self._name = name
        self._index = index
        self._value = value
        self._frame: FrameType | None = frame
        self._iteration: Iteration | None = None
        self._before: Iteration | None = None

    def __enter__(self) -> None:
        session, frame = self._session, self._frame
        if session is not None and not session.enter(self):
            session = self._session = session.successor()  # another thread is ending it
            if session is not None and not session.enter(self):
                return
        if session is None or session.ended or frame is None:
            if session is not None:
                session.leave(self)
            return
        self._frame = None
        self._before = current.get()
        self._iteration = session.told.enter(self._name, self._index, self._value, frame)
        current.set(self._iteration)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, iteration = self._session, self._iteration
        if session is None or iteration is None:
            return
        self._iteration = None
        current.set(self._before)
        session.leave(self)
        if not session.ended:
            session.told.leave(iteration, "exhausted" if kind is None else "raise")
