"""How many children at once: what this machine has, and what one should need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flor_dagster.replay.record import RunRecord

# What an interpreter with its libraries takes, and how often the state of a training is in memory while it is restored.
BASE_BYTES = 300_000_000
TORCH_BYTES = 500_000_000
COPIES = 4


def default_slots() -> int:
    """One child per core that this process may use."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:
        return max(1, os.cpu_count() or 1)


def available_memory() -> float:
    """Bytes that new processes may take; infinity where that can't be seen."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    return next(
        (float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), float("inf")
    )


def memory_needed(record: RunRecord) -> int:
    """Bytes that a replay of a run may take: its libraries, and its largest checkpoint some times over."""
    largest = max((int(fact.get("bytes", 0)) for fact in record.facts.values()), default=0)
    return (
        BASE_BYTES
        + TORCH_BYTES * (torch_threads(record) > 1 or "torch" in _versions(record))
        + COPIES * largest
    )


def torch_threads(record: RunRecord) -> int:
    """The threads that torch had in a run; 1 where it had none."""
    return int(_facts(record).get("torch_threads") or 1)


def _versions(record: RunRecord) -> dict[str, str]:
    return _facts(record).get("versions") or {}


def _facts(record: RunRecord) -> dict[str, Any]:
    return next((parts[1] for _, kind, parts in record.events if kind == "i"), {})
