"""One process replays a training run at a time; the others wait, and say for whom."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from pathlib import Path

from filelock import FileLock, Timeout

from flor_dagster.replay.askers import askers
from flor_dagster.store.models import RunRow

TRY_SECONDS = 0.5


class StoppedError(Exception):
    """What was going on was stopped from outside, on purpose."""


@contextlib.contextmanager
def replays_of(
    home: Path,
    run: RunRow,
    on_line: Callable[[str], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Generator[None]:
    """Hold a training run against other processes that would replay it. The system lets it go when this process ends, however it ends.

    Args:
        home: the `.flor/` folder.
        run: the training run.
        on_line: told whom it waits for.
        stopped: whether to give up waiting.

    Raises:
        StoppedError: waiting was given up.
    """
    folder = home / "replays"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{run.id}.lock")
    said = False
    while True:
        if stopped():
            raise StoppedError
        try:
            lock.acquire(timeout=TRY_SECONDS)
            break
        except Timeout:
            if on_line is not None and not said:
                on_line(_waiting(home, run))
            said = True
    try:
        yield
    finally:
        lock.release()


def _waiting(home: Path, run: RunRow) -> str:
    others = [one.sentence for one in askers(home) if one.alive and one.pid != os.getpid()]
    whose = f": {' or '.join(others)}" if others else ""
    return f"{run.key}: another process replays it{whose}; waiting for its end"
