"""Statements that are placed together keep their order.

Each finds its best place alone; where two of one block would change places, the places are chosen once more, together.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from flor_dagster.propagation.gaps import Gap
from flor_dagster.propagation.placing import Scored

_OPTIONS = 12  # places looked at for each statement
_SWAPPED = 1.5  # what evidence must be worth that statements with others between them changed places


def in_order(asked: Sequence[tuple[Gap, tuple[Scored, ...]]]) -> list[Scored]:
    """Choose a place for each of several statements.

    Args:
        asked: For each statement, in source order, its place in the new version and its possible places, best first.

    Returns:
        One place for each. Statements that stand side by side in the new version keep their order wherever that is
        possible; others of the same block, unless much more speaks for another one.
    """
    chosen: list[Scored] = []
    start = 0
    for end in range(1, len(asked) + 1):
        if end == len(asked) or asked[end][0].block is not asked[start][0].block:
            chosen.extend(_run(asked[start:end]))
            start = end
    return chosen


def _run(asked: Sequence[tuple[Gap, tuple[Scored, ...]]]) -> list[Scored]:
    """The best places of statements of one block: each is weighed against the one before it."""
    best = [candidates[0] for _, candidates in asked]
    pairs = list(itertools.pairwise(best))
    if all(_follows(a, b) for a, b in pairs):
        return best
    rows: list[list[tuple[float, int]]] = []
    for position, (gap, candidates) in enumerate(asked):
        row: list[tuple[float, int]] = []
        for scored in candidates[:_OPTIONS]:
            if not position:
                row.append((scored.score, 0))
                continue
            beside = asked[position - 1][0] == gap
            ways = [
                (so_far - (0.0 if _follows(asked[position - 1][1][k], scored) else _cost(beside=beside)), -k)
                for k, (so_far, _) in enumerate(rows[-1])
            ]
            value, back = max(ways)
            row.append((value + scored.score, -back))
        rows.append(row)
    at = max(range(len(rows[-1])), key=lambda k: (rows[-1][k][0], -k))
    places: list[Scored] = []
    for position in range(len(asked) - 1, -1, -1):
        places.append(asked[position][1][at])
        at = rows[position][at][1]
    return places[::-1]


def _cost(*, beside: bool) -> float:
    return 100.0 if beside else _SWAPPED


def _follows(a: Scored, b: Scored) -> bool:
    """Whether a place comes after another one, or is the same."""
    return position_of(a.gap) <= position_of(b.gap)


def position_of(gap: Gap) -> tuple[int, int]:
    """Where a gap is in the source, by the number of the statement that it is before."""
    if gap.after is not None:
        return gap.after.number, 1
    if gap.before is not None:
        return gap.before.last + 1, 0
    return gap.block.owner.number + 1, 0
