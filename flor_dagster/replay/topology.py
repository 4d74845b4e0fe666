"""The ranks of a replay: the recorded launch, with a rendezvous of its own, and what became of each rank.

Ranks that a launcher started (torchrun, plain variables) are started by us, with the variables that they were told. Where
the script itself made them (`mp.spawn`, processes of its own), it does so again, and each takes its part when it becomes a
rank.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flor_dagster.replay.agreeing import last_common
from flor_dagster.replay.record import RunRecord
from flor_dagster.replay.workers import PACKAGE_PARENT

# Found before the interpreter's own of that name, in every process that the script starts; it gives way to that one.
_HOOK = """\
import importlib.util, os, sys
_here = os.path.dirname(__file__)
_package = {package!r}
sys.path.insert(0, _package)
try:
    from flor_dagster.replay.child import await_rank
    await_rank({plan!r})
finally:
    sys.path.remove(_package)
sys.path[:] = [p for p in sys.path if os.path.realpath(p or ".") != os.path.realpath(_here)]
_own = importlib.util.find_spec("sitecustomize") if sys.modules.pop("sitecustomize") else None
if _own is not None and os.path.realpath(_own.origin or "") != os.path.realpath(__file__):
    import sitecustomize
"""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
SCRIPT = -1
"""In the report of ends, the script that makes the ranks."""
_RANK_AND_SIZE = {"RANK": "rank", "WORLD_SIZE": "world_size"}


def why_not_together(header: Mapping[str, Any], record: RunRecord | None) -> str:
    """Why the ranks of a run can't be replayed together; empty where they can, and where there is one alone.

    Args:
        header: the run's.
        record: its journals, None where they were not read yet.
    """
    if header.get("in_child"):
        return "it was recorded in a process that the script made, where no replay begins"
    size = int(header.get("world_size") or 1)
    if record is None:
        return ""
    for one in record.ranks:
        late = next((p[1]["world_size"] for _, k, p in one.events if k == "i" and p[1].get("world_size")), 0)
        if late:
            return (
                f"it became one of {late} ranks after its first flor call, so the others are training runs of their own, and "
                "one rank's values depend on all of them: call torch.distributed.init_process_group before the first flor call"
            )
    numbers = [one.rank for one in record.ranks]
    lacking = [str(rank) for rank in range(size) if rank not in numbers]
    if size > 1 and lacking:
        return (
            f"it was trained by {size} ranks together, and rank{'s' * (len(lacking) > 1)} {', '.join(lacking)} left no "
            "journal here: one rank's values depend on all of them"
        )
    last = last_common(record)
    if last is not None and last[1] < 0:
        name = last[0].partition("#")[0]
        return f"it ended before each of its {size} ranks had come to the end of an iteration of {name}"
    return ""


def made_by_script(record: RunRecord) -> bool:
    """Whether the script itself made the ranks' processes."""
    pids = {one.header.get("pid") for one in record.ranks}
    if any(one.header.get("made") or one.header.get("ppid") in pids for one in record.ranks):
        return True
    # A journal of before that was noted: no variables told who its rank is.
    return "made" not in record.header and record.header.get("launcher") == "torch.distributed"


def launch_plan(
    record: RunRecord, plans: Sequence[dict[str, Any]], plan_path: Path, report: Path, port: int
) -> dict[str, Any]:
    """What the unit's child is told: the plan of each rank, and how they find each other.

    Args:
        record: the run's journals.
        plans: the ranks' plans.
        plan_path: where this will lie.
        report: where it says how each rank ended.
        port: where they meet.
    """
    for one, plan in zip(record.ranks, plans, strict=True):
        plan["variables"] = _variables(one.header, str(port)) | _own_numeric(record.header, one.header)
    hook = ""
    if made_by_script(record):
        folder = report.with_suffix(".hook")
        folder.mkdir(exist_ok=True)
        text = _HOOK.format(package=PACKAGE_PARENT, plan=str(plan_path))
        (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
        hook = str(folder)
    return {"ranks": list(plans), "hook": hook, "report": str(report)}


def _own_numeric(first: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, str]:
    """The numeric variables that a rank was started with otherwise than the first one (its GPU, its threads)."""
    shared = first.get("variables") or {}
    return {name: v for name, v in (header.get("variables") or {}).items() if shared.get(name) != v}


def _variables(header: Mapping[str, Any], port: str) -> dict[str, str]:
    told: dict[str, str] = dict(header.get("launch") or {})
    if not told:
        told = {name: str(header[key]) for name, key in _RANK_AND_SIZE.items()}
        told |= {"LOCAL_RANK": told["RANK"], "MASTER_ADDR": "", "MASTER_PORT": ""}
    rendezvous = {"MASTER_PORT": port}
    if told.get("MASTER_ADDR") not in _LOOPBACK:
        rendezvous["MASTER_ADDR"] = _LOOPBACK[0]
    return told | {name: value for name, value in rendezvous.items() if name in told}


@contextlib.contextmanager
def rendezvous_port(record: RunRecord, folder: Path) -> Generator[int]:
    """A port of the loopback interface for the ranks of one replay to meet at.

    It is the recorded one where that is free: the training may keep it in its state, which is compared.

    Args:
        record: the run's journals.
        folder: where ports are reserved, so that two replays do not take one.
    """
    told = str((record.header.get("launch") or {}).get("MASTER_PORT", ""))
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as reserved:
        wanted = int(told) if told.isdecimal() else 0
        while True:
            port = free_port(wanted) or free_port(0)
            lock = FileLock(folder / f"{port}.lock")
            with contextlib.suppress(Timeout):
                reserved.enter_context(lock.acquire(blocking=False))
                break
            wanted = 0
        yield port


def free_port(wanted: int = 0) -> int:
    """A port of the loopback interface that nobody listens on now; 0 where the wanted one is taken."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((_LOOPBACK[0], wanted))
        except (OSError, OverflowError):
            return 0
        return int(sock.getsockname()[1])


@dataclass(frozen=True, slots=True)
class RankEnd:
    """How one rank ended: its exit status (None where it was ended because of another one), and when."""

    rank: int
    status: int | None
    at: float


def rank_ends(report: Path) -> dict[int, RankEnd]:
    """What the launcher said of the ranks' ends."""
    try:
        said = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {entry[0]: RankEnd(*entry) for entry in said}


def first_to_fail(bad: Mapping[int, tuple[int, float]]) -> int:
    """Which of the ranks that failed brought the others down.

    Args:
        bad: rank → its exit status, and the time that its journal ended at (0 where it has no end).
    """
    # A killed rank can't have been brought down by a peer's error: that would have been an error of its own.
    return min(bad, key=lambda rank: (bad[rank][0] >= 0, bad[rank][1], rank))
