"""Who replays, as others see it: each process that asks has a note in `.flor/askers/`, which says whether it lives.

A note is named for its process (`recording.owners`), so that one left by a process that was killed is known by the name. Other
machines, which can't see the process, go by its beat: the note's time, renewed while the process lives.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from flor_dagster.recording.owners import is_gone, is_here, number_of, own_mark

FOLDER = "askers"
BEAT_SECONDS = 20.0
SILENT_SECONDS = 180.0
"""A process of another machine that was silent for so long counts as gone."""
_MOST_BYTES = 10_000
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Asker:
    """A process that replays, or replayed until it was killed.

    Attributes:
        what: What it is, in words: a command, or a Dagster run.
        dagster_run: The Dagster run's id, empty where it is none.
        pid: Its number.
        host: Its machine.
        began: When it began to ask.
        alive: Whether it lives.
    """

    what: str
    dagster_run: str
    pid: int
    host: str
    began: datetime
    alive: bool

    @property
    def sentence(self) -> str:
        """Who it is."""
        return f"{self.what} (process {self.pid} on {self.host}, since {self.began:%Y-%m-%d %H:%M:%S})"


class Asking:
    """This process's note, as long as it asks. A context manager.

    Args:
        home: the `.flor/` folder.
        what: what it is, in words.
        dagster_run: the Dagster run's id.
    """

    def __init__(self, home: Path, what: str, dagster_run: str = "") -> None:
        self._path = home / FOLDER / f"{own_mark()}.{next(_numbers)}.json"
        self._said = {
            "what": what,
            "dagster_run": dagster_run,
            "host": socket.gethostname(),
            "began": time.time(),
        }
        self._over = threading.Event()

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):  # a full disk keeps nobody from asking
            self._path.parent.mkdir(exist_ok=True)
            partial = self._path.with_suffix(".tmp")
            partial.write_text(json.dumps(self._said), encoding="utf-8")
            partial.replace(self._path)
        threading.Thread(target=self._beat, name="flor-asking", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._path)


def askers(home: Path) -> tuple[Asker, ...]:
    """Whose notes lie there, those of killed processes included; what is no note is passed over."""
    found: list[Asker] = []
    for path in _notes(home):
        try:
            said: Any = json.loads(path.read_bytes()) if path.stat().st_size <= _MOST_BYTES else None
            silent = time.time() - path.stat().st_mtime > SILENT_SECONDS
            alive = not is_gone(path.name) and (is_here(path.name) or not silent)
            what, run, host = (str(said[name])[:200] for name in ("what", "dagster_run", "host"))
            began = datetime.fromtimestamp(float(said["began"])).astimezone()
        except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError):
            continue
        found.append(Asker(what, run, number_of(path.name), host, began, alive))
    return tuple(sorted(found, key=lambda one: one.began))


def forget_gone(home: Path) -> None:
    """Delete the notes of processes that are known to be gone."""
    for path in _notes(home, ""):
        if is_gone(path.name):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _notes(home: Path, suffix: str = ".json") -> list[Path]:
    folder = home / FOLDER
    if not folder.is_dir() or folder.is_symlink():
        return []
    return sorted(path for path in folder.glob(f"own-*{suffix}") if path.is_file() and not path.is_symlink())
