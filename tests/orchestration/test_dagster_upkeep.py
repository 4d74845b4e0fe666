"""The jobs that look after what was recorded: verdicts on the runs' own partitions, failures named, nothing lost unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from flor_dagster.orchestration import FlorProject, build_gc_job, build_verify_job
from tests.orchestration import toy_project
from tests.orchestration.conftest import Toy

pytestmark = pytest.mark.ci


def launch(toy: Toy, job: str, **config: Any) -> dg.ExecuteInProcessResult:
    definition = toy.definitions.resolve_job_def(f"toy_{job}")
    (op,) = (definition.run_config or {})["ops"]
    return definition.execute_in_process(
        instance=toy.instance, run_config={"ops": {op: {"config": config}}}, raise_on_error=False
    )


def observations(toy: Toy) -> dict[str, dg.AssetObservation]:
    records = toy.instance.fetch_observations(toy.runs, limit=100).records
    return {r.partition_key: r.asset_observation for r in records if r.partition_key and r.asset_observation}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    data = failure.step_failure_data
    return str(data.user_failure_data.description if data.user_failure_data else data.error)


def test_the_verify_job_tells_each_runs_partition_whether_it_can_be_reproduced(toy: Toy) -> None:
    runs, _ = toy.open_questions()
    result = launch(toy, "verify", runs=runs[:2], audit=True)
    assert result.success
    seen = observations(toy)
    assert set(seen) == set(runs[:2])
    assert {seen[run].metadata["fidelity"].value for run in runs[:2]} == {"exact"}
    assert "records" in str(seen[runs[0]].metadata["verdict"].value)


def test_the_newest_run_is_verified_unless_others_are_named(toy: Toy) -> None:
    runs, _ = toy.open_questions()
    definition = toy.definitions.resolve_job_def("toy_verify")
    filled_in = {"runs": [], "latest": 1, "audit": False, "tolerance": {}}
    assert (definition.run_config or {})["ops"] == {"reproduce_toy": {"config": filled_in}}
    assert definition.execute_in_process(instance=toy.instance).success
    assert list(observations(toy)) == [runs[-1]]


def test_a_run_that_cant_be_reproduced_fails_the_job_and_the_others_are_verified(tmp_path: Path) -> None:
    folder = toy_project.make_project(tmp_path / "toy")
    project = FlorProject("toy", repo=folder, entrypoints=["train.py"])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance)
        runs, _ = toy.open_questions()
        with project.workspace() as workspace:
            run = workspace.store.run(runs[0])
        journal = folder / f".flor/runs/{run.id}/journal.0.jsonl"
        lines = journal.read_bytes().split(b"\n")
        at = next(i for i, line in enumerate(lines) if line[:2] == b"[1")
        lines[at] = lines[at].rpartition(b",")[0] + b",12345.5]"
        journal.write_bytes(b"\n".join(lines))
        result = launch(toy, "verify", latest=0)
        assert not result.success
        said = failure_of(result)
        assert f"1 of {len(runs)} training runs" in said
        assert runs[0] in said
        assert "12345.5" in said
        fidelities = {key: event.metadata["fidelity"].value for key, event in observations(toy).items()}
        assert fidelities == {key: "diverged" if key == runs[0] else "exact" for key in runs}


def test_the_gc_job_says_what_would_go_and_lets_go_of_it_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOR_CHECKPOINTS", "all")
    folder = toy_project.make_project(tmp_path / "toy")
    project = FlorProject("toy", repo=folder, entrypoints=["train.py"])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance)
        (folder / "train.py").write_text(toy_project.V2.replace("range(3)", "range(9)"))
        with project.workspace() as workspace:
            workspace.train("train.py", {})
        manifests = folder / ".flor/checkpoints/manifests"
        before = sorted(manifests.rglob("*.json"))
        assert before
        planned = launch(toy, "gc", keep_bytes=1, plan_only=True)
        assert planned.success
        assert sorted(manifests.rglob("*.json")) == before, "a plan changes nothing"
        done = launch(toy, "gc", keep_bytes=1)
        assert done.success, failure_of(done)
        assert len(sorted(manifests.rglob("*.json"))) < len(before)
        missing = launch(toy, "gc", runs=["no-such-run"])
        assert not missing.success
        assert "no-such-run" in failure_of(missing)


def test_both_jobs_are_public_builders(project: FlorProject) -> None:
    assert build_verify_job(project).name == "toy_verify"
    assert build_gc_job(project).name == "toy_gc"
