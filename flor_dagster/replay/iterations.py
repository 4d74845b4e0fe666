"""Which iterations are asked for: the notation, and what it means in one training run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flor_dagster.replay.record import Execution, RunRecord

Iterations = Mapping[str, tuple[int | str, ...]]
"""Loop name → wanted iterations: indices from 0, `last`, or `first:end:step` as Python slices (`0:10`, `::5`, `-3:`)."""


def chosen_indices(wanted: Iterable[int | str], count: int) -> set[int]:
    """The indices that are meant of an execution with so many iterations; those that it never came to are left out.

    Args:
        wanted: see `Iterations`.
        count: how many iterations there were.
    """
    chosen: set[int] = set()
    for one in wanted:
        if isinstance(one, int):
            chosen.add(one)
        elif one == "last":
            chosen.add(count - 1)
        else:
            parts = [int(part) if part.strip() else None for part in one.split(":")]
            chosen |= set(range(count)[slice(*parts)])
    return {index for index in chosen if 0 <= index < count}


def asked_indices(iterations: Iterations | None, execution: Execution) -> set[int] | None:
    """The iterations of an execution that are asked for by its loop's name, None for all."""
    if iterations is None or execution.name not in iterations:
        return None
    return chosen_indices(iterations[execution.name], execution.count)


def absent_loops(record: RunRecord, iterations: Iterations | None) -> str:
    """Loops whose iterations are asked for and that the run does not have, in words; empty where it has them all."""
    there = {execution.name for execution in record.executions.values()}
    absent = sorted(set(iterations or ()) - there)
    if not absent:
        return ""
    has = ", ".join(sorted(there)) or "none"
    return f"this training run has no loop {' or '.join(f'`{name}`' for name in absent)} (its loops: {has})"
