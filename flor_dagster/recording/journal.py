"""The journal: one append-only file per training run and rank, format 1.

Every line is one JSON array, written at once by one unbuffered `os.write` that ends in a newline, so that nothing that
`flor.log` has returned from is lost when the process is killed. A torn last line is dropped at reading. A record's key
is (journal, byte offset). The first element tells the kind; a number there means a record:

    [call, context, value]                             one record
    ["flor", 1, {...}]                                 header: the run, its process, its environment
    ["n", call, name, file, function, line, column]    a call site of `flor.log`, interned; ints 1, 2, …; column 0 where it is not known
    ["l", loop, context, name, ordinal, file, function, line, column, t]   a loop execution opened
    ["c", context, loop, index, value]                 an iteration of it, interned when first needed
    ["p", loop, thread]                                an outermost loop runs in a thread that is not the main one
    ["e", loop, how, count, t]                         it ended: exhausted, break, return, raise or open
    ["t", {name: text}]                                tags that were added while it ran
    ["o", context, t, channel, source, text]           what was printed or logged under `flor.capture`; channel: print or logging
    ["a", name, value, default, source]                an argument; source: default, given or history
    ["i", {...}]                                       the libraries' versions and thread counts, at the first loop
    ["r", name, by, digest, value]                     an environment variable that the program read, at its first reading; by: own,
                                                       library or listed; digest null where absent; value null where not kept
    ["b", root, {...}, drawn]                          the state that it was in before the script drew from it, if another; the
                                                       fourth element where its library was imported before this package
    ["g", root, {...}]                                 the state that a shared random generator was first seen in
    ["k", {...}]                                       a checkpoint exists (its manifest's summary)
    ["u", loop, index, [reason, …]]                    an end state that could not be captured (index null: the loop's)
    ["m", {file: git blob id}]                         modules that were loaded: the repository's, and others' code
    ["w", code, message]                               a warning that belongs to the run (records lost, …)
    ["s", loop, index, checkpoint]                     replay: an end state was put back
    ["d", loop, index, compared, [root, …]]            replay: digests compared with the recorded ones, the unequal ones
    ["x", what, detail]                                replay: it left the record's path; `data` and `doubt`: it read a file
                                                       that is, or may be, another one; `effect` adds what was changed
    ["v", {...}]                                       a replay's verdict
    ["z", status, reason, t]                           the end: finished, failed or interrupted

Context 0 is the run itself. `file` is relative to the repository where it lies in one, else absolute. `t` is nanoseconds
since the epoch. `line` and `column` of a loop are where the `flor.loop(...)` call starts. Values: see `values`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flor_dagster.errors import JournalError
from flor_dagster.recording.descriptors import Identity, close_own, identity, open_apart
from flor_dagster.recording.losses import Loss, Losses

FORMAT = 1

_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def line_bytes(*parts: Any) -> bytes:
    """The line of an entry of plain JSON values."""
    return _dumps(parts).encode() + b"\n"


class JournalWriter:
    """Appends lines to one journal. A failing disk stops the journal, never the training.

    Args:
        path: the file; created with its folder, opened for appending only.
        fresh: nothing may have been written to it, nor be written by another process at the same time.

    Raises:
        OSError: it can't be opened, or is not fresh.
    """

    __slots__ = ("error", "fd", "identity", "losses", "lost", "moved", "path", "pid", "regained", "torn")

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        self.lost = 0
        self.losses: Losses | None = None
        self.error: OSError | None = None
        self.torn = False
        self.pid = os.getpid()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.fd = open_apart(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.identity = identity(self.fd)
        self.regained = 0
        self.moved: Callable[[], None] | None = None
        """Told that lines go to another descriptor from here on."""
        if fresh and os.fstat(self.fd).st_size:
            close_own(self.fd, self.identity)
            raise FileExistsError(errno.EEXIST, "another training run was recorded there", str(path))

    def write(self, data: bytes) -> bool:
        """Append whole lines, each with its newline; False where they could not be kept."""
        if self.torn:
            # What follows a torn line must not become a part of it.
            data = b"\n" + data
        try:
            written = os.write(self.fd, data)
        except OSError as error:
            if error.errno == errno.EBADF and self.regain():
                return self.write(data)
            self.broke(0, len(data), error)
            return False
        if written == len(data):
            self.torn = False
            return True
        self.broke(written, len(data), None)
        return False

    def broke(self, written: int, size: int, error: OSError | None) -> None:
        """A line was written in part, or not at all: it is counted, and the next one ends it."""
        self.lose()
        self.torn = self.torn or written > 0
        if self.error is None:
            self.error = error or OSError(errno.ENOSPC, f"only {written} of {size} bytes were written")

    def lose(self) -> None:
        """Count a line that is lost; from time to time the count is noted, for a run that will be killed."""
        self.lost += 1
        if self.losses is not None and self.lost & (self.lost - 1) == 0:
            self.losses.note(Loss(self.lost))

    def regain(self) -> str:
        """Open the file again by its path where the program closed our descriptor.

        Returns:
            What became of the descriptor; empty where it is still ours, or the file can't be had back.
        """
        there = identity(self.fd) if self.fd >= 0 else self.identity
        if there == self.identity:
            return ""
        try:
            new = open_apart(self.path, os.O_WRONLY | os.O_APPEND)
        except OSError:
            return ""
        if (found := identity(new)) != self.identity:
            close_own(new, found)
            return ""
        self.fd = new
        self.regained += 1
        if self.moved is not None:
            self.moved()
        return "closed" if there is None else "given to another file"

    @property
    def deleted(self) -> bool:
        """Whether its file has no name any more: what is written to it goes with the process."""
        try:
            return identity(self.fd) == self.identity and os.fstat(self.fd).st_nlink == 0
        except OSError:
            return False

    def revive(self) -> None:
        """Write the file anew after it was deleted, with all that was in it; later lines go there, too.

        Raises:
            OSError: it can't be written, or what was in it can't be had back on this system.
        """
        with Path(f"/proc/self/fd/{self.fd}").open("rb", buffering=0) as old:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = open_apart(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            own = identity(new)
            try:
                _copy(old.fileno(), new)
                os.dup2(new, self.fd, inheritable=False)
                self.identity = own
                _copy(old.fileno(), new)  # what another thread has written meanwhile
            finally:
                close_own(new, own)

    def entry(self, *parts: Any) -> bool:
        """Append one entry of plain JSON values."""
        return self.write(line_bytes(*parts))

    def sync(self) -> None:
        """Have what is written survive a loss of power."""
        with contextlib.suppress(OSError):
            os.fsync(self.fd)

    @property
    def closed(self) -> bool:
        """Whether nothing is written any more."""
        return self.fd < 0

    def close(self) -> None:
        """Close the file; later writes are counted as lost."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            retire(fd, self.identity)

    def disown(self) -> None:
        """Close it in a forked child, where no other thread is left."""
        fd, self.fd = self.fd, -1
        close_own(fd, self.identity)


def _copy(source: int, target: int) -> None:
    while data := os.read(source, 1 << 20):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]


RETIREMENT_SECONDS = 10.0
_retired: list[tuple[float, int, Identity | None]] = []


def retire(fd: int, own: Identity | None) -> None:
    """Close a file of ours so that a thread that is about to write to it never writes to another file of its number.

    Its number leads nowhere for a while, and is free again when a later one is closed.
    """
    now = time.monotonic()
    while _retired and now - _retired[0][0] > RETIREMENT_SECONDS:
        close_own(*_retired.pop(0)[1:])
    if identity(fd) != own:
        return
    try:
        nowhere = open_apart(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, fd, inheritable=False)
        close_own(nowhere, identity(nowhere))
    except OSError:
        close_own(fd, own)
    else:
        _retired.append((now, fd, identity(fd)))


class Entry(NamedTuple):
    """One whole line: where it starts in the file, in bytes, and its parsed array."""

    offset: int
    parts: list[Any]


def read_journal(path: Path, start: int = 0) -> Iterator[Entry]:
    """The whole entries of a journal from byte `start` on; a torn line is skipped.

    Args:
        path: the journal.
        start: 0, or where an earlier reading stopped (`offset` of an entry, or `journal_end`).

    Raises:
        JournalError: when the file's header is not one of ours, or of a later format.
    """
    with path.open("rb") as file:
        file.seek(start)
        offset = start
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            parts = _parsed(raw)
            if isinstance(parts, list) and parts:
                if offset == 0:
                    check_header(parts, path)
                yield Entry(offset, parts)
            elif offset == 0:
                raise JournalError(
                    f"{path} does not start as a journal of flor_dagster; it was left as it is."
                )
            offset += len(raw)


_decoder: Any = json.JSONDecoder()
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once


def _parsed(raw: bytes) -> Any:
    """A line's value, None where it is torn. What we wrote is plain ASCII without a blank: that goes three times as fast."""
    try:
        text = raw.decode("ascii")
        value, end = _scan(text, 0)
        if text[end:] == "\n":
            return value
    except (ValueError, StopIteration, RecursionError):
        pass
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def journal_end(path: Path) -> int:
    """The byte behind the last whole line: where a reader that has taken everything goes on."""
    size = path.stat().st_size
    with path.open("rb") as file:
        step = 1 << 16
        end = size
        while end > 0:
            begin = max(0, end - step)
            file.seek(begin)
            cut = file.read(end - begin).rfind(b"\n")
            if cut >= 0:
                return begin + cut + 1
            end = begin
    return 0


def note_lost(path: Path, message: str) -> None:
    """Append to the journal of a run that has ended that something of it was lost; the message begins with how many."""
    with contextlib.suppress(OSError):
        fd = open_apart(path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, line_bytes("w", "lost", message))
        finally:
            close_own(fd, identity(fd))


def correct_end(path: Path, status: int) -> None:
    """Append to the journal of a process that is over how it ended, where it had said another thing.

    Args:
        path: the journal.
        status: the exit status of its process, as the process that started it sees it.
    """
    said = [entry.parts for entry in read_journal(path) if entry.parts[0] == "z"]
    if status != 0 and said and said[-1][1] == "finished":
        end = line_bytes("z", "failed", f"exit status {status}", said[-1][3])
        with path.open("ab") as file:
            file.write(end)


def check_header(parts: list[Any], path: Path) -> dict[str, Any]:
    """The header's fields.

    Raises:
        JournalError: when this is no header, or one of a format that this release does not know.
    """
    if len(parts) != 3 or parts[0] != "flor" or not isinstance(parts[2], dict):
        raise JournalError(f"{path} does not start as a journal of flor_dagster; it was left as it is.")
    if parts[1] != FORMAT:
        raise JournalError(
            f"{path} is a journal of format {parts[1]}; this release reads format {FORMAT}. "
            "Update flor-dagster to read it."
        )
    return parts[2]


_HEADER: Mapping[str, tuple[type, ...]] = {
    "run": (str,), "mode": (str,), "entrypoint": (str,), "host": (str,), "origin": (str,), "parent": (str,), "module": (str,),
    "root": (str,), "packages": (str,), "launcher": (str,), "name": (str,), "cwd": (str,), "began_in": (str,), "python": (str,),
    "rank": (int,), "world_size": (int,), "pid": (int,), "started": (int,), "nth": (int,), "cores": (int,),
    "tags": (dict,), "given": (dict,), "launch": (dict,), "process": (dict,), "argv": (list,), "masked": (list,), "paths": (list,),
}  # fmt: skip


def checked_header(header: dict[str, Any]) -> dict[str, Any]:
    """A header whose fields are of the types that a recorder writes.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name, kinds in _HEADER.items():
        value = header.get(name)
        if value is not None and (
            type(value) not in kinds or (type(value) is int and not -1 <= value < 1 << 63)
        ):
            raise ValueError(f"its header gives {str(value)[:50]!r} as `{name}`")
    if not isinstance(header.get("run"), str) or type(header.get("started")) is not int:
        raise ValueError("its header does not say which run it is, and when it began")
    return header
