"""`flor.capture`: what the training prints and logs elsewhere, kept beside its records and out of its metrics."""

from __future__ import annotations

import builtins
import logging as standard_logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from flor_dagster.recording.session import Session

MAX_CHARACTERS = 16_384


class Channel:
    """Keeps what is printed and logged from its making on, until `stop`, the end of its `with` block or of the run.

    Args:
        session: the run, or None where nothing is recorded.
        printed: whether calls of `print` to standard output and error are kept.
        logged: whether what reaches the root logger is kept.
    """

    def __init__(self, session: Session | None, *, printed: bool, logged: bool) -> None:
        self._session = session
        self._handler: standard_logging.Handler | None = None
        self._print: Callable[..., None] | None = None
        self._ours: Callable[..., None] | None = None
        if session is None or session.ended:
            return
        if printed:
            self._keep_prints()
        if logged:
            self._handler = _Handler(self._keep)
            standard_logging.getLogger().addHandler(self._handler)
        session.channels.append(self)

    def stop(self) -> None:
        """Keep nothing from here on; `print` and the root logger are what they were."""
        if self._handler is not None:
            standard_logging.getLogger().removeHandler(self._handler)
            self._handler = None
        # Where somebody else has replaced `print` since, ours stays under theirs and passes on.
        if self._print is not None and builtins.print is self._ours:
            builtins.print = self._print
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _keep_prints(self) -> None:
        plain = builtins.print
        keep = self._keep

        def print_and_keep(
            *values: object,
            sep: str | None = " ",
            end: str | None = "\n",
            file: Any = None,
            flush: bool = False,
        ) -> None:
            if file is not None and file is not sys.stdout and file is not sys.stderr:
                plain(*values, sep=sep, end=end, file=file, flush=flush)
                return
            # Each value's text is made once: making it may have effects.
            text = (" " if sep is None else sep).join([str(value) for value in values])
            plain(text, end=end, file=file, flush=flush)
            keep("print", "stderr" if file is not None and file is sys.stderr else "stdout", text)

        self._print, self._ours = plain, print_and_keep
        builtins.print = print_and_keep

    def _keep(self, channel: str, source: str, text: str) -> None:
        session = self._session
        if session is not None and not session.ended:
            try:
                session.keep_output(time.time_ns(), channel, source, text[:MAX_CHARACTERS])
            except Exception as error:  # noqa: BLE001 - keeping must never stop a training
                session.records.lose(channel, error)


class _Handler(standard_logging.Handler):
    def __init__(self, keep: Callable[[str, str, str], None]) -> None:
        super().__init__()
        self._keep = keep
        self._inside = threading.local()

    def emit(self, record: standard_logging.LogRecord) -> None:
        if getattr(self._inside, "now", False):
            return
        self._inside.now = True
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - a message whose arguments do not fit it
            text = str(record.msg)
        finally:
            self._inside.now = False
        self._keep("logging", f"{record.levelname}:{record.name}", text)
