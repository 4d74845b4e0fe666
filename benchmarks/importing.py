"""What `import flor_dagster` costs over bare Python, in fresh processes.

Prints medians in milliseconds, by the clock and of the processor, and their ratio. Bare and importing processes take
turns, so that a busy moment of the machine falls on both. The bar is held against processor time, which other work on
the machine stretches less. The modules are compiled once, into a folder of the benchmark's own, whatever the environment
says of bytecode: what is measured is what a user pays from the second import on. Usage: python benchmarks/importing.py [PROCESSES]
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROCESSES = 40
LIMIT_SECONDS = 0.1
PACKAGE = str(Path(__file__).resolve().parents[1])


def seconds(code: str, bytecode: str) -> tuple[float, float]:
    """Seconds of one fresh interpreter that runs `code`: by the clock, of the processor."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    paths = [PACKAGE, environment.get("PYTHONPATH", "")]
    environment |= {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(processes: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Median (clock, processor) seconds of bare Python and of `import flor_dagster`."""
    bare: list[tuple[float, float]] = []
    imported: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as bytecode:
        seconds("import flor_dagster", bytecode)
        for _ in range(processes):
            bare.append(seconds("pass", bytecode))
            imported.append(seconds("import flor_dagster", bytecode))
    return medians(bare), medians(imported)


def medians(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """The median of each of the two."""
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else PROCESSES
    python, flor = measure(count)
    cost = [later - earlier for earlier, later in zip(python, flor, strict=True)]
    print(f"medians of {count} processes    clock    processor")
    print(f"bare python           {python[0] * 1e3:8.1f} ms  {python[1] * 1e3:8.1f} ms")
    print(f"import flor_dagster   {flor[0] * 1e3:8.1f} ms  {flor[1] * 1e3:8.1f} ms")
    print(
        f"the import            {cost[0] * 1e3:8.1f} ms  {cost[1] * 1e3:8.1f} ms   bar: {LIMIT_SECONDS * 1e3:.0f} ms"
    )
    print(f"ratio                 {flor[0] / python[0]:8.2f}     {flor[1] / python[1]:8.2f}")
    sys.exit(cost[1] > LIMIT_SECONDS)
