"""Jobs that look after what was recorded: verify that training runs can still be reproduced, let go of what nobody needs."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from flor_dagster.errors import FlorError
from flor_dagster.orchestration.metadata import log_line, rows, text_value
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.orchestration.specs import key_of
from flor_dagster.orchestration.translator import DagsterFlorTranslator
from flor_dagster.replay.collecting import Collection
from flor_dagster.replay.reproducing import Verification, verify_run
from flor_dagster.replay.workspace import Workspace
from flor_dagster.showing import shown
from flor_dagster.store.models import RunRow


class VerifyConfig(dg.Config):
    """Which training runs are executed again. Shown, filled in, in the job's launchpad."""

    runs: list[str] = Field(default=[], description="Keys of training runs; empty: the newest ones.")
    latest: int = Field(
        default=1, description="Where no runs are named: so many of the newest training runs; 0: all.", ge=0
    )
    audit: bool = Field(
        default=False,
        description="Compute one iteration both ways too, nested loops skipped and executed; where they differ, later "
        "replays execute.",
    )
    tolerance: dict[str, float] = Field(
        default={},
        description="Name of a record, or *, to the relative difference that it may have: it is then within tolerance.",
    )


class GcConfig(dg.Config):
    """What is let go of. Shown, filled in, in the job's launchpad."""

    keep_bytes: int = Field(
        default=0,
        description="What the checkpoints of all runs may take, in bytes; 0: the project's setting.",
        ge=0,
    )
    runs: list[str] = Field(
        default=[], description="Thin only these training runs; empty: all that are over."
    )
    plan_only: bool = Field(default=False, description="Only say what would go.")


def verify_job_name(project: FlorProject) -> str:
    """`<project>_verify`."""
    return f"{project.name}_verify"


def verify_op_name(project: FlorProject) -> str:
    """The op to configure in `<project>_verify`; Dagster wants op names to differ within a code location."""
    return f"reproduce_{project.name}"


def gc_job_name(project: FlorProject) -> str:
    """`<project>_gc`."""
    return f"{project.name}_gc"


def gc_op_name(project: FlorProject) -> str:
    """The op to configure in `<project>_gc`."""
    return f"collect_{project.name}"


def build_verify_job(
    project: FlorProject, *, translator: DagsterFlorTranslator | None = None
) -> dg.JobDefinition:
    """The job `<project>_verify`: executes training runs again and compares everything with their records, bit for bit.

    Each verdict is an observation of the run's partition of `runs`. The Dagster run fails where a training run is not shown
    to be reproducible; the others are verified all the same.

    Args:
        project: the project.
        translator: the one that the assets were built with.
    """
    key = key_of(project, "runs", translator)

    @dg.op(name=verify_op_name(project), description="Executes training runs again and compares everything.")
    def verify(context: dg.OpExecutionContext, config: VerifyConfig) -> Iterator[Any]:
        failures: list[str] = []
        verdicts: list[dict[str, str]] = []
        with project.workspace() as workspace:
            workspace.sync()
            for run in _runs_to_verify(workspace, config):
                try:
                    found = verify_run(
                        workspace, run.key, audit=config.audit, tolerance=config.tolerance or None,
                        on_line=log_line(context.log.info),
                    )  # fmt: skip
                except FlorError as error:
                    found = Verification(run, None, str(error))
                yield _observation(found, key)
                verdicts.append(
                    {
                        "training run": run.key,
                        "fidelity": found.fidelity or "failed",
                        "verdict": found.sentence,
                    }
                )
                if not found.good:
                    failures.append(_failure(found))
        if failures:
            raise dg.Failure(
                description=shown(
                    "\n\n".join(
                        [
                            f"{len(failures)} of {len(verdicts)} training runs are not shown to be reproducible.",
                            *failures,
                        ]
                    ),
                ),
                metadata={"training runs": rows(verdicts)},
                allow_retries=False,
            )
        yield dg.Output(None, metadata={"training runs": rows(verdicts)} if verdicts else {})

    @dg.job(
        name=verify_job_name(project),
        description="Executes training runs again and compares everything with their records, bit for bit.",
        executor_def=dg.in_process_executor,
        config=dg.RunConfig(ops={verify_op_name(project): VerifyConfig()}),
    )
    def verify_job() -> None:
        verify()

    return verify_job


def _runs_to_verify(workspace: Workspace, config: VerifyConfig) -> list[RunRow]:
    if config.runs:
        return [workspace.store.run(name) for name in config.runs]
    over = [run for run in reversed(workspace.runs()) if run.status != "running" and run.commit is not None]
    return over[: config.latest] if config.latest else over


def _observation(found: Verification, key: dg.AssetKey) -> dg.AssetObservation:
    metadata: dict[str, Any] = {
        "fidelity": found.fidelity or "failed",
        "verdict": text_value(found.sentence),
        "seconds": found.seconds,
    }
    if found.audited:
        audited = [
            {"loop": one.name, "place": f"{one.file}:{one.line}", "difference": one.why or "none"}
            for one in found.audited
        ]
        metadata["audited loops"] = rows(audited)
    return dg.AssetObservation(
        asset_key=key, partition=found.run.key, description=shown(found.sentence), metadata=metadata
    )


def _failure(found: Verification) -> str:
    return f"{found.run.key}: {found.sentence}" + "".join(f"\n    {line}" for line in found.tail)


def build_gc_job(project: FlorProject) -> dg.JobDefinition:
    """The job `<project>_gc`: thins checkpoints and deletes what nothing refers to, beside running trainings and replays.

    Args:
        project: the project.
    """

    @dg.op(name=gc_op_name(project), description="Thins checkpoints and deletes what nothing refers to.")
    def collect(context: dg.OpExecutionContext, config: GcConfig) -> Iterator[Any]:
        with project.workspace() as workspace:
            try:
                done = workspace.collect(
                    config.keep_bytes or None, config.runs or None, plan=config.plan_only
                )
            except FlorError as error:
                raise dg.Failure(description=shown(error), allow_retries=False) from error
        for line in (*(one.sentence for one in done.slower), *done.kept):
            log_line(context.log.info)(line)
        metadata = _collected(done)
        if done.refused:
            raise dg.Failure(
                description=shown("\n".join(done.refused)), metadata=metadata, allow_retries=False
            )
        yield dg.Output(None, metadata=metadata)

    @dg.job(
        name=gc_job_name(project),
        description="Thins checkpoints to their budget and deletes what nothing refers to any more.",
        executor_def=dg.in_process_executor,
        config=dg.RunConfig(ops={gc_op_name(project): GcConfig()}),
    )
    def gc_job() -> None:
        collect()

    return gc_job


def _collected(done: Collection) -> dict[str, Any]:
    parts = [{"what": part.kind, "count": part.count, "bytes": part.bytes} for part in done.parts]
    metadata: dict[str, Any] = {"only planned": done.planned, "bytes": done.bytes}
    if parts:
        metadata["let go of"] = rows(parts)
    if done.slower:
        metadata["slower"] = text_value("\n".join(one.sentence for one in done.slower))
    return metadata
