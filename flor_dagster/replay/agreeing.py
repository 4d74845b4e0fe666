"""What the ranks of one training run agree on before they are replayed together; pure functions on what each could do.

A collective must be met by every rank. So a loop execution is skipped only where every rank can skip it, a loop is entered
and left at the same iteration on every rank, and of a training that died only the iterations are executed that every rank
came to the end of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flor_dagster.replay.record import Execution, RunRecord

Place = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a rank would enter and leave an outermost loop that only some iterations are wanted of.

    Args:
        first: the first wanted iteration.
        last: the last one, None where the replay goes on after it.
        entries: the iterations that it could be entered at.
    """

    first: int
    last: int | None
    entries: frozenset[int]


@dataclass(frozen=True, slots=True)
class Offer:
    """What one rank could do.

    Args:
        rank: its number.
        places: the path of every loop execution → where its loop stands.
        executed: the path of each that can't be skipped → why.
        bounds: the path of outermost loops of which only some iterations are wanted.
    """

    rank: int
    places: Mapping[str, Place]
    executed: Mapping[str, str]
    bounds: Mapping[str, Bounds]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What all ranks do alike.

    Args:
        executed: the path of each execution that another rank can't skip → why.
        bounds: the path of an outermost loop → the iteration that it is entered at, and the one that the replay ends
            after (None: it goes on).
        end: the outermost loop that the replay ends before, None where it goes on.
    """

    executed: Mapping[str, str]
    bounds: Mapping[str, tuple[int, int | None]]
    end: str | None = None


def agree(offers: Sequence[Offer], last: tuple[str, int] | None) -> Agreement:
    """What the ranks do alike.

    Args:
        offers: one per rank.
        last: of a training that died, the loop and its last iteration that every rank came to the end of.
    """
    executed: dict[str, str] = {}
    for offer in offers:
        for path, place in offer.places.items():
            for other in offers:
                if other is offer or path in executed:
                    continue
                if other.places.get(path) != place:
                    executed[path] = f"rank {other.rank} has no such loop execution"
                elif path in other.executed and path not in offer.executed:
                    executed[path] = f"rank {other.rank} executes it: {other.executed[path]}"
    paths = {path for offer in offers for path in offer.bounds}
    bounds = {path: _within([offer.bounds.get(path) for offer in offers]) for path in sorted(paths)}
    if last is not None:
        begin, stop = bounds.get(last[0], (0, None))
        stop = last[1] if stop is None else min(stop, last[1])
        bounds[last[0]] = begin if begin <= stop else 0, stop
    return Agreement(executed, bounds)


def _within(offered: Sequence[Bounds | None]) -> tuple[int, int | None]:
    """Iterations that hold what every rank wants, from an entry that all of them have."""
    known = [one for one in offered if one is not None]
    if len(known) < len(offered):
        return 0, None
    first = min(one.first for one in known)
    common = frozenset[int].intersection(*(one.entries for one in known))
    lasts = [one.last for one in known if one.last is not None]
    stop = max(lasts) if len(lasts) == len(known) else None
    return max((entry for entry in common if entry <= first), default=0), stop


def last_common(record: RunRecord) -> tuple[str, int] | None:
    """Of a training of several ranks that died in a loop: that loop's path, and its last iteration that all completed.

    The iteration is -1 where some rank never came to the end of the first one, or to the loop.
    """
    died = [found for one in record.ranks if (found := died_in(one)) is not None]
    if not record.peers or not died:
        return None
    paths = {execution.path for execution in died}
    # Where they died in several loops, the one that was opened first is the one that none came out of together.
    order = {path: min(_order(one, path) for one in record.ranks) for path in paths}
    path = min(sorted(paths), key=lambda p: order[p])
    return path, min(_completed(one, path) for one in record.ranks) - 1


def _order(record: RunRecord, path: str) -> int:
    outermost = sorted((e for e in record.executions.values() if e.parent is None), key=lambda e: e.opened)
    return next((number for number, e in enumerate(outermost) if e.path == path), len(outermost))


def _completed(record: RunRecord, path: str) -> int:
    """How many iterations of a loop a rank has certainly come to the end of."""
    execution = record.by_path.get(path)
    if execution is None:
        return 0
    return (
        execution.count if execution.how in ("exhausted", "break", "return") else max(execution.count - 1, 0)
    )


def died_in(record: RunRecord) -> Execution | None:
    """The outermost loop that a run which did not finish died in; None where it died elsewhere, or finished."""
    outermost = [e for e in record.executions.values() if e.parent is None]
    last = max(outermost, key=lambda e: e.opened, default=None)
    if record.finished or last is None or last.how not in ("open", "raise"):
        return None
    return last
