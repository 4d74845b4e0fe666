"""What `import flor_dagster` costs over bare Python, in fresh processes.

Prints medians in milliseconds and their ratio. Bare and importing processes take turns, so that a busy moment of the
machine falls on both. Usage: python benchmarks/importing.py [PROCESSES]
"""

import os
import statistics
import subprocess
import sys
import time

PROCESSES = 40
LIMIT_SECONDS = 0.1


def seconds(code: str) -> float:
    """Wall seconds of one fresh interpreter that runs `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""})
    return time.perf_counter() - start


def measure(processes: int) -> tuple[float, float]:
    """Median seconds of bare Python and of `import flor_dagster`."""
    seconds("import flor_dagster")  # compiles the modules; users pay that once
    bare: list[float] = []
    imported: list[float] = []
    for _ in range(processes):
        bare.append(seconds("pass"))
        imported.append(seconds("import flor_dagster"))
    return statistics.median(bare), statistics.median(imported)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else PROCESSES
    python, flor = measure(count)
    cost = flor - python
    print(f"bare python            {python * 1e3:7.1f} ms   median of {count} processes")
    print(f"import flor_dagster    {flor * 1e3:7.1f} ms   {flor / python:.2f} times bare python")
    print(f"the import             {cost * 1e3:7.1f} ms   bar: {LIMIT_SECONDS * 1e3:.0f} ms")
    sys.exit(cost > LIMIT_SECONDS)
