"""The recording API: what a training script calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, TypeVar

from flor_dagster.recording import process as sessions
from flor_dagster.recording.context import current
from flor_dagster.recording.loops import Loop
from flor_dagster.recording.records import APPEND_NEWLINE, hot

T = TypeVar("T")

_caller = sys._getframe  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the call site is part of a record
_site = hot.get
_current = current.get
_write = os.write


def log(name: str, value: T, /) -> T:
    """Record a value under a name in the current loop context.

    The record is on disk when this returns: killing the process does not lose it. It never raises into the training for
    a value that can't be kept; what can be said of such a value is kept.

    Args:
        name: a column of the log view.
        value: anything; numbers, text, JSON-able structures, small arrays and scalar tensors keep their type.

    Returns:
        The value.
    """
    frame = _caller(1)
    try:
        # The fast way: a finite float (the subtraction is 0.0 for nothing else), from where this name was logged last,
        # in a loop context that is in the journal. Written out here, since every call would cost as much as it does.
        site = _site(name)
        if (
            site is not None
            and site.lasti == frame.f_lasti
            and site.code is frame.f_code
            and type(value) is float
            and value - value == 0.0
        ):
            iteration = _current()
            if iteration is not None and iteration.owner is site.owner:
                context = iteration.id
                if context is not None:
                    data = site.line((site.number, context, value), None, APPEND_NEWLINE)
                    try:
                        written = _write(site.fd, data)
                    except OSError as error:
                        site.records.broke(0, len(data), error)
                        return value
                    if written != len(data):
                        site.records.broke(written, len(data), None)
                    return value
    except TypeError:  # a name that has no hash
        pass
    session = sessions.active or sessions.start()
    if session is not None and not session.ended:
        try:
            session.records.record(name, value, frame)
        except Exception as error:  # noqa: BLE001 - logging must never stop a training
            session.records.lose(name, error)
    return value


def arg(name: str, default: T, /) -> T:
    """An argument of the training run: recorded, settable from outside, replayed from history.

    Args:
        name: a column of the log view.
        default: its value where none is given, and its type.

    Returns:
        The value given by `flor run --arg`, a Dagster job or a replay, else the default.

    Raises:
        ValueError: when the given text does not read as the default's type.
    """
    session = sessions.active or sessions.start()
    return default if session is None or session.ended else session.argument(name, default)


def loop(name: str, iterable: Iterable[T], /) -> Iterable[T]:
    """A named loop: each iteration is a loop context, each execution can be skipped by a replay.

    Use it as the iterable of a `for` statement, directly or within `enumerate` or `tqdm`.

    Args:
        name: a column of the log view, the iteration's index.
        iterable: what the loop goes over; nothing is pulled ahead.

    Returns:
        An iterable over the same values.
    """
    session = sessions.active or sessions.start()
    if session is None or session.ended:
        return iterable
    return Loop(session, name, iterable, _caller(1))


@contextmanager
def checkpointing(**objects: Any) -> Generator[None]:
    """Register the objects whose state makes up the training: model, optimizer, scheduler and others.

    Objects that the loops' code touches are captured unasked; registering names the ones that only a library touches.

    Args:
        objects: by name.
    """
    session = sessions.active or sessions.start()
    if session is None or session.ended:
        yield
        return
    values = _caller(2).f_locals  # behind contextlib's own frame
    added = {
        name: (value, tuple(alias for alias, bound in values.items() if bound is value))
        for name, value in objects.items()
    }
    before = dict(session.walker.registered)
    session.walker.registered.update(added)
    try:
        yield
    finally:
        session.walker.registered = before
