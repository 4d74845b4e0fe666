"""What recording costs, beside the same script without it and beside others, in one run and as ratios.

    python benchmarks/record.py [--repeats 5] [--pairs 12] [--peers PYTHON]

Two questions:

- one `flor.log` of a float in a tight loop, on disk before it returns (bar: 1.5 us), beside a bare `os.write` of a line of the
  same length, and one value of flordb 4.0.1 (bar: 100 times as dear), MLflow's file store and TensorBoard's `SummaryWriter`;
- what recording adds to a training: see `overhead.py`, which is run behind it.

All of them run in one interpreter, in which the others are installed: given with `--peers` (or FLOR_BENCH_PYTHON), else a
virtual environment that the benchmark makes in the temporary folder and uses again. This project needs none of them.
Repeats of all take turns; the order within a turn rotates. Exits 1 where a bar does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
PEERS = ["flordb==4.0.1", "mlflow", "tensorboard", "torch", "numpy", "orjson"]
LOGGERS = ("stub", "flor", "flordb", "mlflow", "tensorboard")
SHOWN = {
    "stub": "stubbed", "flor": "flor_dagster", "flordb": "flordb 4.0.1", "mlflow": "MLflow, file store",
    "tensorboard": "TensorBoard",
}  # fmt: skip
CALL_BAR_US, FLORDB_BAR = 1.5, 100.0

BEGIN = """
import json, os, random, sys, time
which = sys.argv[1]
def spent():
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system
wall, cpu = time.perf_counter(), spent()
end = lambda: None
loop = lambda name, items: items
checkpointing = None
if which == "stub":
    log = lambda name, value, step: value
elif which == "flor":
    import flor_dagster as flor
    def end():
        flor.commit()
    log, loop, checkpointing = None, flor.loop, flor.checkpointing
elif which == "flordb":
    import flordb as flor
    log, loop = (lambda name, value, step: flor.log(name, value)), flor.loop
    end = flor.commit
elif which == "mlflow":
    import mlflow
    mlflow.set_tracking_uri("file:mlruns"); mlflow.start_run()
    log = lambda name, value, step: mlflow.log_metric(name, value, step=step)
    end = mlflow.end_run
else:
    from torch.utils.tensorboard import SummaryWriter
    writer = SummaryWriter("tb")
    log = writer.add_scalar
    end = writer.close
imported = time.perf_counter() - wall, spent() - cpu
def say(**more):
    sys.stdout.flush()
    sys.stderr.write("\\n" + json.dumps({"wall": time.perf_counter() - wall, "cpu": spent() - cpu, **more}) + "\\n")
"""

CALLS = """
n = int(sys.argv[2])
values = [random.random() for _ in range(n)]
def bare(values):
    fd = os.open("bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write, line = os.write, b"[1,1,0.8437213472834]\\n"
    begin, used = time.perf_counter_ns(), time.thread_time_ns()
    for value in values: write(fd, line)
    return (time.perf_counter_ns() - begin) / n, (time.thread_time_ns() - used) / n
def tight(values):
    begin, used = time.perf_counter_ns(), time.thread_time_ns()
    if which == "flor":
        log = flor.log
        for value in values: log("loss", value)
    else:
        put = globals()["log"]
        for i, value in enumerate(values): put("loss", value, i)
    return (time.perf_counter_ns() - begin) / n, (time.thread_time_ns() - used) / n
for epoch in loop("epoch", range(1)):
    rows = [tight(values) + bare(values) for _ in range(int(sys.argv[3]))]
wall, cpu = time.perf_counter(), spent()
end()
say(rows=rows)
"""


class Failed(Exception):  # noqa: N818 - it ends one line of a table
    """A script ended with an error."""


@contextlib.contextmanager
def script(source: str, python: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """A script in a git repository and a home of its own: the command that runs it, and what `subprocess` needs for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "repo"
        folder.mkdir()
        (folder / "train.py").write_text(source)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLOR_", "GIT_", "PYTHON"))}
        environment |= {
            "HOME": name, "PYTHONPATH": str(PACKAGE), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull, "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "flor-bench-bytecode"), "PYTHONHASHSEED": "0",
        }  # fmt: skip
        git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        for command in (["init", "-q"], ["config", "user.name", "bench"], ["config", "user.email", "bench@localhost"], ["add", "."], ["commit", "-qm", "begin"]):  # fmt: skip
            subprocess.run([*git, *command], cwd=folder, check=True, env=environment, capture_output=True)
        yield [python, "train.py"], {"cwd": folder, "env": environment, "text": True}


def run(source: str, python: str, *arguments: str) -> dict[str, Any]:
    """What a script says at its end."""
    with script(source, python) as (command, options):
        done = subprocess.run([*command, *arguments], capture_output=True, check=False, **options)
        lines = [line for line in done.stderr.splitlines() if line.startswith('{"wall"')]
        if done.returncode or not lines:
            raise Failed((done.stderr.strip().splitlines() or ["no output"])[-1][:160])
        return json.loads(lines[-1])


def peers_python(given: str) -> str:
    """An interpreter that has the others."""
    if given:
        return given
    folder = Path(tempfile.gettempdir()) / f"flor-bench-peers-{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        print(f"making {folder} with {', '.join(PEERS)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEERS], check=True)
        (folder / "whole").touch()
    return str(python)


def calls(python: str, repeats: int) -> tuple[bool, set[str]]:
    """Print what one value costs; whether the bars hold, and which of the others do not run."""
    counts = {"flor": (2000, 40), "flordb": (1000, 1), "mlflow": (500, 1), "tensorboard": (2000, 1)}
    found: dict[str, list[list[float]]] = {}
    rest: dict[str, list[float]] = {}
    missing: set[str] = set()
    for turn in range(repeats):
        for which in list(counts)[turn % len(counts) :] + list(counts)[: turn % len(counts)]:
            if which in missing:
                continue
            n, batches = counts[which]
            try:
                seen = run(BEGIN + CALLS, python, which, str(n), str(batches))
            except Failed as problem:
                print(f"{SHOWN[which]}: not measured: {problem}")
                missing.add(which)
                continue
            found.setdefault(which, []).extend(seen["rows"])
            rest.setdefault(which, []).append(seen["cpu"] / (n * batches) * 1e9)
    print(
        f"\n{'one value, us':22} {'clock':>8} {'CPU':>8} {'with end':>9} {'times ours':>11} {'with end':>9}"
    )
    ours = [0.0, 0.0, 0.0]
    fine, ratio = True, 0.0
    for which in counts:
        if which not in found:
            fine = fine and which != "flor"
            continue
        clock, cpu, bare, bare_cpu = (
            statistics.median(column) / 1000 for column in zip(*found[which], strict=True)
        )
        whole = cpu + statistics.median(rest[which]) / 1000
        if which == "flor":
            # Its version, a commit of the code, is no part of a value: it costs the same for one as for a million.
            ours = [clock, cpu, cpu]
            print(f"{'os.write of a line':22} {bare:8.2f} {bare_cpu:8.2f}")
            whole = cpu
            fine = min(clock, cpu) <= CALL_BAR_US
        if which == "flordb":
            ratio = whole / ours[2]
        print(
            f"{SHOWN[which]:22} {clock:8.2f} {cpu:8.2f} {whole:9.2f} {cpu / ours[1]:11.0f} {whole / ours[2]:9.0f}"
        )
    print(f"bar: {CALL_BAR_US} us: {'held' if fine else 'NOT HELD'}")
    if ratio:
        held = ratio >= FLORDB_BAR
        print(
            f"bar: {FLORDB_BAR:.0f} times cheaper than flordb 4.0.1, its commit included: {ratio:.0f}: {'held' if held else 'NOT HELD'}"
        )
        fine = fine and held
    return fine, missing


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers", default=os.environ.get("FLOR_BENCH_PYTHON", ""), help="an interpreter that has them"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=12, help="turns of each side of a training")
    options = parser.parse_args()
    python = peers_python(options.peers)
    fine, missing = calls(python, options.repeats)
    import overhead  # beside this file; it uses what stands above

    for kind in ("numpy", "torch"):
        fine = overhead.compare(python, kind, options.pairs, missing) and fine
    sys.exit(not fine)


if __name__ == "__main__":
    main()
