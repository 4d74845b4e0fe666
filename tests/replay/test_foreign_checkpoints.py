"""A checkpoint that is another one than the run took is never put back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flor_dagster.errors import DamagedCheckpointError
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.recording.journal import read_journal
from flor_dagster.recording.loading import load
from flor_dagster.recording.state import digest_bytes
from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab

SCRIPT = """\
import flor_dagster as flor

total = float(flor.arg("start", 0.0))
for epoch in flor.loop("epoch", range(4)):
    for step in flor.loop("step", range(2)):
        total = total * 0.5 + step
    {statement}
    flor.log("kind", "same")
"""
PLAIN = SCRIPT.format(statement="pass")
ASKS = SCRIPT.format(statement='flor.log("total", total)')


def alike(source: Path, target: Path, run: str) -> None:
    """Put another run's manifest in the place of one, made out to be this run's."""
    head, objects, body = source.read_bytes().split(b"\n")
    fields = json.loads(body) | {"run": run}
    rest = objects + b"\n" + json.dumps(fields).encode()
    facts = json.loads(head) | {"digest": digest_bytes(rest)}
    target.write_bytes(json.dumps(facts).encode() + b"\n" + rest)


@pytest.mark.parametrize("forged", [False, True], ids=["copied", "made out to be this run's"])
def test_another_runs_checkpoint_is_not_put_back(lab: Lab, forged: bool) -> None:
    lab.commit({"train.py": PLAIN})
    lab.train()
    lab.train(start=1000.0)
    with lab.open() as workspace:
        workspace.sync()
        mine, other = workspace.runs()
        store = CheckpointStore(workspace.home / "checkpoints")
        for name in store.names(mine.id):
            if forged:
                alike(store.manifest_path(other.id, name), store.manifest_path(mine.id, name), mine.id)
            else:
                shutil.copyfile(store.manifest_path(other.id, name), store.manifest_path(mine.id, name))
        if not forged:
            with pytest.raises(DamagedCheckpointError, match=other.id):
                store.read(mine.id, store.names(mine.id)[0])
        with pytest.raises(DamagedCheckpointError):
            load(mine.id, project=lab.root)
        lab.write({"train.py": ASKS})
        cell = workspace.answer(Question(("total",), runs=(mine.id,), warm=False)).cells[0].cell
        values = [value for *_, value in workspace.store.records(mine.id, origin="replayed")]
        assert (values, cell.fidelity) == ([1.0, 1.25, 1.3125, 1.328125], "exact"), cell.sentence
        assert "executed from the beginning, since checkpoint" in cell.sentence


def test_the_journal_says_which_manifest_is_meant(lab: Lab) -> None:
    lab.commit({"train.py": PLAIN})
    lab.train()
    (journal,) = (lab.root / ".flor" / "runs").glob("*/journal.0.jsonl")
    entries = [entry.parts[1] for entry in read_journal(journal) if entry.parts[0] == "k"]
    manifests = lab.root / ".flor" / "checkpoints" / "manifests" / journal.parent.name
    heads = {p.stem: json.loads(p.open("rb").readline())["digest"] for p in manifests.glob("*.json")}
    assert heads == {entry["name"]: entry["digest"] for entry in entries} != {}
