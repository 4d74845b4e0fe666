"""Many small trainings of one version, each recorded, asked and compared with the run that logged the answer itself.

Trainings are forked from the test's process: no interpreter and no library is started for them.
"""

from __future__ import annotations

import builtins
import importlib
import json
import logging
import os
import subprocess
import sys
import textwrap
import time
import traceback
import types
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flor_dagster.recording.journal import read_journal
from flor_dagster.replay.model import Question
from flor_dagster.replay.workspace import Workspace
from tests.recording.record_lab import Project

PACKAGE = Path(__file__).parents[2]
EPOCHS, STEPS = 4, 3


@dataclass(frozen=True)
class Rule:
    """One training, of epochs with steps, and what is asked of it behind its steps.

    Args:
        body: the steps' body.
        asked: an expression.
        before: what stands before the loop over epochs, in the same function.
        top: what stands at the top of the script.
        tail: what stands between the steps and the question.
        reason: why the steps are executed, empty where they are skipped.
        script: the whole script, where it is another; the asked statement stands behind `#?`.
        alone: whether it can't be a part of one program with others: it changes what they see, needs torch, or is refused
            only when it is put back.
    """

    body: str = "pass"
    asked: str = "0"
    before: str = "pass"
    top: str = ""
    tail: str = "pass"
    reason: str = ""
    script: str = ""
    alone: bool = False

    def source(self, name: str, *, asked: bool) -> str:
        statement = f'flor.log("asked_{name}", {self.asked})'
        text = self.script or _SCRIPT.format(
            top=self.top, before=textwrap.indent(textwrap.dedent(self.before), "    "),
            body=textwrap.indent(textwrap.dedent(self.body), " " * 12),
            tail=textwrap.indent(textwrap.dedent(self.tail), " " * 8), epochs=EPOCHS, steps=STEPS,
        )  # fmt: skip
        # A name of its own: which loops may run a function is told by its name.
        text = text.replace("main()", f"run_{name}()")
        return text.replace("#?", statement if asked else "pass")


_SCRIPT = """\
import array, collections, contextlib, functools, io, itertools, os, random, sys, threading, types
import numpy as np
import flor_dagster as flor

random.seed(1)
np.random.seed(1)
{top}

def main():
{before}
    for epoch in flor.loop("epoch", range({epochs})):
        for step in flor.loop("step", range({steps})):
{body}
{tail}
        flor.log("epoch_over", epoch)
        #?

main()
"""


@dataclass
class Recorded:
    """What a recorded training said."""

    entries: list[list[Any]]
    run: str
    output: str

    def of(self, kind: str) -> list[list[Any]]:
        return [parts for parts in self.entries if parts[0] == kind]

    def _loops(self, loop: str, file: str) -> set[int]:
        return {parts[1] for parts in self.of("l") if parts[3] == loop and parts[5].endswith(file)}

    def reasons(self, loop: str = "step", file: str = "") -> list[str]:
        """Why executions of a loop can't be skipped, each reason once."""
        numbers = self._loops(loop, file)
        return list(dict.fromkeys(r for p in self.of("u") if p[1] in numbers for r in p[3]))

    def values(self, name: str) -> list[tuple[str, str]]:
        return _values(self.entries, name)

    def ends(self, file: str, loop: str = "step") -> list[tuple[int, str, int]]:
        """Number, how and count of the executions of a loop that ended."""
        numbers = self._loops(loop, file)
        return [(parts[1], parts[2], parts[3]) for parts in self.of("e") if parts[1] in numbers]

    def executions(self, file: str, *, restored: bool, loop: str = "step") -> int:
        """In a replay's journal: how many executions of a loop were put back, or executed."""
        back = {parts[1] for parts in self.of("s") if parts[2] is None}
        return sum((number in back) == restored for number in self._loops(loop, file))


@dataclass
class Answered:
    """What a question gave.

    Args:
        skipped: how many loop executions were skipped, by the loop's name; `entered` where a loop was begun in the middle.
        executed: how many were executed.
    """

    status: str
    fidelity: str | None
    sentence: str
    values: list[tuple[str, str]]
    skipped: dict[str, int] = field(default_factory=dict)
    executed: dict[str, int] = field(default_factory=dict)
    entered: bool = False
    children: int = 0
    notes: tuple[str, ...] = ()
    said: list[str] = field(default_factory=list[str])


def _values(entries: Iterable[Sequence[Any]], name: str) -> list[tuple[str, str]]:
    """Loop context and value of each record of a name, bit for bit."""
    names: dict[int, str] = {}
    loops: dict[int, Sequence[Any]] = {}
    contexts: dict[int, str] = {0: ""}
    found: list[tuple[str, str]] = []
    for parts in entries:
        if parts[0] == "n":
            names[parts[1]] = parts[2]
        elif parts[0] == "l":
            loops[parts[1]] = parts
        elif parts[0] == "c":
            _, number, loop, index, _value = parts
            contexts[number] = f"{contexts[loops[loop][2]]}/{loops[loop][3]}[{index}]".lstrip("/")
        elif isinstance(parts[0], int) and names[parts[0]] == name:
            found.append((contexts[parts[1]], json.dumps(parts[2])))
    return found


class RuleLab:
    """Two repositories of the same scripts, one with the asked statements.

    Args:
        place: an empty folder.
        rules: name → training.
        others: further files.
    """

    def __init__(
        self, place: Path, rules: Mapping[str, Rule], others: Mapping[str, str] | None = None
    ) -> None:
        self.rules = rules
        self.project, self.oracle = Project(place / "p", git=True), Project(place / "o")
        common = dict(others or {}) | {".gitignore": "__pycache__/\n"}
        self.project.commit(common | {f"{n}.py": r.source(n, asked=False) for n, r in rules.items()})
        self.oracle.write(common | {f"{n}.py": r.source(n, asked=True) for n, r in rules.items()})
        time.sleep(0.05)  # a file that is younger than its process would make the version an uncertain one

    def train(self, *names: str, **variables: str) -> dict[str, Recorded]:
        """Record trainings."""
        return {
            n: _train(self.project, n, {"FLOR_CHECKPOINTS": "all"} | variables) for n in names or self.rules
        }

    def truth(self, *names: str) -> dict[str, list[tuple[str, str]]]:
        """What each training would have logged."""
        variables = {"FLOR_CHECKPOINTS": "none"}
        return {n: _train(self.oracle, n, variables).values(f"asked_{n}") for n in names or self.rules}

    def thin(self, recorded: Recorded) -> None:
        """Take away the checkpoints of the outer loops' iterations, as a small budget would."""
        outer = [str(parts[1]) for parts in recorded.of("l") if parts[3] == "epoch"]
        for path in (self.project.root / ".flor/checkpoints/manifests" / recorded.run).glob("*.json"):
            if path.stem.partition(".")[0] in outer:
                path.unlink()

    def look_back(self) -> Workspace:
        """The workspace, once the asked statements stand in the newest sources."""
        self.project.write({f"{n}.py": r.source(n, asked=True) for n, r in self.rules.items()})
        return Workspace.open(self.project.root)

    def ask(self, workspace: Workspace, name: str, run: str, **options: Any) -> Answered:
        """Ask one training."""
        said: list[str] = []
        report = workspace.answer(Question((f"asked_{name}",), runs=(run,), **options), on_line=said.append)
        (answer,) = report.cells
        cell = answer.cell
        answered = Answered(
            str(cell.status), cell.fidelity, cell.sentence, [], children=report.children, said=said
        )
        answered.notes = tuple(report.plan.runs[0].detail.get("notes", ()))
        for replay in report.replays:
            for path in sorted((self.project.root / ".flor/replays" / replay.id).glob("journal.0.jsonl")):
                entries = [e.parts for e in read_journal(path)]
                answered.values = _values(entries, f"asked_{name}")
                restored = {parts[1]: parts[2] for parts in entries if parts[0] == "s"}
                for parts in entries:
                    if parts[0] == "l":
                        index = restored.get(parts[1], "no")
                        kind = answered.skipped if index is None else answered.executed
                        kind[parts[3]] = kind.get(parts[3], 0) + 1
                        answered.entered |= isinstance(index, int)
        return answered


def _train(project: Project, name: str, variables: Mapping[str, str]) -> Recorded:
    before = set(project.journals)
    output = project.root.parent / f"{project.root.name}.{name}.txt"
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = _child(project.root, f"{name}.py", output, variables)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, code = os.waitpid(pid, 0)
    said = output.read_text()
    if code:
        raise AssertionError(f"{name} left with {code}:\n{said}")
    (journal,) = set(project.journals) - before
    return Recorded([e.parts for e in read_journal(journal)], journal.parent.name, said)


def train_anew(project: Project, name: str, variables: Mapping[str, str]) -> Recorded:
    """The same in an interpreter of its own, which knows nothing of what other tests have imported."""
    before = set(project.journals)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")} | dict(variables)
    done = subprocess.run(
        [sys.executable, f"{name}.py"], cwd=project.root, env=environment | {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert not done.returncode, done.stdout
    (journal,) = set(project.journals) - before
    return Recorded([e.parts for e in read_journal(journal)], journal.parent.name, done.stdout)


def _child(root: Path, script: str, output: Path, variables: Mapping[str, str]) -> int:
    """Run a script in this forked process as an interpreter would."""
    from flor_dagster.recording import layout
    from flor_dagster.recording import process as sessions

    sessions._forked_from = None  # pyright: ignore[reportPrivateUsage] - here it stands for a fresh interpreter
    sessions._number = 0  # pyright: ignore[reportPrivateUsage]
    # What listens in a test's process listens in no training.
    importlib.reload(warnings)
    logging.root.handlers.clear()
    for variable in [v for v in os.environ if v.startswith("FLOR_")]:
        del os.environ[variable]
    os.environ.update(variables)
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os.chdir(root)
    layout.began_in(str(root))
    path = root / script
    sys.argv = [str(path)]
    sys.path[0] = str(root)
    main = types.ModuleType("__main__")
    main.__file__ = str(path)
    main.__dict__["__builtins__"] = builtins
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    sys.modules["__main__"] = main
    status = 0
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), main.__dict__)
    except SystemExit:
        pass
    except BaseException:
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
        status = 1
    import atexit

    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    sys.stdout.flush()
    sys.stderr.flush()
    return status
