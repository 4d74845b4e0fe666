"""A project in a temporary git repository: write versions, train them in children, ask."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from flor_dagster.recording.journal import read_journal
from flor_dagster.replay.workspace import Workspace

PACKAGE = Path(__file__).parents[2]


class Lab:
    """A user's repository, driven as a user would: files, git, `python train.py`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "tests")
        self.git("config", "user.email", "tests@flor-dagster.invalid")

    def git(self, *arguments: str) -> str:
        environment = os.environ | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        done = subprocess.run(
            ["git", *arguments], cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def write_early(self, files: Mapping[str, str]) -> None:
        """Write files as if before every run: what was written since a run began, its replay is not given."""
        self.write(files)
        for name in files:
            os.utime(self.root / name, (0, 0))

    def commit(self, files: Mapping[str, str], subject: str = "a version") -> str:
        self.write(files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)
        return self.git("rev-parse", "HEAD").strip()

    def train(self, script: str = "train.py", *, fails: bool = False, **args: object) -> str:
        """Run the script as `python script`; its output."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
        environment |= {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0", "FLOR_ARGS": json.dumps(args)}
        # What a loaded machine can afford must not decide what these tests see.
        environment["FLOR_CHECKPOINTS"] = "all"
        done = subprocess.run(
            [sys.executable, script],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def open(self) -> Workspace:
        return Workspace.open(self.root)

    def replay_journals(self, replay_id: str) -> list[Path]:
        return sorted((self.root / ".flor" / "replays" / replay_id).glob("journal.*.jsonl"))

    def emitted(self, replay_id: str, name: str) -> int:
        """How often a replay executed the `flor.log` of a recorded name."""
        return sum(self._emitted(path, name) for path in self.replay_journals(replay_id))

    @staticmethod
    def _emitted(path: Path, name: str) -> int:
        entries = [entry.parts for entry in read_journal(path)]
        calls = {parts[1] for parts in entries if parts[0] == "n" and parts[2] == name}
        return sum(isinstance(parts[0], int) and parts[0] in calls for parts in entries)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A fresh project; clones of old versions go to a cache of the test's own."""
    for name in [n for n in os.environ if n.startswith("FLOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLOR_CACHE", str(tmp_path / "cache"))
    return Lab(tmp_path / "project")


def bits(value: object) -> object:
    """A value that is equal for equal bits."""
    return struct.pack(">d", value) if isinstance(value, float) else value
