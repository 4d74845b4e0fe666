"""The ledger: what the journals do not say of a project, in the order in which it was decided. One file per store and home.

The database can be made anew from the journals of runs and replays and from this file: statements and the keys that they
were given, questions, where statements stand, replays and their verdicts, cells. Every line is one transaction, appended
before the database commits it:

    ["flor-ledger", 1, {"id": …}]       the header
    [[kind, {…}], …]                    the decisions of one transaction; see `decisions`
    ["void", offset]                    the transaction at this byte was not committed after all

The database remembers up to which byte it has taken it in. What lies behind is taken in when the store is opened, be it that
the process died between the two, that an old copy of the database was put back, or that there is no database any more.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flor_dagster.errors import StoreError

FORMAT = 1

Decision = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Batch:
    """One transaction's decisions. `offset` and `end` are bytes of the ledger."""

    offset: int
    end: int
    decisions: tuple[Decision, ...]


class Ledger:
    """The file. Only the one who holds the database's write lock appends.

    Args:
        path: made when something is first decided.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def id(self) -> str | None:
        """Its name in the database; None while there is no file.

        Raises:
            StoreError: the file is no ledger, or one of a later format.
        """
        try:
            with self.path.open("rb") as file:
                first = json.loads(file.readline() or b"null")
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            first = None
        except OSError as error:
            raise StoreError(
                f"{self.path} can't be read: {error}. Put the right file back, or move this one away"
            ) from error
        match first:
            case ["flor-ledger", int(form), {"id": str(name)}] if form == FORMAT:
                return name
            case ["flor-ledger", form, _]:
                raise StoreError(
                    f"{self.path} has format {form}; this release reads {FORMAT}. Update flor-dagster."
                )
            case _:
                raise StoreError(
                    f"{self.path} does not start as a ledger of flor_dagster; it was left as it is. Put the right file "
                    "back, or move this one away: a new one is made of what the database holds."
                )

    def size(self) -> int:
        """Its bytes."""
        return self.path.stat().st_size

    def create(self, batches: Iterable[Iterable[Decision]]) -> str:
        """Make the file, whole; one that is there is replaced. Its name."""
        name = secrets.token_hex(8)
        lines = [_line(["flor-ledger", FORMAT, {"id": name}])]
        lines += [_line([list(one) for one in batch]) for batch in map(list, batches) if batch]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            partial.write_bytes(b"".join(lines))
            partial.replace(self.path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return name

    def append(self, decisions: Iterable[Decision]) -> Batch:
        """Append one transaction's decisions.

        Raises:
            OSError: the disk did not take them.
        """
        kept = tuple(decisions)
        offset = self._append(_line([list(one) for one in kept]))
        return Batch(offset, self.size(), kept)

    def void(self, batch: Batch) -> None:
        """Take a batch back that the database could not commit."""
        self._append(_line(["void", batch.offset]))

    def _append(self, line: bytes) -> int:
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            size = _whole(fd)
            written = os.write(fd, line)
            if written != len(line):
                os.ftruncate(fd, size)
                raise OSError(f"only {written} of {len(line)} bytes were written to {self.path}")
            return size
        finally:
            os.close(fd)

    def read(self, start: int = 0) -> Iterator[Batch]:
        """The batches from byte `start` on, without those that were taken back; torn lines are skipped."""
        found: dict[int, Batch] = {}
        with self.path.open("rb") as file:
            file.seek(start)
            offset = start
            for raw in file:
                end = offset + len(raw)
                _sort(found, offset, end, raw)
                offset = end
        yield from found.values()


def _whole(fd: int) -> int:
    """Cut off a line that was written in part; the bytes that are left."""
    size = end = os.fstat(fd).st_size
    while end > 0:
        begin = max(0, end - (1 << 16))
        cut = os.pread(fd, end - begin, begin).rfind(b"\n")
        if cut >= 0:
            end = begin + cut + 1
            break
        end = begin
    if end != size:
        os.ftruncate(fd, end)
    return end


def _sort(found: dict[int, Batch], offset: int, end: int, raw: bytes) -> None:
    try:
        parts = json.loads(raw) if raw.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return
    match parts:
        case ["void", int(at)]:
            found.pop(at, None)
        case [*_] if parts and all(_is_decision(one) for one in parts):
            found[offset] = Batch(offset, end, tuple((kind, fields) for kind, fields in parts))
        case _:
            pass


def _is_decision(one: Any) -> bool:
    match one:
        case [str(), dict()]:
            return True
        case _:
            return False


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    raise TypeError(f"a decision can't hold a {type(value).__name__}")
