"""How often does the second opinion doubt a right place, and how often does it let a wrong one pass?

    python benchmarks/placecheck.py tiny                                     # random programs, needs no data
    python benchmarks/placecheck.py programs --count 2000
    python benchmarks/placecheck.py histories --data DATA dev own dev_stress own_stress [--every 5]

`programs` executes small random programs, refactored by machine, with the statement where it belongs and at other places: a
place is wrong where the value is another. `histories` takes the cases of `benchmarks/propagation.py`: the place that history
knows, and up to six places near it that its score calls wrong, for they lie on the other side of a definition, a store or a
call, or in another block or loop. Right places whose reaching definition reads otherwise in the old version (`loss = a + b`
became `loss = a`) are counted apart: the place is right, but a person should see that the value is another one.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT.parent)]

from reinsertion import scoring  # noqa: E402

from flor_dagster.placecheck import PlaceVerdict, Spot, check_place  # noqa: E402
from tests.placing_oracle.judging import answer, case_of, other_places, right_place  # noqa: E402

OTHERWISE = "has no counterpart in the"
NEAR, MOST = 40, 6
Path_ = list[list[Any]]


def programs(seeds: range, elsewhere: int) -> None:
    counted: Counter[str] = Counter()
    for seed in seeds:
        case = case_of(seed)
        if case is None:
            continue
        counted["programs"] += 1
        found = answer(case)
        if found.kind == "placed":
            counted["placed wrong" if found.is_wrong(case) else "placed right"] += 1
            counted["placed wrong, passed"] += found.is_wrong(case) and found.passes()
            counted["placed right, doubted"] += not found.is_wrong(case) and not found.passes()
        else:
            counted["refused"] += 1
        right = right_place(case)
        if right is not None:
            counted["right place"] += 1
            counted["right place, doubted"] += not right.passes()
        for other in other_places(case, random.Random(seed), elsewhere):
            if other.is_wrong(case):
                counted["wrong place"] += 1
                counted["wrong place, passed"] += other.passes()
    print(f"{counted.pop('programs')} programs: " + ", ".join(f"{k} {v}" for k, v in sorted(counted.items())))


def block_at(tree: ast.AST, path: Path_) -> tuple[list[ast.stmt], int]:
    node, block = tree, []
    for _, number, position in path:
        block = list(scoring.blocks(node))[number][1]
        node = block[position] if position < len(block) else None
    return block, path[-1][2]


def put(case: dict[str, Any], path: Path_) -> tuple[str, int] | None:
    """The old version with the statement at a path; None where it can't stand there on a line of its own."""
    block, position = block_at(ast.parse(case["old"]), path)
    lines = case["old"].split("\n")
    if position < len(block):
        node = block[position]
        at = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        if lines[at - 1][: node.col_offset].strip():
            return None
    else:
        at = (block[-1].end_lineno or 0) + 1
    text = " " * block[0].col_offset + f'flor.log("{scoring.MARK}", {case["truth"]["expr"]})'
    source = "\n".join([*lines[: at - 1], text, *lines[at - 1 :]])
    try:
        found = scoring.find_mark(ast.parse(source))
    except SyntaxError:
        return None
    return (source, at) if [p for p, *_ in found] == [path] else None


def places(tree: ast.AST, above: Path_) -> Iterator[Path_]:
    for number, (field, block) in enumerate(scoring.blocks(tree)):
        yield from ([*above, [field, number, position]] for position in range(len(block) + 1))
        for position, node in enumerate(block):
            yield from places(node, [*above, [field, number, position]])


def wrong_places(case: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Places near the right one at which the value, the loop or the condition is another."""
    tree = ast.parse(case["old"])

    def line(path: Path_) -> int:
        block, position = block_at(tree, path)
        return block[position].lineno if position < len(block) else (block[-1].end_lineno or 0) + 1

    truth = case["truth"]["path"]
    near = sorted((p for p in places(tree, []) if p != truth), key=lambda p: abs(line(p) - line(truth)))[
        :NEAR
    ]
    found = 0
    for path in near:
        written = put(case, path)
        if written is None:
            continue
        outcome, _, _ = scoring.score(case, written[0])
        if outcome in ("order", "wrong_block", "wrong_loop"):
            yield outcome, *written
            found += 1
            if found == MOST:
                return


def statement_at(source: str, line: int) -> tuple[int, int]:
    lines = [
        (n.lineno, n.end_lineno or line)
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.Expr) and n.lineno == line
    ]
    return lines[0] if lines else (line, line)


def judged(case: dict[str, Any], source: str, at: int, times: list[float]) -> PlaceVerdict:
    statement = Spot(case["path_new"], statement_at(case["new"], case["line"]))
    place = Spot(case["path_old"], statement_at(source, at))
    started = time.process_time()
    verdict = check_place(
        {case["path_new"]: case["new"]},
        {case["path_old"]: case["old"]},
        {case["path_old"]: source},
        statement,
        place,
    )
    times.append((time.process_time() - started) * 1000)
    return verdict


def histories(data: Path, name: str, every: int, *, listed: bool) -> None:
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    times: list[float] = []
    with (data / f"{name}.jsonl").open(encoding="utf-8") as lines:
        cases = [c for c in map(json.loads, lines) if c["truth"] is not None][::every]
    for case in cases:
        written = put(case, case["truth"]["path"])
        if written is None:
            continue
        verdict = judged(case, *written, times)
        reasons = verdict.reasons
        otherwise = verdict.verdict == "likely" and all(OTHERWISE in r for r in reasons)
        right["otherwise" if otherwise else verdict.verdict] += 1
        if listed and verdict.verdict != "certain":
            print(f"  {case['id']} line {written[1]}: {verdict.verdict}: {reasons[0]}")
        for outcome, source, at in wrong_places(case):
            verdict = judged(case, source, at, times)
            wrong[verdict.verdict] += 1
            if listed and verdict.verdict == "certain":
                print(f"  {case['id']} line {at}: {outcome} passed")
    same = right.total() - right["otherwise"]
    doubted = same - right["certain"]
    print(
        f"{name}: {right.total()} right places, {right['otherwise']} of them with another definition; of the other {same} "
        f"{doubted} doubted ({100 * doubted / max(1, same):.1f} %), {right['contradicted']} of them contradicted; "
        f"{wrong.total()} wrong places, {wrong['contradicted']} contradicted, {wrong['likely']} doubted, "
        f"{wrong['certain']} passed; median {statistics.median(times):.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["tiny", "programs", "histories"])
    parser.add_argument("sets", nargs="*", default=["dev"])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the sets")
    parser.add_argument("--every", type=int, default=1, help="take every nth case")
    parser.add_argument("--count", type=int, default=2000, help="how many programs")
    parser.add_argument("--list", action="store_true", help="list what was doubted and what passed")
    options = parser.parse_intermixed_args()
    if options.what == "tiny":
        programs(range(20), elsewhere=3)
    elif options.what == "programs":
        programs(range(options.count), elsewhere=3)
    else:
        for name in options.sets:
            histories(options.data, name, options.every, listed=options.list)


if __name__ == "__main__":
    main()
