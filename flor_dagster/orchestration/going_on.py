"""Whether Dagster is replaying: what waits for the end of replays goes by processes that are known to live.

Dagster shows a run whose process was killed as started until somebody ends it. So the process that answers says itself that it
lives (`replay.askers`); a Dagster run that has not said so yet is waited for as long as its launcher knows its worker, else for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import dagster as dg

from flor_dagster.orchestration.jobs import hindsight_job_name
from flor_dagster.orchestration.private import worker_lives
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.replay.askers import Asker

BEGIN_SECONDS = 600.0
"""A Dagster run is waited for so long since it last changed, where nothing says that it answers, or lives."""

TRIES = 3
"""A refresh that fails or is killed is requested so often in all."""

RUN_KEY_TAG = "dagster/run_key"
_ACTIVE = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


def replays_going_on(
    instance: dg.DagsterInstance,
    project: FlorProject,
    key: dg.AssetKey,
    askers: Sequence[Asker],
    tell: Callable[[str], None],
) -> tuple[str, ...]:
    """The Dagster runs that answer cells of `hindsight`, or are about to, each in words; empty where none does.

    Args:
        instance: Dagster's.
        project: the project.
        key: the key of `hindsight`.
        askers: the project's.
        tell: told of Dagster runs that are not waited for though Dagster shows them as going on.
    """
    answering = [one for one in askers if one.dagster_run]
    going = [one.sentence for one in answering if one.alive]
    said = {one.dagster_run: one for one in answering if not one.alive}
    said |= {one.dagster_run: one for one in answering if one.alive}
    job = hindsight_job_name(project)
    for record in instance.get_run_records(dg.RunsFilter(statuses=_ACTIVE)):
        run = record.dagster_run
        if key not in (run.asset_selection or ()) and run.job_name != job:
            continue
        asker, status = said.get(run.run_id), run.status.value.lower()
        name = f"Dagster run {run.run_id[:8]}"
        if asker is not None:
            if not asker.alive:
                tell(
                    f"{asker.sentence} was killed and is not waited for, though Dagster shows it as {status}: its cells can be "
                    "asked again; mark it as canceled in Dagster"
                )
            continue
        why = why_over(instance, record)
        if not why:
            going.append(f"{name} is {status} since {record.update_timestamp.astimezone():%Y-%m-%d %H:%M:%S}")
        else:
            tell(f"{name} is not waited for, though Dagster shows it as {status}: {why}")
    return tuple(going)


def why_over(instance: dg.DagsterInstance, record: dg.RunRecord) -> str:
    """Why a Dagster run is not going on, whatever Dagster shows; empty where its worker lives, or nobody knows and it is young."""
    if record.dagster_run.status not in _ACTIVE:
        return "it has ended"
    lives = worker_lives(instance, record.dagster_run)
    if lives is False:
        return "its worker is gone"
    age = time.time() - record.update_timestamp.timestamp()
    if lives is None and age >= BEGIN_SECONDS:
        return f"it has answered nothing for {age / 60:.0f} minutes"
    return ""


def next_try(instance: dg.DagsterInstance, job: str, run_key: str) -> str | None:
    """The key by which a run is requested again that failed or was killed; None where it was not, or was tried often enough.

    Args:
        instance: Dagster's.
        job: the job's name.
        run_key: the key of the first try.
    """
    keys = [run_key, *(f"{run_key}-{number}" for number in range(2, TRIES + 1))]
    records = instance.get_run_records(dg.RunsFilter(job_name=job, tags={RUN_KEY_TAG: keys}))
    if not records or len(records) >= TRIES:
        return None
    newest = max(records, key=lambda record: record.storage_id)
    ended = newest.dagster_run.status in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED)
    return None if ended or not why_over(instance, newest) else keys[len(records)]
