"""Projects with many versions, trained for real; seconds of whole process trees."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from flor_dagster.replay.model import Question
from flor_dagster.replay.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """\
import torch
from torch import nn

import flor_dagster as flor

torch.set_num_threads(1)
torch.manual_seed(flor.arg("seed", 1))
x = torch.randn({rows}, 784)
y = (x[:, :100].sum(1) > 0).long()
net = nn.Sequential(nn.Linear(784, {hidden}), nn.ReLU(), nn.Dropout(0.1), nn.Linear({hidden}, {hidden}), nn.ReLU(), nn.Linear({hidden}, 2))
optimizer = torch.optim.Adam(net.parameters(), 1e-3)
# version {version}
with flor.checkpointing(net=net, optimizer=optimizer):
    for epoch in flor.loop("epoch", range({epochs})):
        order = torch.randperm({rows})
        for step in flor.loop("step", range({steps})):
            batch = order[step * 64 : step * 64 + 64]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            loss.backward()
            {inner}
            optimizer.step()
            flor.log("loss", loss.item())
        with torch.no_grad():
            accuracy = (net(x[:256]).argmax(1) == y[:256]).float().mean().item()
        {outer}
        flor.log("accuracy", accuracy)
"""
OUTER = 'flor.log("weight_norm", sum(p.norm().item() for p in net.parameters()))'
INNER = 'flor.log("grad_norm", sum(p.grad.norm().item() for p in net.parameters()))'


# The same in numpy, with plain gradient descent: it starts in a fifth of the time, for where a hundred are trained.
SMALL = """\
import numpy as np

import flor_dagster as flor

rng = np.random.default_rng(flor.arg("seed", 1))
x = rng.standard_normal(({rows}, 256), dtype=np.float32)
y = (x[:, :100].sum(1) > 0).astype(np.float32)
first = rng.standard_normal((256, {hidden}), dtype=np.float32) * np.float32(0.06)
second = rng.standard_normal({hidden}, dtype=np.float32) * np.float32(0.06)
# version {version}
with flor.checkpointing(first=first, second=second, rng=rng):
    for epoch in flor.loop("epoch", range({epochs})):
        order = rng.permutation({rows})
        for step in flor.loop("step", range({steps})):
            batch = order[step * 64 : step * 64 + 64]
            inner = np.maximum(x[batch] @ first, 0)
            error = inner @ second - y[batch]
            back = np.outer(error, second) * (inner > 0)
            second -= np.float32(1e-4) * (error @ inner)
            first -= np.float32(1e-4) * (x[batch].T @ back)
            {inner}
            flor.log("loss", float(error @ error))
        accuracy = float((((np.maximum(x[:256] @ first, 0) @ second) > 0.5) == (y[:256] > 0.5)).mean())
        {outer}
        flor.log("accuracy", accuracy)
"""
SMALL_OUTER = 'flor.log("weight_norm", float(np.sqrt((first * first).sum())))'


@dataclass(frozen=True)
class Size:
    """How large the training is: epochs of so many steps on 64 rows each, two hidden layers of so many units.

    `small` is one of numpy, with one hidden layer.
    """

    epochs: int
    steps: int
    hidden: int
    small: bool = False

    def script(self, version: int, *, asked: bool = False) -> str:
        """A version, with the asked statements in it or without."""
        text, outer, inner = (SMALL, SMALL_OUTER, "pass") if self.small else (SCRIPT, OUTER, INNER)
        outer, inner = (outer, inner) if asked else ("pass", "pass")
        return text.format(rows=self.steps * 64, steps=self.steps, hidden=self.hidden, epochs=self.epochs,
                             version=version, outer=outer, inner=inner)  # fmt: skip


@dataclass(frozen=True)
class Seconds:
    """Wall seconds, and CPU seconds of this process and all its children, the living ones too."""

    wall: float
    cpu: float


class Clock:
    """Measures a block."""

    def __enter__(self) -> Self:
        self._wall, self._cpu = time.perf_counter(), tree_cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = Seconds(time.perf_counter() - self._wall, tree_cpu() - self._cpu)


def tree_cpu() -> float:
    """CPU seconds of this process and its children. A warm worker lives on after its question: it is looked up in /proc."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks[int(entry.name)] = sum(map(int, fields[11:15]))
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    total, todo = 0, [os.getpid()]
    while todo:
        process = todo.pop()
        total += ticks.get(process, 0)
        todo += children.get(process, [])
    return total / os.sysconf("SC_CLK_TCK")


def median(some: Sequence[Seconds]) -> Seconds:
    return Seconds(statistics.median(s.wall for s in some), statistics.median(s.cpu for s in some))


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "FLOR_CHECKPOINTS": "all",
        "OMP_NUM_THREADS": "1",
    }


def run(folder: Path, *command: str, **more: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False, **more
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done


class Project:
    """A repository with versions, each trained once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / ".git").exists():
            folder.mkdir(parents=True, exist_ok=True)
            run(folder, "git", "init", "--quiet", "--initial-branch=main")
            run(folder, "git", "config", "user.name", "bench")
            run(folder, "git", "config", "user.email", "bench@flor-dagster.invalid")

    def train(self, text: str, python: str = sys.executable) -> Seconds:
        """Commit a version and run it; what running it took."""
        (self.folder / "train.py").write_text(text)
        run(self.folder, "git", "add", "--all")
        run(self.folder, "git", "commit", "--quiet", "--message", "a version")
        with Clock() as clock:
            run(self.folder, python, "train.py")
        return clock.seconds

    def values(self, name: str, *, epoch: int | None = None, newest: bool = False) -> list[str]:
        """All values of a name, bit for bit, in the order of the runs; of one epoch, or of the newest run alone."""
        with Workspace.open(self.folder) as workspace:
            workspace.sync()
            runs = [workspace.runs()[-1].key] if newest else None
            frame = workspace.store.dataframe(name, runs=runs)
        frame = frame[frame["epoch"] == epoch] if epoch is not None else frame
        return [float(v).hex() for v in frame[name].dropna()]

    def begin(self) -> None:
        """Forget what was answered at another time, so that what is compared is what is answered now."""
        home = self.folder / ".flor"
        shutil.rmtree(home / "replays", ignore_errors=True)
        for file in home.glob("flor.db*"):
            file.unlink()
        with Workspace.open(self.folder) as workspace:
            workspace.sync()

    def forget(self) -> None:
        """Open all cells again."""
        with sqlite3.connect(self.folder / ".flor" / "flor.db") as connection:
            connection.execute("delete from cells")

    def ask(self, rounds: int, **question: Any) -> tuple[Seconds, list[Seconds]]:
        """Ask the same so many times, one more first: what that one took, and what the others did with warm workers."""
        taken: list[Seconds] = []
        with Workspace.open(self.folder) as workspace:
            for _ in range(rounds + 1):
                self.forget()
                with Clock() as clock:
                    report = workspace.answer(Question(**question))
                taken.append(clock.seconds)
                bad = [c.cell.sentence for c in report.cells if c.cell.fidelity != "exact"]
                if bad:
                    raise SystemExit("not exact: " + "; ".join(bad[:3]))
        return taken[0], taken[1:]


TIMED = 2
"""So many runs with the statement in them are timed, with nothing beside them; the other trainings go on two at a time."""


@dataclass(frozen=True)
class Prepared:
    """A project, the same one with the statements in it from the start, and what running that took, version by version."""

    project: Project
    oracle: Project
    size: Size
    versions: int
    timed: tuple[Seconds, ...]

    @property
    def again(self) -> Seconds:
        """Running all versions again, one after the other."""
        return self.running(self.versions)

    def running(self, versions: int) -> Seconds:
        """Running so many versions again: each does the same work, so it is the median of those that were timed."""
        one = median(self.timed)
        return Seconds(one.wall * versions, one.cpu * versions)


def prepare(folder: Path, size: Size, versions: int) -> Prepared:
    """Train everything; what lies in the folder already is taken from there."""
    note = folder / "taken.json"
    kept: dict[str, Any] = {"size": asdict(size), "timed": [], "oracle": 0, "project": 0}
    if note.exists():
        kept |= json.loads(note.read_text())
    if kept["size"] != asdict(size) or max(kept["oracle"], kept["project"]) > versions:
        raise SystemExit(
            f"{folder} holds {kept['project']} trainings of the size {kept['size']}: name another folder"
        )
    project, oracle = Project(folder / "project"), Project(folder / "oracle")
    lock = threading.Lock()

    def train(which: str, until: int) -> None:
        place, asked = (oracle, True) if which == "oracle" else (project, False)
        while kept[which] < until:
            taken = place.train(size.script(kept[which], asked=asked))
            with lock:
                if asked and len(kept["timed"]) < TIMED:
                    kept["timed"].append(asdict(taken))
                kept[which] += 1
                note.write_text(json.dumps(kept))

    train("oracle", min(TIMED, versions))
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(train, which, versions) for which in ("oracle", "project")]:
            done.result()
    (project.folder / "train.py").write_text(size.script(versions - 1, asked=True))
    timed = tuple(Seconds(s["wall"], s["cpu"]) for s in kept["timed"])
    return Prepared(project, oracle, size, versions, timed)


def same(prepared: Prepared, name: str, *, epoch: int | None = None, newest: bool = False) -> None:
    """Leave where the replayed values are not bit for bit those of the runs with the statement in them."""
    size = prepared.size
    wanted = prepared.oracle.values(name, epoch=epoch, newest=newest)
    found = prepared.project.values(name, epoch=epoch, newest=newest)
    epochs, runs = (size.epochs if epoch is None else 1), (1 if newest else prepared.versions)
    many = runs * epochs * (size.steps if name == "grad_norm" else 1)
    if len(wanted) != many or found != wanted:
        raise SystemExit(
            f"{name}: {len(found)} replayed values are not the {many} of the runs with the statement in them"
        )
