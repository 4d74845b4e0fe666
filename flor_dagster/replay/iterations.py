"""Which iterations are asked for: the notation, and what it means in one training run."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import UnknownNameError
from flor_dagster.recording.values import decode
from flor_dagster.replay.record import Execution, RunRecord

if TYPE_CHECKING:
    from flor_dagster.store import LogStore
    from flor_dagster.store.models import RunRow

Iterations = Mapping[str, tuple[int | str, ...]]
"""Loop name → wanted iterations: indices from 0, `last`, or `first:end:step` as Python slices (`0:10`, `::5`, `-3:`).

`<loop>_value` → iterations by their values.
"""

VALUE = "_value"


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
    if iterations is None:
        return None
    by_value = iterations.get(f"{execution.name}{VALUE}")
    if by_value is None and execution.name not in iterations:
        return None
    chosen = chosen_indices(iterations.get(execution.name, ()), execution.count)
    for wanted in by_value or ():
        chosen |= _of_value(wanted, execution.values, execution.count)
    return chosen


def _of_value(wanted: int | str, values: Mapping[int, Any], count: int) -> set[int]:
    """The iterations whose value it is; `values` has those that are not their indices."""
    found = {index for index, raw in values.items() if index < count and str(decode(raw)) == str(wanted)}
    if str(wanted).isdecimal() and int(wanted) < count and int(wanted) not in values:
        found.add(int(wanted))
    return found


def absent_loops(record: RunRecord, iterations: Iterations | None) -> str:
    """Loops whose iterations are asked for and that the run does not have, in words; empty where it has them all."""
    there = {execution.name for execution in record.executions.values()}
    absent = sorted(key for key in iterations or () if loop_of(key, there) is None)
    if not absent:
        return ""
    return f"this training run has no loop {' or '.join(f'`{name}`' for name in absent)} (its loops: {_listed(there)})"


def absent_iterations(iterations: Iterations) -> str:
    """That a run has none of the iterations that are asked for, in words."""
    asked = " ".join(f"{key}={','.join(map(str, wanted))}" for key, wanted in iterations.items())
    return f"this training run has no iteration {asked}"


def loop_of(key: str, there: Container[str]) -> str | None:
    """The loop that is meant by `epoch` or, with its iterations' values, by `epoch_value`; None where it is not there."""
    if key in there:
        return key
    return key.removesuffix(VALUE) if key.endswith(VALUE) and key.removesuffix(VALUE) in there else None


def check_iterations(iterations: Iterations, runs: Sequence[RunRow], store: LogStore) -> None:
    """Refuse what none of the asked training runs has.

    Args:
        iterations: what is asked for.
        runs: the asked runs.
        store: where their loops are.

    Raises:
        UnknownNameError: a loop or an iteration that is named exists in none of them; the message names what does.
    """
    missing = {(key, one) for key, wanted in iterations.items() for one in wanted}
    counts: dict[str, int] = {}
    known: dict[str, set[str]] = {}
    for run in runs:
        for loop in _executions(run, store):
            counts[loop.name] = max(counts.get(loop.name, 0), loop.count)
            known.setdefault(loop.name, set()).update(str(decode(raw)) for raw in loop.values.values())
            missing -= {(key, one) for key, one in missing if asked_indices({key: (one,)}, loop)}
        if not missing:
            return
    for key, one in sorted(missing, key=str):
        loop = loop_of(key, counts)
        if loop is None:
            raise UnknownNameError(
                f"no asked training run has a loop `{key}` (their loops: {_listed(counts)}). Nothing was run"
            )
        values = known.get(loop, set())
        has = f"0 to {counts[loop] - 1}" if counts[loop] else "none"
        said = f"; their values: {_listed(values)}" if values and key != loop else ""
        raise UnknownNameError(
            f"no asked training run has an iteration {key}={one} (the iterations of `{loop}`: {has}{said}). Nothing was run"
        )


def _listed(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:20]) + (", …" if len(listed) > 20 else "") or "none"


def _executions(run: RunRow, store: LogStore) -> Iterator[Execution]:
    """The loop executions of a run, of every rank."""
    for rank in range(int(run.header.get("world_size") or 1)):
        found = {
            row.loop_id: Execution(
                row.loop_id, row.name, row.name, None, None, row.file, row.function, row.line, 0, 0, 0, count=row.count
            )
            for row in store.loops(run.id, rank=rank)
        }  # fmt: skip
        for _, loop, index, value in store.contexts(run.id, rank=rank):
            if loop not in found:
                continue
            found[loop].count = max(found[loop].count, index + 1)
            if value != index:
                found[loop].values[index] = value
        yield from found.values()
