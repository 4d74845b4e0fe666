"""What a portable training run costs: the same small trainings with and without the variables of `flor run --portable`.

Prints medians in seconds and their ratio, for matrix products of NumPy and, where they are installed, a scikit-learn fit and a
torch training. Both kinds of process take turns. Usage: python benchmarks/portable.py [ROUNDS] [SIZE]
"""

import importlib.util
import os
import statistics
import subprocess
import sys

from flor_dagster.recording.portable import portable_variables

ROUNDS = 5
SIZE = 600

PROGRAMS = {
    "numpy": """
rng = numpy.random.default_rng(0)
a = rng.normal(size=(SIZE, SIZE))
x = numpy.eye(SIZE)
for _ in range(20):
    x = numpy.tanh(a @ x / SIZE)
""",
    "sklearn": """
from sklearn.cluster import KMeans
data = numpy.random.default_rng(0).normal(size=(SIZE * 10, 20))
begin = time.perf_counter()
KMeans(10, n_init=2, random_state=0).fit(data)
""",
    "torch": """
import torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(SIZE, SIZE), torch.nn.ReLU(), torch.nn.Linear(SIZE, 10))
step = torch.optim.Adam(net.parameters())
data = torch.randn(256, SIZE)
begin = time.perf_counter()
for _ in range(20):
    step.zero_grad()
    net(data).square().mean().backward()
    step.step()
""",
}
AROUND = "import time, numpy\nSIZE = {size}\nbegin = time.perf_counter()\n{program}\nprint(time.perf_counter() - begin)\n"


def seconds(program: str, size: int, environment: dict[str, str]) -> float:
    """What the program's own loop takes in a fresh process."""
    code = AROUND.format(size=size, program=program)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def main(rounds: int = ROUNDS, size: int = SIZE) -> None:
    portable = portable_variables()
    plain = {name: value for name, value in os.environ.items() if name not in portable}
    print(f"medians of {rounds} rounds, size {size}    plain    portable    ratio")
    for name, program in PROGRAMS.items():
        if importlib.util.find_spec(name) is None:
            print(f"{name:10} is not installed")
            continue
        pairs = [
            (seconds(program, size, plain), seconds(program, size, plain | portable)) for _ in range(rounds)
        ]
        one, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{name:10} {one:24.3f} s {other:9.3f} s {other / one:8.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
