"""Four trainings at once, one of them of two ranks, two killed, every day: nothing breaks, nothing piles up."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flor_dagster.replay.workspace import Workspace
from flor_dagster.versions import Clone
from tests.distributed.rank_lab import Ranks

SCRIPT = """\
MARKER = {marker}
import os, sys, time
import flor_dagster as flor
import helper
import numpy as np
flor.log("marker", MARKER)
state = np.zeros(200)
with flor.checkpointing(state=state):
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(5)):
            state += helper.step(step)
            flor.log("value", float(state.sum()))
            time.sleep(0.01)
        flor.log("epoch_value", float(state.mean()))
"""
HELPER = "def step(step):\n    return step + {marker}\n"

SYNC = """\
import sys, time
from flor_dagster.replay.workspace import Workspace
while True:
    with Workspace.open(sys.argv[1]) as workspace:
        workspace.sync()
    time.sleep(0.05)
"""


class Team:
    """People who train, edit, commit and collect in one repository, all at once."""

    def __init__(self, ranks: Ranks, seed: int) -> None:
        self.ranks = ranks
        self.root = ranks.root
        self.random = random.Random(seed)
        self.marker = 0
        self.fates: dict[int, int] = {}  # pid to how it ended
        ranks.commit(
            {"train.py": SCRIPT.format(marker=0), "helper.py": HELPER.format(marker=0), "README": "r\n"}
        )

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def edit(self) -> None:
        self.marker += 1
        for name, text in (("train.py", SCRIPT), ("helper.py", HELPER)):
            partial = self.root / f"{name}~"  # as editors save: a script is never half a script
            partial.write_text(text.format(marker=self.marker))
            partial.replace(self.root / name)
        what = self.random.random()
        if what < 0.2:
            self.git("commit", "-qam", f"marker {self.marker}")
        elif what < 0.3:
            self.git("commit", "-qa", "--amend", "-m", f"marker {self.marker}, amended")

    def day(self) -> None:
        children: list[subprocess.Popen[str]] = []
        for number in range(4):
            self.edit()
            if number == 3:
                port = str(20000 + self.marker)
                children += [self.ranks.rank(rank, 2, MASTER_PORT=port) for rank in (0, 1)]
            else:
                children.append(self.ranks.start("train.py"))
            time.sleep(self.random.random() * 0.3)
        for victim in self.random.sample(children, 2):
            time.sleep(self.random.random() * 0.3)
            victim.kill()
        if self.random.random() < 0.1:
            self.git("gc", "-q", "--prune=now")
        for child in children:
            out, _ = child.communicate(timeout=120)
            assert child.returncode in (0, -signal.SIGKILL), out
            self.fates[child.pid] = child.returncode

    def files(self) -> dict[str, int]:
        """How many files lie where."""
        found: dict[str, int] = {}
        for folder, _, files in os.walk(self.root):
            top = Path(folder).relative_to(self.root).as_posix().split("/")
            found["/".join(top[:2])] = found.get("/".join(top[:2]), 0) + len(files)
        return found

    def bytes(self) -> int:
        return sum(f.lstat().st_blocks * 512 for f in self.root.rglob("*"))


def live(ranks: Ranks, days: int, seed: int) -> Team:
    team = Team(ranks, seed)
    begin = team.bytes(), sum(team.files().values())
    syncing = ranks.start("-c", SYNC, str(team.root))
    try:
        for _ in range(days):
            team.day()
            assert syncing.poll() is None, syncing.communicate()[0]
    finally:
        syncing.kill()
        syncing.communicate()
    kilobytes = (team.bytes() - begin[0]) / days / 1000
    files = (sum(team.files().values()) - begin[1]) / days
    print(f"\na day costs {kilobytes:.0f} kB in {files:.1f} files; {team.files()}", file=sys.stderr)
    return team


def settle(team: Team) -> None:
    """The snapshots of killed trainings end by themselves."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lacking = [f for f in team.root.glob(".flor/runs/*") if not (f / "version.json").exists()]
        if not lacking:
            return
        time.sleep(0.2)


def check(team: Team, cache: Path) -> None:
    settle(team)
    folders = {folder.name: folder for folder in team.root.glob(".flor/runs/*")}
    with Workspace.open(team.root) as workspace:
        workspace.sync()
        runs = {run.id: run for run in workspace.runs()}
        assert workspace.store.problems == {}
        frame = workspace.store.dataframe("marker", "value", "epoch_value", ranks="all")
        markers = {
            run.key: set(part["marker"]) for run in runs.values() for part in [frame[frame["run"] == run.key]]
        }
        versions = {version.commit: version for version in workspace.store.versions()}
    # A training that was killed before its first flor call has left no run, or a folder without a header.
    empty = {
        name
        for name, folder in folders.items()
        if not any(p.stat().st_size for p in folder.glob("journal.*"))
    }
    unversioned = {name for name, folder in folders.items() if not (folder / "version.json").exists()}
    assert set(folders) - empty - unversioned == set(runs)
    assert len(empty | unversioned) <= len(team.fates) / 10
    sizes: dict[str, int] = {}
    for run in runs.values():
        ends = {}
        for journal in folders[run.id].glob("journal.*"):
            lines = journal.read_bytes().split(b"\n")
            pid = json.loads(lines[0])[2]["pid"]
            ended = any(line.startswith(b'["z"') for line in lines)
            assert ended or team.fates[pid] == -signal.SIGKILL, "a training that was not killed has no end"
            ends[pid] = ended
        assert run.status == ("finished" if all(ends.values()) else "lost"), (run, ends)
        sizes[run.id] = len(ends)
        # What ran is what the version holds, or the version says that it is not certain.
        assert run.commit is not None, (folders[run.id] / "version.json").read_text()
        held = team.git("show", f"{run.commit}:train.py"), team.git("show", f"{run.commit}:helper.py")
        for marker in markers[run.key]:
            same = held == (SCRIPT.format(marker=int(marker)), HELPER.format(marker=int(marker)))
            assert same or versions[run.commit].approximate, run
    assert set(sizes.values()) <= {1, 2}
    with sqlite3.connect(team.root / ".flor/flor.db") as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert database.execute("pragma foreign_key_check").fetchall() == []
    assert "error" not in team.git("fsck", "--full", "--no-progress", "--no-dangling")
    kept = team.git("for-each-ref", "--format=%(objectname) %(objecttype)", "refs/flor/versions").split("\n")[
        :-1
    ]
    assert {line.split()[0] for line in kept} == set(versions) | {run.commit for run in runs.values()}
    clone = Clone.open(team.root, cache)
    for commit in versions:
        clone.checkout(commit, cache / "out" / commit)
    team.git("status", "--porcelain")
    stray = [
        p
        for p in (team.root / ".flor").rglob("*")
        if "tmp" in p.name or "partial" in p.name or p.name.endswith("~")
    ]
    stray += list(team.root.glob(".flor/runs/*/.*"))
    assert stray == []
    assert not list((team.root / ".git").glob("*.lock")) + list(
        (team.root / ".git/refs/flor").rglob("*.lock")
    )
    # Six files in a run's folder at most, a ref for each version, checkpoints by budget.
    assert all(len(list(folder.iterdir())) <= 6 for folder in folders.values())
    assert len(list((team.root / ".flor").iterdir())) <= 10


def test_a_day_with_two_killed_leaves_everything_whole(ranks: Ranks, tmp_path: Path) -> None:
    check(live(ranks, 1, 1), tmp_path / "checkouts")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_six_months_of_such_days_leave_everything_whole(ranks: Ranks, tmp_path: Path) -> None:
    check(live(ranks, int(os.environ.get("FLOR_TEST_DAYS", "182")), 2), tmp_path / "checkouts")
