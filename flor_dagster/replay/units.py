"""The unit of a replay's work: one segment of one training run, as a plain description that any backend can carry out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Why = Literal["", "timeout", "stopped", "worker"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One child's work. Plain texts and numbers, so that it can be pickled and carried out elsewhere.

    Args:
        plan: the file that tells the child what to do; everything that it writes lies beside it.
        folder: the working directory at the start, the checkout.
        output: the file for what it prints, its first and last lines.
        interpreter: the Python that executes it.
        environment: all of its environment at the start.
        late: variables that are set before the old code runs, and that need not be there when the interpreter starts.
        libraries: what a warm worker may have imported beforehand; None where only a cold child will do.
        timeout: seconds after which it is ended.
        seconds: what it should take, for the order of many.
        processes: how many of them work at once in it: one, or as many as there are ranks.
        options: the interpreter's, before everything else on its command line.
    """

    plan: str
    folder: str
    output: str
    interpreter: str
    environment: Mapping[str, str]
    late: Mapping[str, str] = field(default_factory=dict[str, str])
    libraries: tuple[str, ...] | None = None
    timeout: float = 600.0
    seconds: float = 0.0
    processes: int = 1
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a unit's child ended.

    Args:
        status: its exit status, negative for the signal that ended it.
        seconds: how long it took, from its start.
        why: why it was ended from outside, empty where it ended by itself; `worker` where its worker was lost.
        warm: whether it was forked from a warm worker.
        cpu_seconds: what it and its children used.
        peak_bytes: the most memory that it held.
    """

    status: int
    seconds: float
    why: Why = ""
    warm: bool = False
    cpu_seconds: float = 0.0
    peak_bytes: int = 0


class Backend(Protocol):
    """Carries out units. Local processes here; a cluster's workers can do the same."""

    @property
    def slots(self) -> int:
        """How many units run at once."""
        ...

    def run(self, unit: Unit) -> Ended:
        """Carry out one unit and wait for its end; called from many threads.

        Raises:
            ReplayError: when the unit can't be started at all, or the backend is closed.
        """
        ...

    def stop(self) -> None:
        """End everything that runs, now: each unit in progress ends as `stopped`, no other one begins."""
        ...

    def close(self) -> None:
        """Give back what the backend holds."""
        ...
