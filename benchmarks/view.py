"""How fast is the log view? A million records (or ten) go through the real ingest; ratios are side by side in one run.

    python benchmarks/view.py [--records 1000000] [--rounds 7] [--store URL]

Printed are medians: the view of every name, against `pandas.pivot_table` over the same rows (the rows already in memory:
its time starts there) and against reading the store's file byte by byte; then the small questions.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from flor_dagster.recording.journal import JournalWriter
from flor_dagster.recording.values import encode
from flor_dagster.store import LogStore

EPOCHS, STEPS, STEP_NAMES, EPOCH_NAMES = 10, 125, 8, 2
PER_RUN = EPOCHS * STEPS * STEP_NAMES + EPOCHS * EPOCH_NAMES


def write_run(home: Path, number: int, rng: random.Random) -> None:
    run = f"run{number:013d}"
    folder = home / "runs" / run
    writer = JournalWriter(folder / "journal.0.jsonl")
    started = 1_700_000_000_000_000_000 + number * 1_000_000_000
    header = {
        "run": run,
        "rank": 0,
        "mode": "record",
        "started": started,
        "pid": 0,
        "host": "b",
        "entrypoint": "t.py",
        "root": "/r",
    }
    lines = [json.dumps(["flor", 1, header]), json.dumps(["a", "lr", rng.random(), 0.1, "given"])]
    names = [f"m{n}" for n in range(STEP_NAMES)] + [f"e{n}" for n in range(EPOCH_NAMES)]
    lines += [
        json.dumps(["n", call, name, "t.py", "<module>", call, 0]) for call, name in enumerate(names, 1)
    ]
    lines.append(json.dumps(["l", 1, 0, "epoch", 0, "t.py", "<module>", 20, 0, started]))
    ctx = 0
    for epoch in range(EPOCHS):
        ctx += 1
        outer = ctx
        lines.append(f'["c",{ctx},1,{epoch},{epoch}]')
        lines.append(json.dumps(["l", epoch + 2, outer, "step", 0, "t.py", "<module>", 21, 0, started]))
        for step in range(STEPS):
            ctx += 1
            lines.append(f'["c",{ctx},{epoch + 2},{step},{step}]')
            lines += [f"[{call},{ctx},{encode(rng.random())}]" for call in range(1, STEP_NAMES + 1)]
        lines.append(json.dumps(["e", epoch + 2, "exhausted", STEPS, started]))
        lines += [f"[{STEP_NAMES + 1 + n},{outer},{encode(rng.random())}]" for n in range(EPOCH_NAMES)]
    lines.append(json.dumps(["e", 1, "exhausted", EPOCHS, started]))
    lines.append(json.dumps(["z", "finished", "", started + 10**9]))
    writer.write(("\n".join(lines) + "\n").encode())
    writer.close()
    (folder / "lock").touch()
    (folder / "version.json").write_text(
        json.dumps({"commit": f"{number // 10:040d}", "tree": "t", "dirty": False})
    )


def median(rounds: int, work: Callable[[], Any]) -> tuple[float, float]:
    """Median wall and CPU seconds."""
    wall, cpu = [], []
    for _ in range(rounds):
        w, c = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - w)
        cpu.append(time.process_time() - c)
    return statistics.median(wall), statistics.median(cpu)


def pivoted(store: LogStore) -> Callable[[], Any]:
    """pandas.pivot_table over the rows, which are fetched and joined beforehand."""
    rows = "SELECT j.run, r.ctx, r.site - r.site / 10 * 10, r.num FROM records r JOIN journals j ON j.journal = r.journal"
    with store._database.read() as connection:
        listed = connection.exec_driver_sql(rows).all()
    frame = pd.DataFrame(listed, columns=["run", "ctx", "name", "value"])
    return lambda: frame.pivot_table(index=["run", "ctx"], columns="name", values="value", aggfunc="last")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--store", default=None, help="a database URL; default: SQLite in a temporary folder")
    parser.add_argument(
        "--no-pivot", action="store_true", help="leave pandas.pivot_table out (slow and large at 10M)"
    )
    options = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / ".flor"
        runs = max(1, options.records // PER_RUN)
        for number in range(runs):
            write_run(home, number, rng)
        records = runs * PER_RUN
        with LogStore.open(options.store or home / "flor.db") as store:
            begin = time.perf_counter()
            store.ingest_all(home)
            took = time.perf_counter() - begin
            print(
                f"{records:,} records of {runs} runs; ingest {took:.1f} s ({took / records * 1e6:.1f} us a record)"
            )
            nothing, _ = median(3, lambda: store.ingest_all(home))
            print(f"ingest again, nothing new          {nothing * 1e3:9.1f} ms")
            base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            store.dataframe("m0")
            wall, cpu = median(options.rounds, lambda: store.dataframe())
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            frame = store.dataframe()
            print(
                f"the view, {len(frame):,} rows x {len(frame.columns)} columns  {wall * 1e3:9.1f} ms  (CPU {cpu * 1e3:.1f} ms)"
            )
            print(
                f"peak memory over what ingest left behind {max(0, peak - base) / 1024:.0f} MB, process peak {peak / 1024:.0f} MB"
            )
            del frame
            if options.store is None:
                database = home / "flor.db"
                scan, _ = median(options.rounds, lambda: database.read_bytes())
                print(
                    f"byte scan of {database.stat().st_size / 1e6:.0f} MB           {scan * 1e3:9.1f} ms; view / scan = {wall / scan:.2f}"
                )
            if not options.no_pivot:
                pivot, _ = median(3, pivoted(store))
                print(
                    f"pandas.pivot_table, rows in memory {pivot * 1e3:9.1f} ms; pivot_table / view = {pivot / wall:.1f}"
                )
            last = store.runs(latest=1)[0].key
            small: dict[str, Callable[[], Any]] = {
                "one name, one run": lambda: store.dataframe("m3", runs=[last]),
                "one epoch name, all runs": lambda: store.dataframe("e0"),
                "one step name, all runs": lambda: store.dataframe("m3"),
                "where e0 > 0.9, all runs": lambda: store.view(["e0"], "e0 > 0.9"),
                "where m3 > 0.999, all runs": lambda: store.view(["m3"], "m3 > 0.999"),
                "the latest run, all names": lambda: store.dataframe(runs=[store.runs(latest=1)[0].key]),
            }
            for title, work in small.items():
                wall, cpu = median(options.rounds, work)
                print(f"{title:34s} {wall * 1e3:9.1f} ms  (CPU {cpu * 1e3:.1f} ms)")
    print(f"pandas {pd.__version__}")


if __name__ == "__main__":
    main()
