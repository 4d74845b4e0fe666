"""Put statements into the files of one old version: which file, which lines, or why not.

The algorithm is propagation's; here versions are read from git, and rows of the store go in and come out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flor_dagster.errors import FlorError, SourceSyntaxError
from flor_dagster.propagation import (
    PROPAGATOR_VERSION,
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
from flor_dagster.store.models import PlacementRow, StatementRow
from flor_dagster.versions import Repository

_KEPT_VERSIONS = 16


@dataclass(slots=True)
class PlacedFile:
    """A file of the old version with statements in it: its text, the lines that were added, who stands where."""

    text: str
    added: tuple[int, ...] = ()
    placements: dict[int, Placement] = field(default_factory=dict[int, Placement])


@dataclass(slots=True)
class PlacedVersion:
    """What became of the statements in one version. Keys are statement ids."""

    files: dict[str, PlacedFile] = field(default_factory=dict[str, PlacedFile])
    placements: dict[int, tuple[str, Placement]] = field(default_factory=dict[int, tuple[str, Placement]])
    refusals: dict[int, Refusal] = field(default_factory=dict[int, Refusal])
    refused_in: dict[int, str] = field(default_factory=dict[int, str])

    def row(self, statement: StatementRow, commit: str) -> PlacementRow:
        """The store's row for what propagation said of a statement."""
        refusal = self.refusals.get(statement.id)
        file = self.refused_in.get(statement.id, statement.file)
        return placement_row(self.placements.get(statement.id), refusal, statement, commit, file)


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
        return result

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
    for placed in outcome.placements:
        # A block's placement comes once; every statement that it holds stands there.
        for row in _rows_of(placed.placement.statement, files[placed.path], taken):
            result.placements[row.id] = (placed.old_path, placed.placement)
            if placed.placement.status == "placed":
                result.files[placed.old_path].placements[row.id] = placed.placement
    for refused in outcome.refusals:
        for row in _rows_of(refused.refusal.statement, files[refused.path], taken):
            result.refusals[row.id] = refused.refusal
            if refused.old_path is not None:
                result.refused_in[row.id] = refused.old_path


def _rows_of(statement: Statement, rows: Iterable[StatementRow], taken: set[int]) -> list[StatementRow]:
    """The rows that a propagated statement is: one, or all in the block that travelled as one."""
    inside = [r for r in rows if r.id not in taken and statement.lines[0] <= r.line <= statement.lines[1]]
    taken.update(r.id for r in inside)
    return inside


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _statement(row: StatementRow) -> Statement:
    return Statement(row.name, row.expression, (row.line, row.line), row.function, row.loops, row.ordinal)


def _no_source(row: StatementRow) -> Refusal:
    sentence = (
        f"the version {row.source[:8]}, in which `{row.name}` was written, has no readable file {row.file}."
    )
    return Refusal(_statement(row), "no-function", row.file, None, None, sentence)


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
            statement.id, commit, PROPAGATOR_VERSION, placement.status, placement.score, sentence, "", placement.diff,
            there, placement.lines[0],
        )  # fmt: skip
    if refusal is None:
        raise FlorError(
            f"propagation gave neither a place nor a refusal for `{statement.key}` in {commit[:12]}"
        )
    return PlacementRow(
        statement.id, commit, PROPAGATOR_VERSION, "refused", refusal.candidate_score, refusal.sentence, refusal.kind,
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


def log_lines(text: str, placement: Placement, name: str) -> tuple[int, ...]:
    """The lines of the `flor.log` calls of one placed statement in the text that holds it."""
    first, last = placement.lines
    found = [
        line
        for s in find_statements(text)
        if first <= s.lines[0] <= last and s.name in (None, name)
        for line in range(s.lines[0], s.lines[1] + 1)
    ]
    return tuple(found) or tuple(range(first, last + 1))
