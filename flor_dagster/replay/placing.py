"""Put statements into the files of one old version: which file, which lines, or why not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from flor_dagster.errors import FlorError, SourceSyntaxError
from flor_dagster.propagation import (
    PROPAGATOR_VERSION,
    Placement,
    Propagated,
    Refusal,
    Statement,
    find_statements,
)
from flor_dagster.replay.nesting import propagate_in_loops
from flor_dagster.replay.planning import shifted
from flor_dagster.store.models import PlacementRow, StatementRow
from flor_dagster.versions import Repository

MAX_HISTORY = 200
"""So many versions of a file are gone through, newest first."""

# What no way through the history can help.
NOT_BY_HISTORY = frozenset({"changes-training", "unsupported-syntax"})


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
    try:
        outcome = propagate_in_loops(new_text, old_text, sorted({row.line for row in rows}))
        outcome = _through_history(repository, commit, source, file, new_text, old_text, outcome)
    except SourceSyntaxError as error:
        for row in rows:
            result.refusals[row.id] = replace(
                _no_file(row, file), kind="unsupported-syntax", missing="", sentence=f"{path}: {error}"
            )
        return
    file_state = placed or PlacedFile(old_text)
    for statement_id, earlier in list(file_state.placements.items()):
        moved = replace(
            earlier,
            lines=(shifted(earlier.lines[0], outcome.added), shifted(earlier.lines[1], outcome.added)),
        )
        file_state.placements[statement_id] = moved
        result.placements[statement_id] = (path, moved)
    file_state.added = tuple(
        sorted({*(shifted(line, outcome.added) for line in file_state.added), *outcome.added})
    )
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


def _through_history(
    repository: Repository,
    commit: str,
    source: str,
    file: str,
    new_text: str,
    old_text: str,
    direct: Propagated,
) -> Propagated:
    """Try what the direct way refused version by version: a rename that one commit made is plain in that commit.

    A version that takes nothing is passed over; what it placed so far goes on from the last version that took it.
    """
    if not direct.refusals or all(refusal.kind in NOT_BY_HISTORY for refusal in direct.refusals):
        return direct
    between = _versions_between(repository, commit, source, file, new_text, old_text)
    if not between:
        return direct
    outcome = direct
    for refusal in direct.refusals:
        if refusal.kind in NOT_BY_HISTORY:
            continue
        text, line = new_text, refusal.statement.lines[0]
        for step_text in between:
            try:
                step = propagate_in_loops(text, step_text, [line])
            except SourceSyntaxError:
                continue
            if step.placements:
                text, line = step.source, step.placements[0].lines[0]
        if text == new_text:
            continue
        last = propagate_in_loops(text, outcome.source, [line])
        if last.placements:
            outcome = _merged(outcome, refusal, last)
    return outcome


def _merged(outcome: Propagated, refusal: Refusal, last: Propagated) -> Propagated:
    """Add a statement that history placed to what was placed directly."""
    placed = last.placements[0]
    words = replace(placed, statement=refusal.statement)
    earlier = [
        replace(p, lines=(shifted(p.lines[0], last.added), shifted(p.lines[1], last.added)))
        for p in outcome.placements
    ]
    added = {*(shifted(line, last.added) for line in outcome.added), *last.added}
    return Propagated(
        last.source,
        (*earlier, words),
        tuple(r for r in outcome.refusals if r is not refusal),
        tuple(sorted(added)),
    )


def _versions_between(
    repository: Repository, commit: str, source: str, file: str, new_text: str, old_text: str
) -> list[str]:
    """The texts that a file had between two versions, newest first; empty where neither descends from the other."""
    base = repository.base(commit)
    if base is None or repository.base(source) is None or not repository.is_ancestor(base, source):
        return []
    texts: list[str] = []
    for step, path in repository.log_path(file, source)[:MAX_HISTORY]:
        if step == base or not repository.is_ancestor(base, step):
            break
        text = repository.read(step, path)
        if text is not None and text not in (new_text, old_text) and text not in texts:
            texts.append(text)
    return texts


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
    statement = Statement(
        row.name, row.expression, (row.line, row.line), row.function, row.loops, row.ordinal
    )
    return Refusal(
        statement,
        "no-function",
        file,
        None,
        None,
        f"this version has no file that is the counterpart of `{file}`",
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
        raise FlorError(
            f"propagation gave neither a place nor a refusal for `{statement.key}` in {commit[:12]}"
        )
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
