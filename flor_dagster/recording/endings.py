"""How the process ended: seen from the hooks that Python has, and from the script's last instruction."""

from __future__ import annotations

import atexit
import functools
import opcode
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn


def at_end(finish: Callable[[str, str], None]) -> None:
    """Have `finish(status, reason)` called when this process ends."""
    outcome = ["finished", ""]
    previous = sys.excepthook

    def note(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        outcome[0] = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        outcome[1] = f"{kind.__name__}: {error}"
        previous(kind, error, trace)

    sys.excepthook = note
    pid = os.getpid()
    main = _main_frame()
    leave = sys.exit
    left: list[Any] = []

    # No hook of Python's is called for SystemExit, and nothing keeps its code: the call is where it can be seen.
    @functools.wraps(leave)
    def exit_noted(status: Any = None, /) -> NoReturn:
        if threading.current_thread() is threading.main_thread():
            left[:] = [status]
        leave(status)

    sys.exit = exit_noted

    def end() -> None:
        if os.getpid() != pid:
            return
        # A SystemExit that was caught has not ended the script: it came to its last instruction.
        if outcome[0] == "finished" and left and left[0] not in (None, 0) and _left_by_an_exception(main):
            outcome[:] = ["failed", f"SystemExit: {left[0]}"]
        finish(outcome[0], outcome[1])

    atexit.register(end)
    _at_end_of_child(finish)


def _at_end_of_child(finish: Callable[[str, str], None]) -> None:
    """A process of `multiprocessing` leaves without Python's exit hooks, and calls its own."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if multiprocessing is None or util is None or multiprocessing.parent_process() is None:
        return
    pid = os.getpid()

    def end() -> None:
        if os.getpid() == pid:
            finish(*_outcome(sys.exc_info()[1]))

    util.Finalize(None, end, exitpriority=-100)


def _outcome(error: BaseException | None) -> tuple[str, str]:
    """The status and reason of a process that an exception is leaving."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "finished", ""
    if isinstance(error, SystemExit) and error.__context__ is not None:
        error = error.__context__  # torch's launcher reports the error and leaves by one
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    return status, f"{type(error).__name__}: {error}"


def _main_frame() -> FrameType | None:
    """The frame of the script itself, where it is on this thread's stack."""
    namespace = getattr(sys.modules.get("__main__"), "__dict__", None)
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame is not None and not (frame.f_globals is namespace and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    return frame


def _left_by_an_exception(frame: FrameType | None) -> bool:
    """Whether a frame that is over did not come to a `return`; True where that can't be known."""
    if frame is None:
        return True
    return not opcode.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")
