"""What a hindsight expression changes: nothing that the program can see, or the replay ends there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from flor_dagster.recording import switches
from flor_dagster.recording.generators import readings
from flor_dagster.recording.obstacles import thread_beside
from flor_dagster.recording.seeing import Pace, Sight, changed, changes, sight

if TYPE_CHECKING:
    from flor_dagster.recording.walking import Walker

doubts: dict[str, tuple[str, bool]] = {}
"""What makes a replay's answer uncertain, such as data files that are not what the recorded run had: name → in words, whether
that is certain."""


class Guard:
    """Looks at the program before and after the hindsight expressions.

    Args:
        walker: finds what the program can see.
        root: the top of the checkout.
        end: ends the process, given the keys of what was evaluated and what it changed.
    """

    def __init__(
        self, walker: Walker, root: str, end: Callable[[tuple[str, ...], list[str]], NoReturn]
    ) -> None:
        self._walker = walker
        self._root = root
        self._end = end
        self._pace = Pace()
        self._looks: dict[
            int, tuple[Sight | dict[str, Any], switches.Readings | None, bool]
        ] = {}  # by thread
        self.wrote: dict[int, list[str]] = {}
        """Thread that evaluates one now → the files of the checkout that it opened for writing meanwhile."""

    def begin(self, keys: tuple[str, ...], frame: FrameType, *, unknown: bool) -> None:
        """Before an expression, or a block of them.

        Args:
            keys: the statements' in it.
            frame: where it is evaluated.
            unknown: whether it may call code of which nothing is known.
        """
        began = time.perf_counter()
        thread = threading.get_ident()
        self._looks.pop(thread, None)
        key = ", ".join(keys)
        if self._pace.due(key, unknown=unknown):
            seen = self._look(key, frame)
            if seen is not None:
                self._looks[thread] = seen, switches.read_all(), unknown
        elif unknown:
            self._looks[thread] = readings(), None, unknown
        self.wrote[thread] = []
        self._pace.paid(time.perf_counter() - began)

    def end(self, keys: tuple[str, ...], frame: FrameType) -> None:
        """After it: all that the program can see must be what it was.

        Args:
            keys: the statements'.
            frame: where it was evaluated.
        """
        key = ", ".join(keys)
        thread = threading.get_ident()
        looked = self._looks.pop(thread, None)
        wrote = self.wrote.pop(thread, ())
        if wrote:
            self._end(
                keys, [f"the file {os.path.relpath(path, self._root)}" for path in dict.fromkeys(wrote)]
            )
        if looked is None:
            return
        before, settings, unknown = looked
        began = time.perf_counter()
        if isinstance(before, Sight):
            now = self._look(key, frame)
            names = [] if now is None else changes(before, now)
            names += [f"the setting {name}" for name in self._walker.turned(settings)[0]] if settings else []
        else:
            names = changed(before, readings())
        self._pace.paid(time.perf_counter() - began)
        beside = thread_beside(self._walker.is_own) if names else ""
        if beside and unknown:
            # Who changed it can't be told.
            doubts[key] = f"{', '.join(names[:5])} changed while {key!r} was evaluated, and {beside}", False
        elif names and not beside:
            self._end(keys, names)

    def _look(self, key: str, frame: FrameType) -> Sight | None:
        """What the program can see; None, and a doubt, where an object's own code fails under the look."""
        try:
            return sight(frame, self._walker)
        except Exception as error:  # noqa: BLE001 - it must not become the old code's error
            words = f"whether {key!r} changes what it observes could not be seen ({type(error).__name__}: {error})"
            doubts[key] = words, False
            return None
