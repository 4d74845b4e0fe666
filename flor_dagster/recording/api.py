"""The recording API: what a training script calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any, TypeVar

from flor_dagster.recording import process as sessions
from flor_dagster.recording.channels import Channel
from flor_dagster.recording.context import current
from flor_dagster.recording.loops import Loop
from flor_dagster.recording.records import APPEND_NEWLINE, EndedError, hot
from flor_dagster.recording.session import Session
from flor_dagster.recording.shape import frame_locals
from flor_dagster.recording.telling import Told

T = TypeVar("T")

_caller = sys._getframe  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the call site is part of a record
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
        code, instruction, number, fd, owner, line, records = hot[name]
        if instruction == frame.f_lasti and code is frame.f_code and type(value) is float:
            iteration: Any = _current()
            if iteration.owner is owner:
                context = iteration.id
                if context is not None and value - value == 0.0:
                    data = line((number, context, value), None, APPEND_NEWLINE)
                    try:
                        written = _write(fd, data)
                    except OSError as error:
                        records.broke(data, 0, error)
                        return value
                    if written != len(data):
                        records.broke(data, written, None)
                    return value
    except (KeyError, TypeError, AttributeError):
        pass  # not logged yet, a name that has no hash, outside any loop
    session = sessions.here()
    if session is not None and session.ended:
        session = sessions.here()  # another thread has ended it meanwhile
    if session is not None and not session.ended:
        try:
            session.records.record(name, value, frame)
        except EndedError:
            _log_again(name, value, frame)
        except Exception as error:  # noqa: BLE001 - logging must never stop a training
            session.records.lose(name, error)
    elif session is None:
        sessions.unrecorded(name, value, frame)
    else:
        session.missed(name)
    return value


def _log_again(name: str, value: object, frame: FrameType) -> None:
    """What another thread's `flor.commit` came before belongs to the next run."""
    session = sessions.here()
    if session is not None and not session.ended:
        try:
            session.records.record(name, value, frame)
        except Exception as error:  # noqa: BLE001 - logging must never stop a training
            session.records.lose(name, error)
    elif session is not None:
        session.missed(name)


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
    session = sessions.here()
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
    session = sessions.here()
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
    session = sessions.here()
    if session is None or session.ended:
        yield
        return
    values = frame_locals(_caller(2))  # behind contextlib's own frame
    added = {
        name: (value, tuple(alias for alias, bound in values.items() if bound is value))
        for name, value in objects.items()
    }
    del values  # what the caller lets go of meanwhile is gone
    before = dict(session.walker.registered)
    session.walker.registered.update(added)
    try:
        yield
    finally:
        session.walker.registered = before


def iteration(name: str, index: int, value: Any = None, /) -> Told:
    """One iteration of a named loop that somebody else runs: a trainer that only calls back, a generator, a service.

    Use it as `with flor.iteration("step", number):`; what is recorded inside is in that loop context. The loop's
    iterations are executed by every replay: nothing of it can be skipped. An index that is not greater than the last one
    begins another execution of the loop.

    Args:
        name: a column of the log view.
        index: the iteration's number, from 0.
        value: what the iteration is of, where that is not its number.
    """
    session = sessions.here()
    number = int(index)
    return Told(session, str(name), number, number if value is None else value, _caller(1))


def run(
    name: str = "", /, *, tags: Mapping[str, object] | None = None, args: Mapping[str, Any] | None = None
) -> AbstractContextManager[Session | None]:
    """Record a block as one training run: in a notebook, a service, or several in one script.

    What was being recorded outside any block ends as a run of its own (a flor call behind the block begins the next); the
    block's run ends with it:
    `finished`, or `failed` or `interrupted` by the error that leaves it. A replay of it executes the script up to the
    block, and nothing behind it.

    Args:
        name: free text, shown as the tag `flor/name`.
        tags: free texts kept with the run.
        args: arguments of the run: they win over the defaults in the code, `flor run --arg` wins over them.

    Raises:
        RuntimeError: inside another such block, or inside a named loop.
    """
    named = {"flor/name": name} if name else {}
    given = {str(key): str(value) for key, value in (tags or {}).items()}
    return sessions.run_block(name, named | given, args)


def commit() -> str:
    """End the training run that is being recorded: all of it is on disk, with its version; the next call begins another.

    For notebooks and services, whose process outlives their trainings. Where the run can't end yet (inside a `flor.run`
    block, an asset or a named loop) everything recorded so far is made to survive even a loss of power, and it goes on.

    Returns:
        The id of the training run, empty where none is recorded.
    """
    return sessions.commit()


def tags(**texts: object) -> None:
    """Add tags to the training run; a later one of the same name wins.

    Args:
        texts: by name; kept as text.
    """
    session = sessions.here()
    if session is not None and not session.ended:
        session.add_tags(texts)


def capture(*, print: bool = True, logging: bool = True) -> Channel:  # noqa: A002 - named for what is captured
    """Keep what the training prints and logs from here on, beside its records and out of its metrics: see `flor output`.

    It ends with the run, by `.stop()`, or with the `with` block where it is used as one.

    Args:
        print: calls of `print` to standard output and error.
        logging: what reaches the root logger.
    """
    return Channel(sessions.here(), printed=print, logged=logging)
