"""Four trainings at once, one of them of two ranks, two killed, every day: nothing breaks, nothing piles up."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from flor_dagster.recording import collecting
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.replay.workspace import Workspace
from flor_dagster.versions import Clone
from flor_dagster.versions.archive import needed
from tests.distributed.rank_lab import Ranks, environment
from tests.distributed.warm_lab import Warm

SCRIPT = """\
MARKER = {marker}
import time
import flor_dagster as flor
import helper
import numpy as np
flor.log("marker", MARKER)
state = np.zeros(600)
with flor.checkpointing(state=state):
    for epoch in flor.loop("epoch", range(6)):
        for step in flor.loop("step", range(3)):
            state += helper.step(step)
            flor.log("value", float(state.sum()))
            time.sleep(0.004)
        flor.log("epoch_value", float(state.mean()))
"""
HELPER = "def step(step):\n    return step + {marker}\n"
# The checkpoints of a run are thinned while it is recorded, too.
RUN_BYTES = "20000"

SYNC = """\
import random, sys, time
from flor_dagster.replay.workspace import Workspace
choice = random.Random(3)
while True:
    with Workspace.open(sys.argv[1]) as workspace:
        workspace.sync()
        if choice.random() < 0.05:
            workspace.collect(400_000)
    time.sleep(0.25)
"""


class Team:
    """People who train, edit, commit, rebase and collect in one repository, all at once."""

    def __init__(self, ranks: Ranks, seed: int) -> None:
        self.root = ranks.root
        self.random = random.Random(seed)
        self.marker = 0
        self.fates: dict[int, int] = {}  # pid to how it ended
        ranks.commit(
            {"train.py": SCRIPT.format(marker=0), "helper.py": HELPER.format(marker=0), "README": "r\n"}
        )
        self.warm = Warm(self.root, environment(FLOR_CHECKPOINT_RUN_BYTES=RUN_BYTES))

    def git(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.root, capture_output=True, text=True, input=stdin, check=False
        )
        assert done.returncode == 0, (arguments, done.stderr)
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
        children: list[int] = []
        for number in range(4):
            self.edit()
            if number == 3:
                launch = {"WORLD_SIZE": "2", "MASTER_PORT": str(20000 + self.marker % 10000)}
                children += [self.warm.start("train.py", RANK=rank, **launch) for rank in "01"]
            else:
                children.append(self.warm.start("train.py"))
            time.sleep(self.random.random() * 0.1)
        for victim in self.random.sample(children, 2):
            time.sleep(self.random.random() * 0.15)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if self.random.random() < 0.05:
            self.git("gc", "-q", "--prune=now")
        fates = self.warm.wait()
        assert set(fates.values()) <= {0, -signal.SIGKILL}, self.warm.out.read_text()[-2000:]
        self.fates |= fates
        self.evening()

    def evening(self) -> None:
        """What the user does between days: another branch, a rebase, an amendment, a branch that is gone."""
        what = self.random.random()
        if what < 0.6:
            return
        self.git("commit", "-qa", "--allow-empty", "-m", f"the evening of {self.marker}")
        here = self.git("branch", "--show-current").strip()
        if what < 0.7:
            self.git("switch", "-q", "-c", f"branch-{self.marker}")
        elif what < 0.8:
            self.git(
                "switch", "-q", self.random.choice(self.git("branch", "--format=%(refname:short)").split())
            )
        elif what < 0.9:
            self.git("switch", "-q", "-c", "side", "HEAD~1")
            (self.root / "NOTES").write_text(f"{self.marker}\n")
            self.git("add", "NOTES")
            self.git("commit", "-q", "-m", "notes")
            self.git("rebase", "-q", here)
            self.git("switch", "-q", here)
            self.git("branch", "-q", "-D", "side")
        else:
            self.git("reset", "-q", "--hard", "HEAD~1")
            self.git("reflog", "expire", "--expire=now", "--all")

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
    started = time.monotonic()
    try:
        for day in range(1, days + 1):
            team.day()
            assert syncing.poll() is None, syncing.communicate()[0]
            if day % 30 == 0:
                look(team)
                print(f"\nday {day} after {time.monotonic() - started:.0f} s", file=sys.stderr)
    finally:
        syncing.kill()
        syncing.communicate()
        team.warm.close()
    kilobytes = (team.bytes() - begin[0]) / days / 1000
    files = (sum(team.files().values()) - begin[1]) / days
    print(f"\na day costs {kilobytes:.0f} kB in {files:.1f} files; {team.files()}", file=sys.stderr)
    return team


def look(team: Team) -> None:
    """Are database and repository whole, while everything goes on?"""
    with contextlib.closing(sqlite3.connect(team.root / ".flor/flor.db", timeout=60)) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert database.execute("pragma foreign_key_check").fetchall() == []
    assert "error" not in team.git("fsck", "--full", "--no-progress", "--no-dangling")


def settle(team: Team) -> None:
    """The snapshots of killed trainings end by themselves."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lacking = [f for f in team.root.glob(".flor/runs/*") if not (f / "version.json").exists()]
        if not lacking:
            return
        time.sleep(0.2)


def contents(team: Team, commits: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The scripts of versions."""
    names = [f"{commit}:{name}" for commit in commits for name in ("train.py", "helper.py")]
    found = subprocess.run(
        ["git", "cat-file", "--batch"], cwd=team.root, input="".join(f"{n}\n" for n in names).encode(),
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    texts: list[str] = []
    while found:
        head, _, found = found.partition(b"\n")
        size = int(head.split()[2])
        texts.append(found[:size].decode())
        found = found[size + 1 :]
    return {names[n].partition(":")[0]: (texts[n], texts[n + 1]) for n in range(0, len(names), 2)}


def check(team: Team, cache: Path) -> None:
    settle(team)
    folders = {folder.name: folder for folder in team.root.glob(".flor/runs/*")}
    with Workspace.open(team.root) as workspace:
        workspace.sync()
        runs = {run.id: run for run in workspace.runs()}
        assert workspace.store.problems == {}
        frame = workspace.store.dataframe("marker", "value", "epoch_value", ranks="all")
        markers = {key: set(part["marker"]) for key, part in frame.groupby("run")}
        versions = {version.commit: version for version in workspace.store.versions()}
        for commit in versions:  # each can be had from the log store alone, with every file of it
            kept = needed([commit], workspace.store.version_object)
            listed = team.git("ls-tree", "-r", "-t", "--format=%(objectname)", commit).split()
            assert set(kept) >= {commit, *listed}
        found = workspace.store.rebuild()
        assert (found.missing, found.problems) == ((), ())
    # A training that was killed before its first flor call has left no run, or a folder without a header.
    empty = {
        name
        for name, folder in folders.items()
        if not any(p.stat().st_size for p in folder.glob("journal.*"))
    }
    assert set(folders) - empty == set(runs)
    # One whose first process was killed before it had begun to keep the code stands without a version.
    unversioned = {name for name in runs if not (folders[name] / "version.json").exists()}
    assert len(empty | unversioned) <= max(1, len(team.fates) / 10)
    assert all(runs[name].commit is None and runs[name].status == "lost" for name in unversioned)
    versioned = {name: run for name, run in runs.items() if name not in unversioned}
    check_runs(team, folders, versioned, markers, versions)
    look(team)
    kept = team.git("for-each-ref", "--format=%(objectname)", "refs/flor/versions").split()
    assert set(kept) == set(versions) | {run.commit for run in versioned.values()}
    clone = Clone.open(team.root, cache)
    for commit in team.random.sample(sorted(versions), min(len(versions), 20)):
        clone.checkout(commit, cache / "out" / commit)
    check_files(team, folders)


def check_runs(team, folders, runs, markers, versions) -> None:
    held = contents(team, versions)
    sizes: set[int] = set()
    for run in runs.values():
        ends: dict[int, bool] = {}
        for number, journal in enumerate(folders[run.id].glob("journal.*")):
            lines = journal.read_bytes().split(b"\n")
            if not lines[0]:  # killed before its first line, which the other rank had written
                ends[-number - 1] = False
                continue
            pid = json.loads(lines[0])[2]["pid"]
            ended = any(line.startswith(b'["z"') for line in lines)
            assert ended or team.fates[pid] == -signal.SIGKILL, "a training that was not killed has no end"
            ends[pid] = ended
        assert run.status == ("finished" if all(ends.values()) else "lost"), (run, ends)
        assert run.lost == 0
        sizes.add(len(ends))
        # What ran is what the version holds, or the version says that it is not certain.
        assert run.commit is not None, (folders[run.id] / "version.json").read_text()
        for marker in markers.get(run.key, ()):
            same = held[run.commit] == (SCRIPT.format(marker=int(marker)), HELPER.format(marker=int(marker)))
            assert same or run.approximate, run
    assert sizes <= {1, 2}


def check_files(team: Team, folders: dict[str, Path]) -> None:
    team.git("status", "--porcelain")
    home = team.root / ".flor"
    stray = [p for p in home.rglob("*") if "tmp" in p.name or "partial" in p.name or p.name.endswith("~")]
    stray += list(team.root.glob(".flor/runs/*/.*"))
    assert stray == []
    git = team.root / ".git"
    assert not [*git.glob("*.lock"), *(git / "refs").rglob("*.lock")]
    # Eight files in a run's folder at most, a ref for each version, checkpoints by budget.
    assert all(len(list(folder.iterdir())) <= 8 for folder in folders.values())
    assert len(list(home.iterdir())) <= 12
    store = CheckpointStore(home / "checkpoints")
    checkpoints, unreadable = collecting.stored(store)
    assert unreadable == {}
    for checkpoint in checkpoints:
        manifest = store.read(checkpoint.run, checkpoint.name)
        for digest in checkpoint.objects:
            store.buffer(manifest, digest)


def test_a_day_with_two_killed_leaves_everything_whole(ranks: Ranks, tmp_path: Path) -> None:
    check(live(ranks, 1, 1), tmp_path / "checkouts")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_six_months_of_such_days_leave_everything_whole(ranks: Ranks, tmp_path: Path) -> None:
    check(live(ranks, int(os.environ.get("FLOR_TEST_DAYS", "182")), 2), tmp_path / "checkouts")
