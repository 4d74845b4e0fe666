"""What of a cell is answered already: the iterations that earlier questions asked for and got.

A question with iterations leaves its cell open, and what it asked is remembered with the cell. The next question computes
the rest only. Covered is an iteration with everything in it; what lies outside of every covered iteration is open, whether
the statement would fire there or not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flor_dagster.propagation import PROPAGATOR_VERSION
from flor_dagster.replay.iterations import Iterations, asked_indices
from flor_dagster.replay.lines import shifted
from flor_dagster.replay.reach import Reach, Site

if TYPE_CHECKING:
    from flor_dagster.replay.record import Execution, RunRecord
    from flor_dagster.store.models import CellRow, Fidelity

_WORST_FIRST: tuple[Fidelity, ...] = ("diverged", "unverified", "within tolerance", "exact", "recorded")


@dataclass(frozen=True, slots=True)
class Coverage:
    """The iterations that are answered.

    Args:
        loops: path of a loop execution → its covered iterations.
    """

    loops: Mapping[str, frozenset[int]] = field(default_factory=dict[str, frozenset[int]])

    def __bool__(self) -> bool:
        return any(self.loops.values())

    @property
    def count(self) -> int:
        """How many iterations are covered by themselves, not by one around them."""
        return sum(map(len, self.loops.values()))

    def covers(self, path: str, index: int) -> bool:
        """Whether an iteration of the loop execution at a path, or one around it, is covered."""
        if index in self.loops.get(path, ()):
            return True
        return any(inner in self.loops.get(loop, ()) for loop, inner in _around(path))

    def holds(self, other: Coverage) -> bool:
        """Whether everything that another one covers is covered here."""
        return all(self.covers(path, index) for path, indices in other.loops.items() for index in indices)

    def with_(self, other: Coverage) -> Coverage:
        """Both."""
        loops = {
            path: self.loops.get(path, frozenset()) | other.loops.get(path, frozenset())
            for path in dict.fromkeys((*self.loops, *other.loops))
        }
        return Coverage(loops)

    def common(self, other: Coverage) -> Coverage:
        """What both cover."""
        loops: dict[str, frozenset[int]] = {}
        for one, another in ((self, other), (other, self)):
            for path, indices in one.loops.items():
                here = frozenset(index for index in indices if another.covers(path, index))
                loops[path] = loops.get(path, frozenset()) | here
        return Coverage({path: indices for path, indices in loops.items() if indices})


NOWHERE = Coverage()


def _around(path: str) -> Iterator[tuple[str, int]]:
    """The iterations that the loop execution at a path lies in, innermost first."""
    end = path.rfind("]/")
    while end >= 0:
        loop, _, index = path[:end].rpartition("[")
        if not index.isdecimal():
            return  # a name with such characters in it
        yield loop, int(index)
        end = path.rfind("]/", 0, end)


def common_of(coverages: Iterable[Coverage]) -> Coverage:
    """What all of them cover; nothing where there are none."""
    found: Coverage | None = None
    for one in coverages:
        found = one if found is None else found.common(one)
    return found or NOWHERE


def covered_by_asking(record: RunRecord, iterations: Iterations) -> Coverage:
    """The iterations that are answered once a question with iterations is: those of the innermost loops that it names.

    Args:
        record: the run's journal.
        iterations: the question's.
    """
    executions = record.executions
    named = [
        e
        for e in executions.values()
        if asked_indices(iterations, e) is not None and _is_asked(record, e, iterations)
    ]
    around: set[tuple[int, int]] = (
        set()
    )  # iterations that are only answered in part: a loop in them is named, too
    for execution in named:
        here = execution
        while here.parent is not None:
            around.add((here.parent, here.parent_index or 0))
            here = executions[here.parent]
    loops = {
        e.path: frozenset(i for i in asked_indices(iterations, e) or () if (e.id, i) not in around)
        for e in named
    }
    return Coverage({path: indices for path, indices in loops.items() if indices})


def _is_asked(record: RunRecord, execution: Execution, iterations: Iterations) -> bool:
    parent, index = execution.parent, execution.parent_index
    while parent is not None:
        around = record.executions[parent]
        wanted = asked_indices(iterations, around)
        if wanted is not None and index not in wanted:
            return False
        parent, index = around.parent, around.parent_index
    return True


def is_all(
    record: RunRecord,
    reach: Reach,
    places: Sequence[tuple[str, str, int]],
    coverage: Coverage,
    lines_before: Mapping[str, Sequence[int]],
) -> bool:
    """Whether a statement can have fired nowhere but in covered iterations.

    That is so where it stands in the body of a `flor.loop`, in the function of the loop itself, and every iteration of every
    execution of that loop is covered.

    Args:
        record: the run's journal.
        reach: the version's sources with the statement in them.
        places: file, function and line of each of the statement's lines.
        coverage: what is covered.
        lines_before: file → lines that were added to it; the record's lines are those of the file without them.
    """
    sites: dict[tuple[str, int, int], list[Execution]] = {}
    for execution in record.executions.values():
        sites.setdefault((execution.file, execution.line, execution.column), []).append(execution)

    def covered(file: str, function: str, line: int) -> bool:
        for (where, at, column), executions in sites.items():
            if where != file or executions[0].function != function:
                continue
            loop = reach.loop(Site(file, shifted(at, tuple(lines_before.get(file, ()))), column))
            if loop is None or not any(_directly_in(statement, line) for statement in loop.body):
                continue
            if all(coverage.covers(e.path, index) for e in executions for index in range(e.count)):
                return True
        return False

    return bool(places) and all(covered(*place) for place in places)


def _directly_in(statement: ast.stmt, line: int) -> bool:
    """Whether a line lies in a statement, and in nothing in it that may run at another time."""
    if not statement.lineno <= line <= (statement.end_lineno or statement.lineno):
        return False
    later = (ast.Lambda, ast.GeneratorExp, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return not any(
        isinstance(node, later) and node.lineno <= line <= (node.end_lineno or node.lineno)
        for node in ast.walk(statement)
    )


@dataclass(frozen=True, slots=True)
class Share:
    """What of a cell the answer to a question settles.

    Args:
        whole: whether nothing stays open.
        asked: the iterations that were asked for, where only some were.
        earlier: the cell as it was, where a part of it was answered before and was not computed again.
    """

    whole: bool
    asked: Coverage
    earlier: CellRow | None


# With the cell ---------------------------------------------------------------------------------------------------------


def read_coverage(cell: CellRow | None) -> Coverage:
    """What is known of a cell; nothing where its values were computed at places that another propagator found."""
    kept = {} if cell is None else cell.coverage or {}
    if kept.get("propagator") != PROPAGATOR_VERSION:
        return NOWHERE
    return Coverage({
        path: frozenset(i for first, last in ranges for i in range(first, last + 1))
        for path, ranges in kept["loops"].items()
    })  # fmt: skip


def kept_coverage(
    coverage: Coverage, fidelity: Fidelity, replay: str, earlier: CellRow | None
) -> dict[str, Any]:
    """What is kept with a cell: the iterations in ranges, the worst fidelity of the replays, and which ones they were.

    Args:
        coverage: all that is answered now.
        fidelity: of the replay that was just made.
        replay: its id.
        earlier: the cell as it was, where what it covered counts.
    """
    before = (earlier.coverage or {}) if earlier is not None and read_coverage(earlier) else {}
    return {
        "propagator": PROPAGATOR_VERSION,
        "fidelity": worst((fidelity, before.get("fidelity", fidelity))),
        "replays": [*(one for one in before.get("replays", ()) if one != replay), replay],
        "loops": {path: _ranges(indices) for path, indices in coverage.loops.items() if indices},
    }


def worst(fidelities: Iterable[Fidelity]) -> Fidelity:
    """The least that can be said of values of several replays."""
    return min(fidelities, key=_WORST_FIRST.index)


def _ranges(indices: Iterable[int]) -> list[list[int]]:
    ranges: list[list[int]] = []
    for index in sorted(indices):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ranges
