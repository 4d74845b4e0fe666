"""How true is a replay? Its records and digests against the recorded ones, bit for bit."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from flor_dagster.parsing import parse_python
from flor_dagster.recording.tainting import tainted_calls
from flor_dagster.recording.values import decode
from flor_dagster.replay.planning import LoopPlan
from flor_dagster.replay.record import Record, RunRecord
from flor_dagster.replay.strands import by_strand, loops_beside
from flor_dagster.replay.unrepeatable import Unrepeatable
from flor_dagster.store.models import Fidelity


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison of a replay with the record says.

    `left_out` are recorded names that hold clock or process values; `difference` is the first one, in words. `kept` are the
    places of compared states that hold such values, and are left out as well.
    """

    fidelity: Fidelity
    records: int
    digests: int
    restores: int
    left_out: tuple[str, ...]
    difference: str
    kept: tuple[Unrepeatable, ...] = ()

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        compared = (
            f"{self.records} record{'s' * (self.records != 1)} and {self.digests} "
            f"state digest{'s' * (self.digests != 1)} compared"
        )
        if self.fidelity == "diverged":
            return f"diverged: {self.difference} ({compared})"
        if self.fidelity == "unverified":
            return (
                f"unverified: {self.difference or 'nothing that was recorded could be compared'} ({compared})"
            )
        if self.fidelity == "within tolerance":
            return f"within tolerance: {self.difference} ({compared})"
        names = [*self.left_out, *(place.sentence for place in self.kept)]
        left = f"; not compared: {', '.join(names)}" if names else ""
        return f"exact: {compared}, all equal{left}"


def verify(
    recorded: RunRecord, replayed: RunRecord, plan: LoopPlan, asked: Mapping[str, Iterable[int]],
    tainted: frozenset[tuple[str, int]], tolerance: Mapping[str, float] | None = None,
) -> Verdict:  # fmt: skip
    """Compare a replay with the record.

    Args:
        recorded: the run's journal.
        replayed: the replay's journal.
        plan: what was to be executed.
        asked: file → lines of the replay's hindsight statements; their records are answers, not re-emissions.
        tainted: (file, line) of recorded statements whose values depend on the clock or the process.
        tolerance: name → the relative difference that its numbers may have, `*` for every other name: declared by who asks.
            States can't be compared so: where it is given, unequal ones do not count against the replay, the records do.

    Where loops ran side by side in threads, the records of each are compared in their order, and nothing is said of the order
    between them; an answer among them is never `exact`.

    Returns:
        The verdict. It is `exact` only if something was compared after every restore, and before the next one where an
        answer was given between the two, and everything that was compared is equal.
    """
    answers = {(file, line) for file, lines in asked.items() for line in lines}
    emitted = [r for r in replayed.records if (r.file, r.line) not in answers]
    tainted_names = {r.name for r in recorded.records if (r.file, r.line) in tainted}
    left_out = tuple(sorted(tainted_names))
    expected = [r for r in _expected(recorded, plan) if r.name not in tainted_names]
    actual = [r for r in emitted if r.name not in tainted_names]
    near = _Near(tolerance or {})
    difference = _first_difference(expected, actual, near, open_end=not recorded.finished)
    beside = loops_beside(recorded) or loops_beside(replayed)
    if difference and beside:
        near = _Near(tolerance or {})
        pairs = by_strand(expected, actual)
        found = (_first_difference(*pair, near, open_end=not recorded.finished) for pair in pairs)
        difference = next(filter(None, found), "")
    compared_records = min(len(expected), len(actual))
    given = [r.position for r in replayed.records if (r.file, r.line) in answers]
    digests, restores, unchecked = _walk_events(replayed, actual, given)
    unequal = [e for e in replayed.events if e[1] == "d" and e[2][4]]
    near.states = len(unequal) if tolerance else 0
    if not difference:
        more = [e for e in replayed.events if e[1] == "x" and e[2][1] not in ("effect", "doubt")]
        found = sorted([*more, *(unequal if not tolerance else ())], key=lambda event: event[0])
        difference = next((_event_words(e, replayed, compared_records) for e in found), "")
    kept = _unrepeatable(replayed)
    fidelity: Fidelity = "exact"
    if difference:
        fidelity = "diverged"
    elif near.states and not compared_records:
        fidelity, difference = "diverged", "states differ, and no record tells by how much"
    elif (near.largest or near.states) and not unchecked:
        fidelity, difference = "within tolerance", near.sentence
    elif unchecked:
        fidelity, difference = "unverified", f"nothing was compared after the restore of {unchecked}"
    elif compared_records + digests == 0:
        fidelity = "unverified"
    if fidelity in ("exact", "within tolerance"):
        doubts = data_doubts(replayed)[:3]
        if recorded.header.get("beside") and given:
            doubts.insert(
                0,
                "other runs ran beside this one in its process, in no fixed order: what they share may differ",
            )
        if beside and given:
            # What nobody recorded is seen by no comparison, and what the threads share may stand otherwise at its moment.
            doubts.insert(
                0, f"{beside} ran side by side in threads, in no fixed order: what they share may differ"
            )
        doubt = "; ".join(doubts)
        fidelity, difference = ("unverified", doubt) if doubt else (fidelity, difference)
    return Verdict(fidelity, compared_records, digests, restores, left_out, difference, kept)


def data_doubts(replayed: RunRecord) -> list[str]:
    """The data files that a replay read and that may not be as the recorded run had them, in words."""
    return [parts[2] for _, kind, parts in replayed.events if kind == "x" and parts[1] == "doubt"]


def _expected(recorded: RunRecord, plan: LoopPlan) -> list[Record]:
    """The records that the plan executes again, in order."""
    skipped = [path + "[" for path, spec in plan.loops.items() if spec["action"] == "skip"]
    skipped_set = set(skipped)
    result: list[Record] = []
    for record in recorded.records:
        if plan.cut is not None and record.position >= plan.cut:
            break
        if skipped_set and _under(record.path, skipped_set):
            continue
        if plan.start is not None and _before(record.path, *plan.start):
            continue
        result.append(record)
    return result


def _before(path: str, entered: str, start: int) -> bool:
    """Whether a loop context lies in an iteration that came before the one that the loop is entered at."""
    if not path.startswith(entered + "["):
        return False
    return int(path[len(entered) + 1 :].partition("]")[0]) < start


def _under(path: str, prefixes: set[str]) -> bool:
    end = path.find("[")
    while end >= 0:
        if path[: end + 1] in prefixes:
            return True
        end = path.find("[", end + 1)
    return False


class _Near:
    """Numbers that are not equal and within what was declared."""

    def __init__(self, tolerance: Mapping[str, float]) -> None:
        self._tolerance = tolerance
        self.largest = 0.0
        self.name = ""
        self.states = 0

    def takes(self, wanted: Record, got: Record) -> bool:
        """Whether two unequal records of one place are near enough."""
        allowed = self._tolerance.get(wanted.name, self._tolerance.get("*", 0.0))
        one, other = decode(wanted.value), decode(got.value)
        if allowed <= 0 or not (isinstance(one, float) and isinstance(other, float)):
            return False
        if not (math.isfinite(one) and math.isfinite(other)):
            return False
        relative = abs(one - other) / max(abs(one), abs(other)) if one != other else 0.0
        if relative > allowed:
            return False
        if relative >= self.largest:
            self.largest, self.name = relative, wanted.name
        return True

    @property
    def sentence(self) -> str:
        """What differs, and by how much at most."""
        declared = self._tolerance.get(self.name, self._tolerance.get("*", 0.0))
        parts = (
            [f"`{self.name}` differs by {self.largest:.2g} at most, {declared:.2g} is declared"]
            if self.name
            else []
        )
        if self.states:
            parts.append(f"{self.states} state{'s' * (self.states != 1)} not bit for bit the same")
        return "; ".join(parts)


def _first_difference(expected: list[Record], actual: list[Record], near: _Near, *, open_end: bool) -> str:
    for wanted, got in zip_longest(expected, actual):
        if wanted is None:
            return "" if open_end else f"`{got.name}` at {_place(got)} was not recorded"
        if got is None:
            return f"`{wanted.name}` at {_place(wanted)} was recorded and did not come again"
        if (wanted.name, wanted.path) != (got.name, got.path):
            return f"`{wanted.name}` at {_place(wanted)} was recorded, `{got.name}` at {_place(got)} came instead"
        if not _same(wanted.value, got.value) and not near.takes(wanted, got):
            return f"`{wanted.name}` at {_place(wanted)} was {_shown(wanted.text)}, the replay gave {_shown(got.text)}"
    return ""


def _same(one: Any, other: Any) -> bool:
    """Whether two values, as journals hold them, are equal bit for bit: as texts, of which most numbers need none."""
    if type(one) is float and type(other) is float:
        return one == other != 0.0 or one.hex() == other.hex()
    return json.dumps(one) == json.dumps(other)


def _place(record: Record) -> str:
    return record.path or "the top of the run"


def _shown(text: str) -> str:
    return repr(decode(json.loads(text)))[:60]


def _walk_events(replayed: RunRecord, actual: list[Record], given: list[int]) -> tuple[int, int, str]:
    """Digests compared, restores made, and the first restore that nothing was compared after.

    A record speaks for the last restore before it; and for the one before that, where no answer was given between the two:
    what the earlier one may have put back wrongly is seen by no answer, unless it lives on behind the later one, too. The
    digests of a loop's own state also speak for the restore that the loop was entered by, though others came in between:
    they cover all that it put back.

    Args:
        replayed: the replay's journal.
        actual: its records that are compared.
        given: the positions of its answers.
    """
    events: list[tuple[int, str, Any]] = [(r.position, "r", None) for r in actual]
    events += [(position, "a", None) for position in given]
    events += [e for e in replayed.events if e[1] in ("s", "d")]
    digests = 0
    restores: list[str] = []
    entered: dict[int, list[int]] = defaultdict(list)  # loop execution → the restores that it was entered by
    checked: set[int] = set()
    answered: set[int] = set()
    for _, kind, parts in sorted(events, key=lambda e: e[0]):
        if kind == "s":
            execution = replayed.executions[parts[1]]
            if parts[2] is not None:
                entered[parts[1]].append(len(restores))
            restores.append(execution.path if parts[2] is None else f"{execution.path}[{parts[2]}]")
        elif kind == "a":
            answered.add(len(restores) - 1)
        else:
            checked.add(len(restores) - 1)
            if kind == "d":
                digests += 1
                checked.update(entered[parts[1]])
    for number in range(len(restores) - 2, -1, -1):
        if number + 1 in checked and number not in answered:
            checked.add(number)
    unchecked = next((where for number, where in enumerate(restores) if number not in checked), "")
    return digests, len(restores), unchecked


def _places(parts: list[Any]) -> str:
    """Where the state at an end differs, each with both values where they are known."""
    told = [f"{place} {words}" for place, words in (parts[5] if len(parts) > 5 else ())[:3]]
    names = [root.partition(":")[2] for root in parts[4]]
    rest = [name for name in names if not any(one.startswith(name) for one in told)]
    return "; ".join(told + ([", ".join(rest[:5])] if rest else []))


def _event_words(event: tuple[int, str, list[Any]], replayed: RunRecord, records: int) -> str:
    """What an event says against a replay, in words."""
    _, kind, parts = event
    if kind == "x":
        return str(parts[2])
    path = replayed.executions[parts[1]].path
    where = path if parts[2] is None else f"{path}[{parts[2]}]"
    equal = "; every record is equal" if records else ""
    return f"the state at the end of {where} differs: {_places(parts)}{equal}"


def _unrepeatable(replayed: RunRecord) -> tuple[Unrepeatable, ...]:
    """Places in compared states that hold what no replay can give again."""
    found = {
        place: kind
        for _, event, parts in replayed.events
        if event == "d" and len(parts) > 6
        for place, kind in parts[6]
    }
    return tuple(Unrepeatable(place, kind) for place, kind in sorted(found.items()))


def tainted_statements(file: str, source: str) -> frozenset[tuple[str, int]]:
    """The lines of a file's calls whose arguments depend on the clock, the process or the machine."""
    try:
        tree = parse_python(source)
    except (SyntaxError, ValueError):
        return frozenset()
    return frozenset((file, line) for line in tainted_calls(tree))
