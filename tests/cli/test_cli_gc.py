"""`flor gc` deletes what nobody needs, and nothing that anybody needs: hindsight answers as before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flor_dagster.cli import cli
from flor_dagster.recording.artifacts import Artifact, ArtifactStore
from flor_dagster.recording.sharing import take_away
from flor_dagster.replay.model import Question
from flor_dagster.store.models import RunRow
from tests.recording.disk_lab import namespaces, on_small_disk
from tests.replay.conftest import PACKAGE, Lab, lab

pytestmark = pytest.mark.ci

__all__ = ["lab"]

SCRIPT = """\
import os, signal, time
import flor_dagster as flor
lr = flor.arg("lr", 1.0)
state = [0.0] * 3000
for epoch in flor.loop("epoch", range(8)):
    for step in flor.loop("step", range(3)):
        state = [value + lr * (step + i) for i, value in enumerate(state)]
    flor.log("loss", state[0])
    {more}
    if os.environ._data.get(b"PYTEST_FLOR_STAY") and epoch == 6:
        signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR1}})
        print("there", flush=True)
        signal.sigwait({{signal.SIGUSR1}})
flor.log("long", "x" * 2_000_000 + str(lr))
"""


@pytest.fixture
def trained(lab: Lab) -> Lab:
    lab.commit({"train.py": SCRIPT.format(more="")})
    for lr in (1.0, 2.0):
        lab.train(lr=lr)
    return lab


def gc(lab: Lab, *arguments: str, status: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["gc", *arguments, "--json", "--project", str(lab.root)])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


def parts(document: dict[str, Any]) -> dict[str, int]:
    return {part["kind"]: part["count"] for part in document["parts"]}


def files(lab: Lab) -> dict[str, int]:
    """What matters in the home, without locks and the database's own files."""
    home = lab.root / ".flor"
    return {
        str(path.relative_to(home)): path.stat().st_size
        for path in home.rglob("*")
        if path.is_file() and "lock" not in path.name and "leases" not in path.parts and path.parent != home
    }


def ask(lab: Lab, name: str) -> set[str | None]:
    with lab.open() as workspace:
        report = workspace.answer(Question((name,)))
        assert report.complete, [answer.cell.sentence for answer in report.failed]
        return {answer.cell.fidelity for answer in report.cells}


def make_old(lab: Lab) -> None:
    for path in (lab.root / ".flor").rglob("*"):
        if path.is_file() and ("artifacts" in path.parts or "packages" in path.parts):
            os.utime(path, (1, 1))


def test_a_plan_says_what_would_go_and_changes_nothing(trained: Lab) -> None:
    gc(trained, "--plan")
    before = files(trained)
    document = gc(trained, "--plan", "--keep-bytes", "0")
    assert document["planned"]
    assert document["bytes"] > 0
    assert parts(document)["checkpoints"] > 4
    assert len(document["slower"]) == 2
    assert "more iterations of `epoch`" in document["slower"][0]["sentence"]
    assert document["over"] > 0, "the first and the last ones stay"
    assert files(trained) == before
    real = gc(trained, "--keep-bytes", "0")
    assert (parts(real), real["bytes"]) == (parts(document), document["bytes"]), "the plan is what is done"
    said = CliRunner().invoke(cli, ["gc", "--keep-bytes", "0", "--project", str(trained.root)])
    assert "Nothing to let go of." in said.output


def test_after_collecting_with_no_bytes_at_all_every_question_is_answered_exactly(trained: Lab) -> None:
    make_old(trained)
    done = gc(trained, "--keep-bytes", "0 MB")
    assert "artifacts" not in parts(done)
    assert "versions" not in parts(done)
    trained.write({"train.py": SCRIPT.format(more='flor.log("asked", sum(state) / lr)')})
    assert ask(trained, "asked") == {"exact"}
    # Now the question's version is needed too, and the replays' folders are not: the store has their values.
    after = gc(trained)
    assert parts(after) == {"replays": 2}
    assert gc(trained)["parts"] == []
    trained.git("reflog", "expire", "--expire=now", "--all")
    trained.git("gc", "--quiet", "--prune=now")
    trained.write({"train.py": SCRIPT.format(more='flor.log("again", max(state))')})
    assert ask(trained, "again") == {"exact"}
    with trained.open() as workspace:
        assert len(workspace.store.dataframe("asked").dropna()) == 16
        assert workspace.artifact(workspace.store.dataframe("long")["long"].iloc[0]) is not None


def test_artifacts_and_package_lists_go_only_when_nothing_refers_to_them(trained: Lab) -> None:
    home = trained.root / ".flor"
    store = ArtifactStore(home)
    needed = set(home.glob("artifacts/*/*"))
    assert needed, "the script logs long values"
    inner = store.keep(b"held by a long value", "png", "Image")
    outer = store.keep(json.dumps([{"$": "artifact", "digest": inner.digest}]).encode(), "value.json", "list")
    nobody = store.keep(b"nobody's", "png", "Image")
    journal = home / "runs" / "notyetingested"
    journal.mkdir()
    (journal / "journal.0.jsonl").write_text(json.dumps([1, 0, {"$": "artifact", "digest": outer.digest}]))
    (home / "packages" / f"{'0' * 32}.json").write_text("[]")
    make_old(trained)
    young = store.keep(b"just written", "png", "Image")
    done = gc(trained, status=1)
    assert "notyetingested" in done["refused"][0], "what can't be taken in is named"
    assert parts(done) == {"artifacts": 1, "packages": 1}
    assert set(home.glob("artifacts/*/*")) == needed | {store.path(a) for a in (inner, outer, young)}
    assert any("a run may be about to refer to them" in sentence for sentence in done["kept"])
    assert not store.path(nobody).exists()


def test_what_a_run_has_just_found_is_put_back(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    artifact = store.keep(b"content", "png", "Image")
    os.utime(store.path(artifact), (1, 1))
    assert store.keep(b"content", "png", "Image") == Artifact(artifact.digest, "png", 7, "Image")
    assert not take_away(store.path(artifact)), "found again, it is young"
    assert store.read(artifact) == b"content"
    os.utime(store.path(artifact), (1, 1))
    assert take_away(store.path(artifact))
    assert list(store.path(artifact).parent.iterdir()) == []


def test_a_run_that_is_being_recorded_keeps_everything(trained: Lab) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment |= {
        "PYTHONPATH": str(PACKAGE),
        "PYTHONHASHSEED": "0",
        "FLOR_CHECKPOINTS": "all",
        "PYTEST_FLOR_STAY": "1",
    }
    child = subprocess.Popen(
        [sys.executable, "train.py"], cwd=trained.root, env=environment, stdout=subprocess.PIPE
    )  # fmt: skip
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        manifests = trained.root / ".flor" / "checkpoints" / "manifests"
        deadline = time.monotonic() + 120
        running: list[RunRow] = []
        with trained.open() as workspace:
            while not running and time.monotonic() < deadline:
                workspace.sync()  # it has its version a moment after it began
                running = [run for run in workspace.runs() if run.status == "running"]
        (live,) = running
        while len(list((manifests / live.id).glob("*.json"))) < 8 and time.monotonic() < deadline:
            time.sleep(0.05)  # they are written behind the training
        before = {name for name in files(trained) if live.id in name}
        done = gc(trained, "--keep-bytes", "0")
        assert parts(done)["checkpoints"] > 0
        assert before <= files(trained).keys()
        assert f"{live.key} is being trained: everything of it stays" in done["kept"]
        assert all(live.key != one["run"] for one in done["slower"])
    finally:
        child.send_signal(signal.SIGUSR1)
        child.communicate()
    assert child.returncode == 0
    trained.write({"train.py": SCRIPT.format(more='flor.log("asked", sum(state))')})
    assert ask(trained, "asked") == {"exact"}


def test_only_named_runs_are_thinned_and_versions_of_nobody_are_dropped(trained: Lab) -> None:
    with trained.open() as workspace:
        workspace.sync()
        first, second = workspace.runs()
        trained.write({"other.py": "flor = 1\n"})
        orphan = workspace.newest_commit("worktree")
    done = gc(trained, "--keep-bytes", "0", "--runs", first.key)
    assert [one["run"] for one in done["slower"]] == [first.key]
    (dropped,) = [part["names"] for part in done["parts"] if part["kind"] == "versions"]
    assert dropped == [orphan]
    assert second.commit is not None
    trained.git("rev-parse", "--verify", f"refs/flor/versions/{second.commit}")
    assert gc(trained, "--runs", "nosuchrun", status=2)["error"]["kind"] == "UnknownNameError"


def test_left_checkouts_and_clones_of_deleted_repositories_go(trained: Lab, tmp_path: Path) -> None:
    with trained.open() as workspace:
        cache = workspace.cache
    gc(trained)
    (place,) = [path for path in cache.iterdir() if path.is_dir()]
    killed, fresh = place / "replays" / "abc.0", place / "replays" / "def.0"
    orphan, foreign = cache / "orphan", cache / "foreign"
    for folder in (killed, fresh, orphan, foreign):
        folder.mkdir(parents=True)
    (orphan / "repository").write_bytes(os.fsencode(tmp_path / "deleted" / ".git"))
    for folder in (orphan / "repository", killed, orphan, foreign):
        os.utime(folder, (1, 1))
    assert parts(gc(trained)) == {"checkouts": 2}
    assert (killed.exists(), orphan.exists()) == (False, False)
    assert fresh.exists(), "it may be a replay that is going on"
    assert foreign.exists(), "nobody knows whose it is"


FULL = """\
import os, subprocess, sys
flor = [sys.executable, "-m", "flor_dagster.cli"]
with open(".flor/filling", "wb", buffering=0) as file:
    try:
        while True:
            file.write(b"x" * 4096)
    except OSError:
        pass
for command in (["rebuild"], ["gc", "--keep-bytes", "0"]):
    done = subprocess.run([*flor, *command], capture_output=True, text=True)
    print(command[0], done.returncode, done.stdout + done.stderr)
print("damaged", [name for name in os.listdir(".flor") if "damaged" in name])
"""


def test_a_full_disk_can_be_collected_and_a_whole_database_is_not_put_away(trained: Lab) -> None:
    if not namespaces():
        pytest.skip("this kernel lets nobody mount a small disk")
    with trained.open() as workspace:
        workspace.sync()
    (trained.root / "full.py").write_text(FULL)
    done = on_small_disk(trained.root, 24_000, "full.py")
    assert "damaged []" in done.stdout, done.stdout + done.stderr
    assert "gc 0 " in done.stdout, done.stdout
    assert "checkpoints" in done.stdout
    with trained.open() as workspace:
        assert len(workspace.runs()) == 2
