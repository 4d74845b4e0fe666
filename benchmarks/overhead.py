"""What recording adds to a training, at flor's default settings (checkpoints included): bar 1.5 %.

    python benchmarks/overhead.py [--pairs 12] [--peers PYTHON]

A numpy and a torch training of one thread, with epochs of 2 s, 100 steps each and 10 values a step: once as they stand, once
with the calls stubbed, and with the others' loggers, which take no checkpoints. Each is a process of its own that is
alive all the time; they take turns of two epochs, A B, B A, A B, …, and wait meanwhile, so that whatever else happens on the
machine meets both sides alike. The others take a turn now and then: nothing so small is asked of them.

Two answers, each with its interval (95 %, by resampling the turns):

- *held up*: the CPU seconds of the training's thread that are spent inside the calls, the loops and the checkpoints, less those
  of the stubs, as a share of the rest. Measured inside, with the thread's own clock, it stands whatever the machine does.
- *beside the stubbed script*: the ratio of the thread's CPU time, and of the clock's, of each pair of turns. It holds also
  what can't be seen inside (caches, the writer's turns at the interpreter), and the machine's noise.

Apart from both: the CPU seconds of other threads and processes for each epoch, which other cores can take, and what begin and
end of the run cost. The bar is held where both answers say so; the second one has no say where its interval is wider than the bar.
Exits 1 where it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from record import BEGIN, LOGGERS, SHOWN, Failed, peers_python, script

OVERHEAD_BAR = 0.015
STEPS = 100
EPOCHS_A_TURN = 2
PAUSE_SECONDS = 0.3
PEERS_EVERY = 4
LEAST_PAIRS = 6
"""Of fewer, an interval by resampling says nothing."""

TRAINING = """
class NumpyTraining:
    def __init__(self):
        import numpy as np
        self.np, rng = np, np.random.default_rng(0)
        self.x, self.y = rng.normal(size=(2048, 512)), rng.normal(size=(2048, 256))
        self.w, self.b = np.zeros((512, 256)), np.zeros(256)
        self.rng = rng
    def step(self):
        part = self.rng.integers(0, 2048, 128)
        x = self.x[part]
        error = x @ self.w + self.b - self.y[part]
        self.w -= 1e-3 * (x.T @ error)
        self.b -= 1e-3 * error.sum(0)
        return float((error * error).mean())
class TorchTraining:
    def __init__(self):
        import torch
        torch.set_num_threads(1); torch.manual_seed(0)
        self.torch = torch
        self.net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
        self.optimizer = torch.optim.Adam(self.net.parameters())
        self.x, self.y = torch.randn(2048, 256), torch.randint(0, 10, (2048,))
    def step(self):
        part = self.torch.randint(0, 2048, (64,))
        loss = self.torch.nn.functional.cross_entropy(self.net(self.x[part]), self.y[part])
        self.optimizer.zero_grad(); loss.backward(); self.optimizer.step()
        return loss.item()
import benchclock
training = (NumpyTraining if sys.argv[2] == "numpy" else TorchTraining)()
epochs, steps, inner = int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
names = [f"v{k}" for k in range(10)]
training.step()
def train():
    number, value = 0, 0.0
    for epoch in loop("epoch", benchclock.Turns(range(epochs))):
        for step in loop("step", range(steps)):
            for _ in range(inner):
                value = training.step()
            number += 1
            begin = benchclock.now()
            LOG
            benchclock.note(begin)
if checkpointing:
    with checkpointing(training=training):
        train()
else:
    train()
benchclock.over()
end()
say()
"""
LOG_FLOR = "for name in names: flor.log(name, value)"
LOG_OTHERS = "for name in names: log(name, value, number)"

CLOCK = '''
"""Takes turns with other processes, and measures what a turn took; lies outside the repository, so that it is none of its state."""
import json, os, sys, time
now = time.thread_time_ns
spent, looked, entered = 0, 0, 0
out, sys.stdout = sys.stdout, sys.stderr
def a_look():
    rounds = []
    for _ in range(9):
        begin = now()
        for _ in range(1000): now()
        rounds.append((now() - begin) / 1000)
    return min(rounds)
look = a_look()
def note(begin):
    global spent, looked
    spent += now() - begin
    looked += 1
def cpu():
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system
def tell(**facts):
    out.write(json.dumps(facts) + "\\n"); out.flush()
def over():
    tell(cpu=cpu())
def begin_turn():
    global entered, before
    tell(cpu=cpu())
    sys.stdin.readline()
    before = time.perf_counter(), now(), spent - looked * look
    if entered: entered = now()
def end_turn():
    global spent, entered
    wall, thread = time.perf_counter(), now()
    if entered: spent, entered = spent + thread - entered, thread
    tell(wall=wall - before[0], thread=(thread - before[1]) / 1e9, own=(spent - looked * look - before[2]) / 1e9)
class Turns(list):
    """Its iterator waits for a turn before it gives the first item of one."""
    def __iter__(self):
        for number, item in enumerate(list.__iter__(self)):
            if number % int(os.environ["BENCH_TURN"]) == 0:
                if number: end_turn()
                begin_turn()
            yield item
        end_turn()
def watch(cls, name):
    plain = getattr(cls, name)
    def measured(self):
        global spent, looked, entered
        entered = now()
        try:
            return plain(self)
        finally:
            spent, looked, entered = spent + now() - entered, looked + 1, 0
    setattr(cls, name, measured)
if sys.argv[1] == "flor":
    from flor_dagster.recording.loops import Loop, LoopIterator
    watch(Loop, "__iter__")
    watch(LoopIterator, "__next__")
'''


class Side:
    """One of the processes that take turns.

    Args:
        which: the logger.
        command: what runs its script.
        options: what `subprocess` needs for it.
    """

    def __init__(self, which: str, command: Sequence[str], options: dict[str, Any]) -> None:
        self.which = which
        self.folder = Path(options["cwd"])
        self.turns: list[dict[str, float]] = []
        self.kept = 0
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, **options
        )
        self._cpu = self._hear()["cpu"]

    def turn(self) -> None:
        """Let it go on for its epochs, and a while longer for what it does behind them."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        found = self._hear()
        time.sleep(PAUSE_SECONDS)
        cpu, self._cpu = self._cpu, self._hear()["cpu"]
        self.turns.append({**found, "behind": self._cpu - cpu - found["thread"]})

    def end(self) -> None:
        """Let it come to its end."""
        self._process.communicate()
        self._errors.close()

    def checkpoints(self) -> int:
        """How many a run of flor's has taken."""
        journals = self.folder.glob(".flor/runs/*/journal.0.jsonl")
        return sum(line.startswith('["k"') for path in journals for line in path.read_text().splitlines())

    def _hear(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise Failed((self._errors.read().strip().splitlines() or ["no output"])[-1][:160])
        return json.loads(line)


def take_turns(python: str, kind: str, pairs: int, missing: set[str], inner: int) -> dict[str, Side]:
    """Let all train, in turns; the ones that come to their end."""
    sides: dict[str, Side] = {}
    few = -(-pairs // PEERS_EVERY)
    with ExitStack() as stack:
        clock = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (clock / "benchclock.py").write_text(CLOCK)
        for which in LOGGERS:
            if which in missing:
                continue
            body = TRAINING.replace("LOG", LOG_FLOR if which == "flor" else LOG_OTHERS)
            command, options = stack.enter_context(script(BEGIN + body, python))
            options["env"] |= {
                "BENCH_TURN": str(EPOCHS_A_TURN), "PYTHONPATH": f"{options['env']['PYTHONPATH']}:{clock}"
            }  # fmt: skip
            epochs = EPOCHS_A_TURN * (pairs if which in ("stub", "flor") else few)
            sides[which] = Side(which, [*command, which, kind, str(epochs), str(STEPS), str(inner)], options)
        for number in range(pairs):
            order = ["stub", "flor"][:: 1 if number % 2 == 0 else -1]
            if number % PEERS_EVERY == 0:
                order += [which for which in sides if which not in order]
            for which in order:
                sides[which].turn()
        for side in sides.values():
            side.end()
        sides["flor"].kept = sides["flor"].checkpoints()
    return sides


def interval(
    values: Sequence[float], middle: Callable[[Sequence[float]], float]
) -> tuple[float, float, float]:
    """A statistic of some values, and its 95 % interval by resampling them."""
    chance = random.Random(0)
    drawn = sorted(middle(chance.choices(values, k=len(values))) for _ in range(4000))
    return middle(values), drawn[100], drawn[-101]


def compare(python: str, kind: str, pairs: int, missing: set[str]) -> bool:
    """Print what recording adds to a training; whether the bar holds."""
    inner = probe(python, kind)
    sides = take_turns(python, kind, pairs, missing, inner)
    stub = sides["stub"]
    seconds = statistics.median(turn["thread"] for turn in stub.turns) / EPOCHS_A_TURN
    print(
        f"\n{kind}: epochs of {seconds:.1f} s, {STEPS} steps each, 10 values a step; {pairs} pairs of turns of {EPOCHS_A_TURN} epochs; "
        f"{sides['flor'].kept} checkpoints"
    )
    print(
        f"{'':22} {'held up':>8} {'':>16} {'CPU':>8} {'':>16} {'clock':>8} {'':>16} {'behind, CPU s an epoch':>23}"
    )
    judged: dict[str, tuple[float, float, float]] = {}
    for which, side in sides.items():
        plain = stub.turns[::PEERS_EVERY] if len(side.turns) < pairs else stub.turns
        both = list(zip(side.turns, plain, strict=True))
        held = [a["own"] / (a["thread"] - a["own"]) - b["own"] / (b["thread"] - b["own"]) for a, b in both]
        answers = {
            "held": interval(held, statistics.fmean),
            "cpu": interval([a["thread"] / b["thread"] - 1 for a, b in both], statistics.median),
            "clock": interval([a["wall"] / b["wall"] - 1 for a, b in both], statistics.median),
        }
        if which == "flor":
            judged = answers
        behind = statistics.median(turn["behind"] for turn in side.turns) / EPOCHS_A_TURN
        cells = " ".join(f"{m:8.2%} {f'{low:.2%} … {high:.2%}':>16}" for m, low, high in answers.values())
        print(f"{SHOWN[which]:22} {cells} {behind:23.3f}")
    return verdict(judged, pairs)


def verdict(found: dict[str, tuple[float, float, float]], pairs: int) -> bool:
    """Say whether the bar holds."""
    share, _, most = found["held"]
    inside = most <= OVERHEAD_BAR
    print(
        f"bar: {OVERHEAD_BAR:.1%}: held up by {share:.2%} (at most {most:.2%}): {'held' if inside else 'NOT HELD'}"
    )
    ratio, low, high = found["cpu"]
    wide = pairs < LEAST_PAIRS or high - low > 2 * OVERHEAD_BAR
    beside = ratio <= OVERHEAD_BAR
    words = "says nothing on this machine now" if wide else "held" if beside else "NOT HELD"
    print(
        f"     beside the stubbed script {ratio:+.2%}, between {low:+.2%} and {high:+.2%}: {words}",
        flush=True,
    )
    return inside and (wide or beside)


def probe(python: str, kind: str) -> int:
    """How many inner steps make an epoch of a bit more than 2 s."""
    with tempfile.TemporaryDirectory() as clock:
        (Path(clock) / "benchclock.py").write_text(CLOCK)
        with script(BEGIN + TRAINING.replace("LOG", LOG_OTHERS), python) as (command, options):
            options["env"] |= {"BENCH_TURN": "1", "PYTHONPATH": f"{options['env']['PYTHONPATH']}:{clock}"}
            side = Side("stub", [*command, "stub", kind, "2", str(STEPS), "5"], options)
            side.turn()
            side.turn()
            side.end()
    return max(1, round(5 * 2.2 / min(turn["thread"] for turn in side.turns)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers", default=os.environ.get("FLOR_BENCH_PYTHON", ""), help="an interpreter that has them"
    )
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--alone", action="store_true", help="without the others")
    options = parser.parse_args()
    python = peers_python(options.peers)
    missing = {"flordb", "mlflow", "tensorboard"} if options.alone else set[str]()
    fine = [compare(python, kind, options.pairs, missing) for kind in ("numpy", "torch")]
    sys.exit(not all(fine))


if __name__ == "__main__":
    main()
