"""A project whose training runs on several ranks; launched as people launch it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flor_dagster.recording.journal import read_journal
from flor_dagster.replay.model import CellAnswer, Question, Report
from flor_dagster.replay.workspace import Workspace
from tests.replay.conftest import Lab

ASKED = "#? "
"""Before a `flor.log` that the recorded run did not have."""

PACKAGE = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLOR_", "GIT_", "TORCHELASTIC"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        kept.pop(name, None)
    ours = {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0", "GIT_CONFIG_GLOBAL": os.devnull}
    return (
        kept | ours | {"FLOR_CHECKPOINTS": "all", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"} | more
    )


class Ranks:
    """A repository with a script, and what its ranks recorded."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        for arguments in (
            ("init", "-q", "-b", "main"),
            ("config", "user.name", "t"),
            ("config", "user.email", "t@t.invalid"),
        ):
            subprocess.run(["git", *arguments], cwd=root, env=environment(), check=True)

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (self.root / name).write_text(text)

    def commit(self, files: Mapping[str, str]) -> None:
        self.write(files)
        for arguments in (("add", "-A"), ("commit", "-qm", "v")):
            subprocess.run(["git", *arguments], cwd=self.root, env=environment(), check=True)

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command], cwd=self.root, env=environment(**variables), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, *command: str, status: int | None = 0, **variables: str) -> str:
        child = self.start(*command, **variables)
        out, _ = child.communicate(timeout=180)
        assert status is None or child.returncode == status, out
        return out

    def rank(
        self, number: int, size: int, *, script: str = "train.py", **variables: str
    ) -> subprocess.Popen[str]:
        """One process of a launch by plain variables."""
        return self.start(script, RANK=str(number), WORLD_SIZE=str(size), **variables)

    def runs(self) -> dict[str, list[int]]:
        """Run id to the ranks that have a journal in it, in the order of the runs' start."""
        folders = sorted(self.root.glob(".flor/runs/*"), key=lambda folder: self.header(folder)["started"])
        return {f.name: sorted(int(p.name.split(".")[1]) for p in f.glob("journal.*")) for f in folders}

    def header(self, folder: Path) -> dict[str, Any]:
        first = min(folder.glob("journal.*"))
        return json.loads(first.read_bytes().splitlines()[0])[2]

    def entries(self, run: str, rank: int) -> list[list[Any]]:
        path = self.root / f".flor/runs/{run}/journal.{rank}.jsonl"
        return [entry.parts for entry in read_journal(path)]

    def of(self, run: str, rank: int, kind: str) -> list[list[Any]]:
        return [parts for parts in self.entries(run, rank) if parts[0] == kind]

    def open(self) -> Workspace:
        return Workspace.open(self.root)


def finish(*children: subprocess.Popen[str]) -> list[str]:
    said = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0] * len(children), said
    return said


def without_asked(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith(ASKED))


def ask(ranks: Ranks, name: str, **more: object) -> tuple[CellAnswer, Report]:
    with ranks.open() as workspace:
        report = workspace.answer(Question((name,), **more))  # type: ignore[arg-type]
        return report.cells[0], report


def emitted(ranks: Ranks, report: Report, name: str) -> dict[int, int]:
    """How often each rank of a replay executed the `flor.log` of a recorded name."""
    folder = ranks.root / ".flor/replays" / report.replays[0].id
    return {
        int(path.name.split(".")[1]): Lab._emitted(path, name) for path in sorted(folder.glob("journal.*"))
    }
