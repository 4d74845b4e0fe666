"""Why a loop execution's end state can't stand for it, whatever the values are."""

from __future__ import annotations

import builtins
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from flor_dagster.recording.shape import frame_locals

if TYPE_CHECKING:
    from flor_dagster.recording.loops import LoopExecution
    from flor_dagster.recording.source import LoopSource

# Where wrappers come from that pull from a loop one by one and leave nothing behind.
_PROGRESS = frozenset({"tqdm", "rich"})


def why_unskippable(execution: LoopExecution, is_own: Callable[[str], bool]) -> str:
    """Why an execution's end state can't stand for it, empty where it can.

    Args:
        execution: it is at the end of an iteration, or over.
        is_own: whether a module's code belongs to the repository.
    """
    if execution.source is None:
        return "its `for` statement can't be seen"
    if execution.source.reason:
        return execution.source.reason
    if threading.current_thread() is not threading.main_thread():
        return "it runs in a thread of its own"
    frame = execution.frame
    if frame is None:
        return "its frame is gone"
    for around in execution.parent.chain():
        other = around.execution
        opened = None if other is None else other.frame
        if opened is not None and opened.f_code is frame.f_code and opened is not frame:
            return "its function is open already (recursion)"
    return _consumed_by(execution.source, frame) or thread_beside(is_own)


def _consumed_by(source: LoopSource, frame: FrameType) -> str:
    """A wrapper that only has the name of a known one: what it does when it is over is not known."""
    for chain in source.wrappers:
        found = _value_of(chain, frame)
        module = getattr(found, "__module__", None) or ""
        if found is not enumerate and module.partition(".")[0] not in _PROGRESS:
            return f"it is consumed by `{'.'.join(chain)}(…)`, which is a function of {module or 'an unknown module'}"
    return ""


def _value_of(chain: tuple[str, ...], frame: FrameType) -> Any:
    if not chain:
        return None
    name, *attributes = chain
    at_top = frame.f_code.co_name == "<module>"
    spaces = ({} if at_top else frame_locals(frame), frame.f_globals, vars(builtins))
    found: Any = next((space[name] for space in spaces if name in space), None)
    for attribute in attributes:
        found = getattr(found, attribute, None)
    return found


def thread_beside(is_own: Callable[[str], bool]) -> str:
    """A thread that executes the program's own code now: what it changes, and when, can't be captured."""
    if threading.active_count() < 2:
        return ""
    own = threading.get_ident()
    frames = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else shows other threads' code
    frames.pop(own)  # a frame that refers to itself would keep the loop's iterator alive behind a `break`
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        while frame is not None:
            if is_own(str(frame.f_globals.get("__name__", ""))):
                return f"the thread `{thread.name}` runs `{frame.f_code.co_qualname}` beside it"
            frame = frame.f_back
    return ""
