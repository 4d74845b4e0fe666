"""Is a state the one that a checkpoint holds?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from flor_dagster.recording.checkpoints import Manifest
from flor_dagster.recording.differing import MOST, Buffers, Difference, Recogniser, differences
from flor_dagster.recording.state import State, graph_digest


@dataclass(slots=True)
class Comparison:
    """What a comparison of two states found.

    Args:
        compared: so many roots were compared.
        unequal: those that differ.
        first: where they first do, with both values; no more than one per root.
        left_out: places that hold what no replay can give again, with what that is.
    """

    compared: int
    unequal: list[str]
    first: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    left_out: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def compare_states(
    manifest: Manifest, state: State, left_out: Collection[str], recogniser: Recogniser, read: Buffers
) -> Comparison:
    """Compare a captured state with a checkpoint's, root by root, bit for bit, the aliases within a root included.

    Args:
        manifest: the checkpoint.
        state: what was captured here.
        left_out: roots that are not compared.
        recogniser: tells what no replay can give again.
        read: gives the content of a recorded buffer, None where it can't.
    """
    wanted = {root: digest for root, digest in manifest.digests.items() if root not in left_out}
    found = Comparison(len(wanted), [])
    for root, digest in sorted(wanted.items()):
        name = root.partition(":")[2]
        if root not in state.roots:
            found.unequal.append(root)
            found.first.append((name, "is not there"))
        elif graph_digest(state.nodes, state.roots[root]) != digest:
            recorded = manifest.nodes, manifest.roots[root], read
            here = state.nodes, state.roots[root], _buffers_of(state)
            _tell_apart(found, root, list(differences(recorded, here)), recogniser)
    return found


def _buffers_of(state: State) -> Buffers:
    def read(digest: str) -> Any:
        return state.buffers[digest].data if digest in state.buffers else None

    return read


def _tell_apart(found: Comparison, root: str, differs: list[Difference], recogniser: Recogniser) -> None:
    name = root.partition(":")[2]
    kinds = [(one, recogniser.kind(one)) for one in differs]
    real = [one for one, kind in kinds if not kind]
    if real or not differs or len(differs) >= MOST:
        found.unequal.append(root)
        found.first += [(name + one.path, one.sentence) for one in (real or differs)[:1]]
    else:
        found.left_out += [(name + one.path, kind) for one, kind in kinds]
