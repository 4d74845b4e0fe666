"""What a training run's journal says of the environment variables that its program reads."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from flor_dagster.recording import layout, variable_reads
from flor_dagster.recording.masking import (
    is_plain,
    keyed_digest,
    known_secrets,
    looks_like_credential,
    project_key,
    secret_name,
)
from flor_dagster.recording.variable_reads import Read
from flor_dagster.recording.variables import is_numeric

CHILDREN = "variables.jsonl"
"""In a run's folder: what the processes that the training made for its own work have read, as entries of a journal."""


class VariableNotes:
    """Writes each variable that the program reads into a run's journal, as it is read.

    The value stands there in plain text only where it is no likely secret and `plain` allows it; its keyed digest always.

    Args:
        write: writes an entry of the journal.
        home: the `.flor/` folder, with the key of the digests.
        plain: whether values may be kept in plain text.
    """

    def __init__(self, write: Callable[..., object], home: Path, *, plain: bool) -> None:
        self._write = write
        self._home = home
        self.plain = plain
        self._key: bytes | None = None

    def begin(self) -> None:
        """Note what was read before the run began, and from now on each new one."""
        for read in list(variable_reads.reads.values()):
            self.note(read)
        variable_reads.listeners.append(self.note)

    def end(self) -> None:
        """Note no more."""
        with contextlib.suppress(ValueError):
            variable_reads.listeners.remove(self.note)

    def note(self, read: Read) -> None:
        """Write one down; recording never raises into the program that reads."""
        name, value = read.name, read.value
        if is_numeric(name) and not secret_name(name):
            return
        if value is None:
            self._write("r", name, read.by, None, None)
            return
        if secret_name(name) or looks_like_credential(value):
            known_secrets.add({name: value})
        try:
            if self._key is None:
                self._key = project_key(self._home)
            digest = keyed_digest(self._key, value)
        except OSError:
            digest = ""
        kept = value if self.plain and is_plain(name, value) else None
        self._write("r", name, read.by, digest, kept)


def note_for_parent(home: Path, run_id: str, *, plain: bool) -> None:
    """In a process that a training made for its own work: what it reads, the training has read.

    Args:
        home: the `.flor/` folder.
        run_id: the training's run.
        plain: whether values may be kept in plain text.
    """
    path = layout.run_folder(home, run_id) / CHILDREN

    def write(*entry: object) -> None:
        # A line in one call, so that those of several processes do not mix.
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, json.dumps(entry).encode() + b"\n")
            finally:
                os.close(fd)

    variable_reads.listeners.append(VariableNotes(write, home, plain=plain).note)


def read_early(root: Path, environment: Mapping[str, str]) -> None:
    """Note what the sources that are loaded by now may have read before the package was imported.

    Args:
        root: the repository.
        environment: what the process was started with.
    """
    own: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py") and "site-packages" not in file:
            path = os.path.abspath(file)  # noqa: PTH100 - for each loaded module
            if path.startswith(f"{root}{os.sep}"):
                own[name] = path
    variable_reads.read_before(root, own, dict(environment))
