"""What could not be written of a run, noted where no more disk is needed: in a file that was filled when it was made.

One file per training run, a slot of fixed size per rank: blank, or a JSON object. A full disk can't take a line that says
so; it takes other bytes in the place of blanks.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flor_dagster.errors import ODD
from flor_dagster.recording.descriptors import close_own, identity, open_apart

FILE = "losses"
SLOT = 1024


@dataclass(frozen=True, slots=True)
class Loss:
    """What one rank of a run lost.

    Attributes:
        lines: how many lines of its journal could not be written.
        status: how the run ended; empty while it goes on, or where it was killed.
        reason: of its end.
        t: nanoseconds since the epoch, of its end.
    """

    lines: int
    status: str = ""
    reason: str = ""
    t: int = 0


class Losses:
    """One rank's slot.

    Args:
        folder: the run's.
        rank: its number.

    Raises:
        OSError: the disk has no room for it.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._at = rank * SLOT
        self._path = folder / FILE
        self._fd = open_apart(self._path, os.O_WRONLY | os.O_CREAT)
        self._identity = identity(self._fd)
        self._write(b"")

    def _write(self, text: bytes) -> None:
        if identity(self._fd) != self._identity:  # the program closed it
            self._fd = open_apart(self._path, os.O_WRONLY)
            self._identity = identity(self._fd)
        os.pwrite(self._fd, text.ljust(SLOT - 1) + b"\n", self._at)

    def note(self, loss: Loss) -> None:
        """Write what was lost over what was noted before."""
        fields: dict[str, Any] = {"lines": loss.lines}
        if loss.status:
            fields |= {"status": loss.status, "reason": loss.reason[:100], "t": loss.t}
        with contextlib.suppress(OSError):
            self._write(json.dumps(fields).encode())

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        close_own(fd, self._identity)


def read_losses(folder: Path) -> dict[int, Loss]:
    """Rank → what it lost; ranks that lost nothing are left out."""
    found: dict[int, Loss] = {}
    try:
        data = (folder / FILE).read_bytes()
    except OSError:
        return found
    for rank in range(len(data) // SLOT):
        with contextlib.suppress(*ODD):
            fields = json.loads(data[rank * SLOT : (rank + 1) * SLOT])
            lines, t = int(fields["lines"]), int(fields.get("t", 0))
            if max(lines, t) < 1 << 63 and min(lines, t) >= 0:
                found[rank] = Loss(lines, str(fields.get("status", "")), str(fields.get("reason", "")), t)
    return found
