"""Put statements into the files of one old version: which file, which lines, or why not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from flor_dagster.errors import FlorError, SourceSyntaxError
from flor_dagster.propagation import PROPAGATOR_VERSION, Placement, Refusal, Statement, find_statements, propagate
from flor_dagster.replay.planning import shifted
from flor_dagster.store.models import PlacementRow, StatementRow
from flor_dagster.versions import Repository


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


def old_path(repository: Repository, file: str, commit: str, entrypoint: str, source: str) -> str | None:
    """Where the counterpart of a file lies in an old version, None where there is none.

    Args:
        repository: the user's repository.
        file: the file in the newest version.
        commit: the old version.
        entrypoint: the old run's entry point; it stands for the newest one under another name.
        source: the newest version's commit.
    """
    files = set(repository.files(commit))
    if file in files:
        return file
    for _, path in repository.log_path(file, source):
        if path in files:
            return path
    script = entrypoint.partition(":")[0]
    return script if script in files and script.rpartition("/")[2] == file.rpartition("/")[2] else None


def place(
    repository: Repository, commit: str, entrypoint: str, statements: Sequence[StatementRow]
) -> PlacedVersion:
    """Propagate statements into one version.

    Args:
        repository: the user's repository.
        commit: the old version.
        entrypoint: the entry point of the runs that it is done for.
        statements: rows whose `source` is the commit that holds them at `file` and `line`.

    Returns:
        Files, placements and refusals; every statement is in exactly one of the last two.
    """
    result = PlacedVersion()
    groups: dict[tuple[str, str], list[StatementRow]] = {}
    for statement in statements:
        groups.setdefault((statement.source, statement.file), []).append(statement)
    for (source, file), rows in groups.items():
        _place_group(repository, commit, entrypoint, source, file, rows, result)
    return result


def _place_group(
    repository: Repository, commit: str, entrypoint: str, source: str, file: str, rows: list[StatementRow],
    result: PlacedVersion,
) -> None:  # fmt: skip
    new_text = repository.read(source, file)
    path = old_path(repository, file, commit, entrypoint, source)
    if new_text is None or path is None:
        for row in rows:
            result.refusals[row.id] = _no_file(row, file)
        return
    placed = result.files.get(path)
    old_text = placed.text if placed is not None else repository.read(commit, path)
    if old_text is None:
        for row in rows:
            result.refusals[row.id] = _no_file(row, file)
        return
    by_lines = {row.line: row for row in rows}
    try:
        outcome = propagate(new_text, old_text, sorted(by_lines))
    except SourceSyntaxError as error:
        for row in rows:
            result.refusals[row.id] = replace(
                _no_file(row, file), kind="unsupported-syntax", missing="", sentence=f"{path}: {error}"
            )
        return
    file_state = placed or PlacedFile(old_text)
    for statement_id, earlier in list(file_state.placements.items()):
        moved = replace(earlier, lines=(shifted(earlier.lines[0], outcome.added), shifted(earlier.lines[1], outcome.added)))
        file_state.placements[statement_id] = moved
        result.placements[statement_id] = (path, moved)
    file_state.added = tuple(sorted({*(shifted(line, outcome.added) for line in file_state.added), *outcome.added}))
    file_state.text = outcome.source
    taken: set[int] = set()
    for placement in outcome.placements:
        row = _row_of(placement.statement, rows, taken)
        if row is not None:
            result.placements[row.id] = (path, placement)
            if placement.status == "placed":
                file_state.placements[row.id] = placement
    for refusal in outcome.refusals:
        row = _row_of(refusal.statement, rows, taken)
        if row is not None:
            result.refusals[row.id] = refusal
    if file_state.added:
        result.files[path] = file_state


def _row_of(statement: Statement, rows: Iterable[StatementRow], taken: set[int]) -> StatementRow | None:
    """The row that a propagated statement is; a block's placement may come once for each statement in it."""
    candidates = [r for r in rows if r.id not in taken]
    inside = [r for r in candidates if statement.lines[0] <= r.line <= statement.lines[1]]
    named = [r for r in inside if statement.name in (None, r.name)]
    for row in named or inside:
        taken.add(row.id)
        return row
    return None


def _no_file(row: StatementRow, file: str) -> Refusal:
    statement = Statement(row.name, row.expression, (row.line, row.line), row.function, row.loops, row.ordinal)
    return Refusal(
        statement, "no-function", file, None, None, f"this version has no file that is the counterpart of `{file}`"
    )


def placement_row(
    placed: tuple[str, Placement] | None, refusal: Refusal | None, statement: StatementRow, commit: str
) -> PlacementRow:
    """The store's row for what propagation said."""
    if placed is not None:
        file, placement = placed
        words = {"placed": "goes to", "already-there": "is already at"}[placement.status]
        renamed = "".join(f"; `{a}` is `{b}` there" for a, b in placement.renamed)
        sentence = f"{words} {file}:{placement.lines[0]}{renamed}"
        return PlacementRow(
            statement.id, commit, PROPAGATOR_VERSION, placement.status, placement.score, sentence, "", placement.diff,
            file, placement.lines[0],
        )  # fmt: skip
    if refusal is None:
        raise FlorError(f"propagation gave neither a place nor a refusal for `{statement.key}` in {commit[:12]}")
    return PlacementRow(
        statement.id, commit, PROPAGATOR_VERSION, "refused", refusal.candidate_score, refusal.sentence, refusal.kind,
        "", statement.file, refusal.candidate_line,
    )  # fmt: skip


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
