"""How the process ended: seen from the hooks that Python has, from its signals, and from the script's last instruction.

No hook of Python's is called for a `SystemExit`, and nothing keeps its code. `sys.exit`, `exit`, `quit` and `os._exit` are
seen where they are called. A `SystemExit` that is raised by hand is seen by `sys.monitoring` from Python 3.12 on, as it
leaves the script; on 3.11 the sources say what it can have been (see `unseen`).
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import functools
import opcode
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Any, NoReturn

from flor_dagster.recording.program import program
from flor_dagster.recording.unseen import UNKNOWN, code_by_hand

SIGNALS = ("SIGTERM", "SIGHUP")
AT_ONCE = "os._exit"


def hurried(reason: str) -> bool:
    """Whether a process that ends for this reason has no time left: it waits for nothing that is under way."""
    return reason in SIGNALS or reason.startswith(AT_ONCE)


class _Watch:
    """What has been seen of this process's end."""

    def __init__(self, finish: Callable[[str, str], None]) -> None:
        self.finish = finish
        self.pid = os.getpid()
        self.main = _main_frame()
        self.error = getattr(sys, "last_value", None)
        self.leave = sys.exit
        self.monitored = False
        self.signals = False
        self.status = "finished"
        self.reason = ""
        self.thread = ""
        self.left: list[tuple[Any, int]] = []
        self.unwinding: dict[CodeType, Callable[[BaseException], None]] = {}
        self.worker_error: BaseException | None = None

    def exiting(self, status: Any) -> None:
        """`sys.exit`, `exit` or `quit` is called, or a `SystemExit` leaves the script."""
        if threading.current_thread() is threading.main_thread():
            self.left[:] = [(status, self.main.f_lasti if self.main is not None else -1)]

    def end(self) -> None:
        """Python's exit hooks run."""
        if os.getpid() != self.pid:
            return
        if self.worker_error is not None:
            self.finish(*_outcome(self.worker_error))
            return
        # A SystemExit that was caught has not ended the script: it came to its last instruction.
        if self.status == "finished" and _left_by_an_exception(self.main):
            self.status, self.reason = self._how_it_left()
        if self.status == "finished" and not self.reason:
            self.reason = self.thread
        self.finish(self.status, self.reason)

    def end_at_once(self, status: int) -> None:
        """`os._exit` is called: no exit hook will run."""
        if os.getpid() == self.pid:
            with contextlib.suppress(Exception):
                self.finish("failed" if status else "finished", f"{AT_ONCE}({status})")

    def _how_it_left(self) -> tuple[str, str]:
        for code, at in self.left:
            # Elsewhere in the script, the exit was caught and the script went on.
            if self.main is None or at == self.main.f_lasti:
                return _of_code(code)
        error = getattr(sys, "last_value", None)
        if error is not None and error is not self.error:
            # A hook of somebody else has taken the place of ours.
            return _outcome(error)
        code = None if self.monitored else code_by_hand(self.main, self.leave)
        if code is UNKNOWN:
            return "finished", "left by a SystemExit whose code can't be seen on Python 3.11"
        return _of_code(code)


_watch: _Watch | None = None


def _end() -> None:
    if _watch is not None:
        _watch.end()


# Exit hooks run in reverse order: those that the script registers from here on may log, and are before the end.
atexit.register(_end)


def at_end(finish: Callable[[str, str], None]) -> None:
    """Have `finish(status, reason)` called when this process ends; a later one takes an earlier one's place."""
    global _watch
    if _watch is not None and _watch.pid == os.getpid():
        _watch.finish = finish
        _watch.left.clear()
        if not _watch.signals:  # begun in another thread than the main one
            _watch.main = _main_frame()
            _watch_signals(_watch)
        return
    watch = _watch = _Watch(finish)
    _watch_errors(watch)
    _watch_threads(watch)
    _watch_exits(watch)
    _watch_signals(watch)
    _watch_child(watch)


def _watch_child(watch: _Watch) -> None:
    """A process of `multiprocessing` leaves without Python's exit hooks, and calls its own."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if multiprocessing is None or util is None or multiprocessing.parent_process() is None:
        return

    def end() -> None:
        if os.getpid() == watch.pid:
            watch.finish(*_outcome(sys.exc_info()[1] or watch.worker_error))

    util.Finalize(None, end, exitpriority=-100)

    def note(error: BaseException) -> None:
        watch.worker_error = error

    # From Python 3.13 on, it handles the error before it calls them.
    run = type(multiprocessing.current_process()).run
    _watch_unwinding(watch, getattr(run, "__code__", None), note)


def _of_code(code: Any) -> tuple[str, str]:
    """The status and reason of a process that leaves with an exit code or a text."""
    return ("finished", "") if code in (None, 0) else ("failed", f"SystemExit: {code}")


def _outcome(error: BaseException | None) -> tuple[str, str]:
    """The status and reason of a process that an exception is leaving."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "finished", ""
    if isinstance(error, SystemExit) and error.__context__ is not None:
        error = error.__context__  # torch's launcher reports the error and leaves by one
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    return status, f"{type(error).__name__}: {_text(error)}"


def _watch_errors(watch: _Watch) -> None:
    previous = sys.excepthook

    def note(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        watch.status = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        watch.reason = f"{kind.__name__}: {_text(error)}"
        previous(kind, error, trace)

    sys.excepthook = note


def _watch_threads(watch: _Watch) -> None:
    """An error that ends a thread leaves the exit code as it is; the run says so."""
    previous = threading.excepthook

    def note(args: threading.ExceptHookArgs, /) -> None:
        name = args.thread.name if args.thread is not None else "?"
        error = args.exc_value
        if not watch.thread and isinstance(error, Exception) and os.getpid() == watch.pid:
            watch.thread = f"thread {name} died of {args.exc_type.__name__}: {_text(error)}"
        previous(args)

    threading.excepthook = note


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an error's own code may fail
        return "<its text can't be had>"


def _watch_exits(watch: _Watch) -> None:
    leave, leave_at_once = watch.leave, os._exit

    @functools.wraps(leave)
    def exit_noted(status: Any = None, /) -> NoReturn:
        watch.exiting(status)
        leave(status)

    @functools.wraps(leave_at_once)
    def exit_at_once_noted(status: int) -> NoReturn:
        watch.end_at_once(status)
        leave_at_once(status)

    sys.exit = exit_noted
    os._exit = exit_at_once_noted
    quitter: Any = type(getattr(builtins, "exit", None))
    if quitter.__module__ == "_sitebuiltins":
        quit_plainly = quitter.__call__

        def quit_noted(self: Any, code: Any = None) -> None:
            watch.exiting(code)
            quit_plainly(self, code)

        quitter.__call__ = quit_noted
    if watch.main is not None:

        def note(error: BaseException) -> None:
            if isinstance(error, SystemExit):
                watch.exiting(error.code)

        watch.monitored = _watch_unwinding(watch, watch.main.f_code, note)


def _watch_unwinding(watch: _Watch, code: CodeType | None, note: Callable[[BaseException], None]) -> bool:
    """Python 3.12 and later: be told of exceptions that leave a frame. Nothing is paid where none does.

    Returns:
        Whether it will be told.
    """
    if code is None:
        return False
    watch.unwinding[code] = note
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None or len(watch.unwinding) > 1:
        return watch.monitored

    def unwound(left: CodeType, offset: int, error: BaseException) -> None:
        del offset
        told = watch.unwinding.get(left)
        if told is not None:
            told(error)

    for tool in (4, 3):
        if monitoring.get_tool(tool) is None:
            with contextlib.suppress(ValueError):
                monitoring.use_tool_id(tool, "flor_dagster")
                monitoring.register_callback(tool, monitoring.events.PY_UNWIND, unwound)
                monitoring.set_events(tool, monitoring.events.PY_UNWIND)
                return True
    return False


def _watch_signals(watch: _Watch) -> None:
    """A batch system's request to end is an end that can be told; the process then dies of it as it would have."""
    if threading.current_thread() is not threading.main_thread():
        return
    watch.signals = True

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() == watch.pid:
            with contextlib.suppress(Exception):
                watch.finish("interrupted", signal.Signals(number).name)
        os.kill(os.getpid(), number)

    for name in SIGNALS:
        number = getattr(signal, name, None)
        # A handler of the training's own, or of a batch system's library, is left alone.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, note)

    def let_go() -> None:
        # A worker must die of it at once: one of Python's handlers waits for a call like `sem_wait` to return.
        for name in SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is note:
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)

    os.register_at_fork(after_in_child=let_go)


def _main_frame() -> FrameType | None:
    """The frame of the script itself, where it is on this thread's stack."""
    namespace = program().namespace
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame is not None and not (frame.f_globals is namespace and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    return frame


def _left_by_an_exception(frame: FrameType | None) -> bool:
    """Whether a frame that is over did not come to a `return`; True where that can't be known."""
    if frame is None:
        return True
    return not opcode.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")
