"""What recording costs, in one process tree and as ratios: `python benchmarks/record.py`.

Three questions, each in wall and CPU seconds:

- one `flor.log` of a float in a tight loop, beside a bare `os.write` of a line of the same length;
- a training with epochs of 2 s and 10 values a step, beside the same script with the flor calls stubbed, in alternation;
- one value logged by flordb 4.0.1, MLflow (file store) and TensorBoard's `SummaryWriter`, where they are installed.

The others are looked for in the interpreter of `--peers` (default: FLOR_BENCH_PYTHON); a venv for them is made by

    python -m venv VENV && VENV/bin/pip install flordb==4.0.1 mlflow tensorboard torch
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]

TIGHT = """
import json, os, random, time
import flor_dagster as flor
def tight(n, batches):
    values = [random.random() for _ in range(n)]
    fd = os.open("bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    line, rows = b"[1,1,0.8437213472834]\\n", []
    for batch in range(batches):
        row = []
        for what in ("flor", "bare"):
            wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
            if what == "flor":
                for value in values: flor.log("loss", value)
            else:
                write = os.write
                for value in values: write(fd, line)
            row += [(time.perf_counter_ns() - wall) / n, (time.thread_time_ns() - cpu) / n]
        rows.append(row)
    return rows
for epoch in flor.loop("epoch", range(1)):
    print(json.dumps(tight(2000, 60)))
"""

TRAINING = """
import json, random, sys, time
if sys.argv[1] == "flor":
    import flor_dagster as flor
else:
    class flor:
        log = staticmethod(lambda name, value: value)
        loop = staticmethod(lambda name, iterable: iterable)
epochs, steps, work = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
def step():
    total = 0.0
    for i in range(work):
        total += i * 0.5
    return total
wall, cpu = time.perf_counter(), time.process_time()
for epoch in flor.loop("epoch", range(epochs)):
    for s in flor.loop("step", range(steps)):
        value = step()
        for k in range(10):
            flor.log(f"v{k}", value + k)
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""

PEERS = {
    "flordb 4.0.1": """
import flordb as flor
log = lambda i, v: flor.log("loss", v)
""",
    "MLflow, file store": """
import mlflow
mlflow.set_tracking_uri("file:mlruns"); mlflow.start_run()
log = lambda i, v: mlflow.log_metric("loss", v, step=i)
""",
    "TensorBoard SummaryWriter": """
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter("tb")
log = lambda i, v: writer.add_scalar("loss", v, i)
""",
}

PEER_LOOP = """
import json, random, sys, time
times, n = [], int(sys.argv[1])
cpu = time.process_time()
for i in range(n):
    value = random.random()
    begin = time.perf_counter_ns()
    log(i, value)
    times.append(time.perf_counter_ns() - begin)
cpu = (time.process_time() - cpu) / n * 1e9
times.sort()
sys.stderr.write("\\n" + json.dumps([times[n // 2], sum(times) / n, cpu]) + "\\n")
"""


def run(
    source: str, folder: Path, *arguments: str, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run a script in a git repository of its own."""
    (folder / "train.py").write_text(source)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLOR_", "GIT_"))}
    more = os.environ.get("PYTHONPATH", "")
    if python == sys.executable:
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (str(PACKAGE), more) if p)
    return subprocess.run(
        [python, "train.py", *arguments],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )


def tight(folder: Path) -> dict[str, Any]:
    """One call, in microseconds."""
    rows = json.loads(run(TIGHT, folder).stdout)
    flor, flor_cpu, bare, bare_cpu = (statistics.median(column) / 1000 for column in zip(*rows, strict=True))
    return {
        "flor.log us": flor, "flor.log CPU us": flor_cpu, "os.write us": bare, "os.write CPU us": bare_cpu,
        "ratio": statistics.median(r[0] / r[2] for r in rows),
    }  # fmt: skip


def training(folder: Path, epochs: int, repeats: int) -> dict[str, Any]:
    """The same script with and without flor, in alternation."""
    steps = 100
    probe = json.loads(run(TRAINING, folder, "stub", "1", str(steps), "10000").stdout)
    work = str(int(10_000 * 2.1 / probe[0]))
    ratios: list[tuple[float, float]] = []
    seconds: list[float] = []
    for number in range(repeats):
        order = ("stub", "flor") if number % 2 else ("flor", "stub")
        took = {w: json.loads(run(TRAINING, folder, w, str(epochs), str(steps), work).stdout) for w in order}
        ratios.append((took["flor"][0] / took["stub"][0], took["flor"][1] / took["stub"][1]))
        seconds.append(took["stub"][0] / epochs)
    return {
        "seconds an epoch": statistics.median(seconds),
        "wall ratio": statistics.median(r[0] for r in ratios),
        "CPU ratio": statistics.median(r[1] for r in ratios),
    }


def peers(folder: Path, python: str, flor: float) -> dict[str, Any]:
    """One call of each of the others, in microseconds, and how many of ours it is."""
    found: dict[str, Any] = {}
    for name, begin in PEERS.items():
        done = run(begin + PEER_LOOP, folder, "2000", python=python)
        lines = done.stderr.strip().splitlines()
        if done.returncode or not lines:
            found[name] = f"not measured: {lines[-1] if lines else 'no output'}"[:200]
            continue
        line = next((li for li in reversed(lines) if li.startswith("[") and li.endswith("]")), "")
        if not line:
            found[name] = "not measured: it printed no figures"
            continue
        median, mean, cpu = (value / 1000 for value in json.loads(line))
        found[name] = {"median us": median, "mean us": mean, "CPU us": cpu, "times flor.log": median / flor}
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default=os.environ.get("FLOR_BENCH_PYTHON", sys.executable))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        result: dict[str, Any] = {"one value": tight(folder)}
        result["a training"] = training(folder, options.epochs, options.repeats)
        result["others"] = peers(folder, options.peers, result["one value"]["flor.log us"])
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
