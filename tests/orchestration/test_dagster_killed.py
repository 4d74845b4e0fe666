"""A Dagster run that was killed stays started in Dagster; nothing waits for it, and its cells can be asked again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from flor_dagster.orchestration import FlorProject, going_on
from flor_dagster.orchestration.jobs import log_view_job_name
from tests.orchestration import toy_project
from tests.orchestration.conftest import Toy

SCRIPT = """\
import os, time
import flor_dagster as flor

total = 0
for epoch in flor.loop("epoch", range(3)):
    total += epoch
    if epoch == 1 and os.path.exists("slow.txt"):
        open(open("slow.txt").read(), "w").close()
        time.sleep(600)
    flor.log("total", total)
"""

ANSWER = """\
import sys
import dagster as dg
from flor_dagster.orchestration import FlorProject
from tests.orchestration.conftest import Toy

folder, where, run, statement = sys.argv[1:]
with dg.DagsterInstance.local_temp(where) as instance:
    Toy(FlorProject("slow", repo=folder, entrypoints=["train.py"]), instance).ask([run], [statement])
"""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Toy]:
    """A project whose replay hangs as long as `slow.txt` is there; it names the file that is written then."""
    folder = tmp_path / "slow"
    folder.mkdir()
    toy_project.git(folder, "init", "-q", "-b", "main")
    (folder / ".gitignore").write_text("slow.txt\n")
    toy_project.commit(folder, "a total", train=SCRIPT)
    toy_project.train(folder)
    asked = SCRIPT.replace(
        'flor.log("total", total)', 'flor.log("total", total)\n    flor.log("double", total * 2)'
    )
    toy_project.commit(folder, "a question", train=asked)
    (folder / "slow.txt").write_text(str(tmp_path / "under way"))
    os.utime(folder / "slow.txt", (0, 0))
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "instance")) as instance:
        yield Toy(FlorProject("slow", repo=folder, entrypoints=["train.py"]), instance)


def test_a_killed_dagster_run_keeps_nobody_waiting_and_its_cells_are_free(
    slow: Toy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run,), (statement,) = slow.open_questions()
    answering = subprocess.Popen(
        [sys.executable, "-c", ANSWER, str(slow.project.root), str(tmp_path / "instance"), run, statement],
        cwd=toy_project.ROOT, env=os.environ | {"PYTHONPATH": str(toy_project.ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not (tmp_path / "under way").exists():
        assert time.monotonic() < limit
        assert answering.poll() is None
        time.sleep(0.1)
    (started,) = slow.instance.get_runs()
    waiting = slow.tick("log_view_refresh")
    assert not waiting.run_requests
    said = str(waiting.skip_message)  # type: ignore[attr-defined]
    assert "replays are going on" in said
    assert f"Dagster run {started.run_id[:8]} (process {answering.pid} on " in said

    answering.send_signal(signal.SIGKILL)
    answering.wait(30)
    (started,) = slow.instance.get_runs()
    assert started.status == dg.DagsterRunStatus.STARTED, "Dagster has not noticed"
    assert len(slow.tick("log_view_refresh").run_requests or ()) == 1
    assert f"Dagster run {started.run_id[:8]} (process {answering.pid} on " in capfd.readouterr().err

    (slow.project.root / "slow.txt").unlink()
    assert slow.ask([run], [statement]).success
    assert slow.colours()[f"{run}|{statement}"] == "green"
    assert not list((slow.project.root / ".flor" / "askers").glob("*")), "what was left is swept"


def test_a_dagster_run_that_answers_nothing_is_waited_for_a_while_and_no_longer(
    slow: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow.open_questions()
    run = slow.instance.create_run_for_job(
        slow.definitions.resolve_implicit_global_asset_job_def(),
        asset_selection=frozenset({slow.hindsight}),
        status=dg.DagsterRunStatus.STARTED,
    )
    waiting = slow.tick("log_view_refresh")
    assert f"Dagster run {run.run_id[:8]} is started since" in str(waiting.skip_message)  # type: ignore[attr-defined]
    monkeypatch.setattr(going_on, "BEGIN_SECONDS", 0.0)
    assert len(slow.tick("log_view_refresh").run_requests or ()) == 1


@pytest.mark.parametrize(
    ("status", "tries"),
    [
        (dg.DagsterRunStatus.FAILURE, ["", "-2", "-3"]),
        (dg.DagsterRunStatus.STARTED, ["", "-2", "-3"]),  # killed, which Dagster has not noticed
        (dg.DagsterRunStatus.CANCELED, [""]),
        (dg.DagsterRunStatus.SUCCESS, [""]),
    ],
)
def test_a_refresh_that_failed_or_was_killed_is_requested_again(
    slow: Toy, monkeypatch: pytest.MonkeyPatch, status: dg.DagsterRunStatus, tries: list[str]
) -> None:
    monkeypatch.setattr(going_on, "BEGIN_SECONDS", 0.0)
    slow.open_questions()
    job = log_view_job_name(slow.project)
    cursor, requested = None, list[str]()
    for _ in range(5):
        ticked = slow.tick("log_view_refresh", cursor)
        cursor = ticked.cursor or cursor
        for request in ticked.run_requests or ():
            assert request.run_key
            requested.append(request.run_key)
            slow.instance.create_run_for_job(
                slow.definitions.resolve_job_def(job),
                status=status,
                tags={"dagster/run_key": request.run_key},
            )
    assert requested == [f"{requested[0]}{number}" for number in tries]
