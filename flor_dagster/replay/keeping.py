"""A replay's row in the store: begun with its plan, finished with its verdict. And how long its children may take."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from flor_dagster.recording.owners import is_gone, number_of, own_mark
from flor_dagster.replay.attempting import Attempt
from flor_dagster.replay.planning import LoopPlan
from flor_dagster.store import LogStore
from flor_dagster.store.models import ReplayRow, RunRow

LEAST_TIMEOUT = 600.0
TIMEOUT_FACTOR = 20.0


def child_timeout(run: RunRow) -> float:
    """The seconds that one child of a run's replay may take, where nothing else is asked."""
    return max(LEAST_TIMEOUT, TIMEOUT_FACTOR * (run.seconds or 0.0))


def begin_replay(store: LogStore, run: RunRow, loops: LoopPlan, more: Mapping[str, Any]) -> ReplayRow:
    """Note in the store that a replay begins.

    Args:
        store: the project's.
        run: what is replayed.
        loops: what it executes.
        more: goes into its plan, beside what `loops` says.
    """
    plan = {
        "executed": loops.executed,
        "skipped": loops.skipped,
        "start": loops.start,
        "sentence": loops.sentence,
        "asker": own_mark(),
        **more,
    }
    replay = ReplayRow(
        secrets.token_hex(8), run.id, datetime.now().astimezone(), None, loops.estimated_seconds, "running", None, 0, 0,
        loops.sentence, plan,
    )  # fmt: skip
    store.begin_replay(replay)
    return replay


def end_replays_of_killed(store: LogStore) -> None:
    """Write down of each replay that its process was killed, where that is known; what it had written is nothing."""
    for replay in store.replays(status="running"):
        mark = str(replay.plan.get("asker", ""))
        if is_gone(mark):
            store.fail_replay(replay.id, f"the process that replayed ({number_of(mark)}) was killed")


def finished(replay: ReplayRow, result: Attempt, sentence: str) -> ReplayRow:
    """The row of a replay that came through, with its verdict."""
    verdict = result.verdict
    used = sum(outcome.ended.cpu_seconds for outcome in result.outcomes)
    return replace(
        replay, plan={**replay.plan, "cpu_seconds": used}, seconds=result.seconds, status="finished", fidelity=verdict.fidelity, compared_records=verdict.records,
        compared_digests=verdict.digests, sentence=sentence,
    )  # fmt: skip
