"""Is a state the one that a checkpoint holds?"""

from __future__ import annotations

from collections.abc import Collection

from flor_dagster.recording.checkpoints import Manifest
from flor_dagster.recording.state import State, graph_digest


def unequal_roots(manifest: Manifest, state: State, left_out: Collection[str]) -> tuple[int, list[str]]:
    """Compare a captured state with a checkpoint's, root by root, bit for bit, the aliases within a root included.

    Args:
        manifest: the checkpoint.
        state: what was captured here.
        left_out: roots that are not compared.

    Returns:
        How many roots were compared, and the names of those that differ.
    """
    wanted = {root: digest for root, digest in manifest.digests.items() if root not in left_out}
    unequal = [
        root
        for root, digest in wanted.items()
        if root not in state.roots or graph_digest(state.nodes, state.roots[root]) != digest
    ]
    return len(wanted), sorted(unequal)
