"""What the cells of an answered question say: values in short, a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from flor_dagster.computed import fits, of_names
from flor_dagster.recording.values import Failure, decode
from flor_dagster.replay.attempting import Attempt
from flor_dagster.replay.coverage import Share, kept_coverage, read_coverage
from flor_dagster.replay.firing import Firing, company_of, firing_of, why_not
from flor_dagster.replay.places import place_words, waiting_words
from flor_dagster.replay.placing import PlacedVersion
from flor_dagster.replay.planning import LoopPlan
from flor_dagster.replay.record import RunRecord
from flor_dagster.replay.verifying import Verdict
from flor_dagster.store.models import CellRow, PlacementRow, RunRow, StatementRow, once
from flor_dagster.store.packing import label


def plain_cell(run: RunRow, statement: StatementRow, status: Any, sentence: str) -> CellRow:
    """A cell without values; its sentence begins with its status, once."""
    sentence = f"{status}: {once(status, sentence)}"
    return CellRow(run.id, statement.id, status, None, sentence, 0, None, datetime.now().astimezone())


def waiting_cell(run: RunRow, statement: StatementRow, row: PlacementRow) -> CellRow:
    """The cell of a statement whose place a person has to confirm before it is answered."""
    words = f"open: {waiting_words(row, statement.key)}"
    detail = {
        "place": place_detail(row),
        "diff": row.diff,
        "commit": run.commit,
        "file": row.file,
        "line": row.line,
    }
    return replace(plain_cell(run, statement, "open", words), place=row.said, detail=detail)


def place_detail(row: PlacementRow) -> dict[str, Any]:
    """What a cell keeps of the verdict on its statement's place."""
    detail: dict[str, Any] = {
        "verdict": row.verdict,
        "reasons": list(row.reasons),
        "version": row.propagator,
        "digest": row.place,
    }
    if row.confirmed is not None:
        detail |= {"confirmed": row.confirmed.isoformat(), "confirmed_by": row.confirmed_by}
    return detail


def answered_cell(
    run: RunRow, statement: StatementRow, placed: PlacedVersion, attempt: Attempt, replay_id: str, *,
    row: PlacementRow, share: Share, approximate: str, branches: Sequence[str] = (), firing: Firing, supplied: Sequence[str] = (),
    world: str = "",
    damaged: str = "",
) -> CellRow:  # fmt: skip
    """The cell of a statement that a replay came through with.

    Args:
        run: the training run.
        statement: the statement.
        placed: where it was put in the run's version.
        attempt: the replay: finished, merged and compared with the record.
        replay_id: its id.
        row: what is thought of its place, and who confirmed it.
        share: what of the cell this settles; where iterations are left, it stays open.
        approximate: why the version may not be what ran; empty where it is.
        branches: places of branches on a value of the clock, the process or the machine.
        supplied: what the asker gave in the place of what the run had, in words.
        world: tells these values from those of another asker, who supplies something else; see `given.world_of`.
        damaged: which checkpoint was damaged, so that the run was executed from its beginning; empty where none was.
        firing: how often it fired, and was to be expected to.
    """
    file, placement = placed.placements[statement.id]
    by_line = attempt.statements.get(file, {})
    mine = [
        r
        for one in attempt.replayed.ranks
        for r in one.records
        if r.file == file and by_line.get(r.line) == statement.key and fits(statement.name, label(r.name))
    ]
    values = [decode(r.value) for r in mine]
    failures = [v for v in values if isinstance(v, Failure)]
    good = len(values) - len(failures)
    verdict = attempt.verdict
    ranks = f" on {len(attempt.journals)} ranks" if len(attempt.journals) > 1 else ""
    names = of_names(statement.name, sorted({r.name for r in mine}))
    words = f"{good} value{'s' * (good != 1)}{names}{ranks}, {_both(verdict, row)}"
    words += "".join(f". {said}" for said in supplied if said not in words)
    status = "replayed" if share.whole else "open"
    if verdict.fidelity == "diverged":
        status, words = "failed", verdict.sentence
        if attempt.diagnosis:
            words += f". {attempt.diagnosis}"
    elif failures:
        first = failures[0]
        words = f"{first.type}: {first.message} ({file}, line {first.line}) in {len(failures)} of {len(values)} loop contexts"
        status = "failed" if not good else status
        words = words if not good else f"{good} values; {words}; {_both(verdict, row)}"
    detail: dict[str, Any] = {
        "values": summarise(values), "diff": placement.diff, "seconds": attempt.seconds, "commit": run.commit,
        "file": file, "line": placement.lines[0], "plan": attempt.sentence, "tail": list(attempt.tail)[-5:],
        "segments": len(attempt.outcomes), "diagnosis": attempt.diagnosis,
    }  # fmt: skip
    if world:
        detail["world"] = world
    detail["place"] = place_detail(row)
    if firing.otherwise and verdict.fidelity != "diverged":
        detail["firing"] = {"fired": firing.fired, "expected": firing.expected, "sentence": firing.sentence}
        words = f"{firing.sentence}. {words}"
    if row.said == "confirmed":
        words += f"; its place is {place_words(row)}"
    if damaged:
        words += f"; executed from the beginning, since {damaged}"
    if branches:
        words += f"; a branch depends on the clock, the process or the machine: {', '.join(branches[:3])}"
    if approximate:
        words += f"; its version is approximate: {approximate}"
    if status == "open":
        words = f"asked for some iterations only: {words}"
    fidelity, coverage = verdict.fidelity, None
    if status in ("open", "replayed"):
        before = read_coverage(share.earlier)
        coverage = kept_coverage(before.with_(share.asked), verdict.fidelity, replay_id, share.earlier)
        if status == "replayed" and before:
            fidelity = coverage["fidelity"]
            words += (
                f"; {before.count} iteration{'s' * (before.count != 1)} answered before ({fidelity} together)"
            )
    return CellRow(
        run.id, statement.id, status, fidelity, words, len(values), replay_id, datetime.now().astimezone(), detail, coverage,
        row.said,
    )  # fmt: skip


def how_it_fired(
    statement: StatementRow,
    source: str,
    record: RunRecord,
    placed: PlacedVersion,
    loops: LoopPlan,
    attempt: Attempt,
) -> Firing:
    """How often a statement fired in a replay, how often that was to be expected, and why it was otherwise.

    Args:
        statement: the statement.
        source: the text that it was written in.
        record: the run's journals.
        placed: where it was put in the run's version.
        loops: what the replay executed.
        attempt: the replay.
    """
    file, _ = placed.placements[statement.id]
    state = placed.files[file]
    answers = {(f, line): key for f, by_line in attempt.statements.items() for line, key in by_line.items()}
    places = [(r.file, r.line) for one in attempt.replayed.ranks for r in one.records]
    fired = sum(place[0] == file and answers.get(place) == statement.key for place in places)
    company = company_of(source, statement.line, statement.name)
    found = firing_of(fired, company, statement.loops, attempt.replayed, record, loops, frozenset(answers))
    if not found.otherwise:
        return found
    return replace(found, why=why_not(state.text, file, state.logs[statement.id][0], state.added))


def _both(verdict: Verdict, row: PlacementRow) -> str:
    """Both verdicts in words: how the replay compares with the record, and what is thought of the place."""
    fidelity, _, compared = verdict.sentence.partition(": ")
    return f"{fidelity}, place {row.said}: {compared}"


_LONG = 1 << 63


def summarise(values: Sequence[Any]) -> dict[str, Any]:
    """First, last, and for numbers the extremes."""
    good = [v for v in values if not isinstance(v, Failure)]
    if not good:
        return {"count": 0}
    summary: dict[str, Any] = {"count": len(good), "first": _plain(good[0]), "last": _plain(good[-1])}
    numbers = [v for v in good if isinstance(v, int | float) and not isinstance(v, bool) and v == v]
    if numbers:
        summary |= {"min": _plain(min(numbers)), "max": _plain(max(numbers))}
    return summary


def _plain(value: Any) -> Any:
    """A value that any JSON holds: what is no number there, or too long a one, is its text."""
    if isinstance(value, float):
        return (
            value if math.isfinite(value) else {"nan": "NaN", "inf": "Infinity"}.get(repr(value), "-Infinity")
        )
    if isinstance(value, int):
        return value if abs(value) < _LONG else hex(value)[:200]
    return value if isinstance(value, str) or value is None else repr(value)[:200]
