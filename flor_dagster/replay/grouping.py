"""Sums over more than two ranks: torch's DDP groups them otherwise in a process's first backward pass than in later ones.

It puts the gradients into its buckets anew once it knows in which order they come. Where each bucket is cut among the ranks
decides in which order a number is summed, and of more than two summands the order shows in the last bit. Seen with three
ranks on gloo: the first gradients after a restore differed by a bit that the next state no longer showed.
"""

# ruff: noqa: SLF001 - torch has no other place to look at

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from flor_dagster.recording.replaying import on_restore
from flor_dagster.replay.watching import give_up

_NAME = "torch.nn.parallel.distributed"


def watch_sums(plan: Mapping[str, Any]) -> None:
    """End a replay that would sum gradients of several ranks otherwise than the recorded run: it is executed from its beginning.

    Args:
        plan: a rank's.
    """
    if plan["world_size"] > 2:
        on_restore.append(_guard)


def _guard() -> None:
    """Look at every forward pass of DDP from here on."""
    distributed: Any = sys.modules.get(_NAME)
    module: Any = getattr(distributed, "DistributedDataParallel", None)
    if module is None or hasattr(module, "_flor_plain"):
        return
    plain = module._flor_plain = module._pre_forward
    torch: Any = sys.modules["torch"]

    def pre_forward(self: Any, *args: Any, **named: Any) -> Any:
        if torch.is_grad_enabled() and self.require_backward_grad_sync and not _is_settled(self):
            give_up("DistributedDataParallel would group the sums of its ranks otherwise than it did then")
        return plain(self, *args, **named)

    module._pre_forward = pre_forward


def _is_settled(module: Any) -> bool:
    """Whether its buckets are those of all later passes."""
    if module.find_unused_parameters and not module.static_graph:
        return True  # they stay as they were made
    return bool(module._get_ddp_logging_data().get("has_rebuilt_buckets"))
