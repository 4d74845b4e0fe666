"""A folder with a script, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flor_dagster.recording.journal import read_journal

PACKAGE = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLOR_", "GIT_"))}
    return kept | {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0", "GIT_CONFIG_GLOBAL": os.devnull} | more


class Project:
    """Scripts in a folder; a git repository where asked."""

    def __init__(self, root: Path, *, git: bool = False) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        if git:
            for arguments in (
                ("init", "-q", "-b", "main"),
                ("config", "user.name", "t"),
                ("config", "user.email", "t@t.invalid"),
            ):
                subprocess.run(["git", *arguments], cwd=root, env=environment(), check=True)

    def commit(self, files: Mapping[str, str]) -> None:
        self.write(files)
        for arguments in (("add", "-A"), ("commit", "-qm", "v")):
            subprocess.run(["git", *arguments], cwd=self.root, env=environment(), check=True)

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)

    def start(self, source: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        (self.root / "train.py").write_text(source)
        return subprocess.Popen(
            [sys.executable, "train.py", *arguments], cwd=self.root, env=environment(**variables), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, source: str, *arguments: str, status: int = 0, **variables: str) -> Run:
        child = self.start(source, *arguments, **variables)
        out, err = child.communicate(timeout=120)
        assert child.returncode == status, out + err
        return Run(self, out, err)

    @property
    def journals(self) -> list[Path]:
        return sorted(self.root.glob(".flor/runs/*/journal.*.jsonl"), key=lambda p: p.stat().st_mtime)


class Run:
    """What a finished script printed and recorded."""

    def __init__(self, project: Project, out: str, err: str) -> None:
        self.out = out
        self.err = err
        self.path = project.journals[-1] if project.journals else None
        self.entries: list[list[Any]] = [e.parts for e in read_journal(self.path)] if self.path else []

    def of(self, kind: str) -> list[list[Any]]:
        return [parts for parts in self.entries if parts[0] == kind]

    def records(self) -> list[tuple[str, str, Any]]:
        """Name, loop context and value as journal JSON, in order."""
        names = {parts[1]: parts[2] for parts in self.of("n")}
        loops = {parts[1]: parts for parts in self.of("l")}
        contexts: dict[int, str] = {0: ""}
        for _, number, loop, index, _value in self.of("c"):
            around = contexts[loops[loop][2]]
            contexts[number] = f"{around}/{loops[loop][3]}[{index}]".lstrip("/")
        return [(names[p[0]], contexts[p[1]], p[2]) for p in self.entries if isinstance(p[0], int)]

    def ends(self) -> list[tuple[str, str, int]]:
        """Name, how and count of every loop execution, in order of their ends."""
        names = {parts[1]: parts[3] for parts in self.of("l")}
        return [(names[parts[1]], parts[2], parts[3]) for parts in self.of("e")]

    @property
    def status(self) -> str | None:
        ends = self.of("z")
        return ends[-1][1] if ends else None

    def reasons(self) -> str:
        return json.dumps(self.of("u"))
