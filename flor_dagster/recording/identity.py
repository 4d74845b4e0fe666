"""Who a training run is: its id, and its place among the processes that are one run."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field


def new_run_id() -> str:
    """16 random base32 characters, in lower case."""
    return base64.b32encode(secrets.token_bytes(10)).decode("ascii").lower()


@dataclass(frozen=True, slots=True)
class Topology:
    """This process among the ranks of one training run.

    Args:
        run_id: the training run's id, the same on every rank.
        rank: from 0; each rank writes a journal of its own.
        world_size: how many ranks there are.
        launcher: what started the ranks, empty for a process on its own.
        parent: the id of the training run that this one goes on from, or was started from; empty where there is none.
        leads: this process does what is done once for the run: its version, its package list.
        variables: of the environment, those that its launcher set.
        made: whether the script itself made this process.
        note: what is to be said of the id: that another one was asked for.
    """

    run_id: str
    rank: int = 0
    world_size: int = 1
    launcher: str = ""
    parent: str = ""
    leads: bool = True
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    made: bool = False
    note: str = ""

    def header(self) -> dict[str, object]:
        """What the journal's header says of it."""
        fields: dict[str, object] = {"run": self.run_id, "rank": self.rank}
        if self.world_size > 1 or self.launcher:
            fields |= {
                "world_size": self.world_size,
                "launcher": self.launcher,
                "launch": dict(self.variables),
            }
            fields["made"] = self.made
        return fields
