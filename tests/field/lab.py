"""One public program: three real versions of it trained, four statements asked of all of them, each answer held against an oracle.

The oracle is the same version with the statement written into it by hand, trained anew from start to end.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import platformdirs

from flor_dagster.replay.model import Question
from tests.replay.batch_lab import rows
from tests.replay.conftest import PACKAGE, Lab

Expected = Literal["exact", "unverified", "refused"]
What = Literal["exact", "unverified", "refused", "diverged", "failed", "wrong"]


@dataclass(frozen=True)
class Edit:
    """Lines that are put into a file of a program.

    Attributes:
        anchor: A line of the file, without the space around it; the first one that is so.
        lines: What is put there, indented as the anchor is.
        where: Behind it, before it, or in its place.
        file: The file; the program's script where it is empty.
        above: A line that must stand somewhere above the anchor, where the anchor alone is found too early.
    """

    anchor: str
    lines: str
    where: Literal["after", "before", "instead"] = "after"
    file: str = ""
    above: str = ""


@dataclass(frozen=True)
class Version:
    """A commit of a program.

    Attributes:
        commit: All of its hash.
        edits: What makes it run here, and what instruments it.
        asked: Name → where a person puts the statement; None where it has no meaning in this version.
        expected: Name → what the answer should be, where it is not `exact`.
    """

    commit: str
    edits: Sequence[Edit]
    asked: Mapping[str, Edit | None]
    expected: Mapping[str, Expected] = field(default_factory=dict[str, Expected])


@dataclass(frozen=True)
class Program:
    """A public program.

    Attributes:
        name: What it is called here.
        address: Where it is cloned from.
        script: Its script, as a path in the repository.
        arguments: Its command line: a training of seconds.
        versions: Three of its commits, oldest first.
        files: More files, by their paths: data of the kind that it would download.
        folder: Where it is started, in the repository.
        paths: What of the repository it needs; all of it where nothing is said.
        variables: Environment variables that it is started with.
        needs: Packages beyond ours, by the names of their modules.
    """

    name: str
    address: str
    script: str
    arguments: Sequence[str]
    versions: Sequence[Version]
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    folder: str = "."
    needs: Sequence[str] = ("torch",)
    paths: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Cell:
    """What came of a statement in a version."""

    program: str
    version: int
    name: str
    what: What
    place: str
    sentence: str
    expected: Expected
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether it is what was expected, or better."""
        order = ["refused", "unverified", "exact"]
        return self.what in order and order.index(self.what) >= order.index(self.expected)


class NotFetchedError(Exception):
    """A program can't be cloned here."""


def cache() -> Path:
    """Where the clones lie."""
    given = os.environ.get("FLOR_FIELD_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("flor_dagster_field", appauthor=False))


def clone_of(program: Program) -> Path:
    """A bare clone that has the program's commits.

    Raises:
        NotFetchedError: it can't be cloned, or lacks one.
    """
    folder = cache() / program.address.removeprefix("https://").replace("/", "+")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        making = folder.with_name(f"{folder.name}.{os.getpid()}")
        done = subprocess.run(
            ["git", "clone", "--quiet", "--bare", program.address, str(making)], capture_output=True, text=True, check=False,
            env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
        )  # fmt: skip
        if done.returncode:
            shutil.rmtree(making, ignore_errors=True)
            raise NotFetchedError(f"{program.address} can't be cloned: {done.stderr.strip()[-200:]}")
        making.rename(folder)
    for version in program.versions:
        asked = ["git", "--git-dir", str(folder), "cat-file", "-e", f"{version.commit}^{{commit}}"]
        if subprocess.run(asked, capture_output=True, check=False).returncode:
            raise NotFetchedError(f"{program.address} has no commit {version.commit} any more")
    return folder


def put_edits(root: Path, program: Program, edits: Sequence[Edit]) -> None:
    """Put lines into a checked out version.

    Raises:
        ValueError: an anchor is not there.
    """
    for edit in edits:
        path = root / (edit.file or program.script)
        lines = path.read_text(encoding="utf-8").split("\n")
        stripped = [line.strip() for line in lines]
        begin = stripped.index(edit.above) if edit.above else 0
        if edit.anchor not in stripped[begin:]:
            raise ValueError(f"{program.name}: {edit.file or program.script} has no line {edit.anchor!r}")
        at = stripped.index(edit.anchor, begin)
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        added = [f"{indent}{line}" if line else line for line in edit.lines.split("\n")] if edit.lines else []
        low, high = {"after": (at + 1, at + 1), "before": (at, at), "instead": (at, at + 1)}[edit.where]
        lines[low:high] = added
        path.write_text("\n".join(lines), encoding="utf-8")


class FieldLab:
    """A program in a folder of its own.

    Args:
        program: which.
        folder: an empty one.
    """

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.clone = clone_of(program)
        self.folder = folder
        self.lab = Lab(folder / "project")

    def check_out(self, lab: Lab, version: Version, *more: Edit) -> None:
        """Make a project's work tree a version with its edits, and commit it."""
        for path in lab.root.iterdir():
            if path.name not in (".git", ".flor"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        packed = subprocess.run(
            ["git", "--git-dir", str(self.clone), "archive", version.commit, *self.program.paths],
            capture_output=True,
            check=True,
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(lab.root, filter="data")
        put_edits(lab.root, self.program, [*version.edits, *more])
        for path, text in self.program.files.items():
            (lab.root / path).parent.mkdir(parents=True, exist_ok=True)
            (lab.root / path).write_text(text, encoding="utf-8")
        with (lab.root / ".gitignore").open("a") as ignored:
            ignored.write("\n__pycache__/\n*.pt\nout/\n")

    def train(self, lab: Lab) -> str:
        """Run the script; its run's key."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLOR_", "GIT_"))}
        environment = kept | {"PYTHONPATH": str(PACKAGE), "FLOR_CHECKPOINTS": "all", "OMP_NUM_THREADS": "1"}
        environment |= self.program.variables
        folder = lab.root / self.program.folder
        script = os.path.relpath(lab.root / self.program.script, folder)
        done = subprocess.run(
            [sys.executable, script, *self.program.arguments], cwd=folder, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(f"{self.program.name} does not run: {(done.stdout + done.stderr)[-3000:]}")
        with lab.open() as workspace:
            workspace.sync()
            return workspace.runs()[-1].key

    def run(self) -> list[Cell]:
        """Train the versions, ask, and hold every answer against the oracle."""
        versions = self.program.versions
        keys: list[str] = []
        for version in versions:
            self.check_out(self.lab, version)
            self.lab.git("add", "--all")
            self.lab.git("commit", "--quiet", "--allow-empty", "--message", version.commit[:12])
            keys.append(self.train(self.lab))
        names = list(versions[-1].asked)
        put_edits(self.lab.root, self.program, [e for e in versions[-1].asked.values() if e is not None])
        begun = time.monotonic()
        with self.lab.open() as workspace:
            report = workspace.answer(Question(tuple(names), accept_likely=True))
            seconds = (time.monotonic() - begun) / (len(names) * len(versions))
            got = {
                (answer.run.key, answer.statement.name): (
                    answer,
                    rows(workspace, answer.run.key, answer.statement.name, "replayed"),
                )
                for answer in report.cells
            }
        found: list[Cell] = []
        for number, (version, key) in enumerate(zip(versions, keys, strict=True)):
            for name in names:
                answer, values = got[key, name]
                expected = version.expected.get(
                    name, "exact" if version.asked[name] is not None else "refused"
                )
                what: What
                cell = answer.cell
                if cell.fidelity == "diverged":
                    what = "diverged"
                elif cell.status in ("refused", "failed"):
                    what = "refused" if cell.status == "refused" else "failed"
                else:
                    right = values == self.truth(number, name)
                    what = "wrong" if not right else "exact" if cell.fidelity == "exact" else "unverified"
                found.append(
                    Cell(
                        self.program.name,
                        number,
                        name,
                        what,
                        cell.place or "",
                        cell.sentence,
                        expected,
                        seconds,
                    )
                )
        return found

    def truth(self, number: int, name: str) -> list[tuple[object, ...]]:
        """What a version logs that has the statement from the start; nothing where it has no meaning there."""
        version = self.program.versions[number]
        edit = version.asked[name]
        if edit is None:
            return []
        lab = Lab(self.folder / f"oracle{number}_{re.sub(r'[^a-z0-9]', '_', name)}")
        self.check_out(lab, version, edit)
        lab.git("add", "--all")
        lab.git("commit", "--quiet", "--message", "by hand")
        key = self.train(lab)
        with lab.open() as workspace:
            found = rows(workspace, key, name, "recorded")
        assert found, (
            f"{self.program.name}: `{name}` is never reached in {version.commit}: the oracle says nothing"
        )
        return found
