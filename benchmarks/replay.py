"""How much faster is hindsight than running everything again? Warm and cold, one and two workers, in one run.

    python benchmarks/replay.py [--versions 10] [--epochs 20] [--rounds 3]
    python benchmarks/replay.py --flordb VENV/bin/python     # beside flordb 4.0.1 in an environment of its own
    python benchmarks/replay.py --growth [--full]            # 1 to 50 versions, 1 to 200 epochs

A training (torch, MLP and Adam, one thread) is recorded once per version; then a statement is asked of all of them. What
is compared with is running the versions again with the statement in them, as a person would. Every case checks that the
values are bit for bit those of the runs with the statement in them; without that its ratio is not printed. Wall seconds, and CPU
seconds of all child processes beside them; on a machine with other work, read the CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flor_dagster.replay.model import Question  # noqa: E402
from flor_dagster.replay.workspace import Workspace  # noqa: E402

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


@dataclass(frozen=True)
class Size:
    """How large the training is."""

    epochs: int
    steps: int = 25
    hidden: int = 1024

    def script(self, version: int, *, outer: str = "pass", inner: str = "pass") -> str:
        return SCRIPT.format(rows=self.steps * 64, steps=self.steps, hidden=self.hidden, epochs=self.epochs,
                             version=version, outer=outer, inner=inner)  # fmt: skip


class Timed:
    """Wall and CPU seconds of a block, child processes included."""

    def __enter__(self) -> Self:
        self._wall, self._cpu = time.perf_counter(), _cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, _cpu() - self._cpu


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "FLOR_CHECKPOINTS": "all"}


def run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


class Project:
    """A repository with so many versions, each trained once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        run(folder, "git", "init", "--quiet", "--initial-branch=main")
        run(folder, "git", "config", "user.name", "bench")
        run(folder, "git", "config", "user.email", "bench@flor-dagster.invalid")

    def train(self, text: str) -> None:
        (self.folder / "train.py").write_text(text)
        run(self.folder, "git", "add", "--all")
        run(self.folder, "git", "commit", "--quiet", "--message", "a version")
        run(self.folder, sys.executable, "train.py")

    def values(self, name: str) -> list[str]:
        with Workspace.open(self.folder) as workspace:
            workspace.sync()
            frame = workspace.store.dataframe(name)
            return [float(v).hex() for v in frame[name].dropna()]

    def forget(self) -> None:
        with sqlite3.connect(self.folder / ".flor" / "flor.db") as connection:
            connection.execute("delete from cells")

    def ask(self, **question: Any) -> tuple[Timed, list[Any]]:
        with Timed() as timed, Workspace.open(self.folder) as workspace:
            report = workspace.answer(Question(**question))
        bad = [c.cell.sentence for c in report.cells if c.cell.fidelity != "exact"]
        if bad:
            raise SystemExit("not exact: " + "; ".join(bad[:3]))
        self.forget()
        return timed, list(report.cells)


def prepare(folder: Path, size: Size, versions: int) -> tuple[Project, Project, Timed]:
    """The project, the same one with the statements in it from the start, and what running that took."""
    project, oracle = Project(folder / "project"), Project(folder / "oracle")
    for version in range(versions):
        project.train(size.script(version))
    with Timed() as again:
        for version in range(versions):
            oracle.train(size.script(version, outer=OUTER, inner=INNER))
    (project.folder / "train.py").write_text(size.script(versions - 1, outer=OUTER, inner=INNER))
    return project, oracle, again


def median(runs: list[Timed], what: str) -> float:
    return statistics.median(getattr(timed, what) for timed in runs)


def show(name: str, runs: list[Timed], again: Timed, bar: str, *, wall_only: bool = False) -> None:
    wall, cpu = median(runs, "wall"), median(runs, "cpu")
    ratio = f"{again.wall / wall:6.1f}x wall" + ("" if wall_only else f" {again.cpu / cpu:6.1f}x CPU")
    print(f"{name:58} {wall:8.2f} s {cpu:8.2f} CPU s   {ratio}   {bar}", flush=True)


def same(project: Project, oracle: Project, name: str, keep: Callable[[list[str]], list[str]]) -> None:
    if project.values(name) != keep(oracle.values(name)):
        raise SystemExit(f"{name}: the replayed values are not those of the runs with the statement in them")


def of_epoch(values: list[str], size: Size, epoch: int) -> list[str]:
    """Of the step-level values of all versions, those of one epoch."""
    per_run = size.epochs * size.steps
    first, last = epoch * size.steps, (epoch + 1) * size.steps
    return [v for start in range(0, len(values), per_run) for v in values[start + first : start + last]]


def bars(size: Size, versions: int, rounds: int, flordb: str | None) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["FLOR_CACHE"] = str(folder / "cache")
        project, oracle, again = prepare(folder, size, versions)
        print(
            f"{versions} versions x {size.epochs} epochs; running them again: {again.wall:.2f} s, {again.cpu:.2f} CPU s"
        )
        for warm in (True, False):
            how = "warm" if warm else "cold"
            runs = [project.ask(statements=("weight_norm",), warm=warm, segments=1)[0] for _ in range(rounds)]
            same(project, oracle, "weight_norm", lambda values: values)
            show(f"epoch-level statement, all epochs, {how}", runs, again, "bar: 20x" if warm else "")
        picked = min(size.epochs // 2, size.epochs - 1)
        for warm in (True, False):
            how = "warm" if warm else "cold"
            runs = [project.ask(statements=("grad_norm",), iterations={"epoch": (picked,)}, warm=warm)[0]
                    for _ in range(rounds)]  # fmt: skip
            same(project, oracle, "grad_norm", lambda values: of_epoch(values, size, picked))
            show(
                f"step-level statement, 1 of {size.epochs} epochs, {how}",
                runs,
                again,
                "bar: 10x" if warm else "",
            )
        with Workspace.open(project.folder) as workspace:
            last = workspace.runs()[-1].key
        one = [
            project.ask(statements=("grad_norm",), runs=(last,), segments=1, workers=1)[0]
            for _ in range(rounds)
        ]
        two = [
            project.ask(statements=("grad_norm",), runs=(last,), segments=2, workers=2)[0]
            for _ in range(rounds)
        ]
        reference = Timed()
        reference.wall, reference.cpu = median(one, "wall"), median(one, "cpu")
        show("step-level statement, one run, one segment", one, reference, "", wall_only=True)
        show(
            "the same, two segments on two workers",
            two,
            reference,
            "bar: 1.6x on two idle cores",
            wall_only=True,
        )
        print(
            f"cores: {os.cpu_count()}, load: {os.getloadavg()[0]:.1f} (wall ratios of segments need idle cores)"
        )
        if flordb:
            beside_flordb(folder / "flordb", size, flordb)


def beside_flordb(folder: Path, size: Size, python: str) -> None:
    """flordb replays one version by its own command; it executes every epoch again."""
    text = (
        size.script(0).replace("flor_dagster as flor", "flordb as flor").replace('flor.loop("', 'flor.loop("')
    )
    project = Project(folder)
    for name, script in (
        ("train", text),
        (
            "replay",
            text.replace('pass\n        flor.log("accuracy"', OUTER + '\n        flor.log("accuracy"'),
        ),
    ):
        (folder / "train.py").write_text(script)
        if name == "train":
            run(project.folder, "git", "add", "--all")
            run(project.folder, "git", "commit", "--quiet", "--message", "a version")
            with Timed() as recorded:
                run(project.folder, python, "train.py")
            continue
        with Timed() as replayed:
            done = subprocess.run([python, "-m", "flordb", "replay", "weight_norm"], cwd=folder, env=environment(), input="y\n",
                                  capture_output=True, text=True, check=False)  # fmt: skip
        said = (
            ""
            if done.returncode == 0
            else f" (exit status {done.returncode}: {done.stderr.strip().splitlines()[-1:]})"
        )
        print(
            f"flordb, one version: recorded in {recorded.wall:.2f} s, epoch-level replay {replayed.wall:.2f} s{said}"
        )


def growth(*, full: bool) -> None:
    """Seconds of an epoch-level answer over versions and epochs, a table each, as JSON lines and as bars."""
    versions, epochs = ((1, 5, 10, 25, 50), (1, 20, 50, 100, 200)) if full else ((1, 3, 6), (1, 5, 20))
    cases = [(v, 5) for v in versions] + [(1, e) for e in epochs]
    for count, length in cases:
        with tempfile.TemporaryDirectory() as temporary:
            os.environ["FLOR_CACHE"] = str(Path(temporary) / "cache")
            project, oracle, again = prepare(Path(temporary), Size(length, steps=10, hidden=256), count)
            timed, _ = project.ask(statements=("weight_norm",))
            same(project, oracle, "weight_norm", lambda values: values)
        row = {"versions": count, "epochs": length, "again_cpu": round(again.cpu, 2), "answer_cpu": round(timed.cpu, 2),
               "again_wall": round(again.wall, 2), "answer_wall": round(timed.wall, 2)}  # fmt: skip
        drawn = "#" * max(1, round(40 * timed.cpu / again.cpu))
        print(f"{json.dumps(row)}  {drawn:40.40} of {'#' * 40}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flordb", help="the python of an environment with flordb 4.0.1")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--full", action="store_true")
    chosen = parser.parse_args()
    if chosen.growth:
        growth(full=chosen.full)
    else:
        size = Size(chosen.epochs, chosen.steps, chosen.hidden)
        bars(size, chosen.versions, chosen.rounds, chosen.flordb)


if __name__ == "__main__":
    main()
