"""How well, how fast and in how much memory are statements put into old versions? On real histories.

    git clone --bare https://github.com/karpathy/nanoGPT MIRROR/karpathy+nanoGPT/repo     # and so on: sources.py lists them
    python benchmarks/propagation.py build --mirror MIRROR --data DATA                    # dev, own and their stress sets
    python benchmarks/propagation.py score --data DATA dev dev_stress own own_stress
    python benchmarks/propagation.py properties --data DATA dev [--every 5]
    python benchmarks/propagation.py speed --data DATA dev
    python benchmarks/propagation.py memory --data DATA dev

A case is a pair of versions of a script from a public repository and a logging statement that both have: it is taken
out of the old one, and must come back at its place, in the old version's names. Cases of the refuse set have no place:
their function, loop or variable did not exist yet. DATA is other people's code: it is never committed.

`adapter` is what other runners of the same benchmark call.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT.parent)]

from reinsertion import building, properties, scoring, stressing  # noqa: E402

from flor_dagster.propagation import propagate  # noqa: E402

MARK = scoring.MARK


class Refusal(Exception):  # noqa: N818  # the benchmark knows refusals by this name
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def adapter(new_source: str, old_source: str, line: int) -> str:
    """Place the statement on `line`; what travels with it (imports) is taken out again, for the score is of places."""
    result = propagate(new_source, old_source, [line])
    if result.refusals:
        refusal = result.refusals[0]
        raise Refusal(f"{refusal.kind}: {refusal.sentence} [{refusal.candidate_score}]")
    if not result.placements[0].carried:
        return result.source
    lines = result.source.split("\n")
    along = {n for n in result.added if MARK not in lines[n - 1]}
    return "\n".join(text for n, text in enumerate(lines, start=1) if n not in along)


def answer(case: dict[str, Any]) -> dict[str, Any]:
    """Run one case: its outcome, whether the names are right, and milliseconds of processor time."""
    started = time.process_time()
    signal.alarm(60)
    try:
        placed = adapter(case["new"], case["old"], case["line"])
        outcome, names, note = scoring.score(case, placed)
    except Refusal as refusal:
        outcome, names, note = "missed", False, refusal.reason
    except Exception as error:  # noqa: BLE001  # a crash is a result
        outcome, names, note = "crash", False, f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    keys = ("id", "repo", "family", "identity", "difficulty", "distance", "renamed")
    spent = (time.process_time() - started) * 1000
    return {"outcome": outcome, "expr_ok": names, "note": note, "ms": spent, **{k: case[k] for k in keys}}


def cases_of(data: Path, name: str, every: int = 1) -> list[dict[str, Any]]:
    with (data / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for number, line in enumerate(lines) if number % every == 0]


def build(mirror: Path, data: Path) -> None:
    data.mkdir(parents=True, exist_ok=True)
    for name in ("dev", "own"):
        building.write(str(mirror), name, str(data / f"{name}.jsonl"))
        stressing.write(str(data / f"{name}.jsonl"), str(data / f"{name}_stress.jsonl"))


def score(data: Path, names: list[str], every: int, jobs: int, failures: bool) -> None:
    for name in names:
        with multiprocessing.Pool(jobs) as pool:
            rows = list(pool.imap(answer, cases_of(data, name, every)))
        scoring.table(rows, name)
        for row in rows if failures else ():
            right = (
                row["outcome"] == "missed"
                if row["family"] == "refuse"
                else row["outcome"] in ("exact", "near")
            )
            if not right or (row["family"] != "refuse" and not row["expr_ok"]):
                print(
                    f"  {row['id']} {row['family']} {row['identity']}: {row['outcome']} {row['note'][:150]}"
                )


def hold(data: Path, names: list[str], every: int) -> None:
    for name in names:
        cases = cases_of(data, name, every)
        broken = properties.check(cases, print)
        print(f"{name}: {len(cases)} cases, {sum(broken.values())} broken properties {dict(broken)}")


def speed(data: Path, names: list[str], every: int) -> None:
    """Files of 300 to 500 lines; processor time, for the machine may be busy with other things."""
    first: list[float] = []
    further: list[float] = []
    for case in (c for name in names for c in cases_of(data, name, every)):
        if not 300 <= case["old"].count("\n") <= 500:
            continue
        lines = case["new"].split("\n")
        line = case["line"]
        new = "\n".join([*lines[:line], lines[line - 1].replace(MARK, "__hs2__"), *lines[line:]])
        for at, times in ((line, first), (line + 1, further)):
            started = time.process_time()
            propagate(new, case["old"], [at])
            times.append(time.process_time() - started)
    for what, times in (("first statement of a pair", first), ("further statement of the pair", further)):
        tenths = statistics.quantiles(times, n=10)
        print(
            f"{what}: {len(times)} of 300-500 lines, median {statistics.median(times):.3f} s, p90 {tenths[8]:.3f} s"
        )


def memory(data: Path, names: list[str], count: int) -> None:
    """Resident memory after each fifth of `count` propagations of pairs that are never the same."""
    cases = [c for name in names for c in cases_of(data, name)]
    cases = sorted(cases, key=lambda c: len(c["old"]))[: max(1, len(cases) // 2)]
    for number in range(count):
        case = cases[number % len(cases)]
        propagate(f"{case['new']}\n# {number}\n", case["old"], [case["line"]])
        if (number + 1) % (count // 5) == 0:
            print(f"{number + 1} propagations: {resident():.1f} MB")


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["build", "score", "properties", "speed", "memory"])
    parser.add_argument("sets", nargs="*", default=["dev"])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the sets")
    parser.add_argument(
        "--mirror", type=Path, default=Path("mirror"), help="folder of git mirrors, for build"
    )
    parser.add_argument("--every", type=int, default=1, help="take every nth case")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000, help="propagations of the memory test")
    parser.add_argument("--failures", action="store_true", help="list what went wrong")
    options = parser.parse_intermixed_args()
    names = options.sets
    if options.what == "build":
        build(options.mirror, options.data)
    elif options.what == "score":
        score(options.data, names, options.every, options.jobs, options.failures)
    elif options.what == "properties":
        hold(options.data, names, options.every)
    elif options.what == "speed":
        speed(options.data, names, options.every)
    else:
        memory(options.data, names, options.count)


if __name__ == "__main__":
    main()
