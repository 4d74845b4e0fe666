"""Trainings and replays that Dagster starts: the recorded world is given back, and no secret gets into Dagster's storage."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import dagster as dg
import pytest

from flor_dagster.orchestration import FlorProject
from tests.orchestration.conftest import Toy

SECRET = "s3rv1ce-t0ken-0f-dagster"
SCRIPT = """\
import os
import flor_dagster as flor

token = os.environ["SERVICE_TOKEN"]
rate = float(os.environ["RATE"])
w = 1.0
print("speaks to the service with", token)
if flor.arg("broken", False):
    raise ConnectionError(f"https://me:{token}@host refused {token}")
for epoch in flor.loop("epoch", range(2)):
    w = w * rate
    flor.log("w", w)
"""


def git(folder: Path, *arguments: str) -> None:
    environment = os.environ | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    identity = ("-c", "user.name=t", "-c", "user.email=t@t.invalid")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, env=environment)


def test_no_secret_gets_into_dagster_and_a_renewed_one_is_taken_from_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "keyed"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "train.py").write_text(SCRIPT)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "v1")
    monkeypatch.setenv("SERVICE_TOKEN", SECRET)
    monkeypatch.setenv("RATE", "0.5")
    project = FlorProject("keyed", repo=folder, entrypoints=["train.py"])
    (tmp_path / "storage").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "storage")) as instance:
        toy = Toy(project, instance)
        train = toy.definitions.resolve_job_def("keyed_train")
        assert train.execute_in_process(instance=instance).success
        broken = {"ops": {"train_keyed": {"config": {"args": {"broken": True}, "portable": True}}}}
        assert not train.execute_in_process(
            instance=instance, run_config=broken, raise_on_error=False
        ).success
        (folder / "train.py").write_text(SCRIPT + '    flor.log("twice", 2 * w + (0 if token else 9))\n')
        git(folder, "commit", "-qam", "v2")
        toy.open_questions()
        # The token was renewed, and the rate is another one in Dagster's own environment.
        monkeypatch.setenv("SERVICE_TOKEN", "renewed-" + SECRET)
        monkeypatch.setenv("RATE", "0.75")
        answer = toy.definitions.resolve_job_def("keyed_hindsight")
        refused = answer.execute_in_process(instance=instance, raise_on_error=False)
        said = json.dumps([str(event) for event in refused.all_events])
        assert "SERVICE_TOKEN, which this run read, has another value now" in said
        renewed = Toy(
            FlorProject("keyed", repo=folder, entrypoints=["train.py"], env_vars=["SERVICE_TOKEN"]), instance
        )
        answer = renewed.definitions.resolve_job_def("keyed_hindsight")
        assert answer.execute_in_process(instance=instance, raise_on_error=False)
        with renewed.project.workspace() as workspace:
            frame = workspace.store.dataframe("w", "twice").dropna()
            assert frame["twice"].tolist() == [1.0, 0.5]
    for place in (tmp_path / "storage", folder):
        holders = [p for p in place.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
        assert not holders
