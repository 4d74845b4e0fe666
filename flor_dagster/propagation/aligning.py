"""Align two runs of statements: pairs that keep their order, with the largest likeness in all."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from flor_dagster.propagation.likeness import Likeness
from flor_dagster.propagation.tree import Node

EQUAL = 1.2
"""Weight of a pair of equal text."""
_FIXED = 3.0  # weight of a pair that is known
_ALIKE = 0.5  # least similarity of a pair
_MOST_PAIRS = 40_000  # statements compared with each other all at once
_PIECE = 16


class Aligner:
    """Aligns runs of statements around the pairs that are known already.

    Args:
        partner: Old statements by the number of their new counterparts; may grow between calls.
        back: New statements by the number of their old counterparts.
        likeness: Compares two statements.
    """

    def __init__(self, partner: Mapping[int, Node], back: Mapping[int, Node], likeness: Likeness) -> None:
        self._partner, self._back = partner, back
        self._likeness = likeness

    def align(self, mine: Sequence[Node], theirs: Sequence[Node]) -> list[tuple[Node, Node, float]]:
        """Order-keeping pairs of two runs of statements with the largest weight in all."""
        fixed = self._fixed_points(mine, theirs)
        pairs: list[tuple[Node, Node, float]] = []
        i = j = 0
        for x, y in [*fixed, (len(mine), len(theirs))]:
            pairs.extend(self._align_gap(mine[i:x], theirs[j:y]))
            if x < len(mine):
                pairs.append((mine[x], theirs[y], _FIXED))
            i, j = x + 1, y + 1
        return pairs

    def _fixed_points(self, mine: Sequence[Node], theirs: Sequence[Node]) -> list[tuple[int, int]]:
        """The longest ordered run of pairs that are known already."""
        at = {n.number: k for k, n in enumerate(theirs)}
        known: list[tuple[int, int]] = []
        for k, node in enumerate(mine):
            other = self._partner.get(node.number)
            if other is not None and other.number in at:
                known.append((k, at[other.number]))
        return _ordered(known)

    def _align_gap(self, mine: Sequence[Node], theirs: Sequence[Node]) -> list[tuple[Node, Node, float]]:
        a = [n for n in mine if n.number not in self._partner]
        b = [n for n in theirs if n.number not in self._back]
        if len(a) * len(b) <= _MOST_PAIRS:
            return self._align_free(a, b)
        # Equal text first, then what is left between, and of that no more than lies near each other.
        pairs: list[tuple[Node, Node, float]] = []
        i = j = 0
        for x, y in [*_equal_runs(a, b), (len(a), len(b))]:
            pairs += self._align_near(a[i:x], b[j:y])
            if x < len(a):
                pairs.append((a[x], b[y], self._weight(a[x], b[y])))
            i, j = x + 1, y + 1
        return pairs

    def _align_near(self, a: Sequence[Node], b: Sequence[Node]) -> list[tuple[Node, Node, float]]:
        """Align long runs piece by piece, each with what stands at the same share of the other one."""
        count = max(1, -(-max(len(a), len(b)) // _PIECE))
        pairs: list[tuple[Node, Node, float]] = []
        for k in range(count):
            mine = a[len(a) * k // count : len(a) * (k + 1) // count]
            theirs = b[len(b) * k // count : len(b) * (k + 1) // count]
            pairs += self._align_free(mine, theirs)
        return pairs

    def _align_free(self, a: Sequence[Node], b: Sequence[Node]) -> list[tuple[Node, Node, float]]:
        if not a or not b:
            return []
        table = [[0.0] * (len(b) + 1) for _ in range(len(a) + 1)]
        weights = [[self._weight(x, y) for y in b] for x in a]
        for i in range(len(a) - 1, -1, -1):
            row, below, weight = table[i], table[i + 1], weights[i]
            for j in range(len(b) - 1, -1, -1):
                best = max(below[j], row[j + 1])
                taken = below[j + 1] + weight[j]
                row[j] = taken if weight[j] and taken > best else best
        pairs: list[tuple[Node, Node, float]] = []
        i = j = 0
        while i < len(a) and j < len(b):
            taken = table[i + 1][j + 1] + weights[i][j]
            if weights[i][j] and abs(table[i][j] - taken) < 1e-9:
                pairs.append((a[i], b[j], weights[i][j]))
                i, j = i + 1, j + 1
            elif table[i + 1][j] >= table[i][j + 1]:
                i += 1
            else:
                j += 1
        return pairs

    def _weight(self, a: Node, b: Node) -> float:
        if a.digest == b.digest:
            return EQUAL if len(a.bag) > 1 else 0.6
        alike = self._likeness(a, b)
        return alike if alike >= _ALIKE else 0.0


def _ordered(known: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest run of pairs, ascending on the left, that ascends on the right, too."""
    tails: list[int] = []
    ends: list[int] = []
    previous: list[int] = []
    for k, (_, y) in enumerate(known):
        spot = bisect_left(tails, y)
        previous.append(ends[spot - 1] if spot else -1)
        if spot == len(tails):
            tails.append(y)
            ends.append(k)
        else:
            tails[spot], ends[spot] = y, k
    run: list[tuple[int, int]] = []
    k = ends[-1] if ends else -1
    while k >= 0:
        run.append(known[k])
        k = previous[k]
    return run[::-1]


def _equal_runs(a: Sequence[Node], b: Sequence[Node]) -> list[tuple[int, int]]:
    """Positions of equal statements that occur as often on either side, in order."""
    at: dict[int, list[int]] = {}
    for k, node in enumerate(b):
        at.setdefault(node.digest, []).append(k)
    mine: dict[int, list[int]] = {}
    for k, node in enumerate(a):
        mine.setdefault(node.digest, []).append(k)
    pairs = [
        pair
        for digest, spots in mine.items()
        if len(spots) == len(at.get(digest, ()))
        for pair in zip(spots, at[digest], strict=True)
    ]
    return _ordered(sorted(pairs))
