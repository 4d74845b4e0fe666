"""Which rank of a distributed training this process is, and which training run it belongs to.

The rank comes from the environment first (`RANK` and `WORLD_SIZE`, as torchrun and most launchers set them, then Open
MPI's), else from `torch.distributed` where it is initialised. It is looked for once, at the first flor call: a process that
becomes a rank only later is recorded as a training run of its own, and says so.

The ranks agree on the run's id through `FLOR_RUN_ID`. Without it, each claims its place by creating its journal exclusively, in a
run whose id is made of what the ranks of one launch share: the launcher's process and its start, the rendezvous, the
restart count. Where the place is taken (the launcher started a second training), the next id is tried. On several nodes
the launchers differ, so `FLOR_RUN_ID` must be set there.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flor_dagster.recording import layout
from flor_dagster.recording.identity import Topology, new_run_id
from flor_dagster.recording.runlock import is_held

_VARIABLES = (("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
_RENDEZVOUS = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
LAUNCH_VARIABLES = (
    *(name for pair in _VARIABLES for name in pair), "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE",
    "NODE_RANK", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", *_RENDEZVOUS, "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
)  # fmt: skip
"""What launchers tell their ranks; a replay starts its own ranks with the same, but for the rendezvous."""

_MAX_LAUNCHES = 10_000
ABANDONED_SECONDS = 120.0
"""Ranks that are gone, and began this long before a new one, belong to an earlier launch."""


@dataclass(frozen=True, slots=True)
class Rank:
    """A process among the ranks: its number from 0, how many there are, and how that is known."""

    number: int
    world_size: int
    launcher: str


def find_rank() -> Rank | None:
    """The rank of this process; None where it is on its own."""
    for rank, size in _VARIABLES:
        number, count = os.environ.get(rank, ""), os.environ.get(size, "")
        if number.isdecimal() and count.isdecimal() and int(number) < int(count):
            elastic = "TORCHELASTIC_RUN_ID" in os.environ
            if int(count) > 1 or elastic:
                return Rank(int(number), int(count), "torchrun" if elastic else rank)
    return _rank_of_torch()


def _rank_of_torch() -> Rank | None:
    distributed = sys.modules.get("torch.distributed")
    try:
        if distributed is None or not distributed.is_available() or not distributed.is_initialized():
            return None
        number, count = distributed.get_rank(), distributed.get_world_size()
    except Exception:  # noqa: BLE001 - another library's state never stops a training
        return None
    return Rank(number, count, "torch.distributed") if count > 1 else None


def find_topology(home: Path, *, parent: str = "", made: bool = False) -> Topology:
    """The topology of a process that begins a training run by itself.

    The id is taken out of the environment: a process that the script starts is another training run.

    Args:
        home: the project's `.flor/`.
        parent: the id of the run that this one was started from, where it is known.
        made: whether the script itself made this process.
    """
    given, note = _given_id()
    rank = find_rank()
    if rank is None:
        if given and not _claim(home, given, 0):
            note = _taken(given)
            given = ""
        return Topology(given or new_run_id(), parent=parent, note=note)
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    attempt = int(restart) if restart.isdecimal() else 0
    if given:
        # The id was given to the launch; each restart of it is a training run of its own.
        first = _attempt_id(given, attempt)
        before = _attempt_id(given, attempt - 1) if attempt else parent
        run_id = _free(
            home, rank, lambda number: first if number == 0 else _digest(f"{first} again {number}")
        )
        note = note if run_id == first else _taken(given)
    else:
        run_id, launch = _agree(home, rank, attempt)
        before = _made_id(launch, 0, attempt - 1) if attempt else parent
    leads = _lead(home, run_id, rank.number)
    told = {name: os.environ[name] for name in LAUNCH_VARIABLES if name in os.environ}
    return Topology(
        run_id, rank.number, rank.world_size, rank.launcher, parent=before, leads=leads, variables=told, made=made,
        note=note,
    )  # fmt: skip


def _attempt_id(given: str, attempt: int) -> str:
    return given if attempt == 0 else _digest(f"{given} restarted {attempt}")


def _made_id(launch: str, number: int, attempt: int) -> str:
    return _digest(f"{launch} {number} {attempt}")


def _digest(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:10]).decode("ascii").lower()


def _agree(home: Path, rank: Rank, attempt: int) -> tuple[str, str]:
    """The id of the first launch in which this rank's place is free, and what its launch is made of."""
    launch = _launch(rank)
    return _free(home, rank, lambda number: _made_id(launch, number, attempt)), launch


def _free(home: Path, rank: Rank, nth: Callable[[int], str]) -> str:
    """The first of some ids under which this rank's place is free."""
    for number in range(_MAX_LAUNCHES):
        run_id = nth(number)
        if not _is_abandoned(layout.run_folder(home, run_id)) and _claim(home, run_id, rank.number):
            return run_id
    return new_run_id()


def _given_id() -> tuple[str, str]:
    """The id that the environment gives, empty where it gives none that can be one; and what is to be said of it."""
    given = os.environ.pop("FLOR_RUN_ID", "")
    if not given or layout.is_name(given):
        return given, ""
    note = (
        f"FLOR_RUN_ID={given[:100]!r} is no id of a training run, so this one has an id of its own: letters, digits, "
        "`_`, `.` and `-` make one, 100 at most"
    )
    return "", note


def _taken(given: str) -> str:
    return (
        f"FLOR_RUN_ID={given} is the id of a training run that was recorded before, so this one has an id of its own: "
        "give each training another one"
    )


def _launch(rank: Rank) -> str:
    """What the ranks of one launch on one machine share, and no others do."""
    launcher = os.getppid()
    parts = [socket.gethostname(), str(launcher), str(rank.world_size)]
    parts += [os.environ.get(name, "") for name in _RENDEZVOUS]
    for place in ("/proc/sys/kernel/random/boot_id", f"/proc/{launcher}/stat"):
        with contextlib.suppress(OSError, IndexError):
            text = Path(place).read_text(encoding="ascii", errors="replace")
            parts.append(text.rpartition(")")[2].split()[19] if place.endswith("stat") else text.strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "\n".join(parts)


def _claim(home: Path, run_id: str, rank: int) -> bool:
    """Create the rank's journal; False where another process has."""
    folder = layout.run_folder(home, run_id)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(folder / f"journal.{rank}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        return False
    return True


def _lead(home: Path, run_id: str, rank: int) -> bool:
    """Whether this rank is the first to come: what is done once for a run is done by it."""
    try:
        fd = os.open(layout.run_folder(home, run_id) / "leader", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    os.write(fd, f"{rank}\n".encode())
    os.close(fd)
    return True


def _is_abandoned(folder: Path) -> bool:
    """Whether all the ranks of a run are gone, and began so long ago that this process can't be one of them."""
    locks = sorted(folder.glob("lock*"))
    if not locks or any(is_held(lock) for lock in locks):
        return False
    newest = 0.0
    for journal in folder.glob("journal.*.jsonl"):
        with (
            contextlib.suppress(OSError, ValueError, KeyError, IndexError, TypeError),
            journal.open("rb") as file,
        ):
            newest = max(newest, json.loads(file.readline())[2]["started"] / 1e9)
    return newest > 0 and time.time() - newest > ABANDONED_SECONDS
