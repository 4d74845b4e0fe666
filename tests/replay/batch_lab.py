"""Many small scripts in one project: each trained, asked in hindsight, and compared with one that logged it all from the start.

Trainings are forked from one process that has imported their libraries, replays from a warm worker: a case costs a fraction of a
second. A script's lines behind `#? ` are what is asked; the recorded run had empty lines there. `ASKED` in them stands for a name of
the script's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from flor_dagster.replay.model import Question
from flor_dagster.replay.workspace import Workspace
from tests.replay.conftest import PACKAGE, Lab
from tests.replay.oracle_lab import Asked, with_asked

_SERVER = """
import gc, importlib, json, os, sys
for name in sys.argv[1].split():
    importlib.import_module(name)
gc.freeze()
def serve():
    going = {}
    def reap():
        pid, status = os.wait()
        print(json.dumps([going.pop(pid), os.waitstatus_to_exitcode(status)]), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if len(going) == 3:
            reap()
        if pid := os.fork():
            going[pid] = request["output"]
            continue
        os.environ.update(request["variables"])
        os.chdir(request["folder"])
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0); os.dup2(output, 1); os.dup2(output, 2)
        return request
    while going:
        reap()
    os._exit(0)
request = serve()
script = os.path.join(request["folder"], request["script"])
sys.argv = [request["script"], *request["arguments"]]
sys.path[0] = os.path.dirname(script)
sys.orig_argv = [sys.executable, *sys.argv]
main = type(sys)("__main__")
main.__file__ = script
main.__builtins__ = __builtins__
if "__annotations__" in globals():
    main.__annotations__ = {}
sys.modules["__main__"] = main
text = open(script, "rb").read()
del request
exec(compile(text, script, "exec"), main.__dict__)
"""


class Trainer:
    """Runs scripts as `python SCRIPT` would, in forks of one process that has their libraries."""

    def __init__(self, *libraries: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
        environment |= {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, " ".join(libraries)], env=environment, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip

    def start(
        self,
        folder: Path,
        script: str,
        arguments: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> Path:
        """Begin a training; the file that its output goes to."""
        assert self._process.stdin is not None
        output = folder.parent / f"{folder.name}.{script}.{len(list(folder.parent.iterdir()))}.txt"
        output.touch()
        request = {
            "folder": str(folder), "script": script, "arguments": list(arguments), "output": str(output),
            "variables": {"FLOR_CHECKPOINTS": "all", **(variables or {})},
        }  # fmt: skip
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return output

    def finish(self) -> dict[Path, int]:
        """Wait for all of them: output file → exit status. Nothing can be started any more."""
        said, _ = self._process.communicate()
        return {Path(output): status for output, status in map(json.loads, said.splitlines())}


@dataclass(frozen=True)
class Case:
    """One script.

    Args:
        text: its source; lines behind `#? ` are asked.
        files: more files of the version.
        fails: whether the training ends badly.
        policy: `FLOR_CHECKPOINTS`, or `sparse`: of every loop's checkpoints every second one is gone.
        between: called with the project's folder when it was trained, before it is asked.
        how: more of the question.
        variables: of the training's environment.
        data: files that are not in git.
        oracle: whether a run that logs it itself is made, too.
        prepare: code that runs in the project's folder before the training.
    """

    text: str
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    fails: bool = False
    policy: str = "all"
    between: Callable[[Path], object] | None = None
    how: Mapping[str, Any] = field(default_factory=dict[str, Any])
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    data: Mapping[str, str] = field(default_factory=dict[str, str])
    arguments: tuple[str, ...] = ()
    prepare: str = ""
    oracle: bool = True


class Batch:
    """A project of many scripts, and its oracle.

    Args:
        folder: an empty one.
        libraries: what the scripts import.
    """

    def __init__(self, folder: Path, *libraries: str) -> None:
        self.lab = Lab(folder / "project")
        self.oracle = Lab(folder / "oracle")
        self.trainer = Trainer(*libraries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.trainer.finish()

    def ask(self, cases: Mapping[str, Case]) -> dict[str, dict[str, Asked]]:
        """Train, ask and compare all cases.

        Returns:
            Case → asked name (without the case's own part) → what came of it.
        """
        for which, lab in (("recorded", self.lab), ("oracle", self.oracle)):
            files: dict[str, str] = {}
            for name, case in cases.items():
                files |= {f: _own(t, name, which) for f, t in {f"{name}.py": case.text, **case.files}.items()}
            lab.commit(files | {".gitignore": "*.data*\n*.pt\n__pycache__/\n"})
        outputs = {self._train(self.lab, name, case): case for name, case in cases.items()}
        outputs |= {self._train(self.oracle, name, case): case for name, case in cases.items() if case.oracle}
        for output, status in self.trainer.finish().items():
            assert (status != 0) == outputs[output].fails, (
                f"{output.name}: {output.read_text(errors='replace')}"
            )
        for name, case in cases.items():
            if case.policy == "sparse":
                thin(self.lab.root, name)
        for name, case in cases.items():
            if case.between is not None:
                case.between(self.lab.root)
            self.lab.write(
                {f: _own(t, name, "oracle") for f, t in {f"{name}.py": case.text, **case.files}.items()}
            )
        found: dict[str, dict[str, Asked]] = {}
        with self.lab.open() as workspace, self.oracle.open() as truth:
            truth.sync()
            workspace.sync()
            keys, true = _keys(workspace), _keys(truth)
            for name, case in cases.items():
                wanted = (truth, true.get(name, ""))
                found[name] = self._ask_one(workspace, keys[name], wanted, name, case)
        return found

    def _train(self, lab: Lab, name: str, case: Case) -> Path:
        for file, text in case.data.items():
            (lab.root / file).parent.mkdir(exist_ok=True)
            (lab.root / file).write_text(text)
        if case.prepare:
            subprocess.run([sys.executable, "-c", case.prepare], cwd=lab.root, check=True)
        policy = "all" if case.policy == "sparse" else case.policy
        return self.trainer.start(
            lab.root, f"{name}.py", case.arguments, {"FLOR_CHECKPOINTS": policy, **case.variables}
        )

    def _ask_one(
        self, workspace: Workspace, key: str, truth: tuple[Workspace, str], name: str, case: Case
    ) -> dict[str, Asked]:
        asked = tuple(sorted(_names(case, name)))
        report = workspace.answer(Question(asked, runs=(key,), **{"max_seconds": None, **case.how}))
        found: dict[str, Asked] = {}
        recorded = [n for n in workspace.store.names() if n not in asked]
        for answer in report.cells:
            of = answer.statement.name
            steps = (
                {r: sum(self.lab.emitted(replay.id, r) for replay in report.replays) for r in recorded}
                if report.replays
                else {}
            )
            found[of.removeprefix(name + "_")] = Asked(
                answer,
                rows(workspace, key, of, "replayed"),
                rows(*truth, of, "recorded") if truth[1] else [],
                steps,
            )
        return found


def _keys(workspace: Workspace) -> dict[str, str]:
    return {run.entrypoint.removesuffix(".py"): run.key for run in workspace.runs()}


def _own(text: str, name: str, which: str) -> str:
    lines = text.splitlines(keepends=True)
    if which == "recorded":
        lines = ["\n" if line.lstrip().startswith("#? ") else line for line in lines]
    return with_asked("".join(lines)).replace("ASKED", f"{name}_asked")


def _names(case: Case, name: str) -> set[str]:
    import re

    texts = [case.text, *case.files.values()]
    return {found.replace("ASKED", f"{name}_asked") for t in texts for found in re.findall(r"ASKED\w*", t)}


def rows(
    workspace: Workspace, key: str, name: str, origin: Literal["recorded", "replayed"]
) -> list[tuple[object, ...]]:
    """Every record of a name in loop order: its loop context and its value, written so that other bits are another text."""
    store = workspace.store
    run = store.run(key)
    paths: dict[int, str] = {}
    for loop in store.loops(run.id):
        around = f"{paths[loop.parent_loop]}[{loop.parent_index}]/" if loop.parent_loop is not None else ""
        paths[loop.loop_id] = f"{around}{loop.name}#{loop.ordinal}"
    contexts = {c: f"{paths[loop]}[{index}]" for c, loop, index, _ in store.contexts(run.id) if loop in paths}
    found = store.records(run.id, names=[name], origin=origin)
    return [
        (contexts.get(context, f"?{context}" if context else ""), repr(value))
        for _, context, _, value in found
    ]


def thin(root: Path, name: str) -> None:
    """Let go of every second checkpoint of a script's only run."""
    for folder in sorted((root / ".flor" / "checkpoints" / "manifests").iterdir()):
        journal = root / ".flor" / "runs" / folder.name / "journal.0.jsonl"
        if f'"{name}.py"' in journal.read_text().partition("\n")[0]:
            for path in sorted(folder.glob("*.json"))[::2]:
                path.unlink()
