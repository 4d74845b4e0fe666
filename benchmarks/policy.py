"""Does the adaptive policy hold its budget at every prefix of a run? `python benchmarks/policy.py [--seeds N]`

Simulated first: the real policy object on a virtual clock, over kinds of steps and of checkpoint costs (constant, growing,
bursty, heavy-tailed), with an idle core for the writer and without one. Then real: a numpy, a torch and a scikit-learn
(`partial_fit`) training, recorded with a floor of 0.05 s so that the share of 1.5 % decides. There the cost is measured
from outside, around every call of the recorder that may take a checkpoint.

Printed are, for each, the most that was ever spent as a share of what could be spent then ("most used", the bar is 1), the
checkpoints that were taken, given up on the way and declined. In the real ones `most used` is by the training thread's CPU
time, and by the clock less the time in which another process had the core; one moment before the first second is left out.
Exits 1 where a bar does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flor_dagster.recording.clock import Clock
from flor_dagster.recording.policy import CheckpointPolicy

PACKAGE = Path(__file__).resolve().parents[1]
PIECES = 50
"""A simulated checkpoint may be given up between so many pieces of equal length."""

Costs = Callable[[random.Random], Iterator[float]]


class Virtual(Clock):
    """A clock that a simulation moves.

    Args:
        share: of the writer's work, what takes a core from the training.
    """

    def __init__(self, share: float = 0.0) -> None:
        self.seconds = 0.0
        self.others = 0.0
        self.share = share

    def now(self) -> float:
        """Simulated seconds."""
        return self.seconds

    def waited(self) -> float:
        """What other processes have taken."""
        return self.others

    def used(self) -> float:
        """All the rest."""
        return self.seconds - self.others

    def contention(self, background: float) -> float:
        """As it was set."""
        del background
        return self.share


@dataclass(slots=True)
class Outcome:
    """What a simulated run has seen.

    Args:
        excess: the most seconds that were ever spent beyond the budget, but for one piece of the work under way.
        used: the most that was spent as a share of the budget of that moment.
        taken: checkpoints that were taken.
        given_up: those that were begun and left.
        declined: those that were not begun.
    """

    excess: float = -1.0
    used: float = 0.0
    taken: int = 0
    given_up: int = 0
    declined: int = 0


def simulate(
    steps: Iterator[tuple[float, float, float]], *, floor: float, overhead: float, share: float = 0.0
) -> Outcome:
    """Run a training whose iterations take, and whose checkpoints cost, what is given.

    Args:
        steps: per iteration: seconds of its work, seconds that a checkpoint would hold it up, CPU seconds of the writer.
        floor: of the policy.
        overhead: of the policy.
        share: of the writer's work, what takes a core from the training.
    """
    clock = Virtual(share)
    behind, queue = [0.0], list[tuple[float, Callable[[float], None]]]()
    policy = CheckpointPolicy(floor=floor, overhead=overhead, clock=clock, background=lambda: behind[0])
    worked = spent = piece = 0.0
    writing_piece = 0.02
    seen = Outcome()

    def look() -> None:
        budget = max(floor, overhead * worked)
        most = spent - max(piece, writing_piece * share)
        seen.excess = max(seen.excess, most - budget)
        seen.used = max(seen.used, most / budget if budget else 0.0)

    first = True
    for work, cost, writing in steps:
        if first:
            policy.expect(cost, "site", writing)
            first = False
        clock.seconds += work
        worked += work
        left = work
        while queue and left > 0 and policy.may_write():
            need, written = queue[0]
            step = min(need, left, writing_piece)
            left -= step
            behind[0] += step
            spent += step * share
            clock.seconds += step * share
            if step < need:
                queue[0] = need - step, written
            else:
                queue.pop(0)
                written(writing)
            look()
        if policy.allows(work, "site"):
            before = policy.given_up
            with policy.paying("site") as allowance:
                for number in range(PIECES):
                    piece = cost / PIECES
                    clock.seconds += piece
                    spent += piece
                    look()
                    allowance.check((number + 1) / PIECES)
            if policy.given_up == before:
                queue.append((writing, policy.hand_over("site")))
            look()
            piece = 0.0 if spent <= max(floor, overhead * worked) else piece
    seen.taken, seen.given_up, seen.declined = policy.taken, policy.given_up, policy.declined
    return seen


# Kinds of costs -------------------------------------------------------------------------------------------------------


def constant(seconds: float) -> Costs:
    """Always nearly the same."""
    return lambda choice: (seconds * choice.uniform(0.95, 1.05) for _ in iter(int, 1))


def growing(seconds: float, rate: float) -> Costs:
    """A little more each time."""

    def costs(choice: random.Random) -> Iterator[float]:
        now = seconds
        while True:
            yield now * choice.uniform(0.95, 1.05)
            now *= rate

    return costs


def bursty(seconds: float, times: float) -> Costs:
    """Now and then many in a row that are far larger."""

    def costs(choice: random.Random) -> Iterator[float]:
        while True:
            for _ in range(choice.randrange(20, 80)):
                yield seconds
            for _ in range(choice.randrange(5, 20)):
                yield seconds * times

    return costs


def heavy(seconds: float, alpha: float) -> Costs:
    """Pareto: the largest one of a run is a good part of the sum."""
    return lambda choice: (seconds * choice.paretovariate(alpha) for _ in iter(int, 1))


STEPS: dict[str, Costs] = {
    "constant": constant(1.0),
    "growing": growing(0.2, 1.002),
    "bursty": bursty(0.05, 40),
    "heavy-tailed": heavy(0.3, 1.2),
}
CHECKPOINTS: dict[str, Costs] = {
    "constant": constant(0.02),
    "growing": growing(0.002, 1.004),
    "bursty": bursty(0.004, 50),
    "heavy-tailed": heavy(0.005, 1.1),
    "larger than the floor": constant(3.0),
}


def iterations(
    choice: random.Random, steps: Costs, checkpoints: Costs, behind: float, length: int
) -> Iterator[tuple[float, float, float]]:
    """A simulated training; the writer takes `behind` times as long as the stall."""
    work, cost = steps(choice), checkpoints(choice)
    for _ in range(length):
        stall = next(cost)
        yield next(work), stall, stall * behind


def simulated(seeds: int) -> bool:
    """Print the table; whether every bar holds."""
    print(
        f"{'steps':14} {'checkpoints':22} {'writer':12} {'most used':>9} {'taken':>7} {'given up':>8} {'declined':>8}"
    )
    fine = True
    for step_kind, steps in STEPS.items():
        for cost_kind, costs in CHECKPOINTS.items():
            for share, behind in ((0.0, 8.0), (1.0, 8.0)):
                runs = [
                    simulate(
                        iterations(random.Random(seed), steps, costs, behind, 2000),
                        floor=1.0, overhead=0.015, share=share,
                    )
                    for seed in range(seeds)
                ]  # fmt: skip
                fine = fine and all(run.excess <= 1e-9 for run in runs)
                print(
                    f"{step_kind:14} {cost_kind:22} {'has a core' if not share else 'has none':12} "
                    f"{max(run.used for run in runs):9.3f} {sum(run.taken for run in runs) // seeds:7} "
                    f"{sum(run.given_up for run in runs) // seeds:8} {sum(run.declined for run in runs) // seeds:8}"
                )
    return fine


# Real trainings -------------------------------------------------------------------------------------------------------

WATCH = """
import json, os, sys, time
from pathlib import Path
import flor_dagster as flor
from flor_dagster.recording import capturing

schedule = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
def waited():
    return int(os.pread(schedule, 99, 0).split()[1]) / 1e9

began, events = time.perf_counter(), []
def watched(call):
    def inner(self, *arguments):
        policies[:] = [self.policy]
        wait, wall, cpu = waited(), time.perf_counter(), time.thread_time()
        try:
            return call(self, *arguments)
        finally:
            cpu, now = time.thread_time() - cpu, time.perf_counter()
            events.append((wall - began, max(cpu, now - wall - (waited() - wait)), cpu))
    return inner
policies = []
capturing.Capturing.loop_begins = watched(capturing.Capturing.loop_begins)
capturing.Capturing.reached = watched(capturing.Capturing.reached)
def over():
    policy = policies[0]
    print(json.dumps({"events": events, "taken": policy.taken, "given up": policy.given_up, "declined": policy.declined}))
seconds = float(sys.argv[1])
def going():
    number = 0
    while time.perf_counter() - began < seconds:
        yield number
        number += 1
"""

TRAININGS = {
    "numpy": """
import numpy as np
def main():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2000, 300)), np.zeros((300, 200))
    y = x @ rng.normal(size=(300, 200))
    losses = []
    for epoch in flor.loop("epoch", going()):
        for step in flor.loop("step", range(20)):
            part = rng.integers(0, len(x), 256)
            error = x[part] @ w - y[part]
            w -= 0.01 * x[part].T @ error / 256
            losses.append(float((error ** 2).mean()))
            flor.log("loss", losses[-1])
        flor.log("norm", float(np.abs(w).sum()))
""",
    "torch": """
import torch
def main():
    torch.manual_seed(0); torch.set_num_threads(1)
    net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(512, 10))
    optimizer = torch.optim.Adam(net.parameters())
    data, target = torch.randn(4096, 256), torch.randint(0, 10, (4096,))
    with flor.checkpointing(net=net, optimizer=optimizer):
        for epoch in flor.loop("epoch", going()):
            for step in flor.loop("step", range(16)):
                part = torch.randint(0, 4096, (128,))
                loss = torch.nn.functional.cross_entropy(net(data[part]), target[part])
                optimizer.zero_grad(); loss.backward(); optimizer.step()
                flor.log("loss", loss.item())
""",
    "scikit-learn": """
import numpy as np
from sklearn.linear_model import SGDClassifier
def main():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20000, 100)); y = (x @ rng.normal(size=100) > 0).astype(int)
    model = SGDClassifier(random_state=0)
    for epoch in flor.loop("epoch", going()):
        for step in flor.loop("step", range(10)):
            part = rng.integers(0, len(x), 2000)
            model.partial_fit(x[part], y[part], classes=[0, 1])
            flor.log("score", float(model.coef_.sum()))
""",
}
FLOOR = 0.05


def real(seconds: float) -> bool:
    """Print the table; whether the budget holds in all of them."""
    print(
        f"\n{'training':14} {'seconds':>8} {'most used':>9} {'by CPU':>7} {'at the end':>10} {'taken':>7} {'given up':>8} {'declined':>8}"
    )
    fine = True
    for name, body in TRAININGS.items():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
            (Path(folder) / "train.py").write_text(WATCH + body + "main()\nover()\n")
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLOR_", "GIT_"))}
            paths = [str(PACKAGE), environment.get("PYTHONPATH", "")]
            environment |= {
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                "FLOR_CHECKPOINT_FLOOR_SECONDS": str(FLOOR),
            }
            done = subprocess.run(
                [sys.executable, "train.py", str(seconds)], cwd=folder, env=environment, text=True, capture_output=True, check=False,
            )  # fmt: skip
            if done.returncode:
                print(f"{name:14} failed: {done.stderr.strip().splitlines()[-1:]}")
                fine = False
                continue
        seen = json.loads(done.stdout.splitlines()[-1])
        wall = cpu = used = used_cpu = 0.0
        for at, seconds_of, cpu_of in seen["events"]:
            wall, cpu = wall + seconds_of, cpu + cpu_of
            if at > 1.0:
                budget = max(FLOOR, 0.015 * (at + seconds_of - wall))
                used, used_cpu = max(used, wall / budget), max(used_cpu, cpu / budget)
        whole = seen["events"][-1][0] if seen["events"] else 0.0
        fine = fine and min(used, used_cpu) <= 1.0
        print(
            f"{name:14} {whole:8.1f} {used:9.3f} {used_cpu:7.3f} {wall / whole:10.2%} "
            f"{seen['taken']:7} {seen['given up']:8} {seen['declined']:8}",
            flush=True,
        )
    return fine


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="simulated runs of each kind")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each real training takes")
    options = parser.parse_args()
    fine = simulated(options.seeds)
    fine = real(options.seconds) and fine
    sys.exit(not fine)


if __name__ == "__main__":
    main()
