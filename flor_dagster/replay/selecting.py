"""Which training runs a question is asked of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flor_dagster.errors import UnknownNameError

if TYPE_CHECKING:
    from flor_dagster.replay.model import Question
    from flor_dagster.store import LogStore
    from flor_dagster.store.models import RunRow


def choose_runs(runs: Sequence[RunRow], store: LogStore, question: Question) -> tuple[RunRow, ...]:
    """The training runs that a question is asked of, in the order of their start.

    Args:
        runs: the project's.
        store: its log store.
        question: `runs`, `where` and `latest` narrow each other.

    Raises:
        UnknownNameError: a run is not known, or belongs to another entry point.
        QueryError: the condition makes no sense.
    """
    chosen = tuple(runs)
    if question.runs is not None:
        known = {run.id for run in runs}
        named = [store.run(name) for name in question.runs]
        for run in named:
            if run.id not in known:
                raise UnknownNameError(
                    f"training run {run.key} belongs to another entry point ({run.entrypoint})"
                )
        ids = {run.id for run in named}
        chosen = tuple(run for run in chosen if run.id in ids)
    if question.where:
        chosen = tuple(store.runs_where(question.where, chosen))
    return chosen if question.latest is None else chosen[max(len(chosen) - question.latest, 0) :]
