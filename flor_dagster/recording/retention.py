"""Which checkpoints to let go of, so that the others fit in a number of bytes.

Stride doubling: of the restore points of one loop those stay whose number is a multiple of the stride, the first and the
last two always; where that is still too much the stride doubles. A replay that starts anywhere then executes at most one
stride of iterations more, at most twice what the best choice of as many points would cost. Older runs are thinned
first. A run's last checkpoint always stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LAST_ONES = 2


@dataclass(frozen=True, slots=True)
class Stored:
    """One checkpoint, as retention sees it.

    Args:
        run: the training run's id.
        name: the checkpoint's.
        series: what it is one of: the ends of one loop's iterations, or of the executions of one loop.
        number: its place in the series, from 0.
        objects: content digest → bytes of its buffers.
        own_bytes: what its manifest takes.
        pinned: whether it must stay.
    """

    run: str
    name: str
    series: str
    number: int
    objects: Mapping[str, int]
    own_bytes: int
    pinned: bool = False


def total_bytes(checkpoints: Iterable[Stored]) -> int:
    """What they take together; buffers that several refer to are there once."""
    objects: dict[str, int] = {}
    own = 0
    for checkpoint in checkpoints:
        objects.update(checkpoint.objects)
        own += checkpoint.own_bytes
    return own + sum(objects.values())


def choose(checkpoints: Sequence[Stored], runs: Sequence[str], most: int) -> list[Stored]:
    """The checkpoints to let go of.

    Args:
        checkpoints: all that there are.
        runs: the runs that may be thinned, oldest first.
        most: the bytes that may stay.

    Returns:
        In the order in which they go; fewer than needed where nothing else may.
    """
    uses = Counter(digest for checkpoint in checkpoints for digest in checkpoint.objects)
    total = total_bytes(checkpoints)
    by_run: dict[str, dict[str, list[Stored]]] = {run: {} for run in runs}
    for checkpoint in sorted(checkpoints, key=lambda c: c.number):
        if checkpoint.run in by_run:
            by_run[checkpoint.run].setdefault(checkpoint.series, []).append(checkpoint)
    gone: list[Stored] = []
    stride, longest = 2, max((c.number for c in checkpoints), default=0)
    while total > most and stride <= 2 * max(longest, 1):
        for run in runs:
            for series in by_run[run].values():
                for checkpoint in _beyond(series, stride):
                    if total <= most:
                        return gone
                    series.remove(checkpoint)
                    gone.append(checkpoint)
                    uses.subtract(checkpoint.objects.keys())
                    freed = sum(size for digest, size in checkpoint.objects.items() if not uses[digest])
                    total -= freed + checkpoint.own_bytes
        stride *= 2
    return gone


def _beyond(series: list[Stored], stride: int) -> list[Stored]:
    """What a stride does not keep of a series, in order."""
    return [c for c in series[1:-LAST_ONES] if c.number % stride and not c.pinned]


def steps_more(numbers: Sequence[int], kept: Iterable[int]) -> float:
    """How many iterations more a replay executes on average that starts behind one of the numbers.

    Args:
        numbers: those of the restore points that there were, ascending.
        kept: those that are left.
    """
    left = sorted(kept)
    if not numbers:
        return 0.0
    behind: list[int] = []
    for number in numbers:
        before = [k for k in left if k <= number]
        behind.append(number - before[-1] if before else number + 1)
    return sum(behind) / len(behind)
