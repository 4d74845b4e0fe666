"""One statement asked of a hundred versions: a generated history, and a real one from a bare clone.

    python benchmarks/long_history.py [--mirror DIR --repo owner+name --file PATH]

Prints what became of the versions, seconds (wall and CPU), and how much memory a second time adds.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.histories.places import anchors
from flor_dagster.propagation import find_statements
from flor_dagster.replay.placing import VersionPlacer
from flor_dagster.store.models import StatementRow
from flor_dagster.versions import Repository

BAR = 20.0  # seconds
VERSIONS = 100


def generated(folder: Path) -> tuple[Repository, str, list[str], str, str]:
    """A script of 300 lines that each of a hundred commits changes a little; three of them rename what it logs."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    commits: list[str] = []
    names = [
        ("value", "loss", "train"),
        ("item", "loss", "train"),
        ("item", "cost", "train"),
        ("item", "cost", "fit"),
    ]
    for number in range(VERSIONS):
        value, loss, function = names[number * len(names) // VERSIONS]
        blocks = [
            f"def part_{n}({value}, width={n if n > number // 3 else n + number}):\n"
            f"    total_{n} = {value} * width + {number // (n + 1)}\n"
            f"    if total_{n} > {n}:\n        total_{n} = total_{n} - 1\n"
            f"    return total_{n}\n"
            for n in range(45)
        ]
        main = (
            f"def {function}(options):\n    state = start(options)\n    for epoch in flor.loop('epoch', range({number + 2})):\n"
            f"        for {value} in flor.loop('step', data(options)):\n            guess = part_1({value}) + part_2({value})\n"
            f"            {loss} = error(guess, {value}, options)\n            state = update(state, {loss})\n"
            f"        show(epoch, state, {number})\n"
        )
        text = (
            "import flor_dagster as flor\n\n\n" + "\n\n".join([*blocks, main]) + f"\n\n{function}(read())\n"
        )
        (folder / "train.py").write_text(text)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", f"number {number}")
        commits.append(git(folder, "rev-parse", "HEAD").strip())
    newest = text.replace(
        f"            {loss} = error(guess, {value}, options)\n",
        f'            {loss} = error(guess, {value}, options)\n            flor.log("q", {loss} * 2)\n',
    )
    (folder / "train.py").write_text(newest)
    git(folder, "commit", "--quiet", "--all", "--message", "ask")
    return Repository(folder), git(folder, "rev-parse", "HEAD").strip(), commits, "train.py", newest


def real(mirror: Path, name: str, file: str, folder: Path) -> tuple[Repository, str, list[str], str, str]:
    """The last hundred versions of a file, and a statement behind one of its values in the newest."""
    git(folder, "clone", "--quiet", "--no-checkout", str(mirror / name / "repo"), ".")
    commits = git(folder, "log", "--format=%H", "--follow", f"-{VERSIONS}", "HEAD", "--", file).split()
    text = git(folder, "show", f"HEAD:{file}")
    place, value = next(
        (p, n) for p, n in anchors(ast.parse(text), text.split("\n")) if "loss" in n and len(p.repeated) > 1
    )
    rows = text.split("\n")
    indent = rows[place.node.lineno - 1][: place.node.col_offset]
    rows.insert(place.node.end_lineno or 0, f'{indent}flor.log("q", {value} * 2)')
    newest = "\n".join(rows)
    git(folder, "checkout", "--quiet", "HEAD", "--", file)
    (folder / file).write_text(newest)
    git(folder, "commit", "--quiet", "--all", "--message", "ask")
    return Repository(folder), git(folder, "rev-parse", "HEAD").strip(), commits[::-1], file, newest


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=bench", "-c", "user.email=bench@flor-dagster.invalid", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def measure(title: str, made: tuple[Repository, str, list[str], str, str]) -> bool:
    repository, source, commits, file, newest = made
    found = next(s for s in find_statements(newest) if s.name == "q")
    row = StatementRow(1, "q", "q", found.expression, file, found.function, found.loops, found.ordinal, found.lines[0], True,
                       source, datetime.now(UTC))  # fmt: skip
    placer = VersionPlacer(repository)
    wall, cpu = time.perf_counter(), time.process_time()
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for commit in reversed(commits):
        placed = placer.place(commit, file, [row])
        outcomes["placed" if placed.placements else "refused"] += 1
        reasons.update(r.sentence.partition(";")[0][:90] for r in placed.refusals.values())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{title}: {len(commits)} versions, {newest.count(chr(10))} lines: {dict(outcomes)}")
    print(f"  {wall:.1f} s, {cpu:.1f} s CPU (bar {BAR:.0f} s CPU): {'kept' if cpu <= BAR else 'MISSED'}")
    for reason, count in reasons.most_common(3):
        print(f"  {count} times {reason}")
    tracemalloc.start()
    for commit in commits[:10]:
        VersionPlacer(repository).place(commit, file, [row])
    first = tracemalloc.get_traced_memory()[0]
    for _ in range(2):
        for commit in commits[:10]:
            VersionPlacer(repository).place(commit, file, [row])
    grown = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    print(f"  memory after twice as many: {grown / 2**20:+.1f} MiB")
    return cpu <= BAR


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path)
    parser.add_argument("--repo", default="ultralytics+yolov5")
    parser.add_argument("--file", default="train.py")
    arguments = parser.parse_args()
    kept = True
    with tempfile.TemporaryDirectory() as folder:
        kept &= measure("generated", generated(Path(folder)))
    if arguments.mirror is not None:
        with tempfile.TemporaryDirectory() as folder:
            kept &= measure(
                arguments.repo, real(arguments.mirror, arguments.repo, arguments.file, Path(folder))
            )
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
