"""Trainings, askers, readers, sensors and housekeepers on one store at once, killed at random: python -m tests.faults.soak --help"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flor_dagster.recording.runlock import is_pending
from flor_dagster.replay.model import Question
from flor_dagster.replay.workspace import Workspace
from tests.faults.oracle import ACK, train_text, wrong_rows

SETTLED = ("recorded", "replayed", "refused", "excluded")
PACKAGE = Path(__file__).parents[2]


@dataclass
class Found:
    """What was done, and what went wrong.

    Attributes:
        counts: What was done, by kind.
        faults: Each fault in words.
    """

    counts: Counter[str] = field(default_factory=Counter[str])
    faults: list[str] = field(default_factory=list[str])


class Soak:
    """One project in which everything happens at once.

    Args:
        root: the project's folder; made.
        url: of the log store; None keeps SQLite in the project.
        seed: of every choice that is made here. The order of events is the machine's all the same.
        trainings: how many train at once.
        askers: how many ask at once.
    """

    def __init__(
        self, root: Path, url: str | None, seed: int, *, trainings: int = 8, askers: int = 4
    ) -> None:
        self.root, self.url = root, url
        self.found = Found()
        self._choice = random.Random(seed)
        self._marker = 0
        self._trainings = trainings
        self._others = ["ask"] * askers + ["view", "sense", "look_after"]
        self._running: dict[subprocess.Popen[bytes], str] = {}
        self._started = 0
        root.mkdir(parents=True)
        (root / "acks").mkdir()
        (root.parent / "told").mkdir()
        self._git("init", "--quiet", "--initial-branch=main")
        (root / ".gitignore").write_text("acks/\n")
        (root / "ack.py").write_text(ACK)
        self._edit(commit=True)

    def run(self, seconds: float) -> Found:
        """Let it go on for a time, then look at what is there."""
        end = time.monotonic() + seconds
        edit = kill = time.monotonic() + 2
        try:
            while (now := time.monotonic()) < end:
                self._fill()
                if now >= edit:
                    self._edit(commit=self._choice.random() < 0.6)
                    edit = now + self._choice.uniform(8, 20)
                if now >= kill:
                    self._kill()
                    kill = now + self._choice.uniform(0.5, 4)
                time.sleep(0.05)
        finally:
            for child in list(self._running):
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(signal.SIGKILL)
                child.wait()
        self._wait_for_versions()
        self._check()
        return self.found

    # What happens --------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLOR_", "GIT_"))}
        return kept | {
            "PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0", "GIT_CONFIG_GLOBAL": os.devnull,
            "FLOR_CACHE": str(self.root.parent / "cache"), "FLOR_CHECKPOINTS": "all", "TMPDIR": str(self._temporary),
        }  # fmt: skip

    @property
    def _temporary(self) -> Path:
        folder = self.root.parent / "tmp"
        folder.mkdir(exist_ok=True)
        return folder

    def _git(self, *arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t.invalid", *arguments], cwd=self.root, check=True,
            env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}, capture_output=True,
        )  # fmt: skip

    def _edit(self, *, commit: bool) -> None:
        self._marker += 1
        written = self.root / ".train.new"
        written.write_text(train_text(self._marker))
        written.replace(self.root / "train.py")
        if commit:
            self._git("add", "--all")
            self._git("commit", "--quiet", "--message", f"version {self._marker}")
        self.found.counts["versions"] += 1

    def _fill(self) -> None:
        """Start again what ended."""
        for child, kind in list(self._running.items()):
            if child.poll() is not None:
                del self._running[child]
                if kind == "train":
                    self.found.counts["trainings that ended"] += child.returncode == 0
                    if child.returncode not in (0, -signal.SIGKILL):
                        self.found.faults.append(f"a training ended with {child.returncode}")
                elif child.returncode != -signal.SIGKILL:
                    self.found.faults.append(f"{kind} ended with {child.returncode}")
        kinds = Counter(self._running.values())
        wanted = Counter(self._others) | Counter({"train": self._trainings})
        for kind, count in wanted.items():
            for _ in range(count - kinds[kind]):
                self._start(kind)

    def _start(self, kind: str) -> None:
        self._started += 1
        name = f"{kind}{self._started}"
        environment = self._environment()
        if kind == "train":
            command = [sys.executable, "train.py", name]
            environment["FLOR_ARGS"] = json.dumps({"seed": self._choice.randrange(100)})
            self.found.counts["trainings"] += 1
        else:
            told = self.root.parent / "told" / name
            command = [
                sys.executable, "-m", "tests.faults.actors", kind, str(self.root), self.url or "", str(told), name,
            ]  # fmt: skip
        with (self.root.parent / "output").open("ab") as output:
            child = subprocess.Popen(command, cwd=self.root, env=environment, stdout=output, stderr=output)
        self._running[child] = kind

    def _kill(self) -> None:
        victim = self._choice.choice(list(self._running))
        with contextlib.suppress(ProcessLookupError):
            victim.send_signal(signal.SIGKILL)
        self.found.counts[f"kills of {self._running[victim]}"] += 1

    def _wait_for_versions(self) -> None:
        """What keeps the code of a training that was killed just now has its moment."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if not any(is_pending(run / "version.json") for run in self.root.glob(".flor/runs/*")):
                return
            time.sleep(0.1)

    # What is there afterwards --------------------------------------------------------------------------------------

    def _check(self) -> None:
        for path in sorted((self.root.parent / "told").iterdir()):
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):  # torn by a kill
                    fields = json.loads(line)
                    if "fault" in fields:
                        self.found.faults.append(fields["fault"])
                    else:
                        self.found.counts[fields["did"]] += 1
        saved = dict(os.environ)
        os.environ.update({k: v for k, v in self._environment().items() if k.startswith("FLOR_")})
        try:
            self._hold_against_oracle()
        finally:
            os.environ.clear()
            os.environ.update(saved)
        self._look_for_leftovers()

    def _hold_against_oracle(self) -> None:
        faults, counts = self.found.faults, self.found.counts
        if self._marker % 2:
            self._edit(commit=True)  # the statement stands in the newest version
        with Workspace.open(self.root, store_url=self.url) as workspace:
            workspace.sync()
            workspace.ask("asked")
            report = workspace.answer(Question(("asked",), accept_likely=True))
            for answer in report.cells:
                cell = answer.cell
                counts[f"cells {cell.status} {cell.fidelity or ''}".strip()] += 1
                if cell.fidelity == "diverged" and "its version is approximate" in cell.sentence:
                    continue  # the script was edited while its process began
                if cell.status not in SETTLED or cell.fidelity == "diverged":
                    faults.append(f"{answer.run.key} ({answer.run.status}): {cell.sentence}")
            frame = workspace.store.dataframe("marker", "total", "asked", "mean", "arg:seed")
            faults += wrong_rows(frame)
            shown = {
                (row.id, e, s): v
                for row in workspace.runs()
                for e, s, v in _triples(frame[frame["run"] == row.key])
            }
            names = {self._name_of(row.id): row.id for row in workspace.runs()}
            for name, acknowledged in self._acknowledged():
                counts["acknowledged values"] += len(acknowledged)
                for (epoch, step), value in acknowledged.items():
                    if shown.get((names.get(name, ""), epoch, step)) != value:
                        faults.append(
                            f"{name} logged {value} at epoch={epoch}, step={step}: it is not in the view"
                        )
            faults += workspace.store.differences()
            with tempfile.TemporaryDirectory() as folder:
                faults += [
                    words for found in workspace.store.ledger_differences(Path(folder)) for words in found
                ]
            faults += [f"{folder}: {why}" for folder, why in workspace.store.problems.items()]
            workspace.store.rebuild()
            workspace.sync()
            again = workspace.store.dataframe("marker", "total", "asked", "mean", "arg:seed")
            if not again.equals(frame):
                faults.append("the view is another one after `flor rebuild`")
            counts["training runs"] = len(workspace.runs())

    def _name_of(self, run: str) -> str:
        first = next((self.root / ".flor" / "runs" / run).glob("journal.*.jsonl")).open().readline()
        return str(json.loads(first)[2]["argv"][-1])

    def _acknowledged(self) -> Iterator[tuple[str, Mapping[tuple[int, int], float]]]:
        for path in sorted((self.root / "acks").iterdir()):
            said: dict[tuple[int, int], float] = {}
            for line in path.read_text().split("\n")[:-1]:
                epoch, step, value = line.split()
                said[int(epoch), int(step)] = float(value)
            yield path.name, said

    def _look_for_leftovers(self) -> None:
        end = time.monotonic() + 10
        while (left := self._processes()) and time.monotonic() < end:
            time.sleep(0.2)
        self.found.faults += [f"left behind: {words}" for words in left]

    def _processes(self) -> list[str]:
        found: list[str] = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                folder = os.readlink(process / "cwd")
                ours = (str(self.root), str(self.root.parent / "cache"), str(self._temporary))
                if any(path in command or folder.startswith(path) for path in ours):
                    found.append(f"{process.name} {command} in {folder}")
        return found


def _triples(frame: object) -> Iterator[tuple[int, int, float]]:
    import pandas as pd

    assert isinstance(frame, pd.DataFrame)
    rows = frame[frame["step"].notna() & frame["total"].notna()]
    for epoch, step, total in zip(rows["epoch"], rows["step"], rows["total"], strict=True):
        yield int(epoch), int(step), float(total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--store", help="URL of a PostgreSQL database; SQLite where none is given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trainings", type=int, default=8)
    parser.add_argument("--askers", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="an empty folder to work in, which is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        soak = Soak(
            folder / "project",
            options.store,
            options.seed,
            trainings=options.trainings,
            askers=options.askers,
        )
        found = soak.run(options.seconds)
    for what, count in sorted(found.counts.items()):
        print(f"{what:32} {count:8}")
    for words, count in Counter(found.faults).most_common(50):
        print(f"FAULT ({count}): {words}")
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    main()
