"""Ask for every case of a set and print how many statements landed where they belong.

exact: right behind the statement that it belongs to. near: in the same block, and nothing between could change the value or
how often it is logged. block: another block of the same loop and function. loop: another loop, function or file: the wrong
place. names: exact or near, and the expression is right. A refusal is right where the case asks for one.
"""

from __future__ import annotations

import argparse
import ast
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.histories.places import FUNCTIONS, LOOPS, Place, places
from flor_dagster.propagation import PropagatedTree, propagate_tree

Row = dict[str, object]


def asked(case: dict) -> PropagatedTree:
    return propagate_tree(case["new"], case["old"], case["asked"], renames=case["renames"])


def score(case: dict, result: PropagatedTree) -> Iterator[tuple[str, bool, str]]:
    """(outcome, whether the expression is right, note) of each statement of a case."""
    if case["truth"] is None:
        said = result.refusals[0].refusal.sentence if result.refusals else ""
        yield ("refused" if result.refusals else "placed"), True, said or _where(result)
        return
    for path, patched in result.files.items():
        rows = patched.source.split("\n")
        kept = "\n".join(row for n, row in enumerate(rows, 1) if n not in set(patched.added))
        if patched.rewritten:
            kept = ast.unparse(ast.parse(kept))
        if kept.rstrip("\n") != case["old"][path].rstrip("\n") and not patched.rewritten:
            yield "crash", False, f"{path} has changed beyond its added lines"
            return
        try:
            compile(patched.source, path, "exec", dont_inherit=True)
        except SyntaxError as error:
            if _compiles(case["old"][path]):
                yield "crash", False, f"{path} does not compile: {error}"
                return
    for truth in case["truth"]:
        yield _one(case, result, truth)


def _compiles(text: str) -> bool:
    try:
        compile(text, "old", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def _one(case: dict, result: PropagatedTree, truth: dict) -> tuple[str, bool, str]:
    found = [
        (f, p)
        for f, s in result.files.items()
        for p in places(ast.parse(s.source))
        if _logs(p.node, truth["name"])
    ]
    if not found:
        said = [r.refusal.sentence for r in result.refusals]
        return "missed", False, said[0] if said else "not there"
    if len(found) > 1:
        return "loop", False, "placed twice"
    file, mark = found[0]
    state = result.files[file]
    added = set(state.added)
    call = mark.node.value  # type: ignore[attr-defined]
    right = ast.unparse(call.args[1]) == ast.unparse(ast.parse(truth["expression"]))
    needs = all(any(need in state.source for need in (n, n.replace('"', "'"))) for n in case.get("needs", ()))
    right = right and needs
    if file != truth["path"]:
        return "loop", right, f"in {file} instead of {truth['path']}"
    if case.get("guard"):
        guard = mark.owners[-1]
        if not isinstance(guard, ast.If) or guard.lineno not in added:
            return "block", right, "its guard stayed behind"
        mark = next(
            p
            for p in places(ast.parse(state.source))
            if p.node.lineno == guard.lineno and isinstance(p.node, ast.If)
        )
    anchor = next(
        p
        for p in places(ast.parse(state.source))
        if _old_line(p.node.lineno, added) == truth["line"] and p.node.lineno not in added
    )
    if [getattr(o, "lineno", 0) for o in anchor.owners] != [getattr(o, "lineno", 0) for o in mark.owners]:
        return ("block" if anchor.repeated == mark.repeated else "loop"), right, _text(state.source, mark)
    lines = [s.lineno for s in mark.block]
    if mark.node.lineno not in lines or anchor.node.lineno not in lines:
        return "block", right, _text(state.source, mark)
    first, last = sorted((lines.index(anchor.node.lineno), lines.index(mark.node.lineno)))
    between = [s for s in mark.block[first + 1 : last] if s.lineno not in added]
    if anchor.node.lineno < mark.node.lineno and not between:
        return "exact", right, ""
    harmless = anchor.node.lineno < mark.node.lineno and not any(_matters(s, truth["value"]) for s in between)
    return ("near" if harmless else "order"), right, _text(state.source, mark)


def _matters(statement: ast.stmt, name: str) -> bool:
    """Whether running a statement first could change a value or how often it is logged."""
    for node in ast.walk(statement):
        if isinstance(node, (ast.Return, ast.Raise, ast.Yield, ast.Break, ast.Continue)):
            return True
        if isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == name:
                return True
        if isinstance(node, (ast.Subscript, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id == name:
                return True
    return False


def _old_line(line: int, added: set[int]) -> int:
    return line - sum(a < line for a in added)


def _logs(node: ast.stmt, name: str) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and ast.unparse(call.func) == "flor.log"
        and isinstance(call.args[0], ast.Constant)
        and call.args[0].value == name
    )


def _text(source: str, mark: Place) -> str:
    around = [type(o).__name__ for o in mark.owners if isinstance(o, (*FUNCTIONS, *LOOPS))]
    return f"line {mark.node.lineno} in {' > '.join(around) or 'module'}: {source.split(chr(10))[mark.node.lineno - 1].strip()[:60]}"


def _where(result: PropagatedTree) -> str:
    return "; ".join(f"{p.old_path}:{p.placement.lines[0]}" for p in result.placements)


GOOD = ("exact", "near")
BAD = ("order", "block", "loop", "missed", "crash")


def table(rows: list[Row]) -> str:
    """The figures, as Markdown."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[str(row["kind"])].append(row)
    inserts = [r for r in rows if not str(r["kind"]).startswith("refuse")]
    lines = ["| kind | statements | exact | near | other order | other block | other loop | missed | crash | names | placed right |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for kind, group in [
        *((k, g) for k, g in sorted(groups.items()) if not k.startswith("refuse")),
        ("all", inserts),
    ]:
        count = Counter(str(r["outcome"]) for r in group)
        n = max(1, len(group))
        placed = n - count["missed"] - count["crash"]
        good = count["exact"] + count["near"]
        named = sum(r["outcome"] in GOOD and bool(r["names"]) for r in group)
        cells = [f"{100 * count[o] / n:.1f}" for o in (*GOOD, *BAD)]
        lines.append(
            f"| {kind} | {len(group)} | {' | '.join(cells)} | {100 * named / n:.1f} | {100 * good / max(1, placed):.1f} |"
        )
    lines.append("")
    for kind, group in sorted(groups.items()):
        if kind.startswith("refuse"):
            refused = sum(r["outcome"] == "refused" for r in group)
            lines.append(f"{kind}: {refused} of {len(group)} refused ({100 * refused / len(group):.1f} %)")
    seconds = sorted(float(str(r["seconds"])) for r in rows)
    lines.append(
        f"CPU seconds a case: median {seconds[len(seconds) // 2]:.2f}, 90th percentile {seconds[int(0.9 * len(seconds))]:.2f}, "
        f"most {seconds[-1]:.2f}"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument(
        "--failures", type=Path, help="write every statement that is not right, with its case"
    )
    parser.add_argument("--kind", help="only this kind")
    parser.add_argument("--every", type=int, default=1, help="only every n-th case")
    arguments = parser.parse_args()
    rows: list[Row] = []
    failures: list[Row] = []
    for number, line in enumerate(arguments.cases.open()):
        case = json.loads(line)
        if number % arguments.every or (arguments.kind and case["kind"] != arguments.kind):
            continue
        start = time.process_time()
        try:
            result = asked(case)
            seconds = time.process_time() - start
            outcomes = list(score(case, result))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a crash of the tool
            seconds, outcomes = (
                time.process_time() - start,
                [("crash", False, f"{type(error).__name__}: {error}")],
            )
        for outcome, names, note in outcomes:
            row: Row = {
                "id": case["id"],
                "kind": case["kind"],
                "outcome": outcome,
                "names": names,
                "note": note,
                "seconds": seconds,
            }
            rows.append(row)
            if not (outcome in (*GOOD, "refused") and names):
                failures.append(row | {"case": case})
    print(table(rows))
    for row in sorted(rows, key=lambda r: -float(str(r["seconds"])))[:3]:
        print(f"slow     {row['id']}  {float(str(row['seconds'])):.2f} s")
    for row in failures:
        print(f"{row['outcome']:8s} {row['id']}  {str(row['note'])[:170]}")
    if arguments.failures:
        arguments.failures.write_text("".join(json.dumps(f) + "\n" for f in failures))


if __name__ == "__main__":
    main()
