"""Put statements into the files of one old version: which file, which lines, or why not.

The algorithm is propagation's; here versions are read from git, and rows of the store go in and come out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flor_dagster.errors import FlorError, SourceSyntaxError
from flor_dagster.placecheck import Spot
from flor_dagster.propagation import (
    Chain,
    Placement,
    PropagatedTree,
    Refusal,
    Statement,
    find_statements,
    propagate_tree,
)
from flor_dagster.propagation.trees import PatchedTree
from flor_dagster.replay.histories import CommitHistory, CommitTree
from flor_dagster.replay.lines import shifted
from flor_dagster.replay.places import (
    CERTAIN,
    CONTRADICTED,
    PLACES_VERSION,
    Judge,
    Judged,
    beside_another,
    contradicted_words,
    lines_of,
    logged_lines,
)
from flor_dagster.store.models import PlacementRow, StatementRow
from flor_dagster.versions import Repository

_KEPT_VERSIONS = 16


@dataclass(slots=True)
class PlacedFile:
    """A file of the old version with statements in it: its text, the lines that were added, who stands where.

    `logs` are the lines of each statement's own `flor.log`: its placement may hold others', and what came along.
    """

    text: str
    added: tuple[int, ...] = ()
    placements: dict[int, Placement] = field(default_factory=dict[int, Placement])
    logs: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])

    def log_lines(self, statement_id: int) -> tuple[int, ...]:
        """The lines of one placed statement's `flor.log` call."""
        first, last = self.logs[statement_id]
        return tuple(range(first, last + 1))


@dataclass(slots=True)
class PlacedVersion:
    """What became of the statements in one version. Keys are statement ids."""

    files: dict[str, PlacedFile] = field(default_factory=dict[str, PlacedFile])
    placements: dict[int, tuple[str, Placement]] = field(default_factory=dict[int, tuple[str, Placement]])
    refusals: dict[int, Refusal] = field(default_factory=dict[int, Refusal])
    refused_in: dict[int, str] = field(default_factory=dict[int, str])
    judged: dict[int, Judged] = field(default_factory=dict[int, Judged])

    def row(self, statement: StatementRow, commit: str) -> PlacementRow:
        """The store's row for what propagation said of a statement."""
        refusal = self.refusals.get(statement.id)
        file = self.refused_in.get(statement.id, statement.file)
        judged = self.judged.get(statement.id)
        if judged is not None and judged.verdict.verdict == "contradicted":
            there, placement = self.placements[statement.id]
            return _contradicted(statement, commit, there, placement, judged)
        placed = self.placements.get(statement.id) if refusal is None else None
        row = placement_row(placed, refusal, statement, commit, file)
        if judged is None:
            return row
        verdict = judged.verdict
        return replace(row, verdict=verdict.verdict, reasons=verdict.reasons, place=judged.place)


class VersionPlacer:
    """Puts statements into versions of one repository; what is learnt from one version is kept for the next.

    Args:
        repository: the user's repository.
        allow_effects: also place expressions that are known to change the training.
    """

    def __init__(self, repository: Repository, *, allow_effects: bool = False) -> None:
        self._repository = repository
        self._allow_effects = allow_effects
        self._lock = threading.RLock()
        self._chains: dict[str, tuple[CommitHistory, Chain]] = {}
        self._trees: OrderedDict[str, CommitTree] = OrderedDict()
        self._placed: OrderedDict[tuple[object, ...], PlacedVersion] = OrderedDict()
        self._judge = Judge()

    def tree(self, commit: str) -> CommitTree:
        """A version's files; the last few versions are kept."""
        with self._lock:
            known = self._trees.pop(commit, None) or CommitTree(self._repository, commit)
            self._trees[commit] = known
            if len(self._trees) > _KEPT_VERSIONS:
                self._trees.popitem(last=False)
            return known

    def place(self, commit: str, entrypoint: str, statements: Sequence[StatementRow]) -> PlacedVersion:
        """Propagate statements into one version.

        Args:
            commit: the old version.
            entrypoint: the entry point of the runs that it is done for.
            statements: rows whose `source` is the commit that holds them at `file` and `line`.

        Returns:
            Files, placements and refusals; every statement is in exactly one of the last two. All runs of a version
            that are asked the same share one answer.
        """
        key = commit, entrypoint, tuple((row.id, row.source, row.file, row.line) for row in statements)
        with self._lock:
            known = self._placed.pop(key, None) or self._place(commit, entrypoint, statements)
            self._placed[key] = known
            if len(self._placed) > _KEPT_VERSIONS:
                self._placed.popitem(last=False)
            return known

    def _place(self, commit: str, entrypoint: str, statements: Sequence[StatementRow]) -> PlacedVersion:
        result = PlacedVersion()
        sources: dict[str, list[StatementRow]] = {}
        for statement in statements:
            sources.setdefault(statement.source, []).append(statement)
        for source, rows in sources.items():
            there = self.tree(source)
            readable = [row for row in rows if there.read(row.file) is not None]
            for row in rows:
                if row not in readable:
                    result.refusals[row.id] = _no_source(row)
            self._place_source(source, commit, entrypoint.partition(":")[0], readable, result)
        self._find_logs(statements, result)
        self._judge_places(statements, commit, result)
        return result

    def _find_logs(self, statements: Sequence[StatementRow], result: PlacedVersion) -> None:
        """Where each placed statement's own `flor.log` stands; those that share a line with another one are refused."""
        for state in result.files.values():
            groups: dict[tuple[str, str, tuple[int, int]], list[StatementRow]] = {}
            for row in statements:
                if row.id in state.placements:
                    here = row.source, row.file, state.placements[row.id].lines
                    groups.setdefault(here, []).append(row)
            for (source, file, _), rows in groups.items():
                new = self.tree(source).read(file) or ""
                state.logs |= logged_lines(new, state.text, state.placements[rows[0].id], rows)
        for row in statements:
            file, placement = result.placements.get(row.id, ("", None))
            if placement is None or placement.status != "placed":
                continue
            state, new = result.files[file], self.tree(row.source).read(row.file) or ""
            if beside_another(state.text, state.logs[row.id]) or beside_another(new, lines_of(new, row)):
                result.refusals[row.id] = _beside(row)
                result.refused_in[row.id] = file

    def _judge_places(self, statements: Sequence[StatementRow], commit: str, result: PlacedVersion) -> None:
        texts = {path: state.text for path, state in result.files.items()}
        for row in statements:
            if row.id in result.refusals or row.id not in result.placements:
                continue
            file, placement = result.placements[row.id]
            if placement.status == "already-there":
                result.judged[row.id] = Judged(CERTAIN, "")  # it is the same statement
                continue
            state = result.files[file]
            result.judged[row.id] = self._judge.judge(
                row, self.tree(row.source), self.tree(commit), commit, texts,
                Spot(file, state.logs[row.id]), state.added,
            )  # fmt: skip

    def _place_source(
        self, source: str, commit: str, script: str, rows: list[StatementRow], result: PlacedVersion
    ) -> None:
        files: dict[str, list[StatementRow]] = {}
        for row in rows:
            files.setdefault(row.file, []).append(row)
        over = {path: state.text for path, state in result.files.items()}
        readable: dict[str, list[StatementRow]] = {}
        for file, group in files.items():
            try:
                find_statements(self.tree(source).read(file) or "")
                readable[file] = group
            except SourceSyntaxError as error:
                for row in group:
                    result.refusals[row.id] = _unreadable(row, f"{file}: {error}")
        if not readable:
            return
        asked = {file: sorted({row.line for row in group}) for file, group in readable.items()}
        outcome = self._propagate(source, commit, script, asked, over)
        _take(result, outcome, readable, self.tree(commit))

    def _propagate(
        self, source: str, commit: str, script: str, asked: Mapping[str, list[int]], over: Mapping[str, str]
    ) -> PropagatedTree:
        new, old = self.tree(source), self.tree(commit)
        entry_points = next(((f, script) for f in asked if _base(f) == _base(script)), None)
        renames: Mapping[str, str] = {}
        if any(file not in old.paths() for file in asked):
            found = self._history(source, commit)
            if found is not None:
                renames = found[1].renames(found[2])
        outcome = propagate_tree(
            new, PatchedTree(old, over), asked, renames=renames, entry_points=entry_points,
            allow_effects=self._allow_effects,
        )  # fmt: skip
        if not outcome.refusals and not outcome.placements:
            return outcome
        found = self._history(source, commit) if outcome.refusals else None
        if found is None:
            return outcome
        _, chain, index = found
        return chain.propagate(asked, index, outcome, over=over)

    def _history(self, source: str, commit: str) -> tuple[CommitHistory, Chain, int] | None:
        """The line of versions from the statements' to an old one, and where on it the old one is."""
        known = self._chains.get(source)
        if known is not None and commit in known[0].line.commits:
            return (*known, known[0].line.commits.index(commit))
        history = CommitHistory.between(self._repository, source, commit)
        if history is None:
            return None
        chain = Chain(history, allow_effects=self._allow_effects)
        if known is None or len(history) >= len(known[0]):
            if known is not None and history.line.commits[: len(known[0])] == known[0].line.commits:
                chain = known[1].longer(history)
            self._chains[source] = (history, chain)
        return history, chain, len(history) - 1


def place(
    repository: Repository, commit: str, entrypoint: str, statements: Sequence[StatementRow]
) -> PlacedVersion:
    """Propagate statements into one version; `VersionPlacer` does it for many."""
    return VersionPlacer(repository).place(commit, entrypoint, statements)


def _take(
    result: PlacedVersion,
    outcome: PropagatedTree,
    files: Mapping[str, list[StatementRow]],
    old: CommitTree,
) -> None:
    """Enter what was propagated into the version's result."""
    for path, patched in outcome.files.items():
        state = result.files.get(path) or PlacedFile(old.read(path) or "")
        for statement_id, earlier in list(state.placements.items()):
            lines = (shifted(earlier.lines[0], patched.added), shifted(earlier.lines[1], patched.added))
            state.placements[statement_id] = moved = replace(earlier, lines=lines)
            result.placements[statement_id] = (path, moved)
        state.added = tuple(sorted({*(shifted(line, patched.added) for line in state.added), *patched.added}))
        state.text = patched.source
        result.files[path] = state
    taken: set[int] = set()
    # First the statement itself, which may share its line with another; then all else in the block that travelled as one.
    for which in (_is_it, _is_inside):
        for placed in outcome.placements:
            for row in _rows_of(placed.placement.statement, files[placed.path], taken, which):
                result.placements[row.id] = (placed.old_path, placed.placement)
                if placed.placement.status == "placed":
                    result.files[placed.old_path].placements[row.id] = placed.placement
        for refused in outcome.refusals:
            for row in _rows_of(refused.refusal.statement, files[refused.path], taken, which):
                result.refusals[row.id] = refused.refusal
                if refused.old_path is not None:
                    result.refused_in[row.id] = refused.old_path
    for placed in outcome.placements:
        lines = placed.placement.statement.lines
        beside = [row for row in files[placed.path] if lines[0] <= row.line <= lines[1]]
        if placed.placement.status == "placed" and not any(
            result.placements.get(row.id) == (placed.old_path, placed.placement) for row in beside
        ):
            # It was not asked for, and came along because it stands on the line of one that was.
            result.refusals |= {row.id: _beside(row) for row in beside}


def _rows_of(
    statement: Statement,
    rows: Iterable[StatementRow],
    taken: set[int],
    which: Callable[[Statement, StatementRow], bool],
) -> list[StatementRow]:
    """The rows that a propagated statement is, or holds, and no other one was found to."""
    found = [row for row in rows if row.id not in taken and which(statement, row)]
    taken.update(row.id for row in found)
    return found


def _is_inside(statement: Statement, row: StatementRow) -> bool:
    return statement.lines[0] <= row.line <= statement.lines[1]


def _is_it(statement: Statement, row: StatementRow) -> bool:
    said = (statement.name, statement.expression, statement.ordinal)
    return _is_inside(statement, row) and said == (row.name, row.expression, row.ordinal)


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _statement(row: StatementRow) -> Statement:
    return Statement(row.name, row.expression, (row.line, row.line), row.function, row.loops, row.ordinal)


def _no_source(row: StatementRow) -> Refusal:
    sentence = (
        f"the version {row.source[:8]}, in which `{row.name}` was written, has no readable file {row.file}."
    )
    return Refusal(_statement(row), "no-function", row.file, None, None, sentence)


def _beside(row: StatementRow) -> Refusal:
    sentence = (
        f"`{row.name}` shares its line with another `flor.log`, whose values could not be told from its own: put each on a "
        f"line of its own ({row.file}, line {row.line})."
    )
    return Refusal(_statement(row), "unsupported-syntax", "", None, None, sentence)


def _contradicted(
    row: StatementRow, commit: str, file: str, placement: Placement, judged: Judged
) -> PlacementRow:
    verdict = judged.verdict
    sentence = contradicted_words(file, placement.lines[0], verdict.reasons)
    return PlacementRow(
        row.id, commit, PLACES_VERSION, "refused", placement.score, sentence, CONTRADICTED, "", file,
        placement.lines[0], verdict.verdict, verdict.reasons, judged.place,
    )  # fmt: skip


def _unreadable(row: StatementRow, why: str) -> Refusal:
    return Refusal(_statement(row), "unsupported-syntax", "", None, None, why)


def placement_row(
    placed: tuple[str, Placement] | None,
    refusal: Refusal | None,
    statement: StatementRow,
    commit: str,
    file: str,
) -> PlacementRow:
    """The store's row for a placement or a refusal; `file` is where the candidate line of a refusal is."""
    if placed is not None:
        there, placement = placed
        words = {"placed": "goes to", "already-there": "is already at"}[placement.status]
        sentence = f"{words} {there}:{placement.lines[0]}{_moved(statement, there)}{_along(placement)}"
        return PlacementRow(
            statement.id, commit, PLACES_VERSION, placement.status, placement.score, sentence, "", placement.diff,
            there, placement.lines[0],
        )  # fmt: skip
    if refusal is None:
        raise FlorError(
            f"propagation gave neither a place nor a refusal for `{statement.key}` in {commit[:12]}"
        )
    return PlacementRow(
        statement.id, commit, PLACES_VERSION, "refused", refusal.candidate_score, refusal.sentence, refusal.kind,
        "", file, refusal.candidate_line,
    )  # fmt: skip


def _moved(statement: StatementRow, file: str) -> str:
    return "" if file == statement.file else f", the counterpart of {statement.file} in this version"


def _along(placement: Placement) -> str:
    """What a placement changed in the statement and brought along, in words."""
    renamed = "".join(f"; `{a}` is `{b}` there" for a, b in placement.renamed)
    carried = ", ".join(f"`{name}`" for name in placement.carried)
    return renamed + (
        f"; {carried} {'come' if len(placement.carried) > 1 else 'comes'} along" if carried else ""
    )
