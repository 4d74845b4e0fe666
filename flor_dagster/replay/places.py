"""What is thought of a place that propagation found: the second opinion on it, and what tells it from another place.

Propagation and the second opinion share no code. Here both meet: the opinion is given the two versions and the file with
the statement in it, and nothing of how the place was found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flor_dagster.parsing import source_lines
from flor_dagster.placecheck import PlaceVerdict, Spot, check_place
from flor_dagster.propagation import PROPAGATOR_VERSION, Placement, Statement, find_statements
from flor_dagster.propagation.trees import SourceTree
from flor_dagster.store.models import PlacementRow, StatementRow

PLACES_VERSION = f"{PROPAGATOR_VERSION}.1"
"""What found places, and what judged them: the second number is raised when the second opinion changes its mind."""

CONTRADICTED = "contradicted-place"
"""The kind of refusal where propagation found a place that the second opinion contradicts."""

CERTAIN = PlaceVerdict("certain")


@dataclass(frozen=True, slots=True)
class Judged:
    """What is thought of one place. `place` is a digest that tells it from every other place of the statement."""

    verdict: PlaceVerdict
    place: str


class Judge:
    """Asks the second opinion on places in versions; the same place is judged once."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Judged] = {}

    def judge(
        self,
        row: StatementRow,
        new: SourceTree,
        old: SourceTree,
        commit: str,
        texts: Mapping[str, str],
        spot: Spot,
        added: Sequence[int],
    ) -> Judged:
        """What is thought of a statement's place.

        Args:
            row: the statement.
            new: the version that has it.
            old: the version that it was put into, as it was recorded.
            commit: the old version's id.
            texts: the files of the old version that statements were put into, with them.
            spot: where it stands in them.
            added: the lines of its file that were added.
        """
        place = digest_of(texts[spot.file], added, spot)
        key = row.id, row.source, row.file, row.line, commit, place
        if key not in self._known:
            there = Spot(row.file, lines_of(new.read(row.file) or "", row))
            verdict = check_place(_Texts(new), _Texts(old), _Texts(old, texts), there, spot)
            self._known[key] = Judged(verdict, place)
        return self._known[key]


def lines_of(text: str, row: StatementRow) -> tuple[int, int]:
    """The lines of a statement in the version that it was written in."""
    found = [s for s in find_statements(text) if s.lines[0] == row.line and s.name == row.name]
    return found[0].lines if found else (row.line, row.line)


def digest_of(text: str, added: Sequence[int], spot: Spot) -> str:
    """What tells a place from another one: the line of the old version that it stands before, and what was put there.

    Other statements that were put into the same version do not count.
    """
    lines = source_lines(text)
    first, last = spot.lines
    old = set(added)
    before = sum(number not in old for number in range(1, first))
    around = _headers(lines, old, first)
    said = repr((spot.file, before, around, lines[first - 1 : last]))
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _headers(lines: Sequence[str], added: set[int], first: int) -> list[str]:
    """The heads of the added blocks around a line, innermost first."""
    found: list[str] = []
    indent = _indent(lines[first - 1])
    for number in range(first - 1, 0, -1):
        text = lines[number - 1]
        if number not in added:
            break
        if text.strip() and _indent(text) < indent:
            indent = _indent(text)
            found.append(text)
    return found


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


class _Texts:
    """The files of a version, some of them replaced, as the second opinion reads them."""

    def __init__(self, tree: SourceTree, texts: Mapping[str, str] | None = None) -> None:
        self._tree = tree
        self._texts = texts or {}

    def __contains__(self, path: object, /) -> bool:
        return isinstance(path, str) and self._read(path) is not None

    def __getitem__(self, path: str, /) -> str:
        text = self._read(path)
        if text is None:
            raise KeyError(path)
        return text

    def _read(self, path: str) -> str | None:
        if path in self._texts:
            return self._texts[path]
        return self._tree.read(path) if path in self._tree.paths() else None


# In words --------------------------------------------------------------------------------------------------------------


def place_words(row: PlacementRow) -> str:
    """The verdict on a place, in words; empty where nobody looked at it."""
    reasons = "; ".join(row.reasons)
    match row.said:
        case "confirmed":
            when = f" on {row.confirmed:%Y-%m-%d}" if row.confirmed is not None else ""
            return f"likely, confirmed by {row.confirmed_by}{when}; the doubt was: {reasons}"
        case "likely" | "contradicted":
            return f"{row.said}: {reasons}"
        case "certain":
            return "certain"
        case None:
            return ""


def waiting_words(row: PlacementRow, key: str) -> str:
    """Why a statement is not answered before a person has looked at its place, and how that is said."""
    return (
        f"its place at {row.file}:{row.line} is likely, not certain: {'; '.join(row.reasons)}. Look at it with "
        f"`flor hindsight {key} --plan`; if it is right, confirm it with `flor hindsight {key} --accept-likely`"
    )


def contradicted_words(file: str, line: int, reasons: Sequence[str]) -> str:
    """Why a place that was found is none."""
    return f"the place found for it, {file}:{line}, is not its own: {'; '.join(reasons)}"


# Statements in the text that holds them --------------------------------------------------------------------------------


def logged_lines(
    new: str, text: str, placement: Placement, rows: Sequence[StatementRow]
) -> dict[int, tuple[int, int]]:
    """Where each statement of a placement stands: several of one name may have travelled in one block.

    Args:
        new: the text that the statements were written in.
        text: the old version's, with the placement in it.
        placement: where they were put.
        rows: those that it holds, by their places in `new`.

    Returns:
        Statement id → first and last line in `text`.
    """
    first, last = placement.lines
    put = [s for s in find_statements(text) if first <= s.lines[0] <= last]
    inside = placement.statement.lines
    written = [s for s in find_statements(new) if inside[0] <= s.lines[0] <= inside[1]]
    of_row = {row.id: _same(written, row) for row in rows}
    asked = [s for s in written if any(s is one for one in of_row.values())]
    for some in (written, asked):
        if len(some) == len(put):
            there = {id(one): other.lines for one, other in zip(some, put, strict=True)}
            break
    else:
        there = _by_name(written, put)
    return {row.id: there.get(id(of_row[row.id]), placement.lines) for row in rows}


def _same(written: Sequence[Statement], row: StatementRow) -> Statement | None:
    here = [s for s in written if s.lines[0] == row.line and s.name == row.name]
    told = [s for s in here if (s.expression, s.ordinal) == (row.expression, row.ordinal)]
    return next(iter(told or here), None)


def _by_name(written: Sequence[Statement], put: Sequence[Statement]) -> dict[int, tuple[int, int]]:
    """Statements of one name, in their order, where there are as many of it in both texts."""
    found: dict[int, tuple[int, int]] = {}
    for name in {s.name for s in written}:
        ours, theirs = [s for s in written if s.name == name], [s for s in put if s.name == name]
        if len(ours) == len(theirs):
            found |= {id(one): other.lines for one, other in zip(ours, theirs, strict=True)}
    return found


def beside_another(text: str, lines: tuple[int, int]) -> bool:
    """Whether another `flor.log` stands on the lines of one: what each of them logs can't be told from the other's."""
    return sum(lines[0] <= s.lines[0] <= lines[1] for s in find_statements(text)) > 1
