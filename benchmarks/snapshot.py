"""What keeping a version costs: clean and dirty trees of 100, 1,000 and 10,000 files, beside git's own commands.

`git status` and `git stash create` are the baselines: the first looks at every file, the second keeps what is dirty.
`beside` is a project whose versions are kept in a repository of our own; its first one takes in all files.

    python benchmarks/snapshot.py [--files 100 1000 10000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from flor_dagster.versions.snapshot import snapshot


def git(root: Path, *arguments: str) -> None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_CONFIG_GLOBAL": os.devnull}
    subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, env=environment)


def make(root: Path, files: int, *, beside: bool) -> None:
    root.mkdir()
    (root / "pyproject.toml").write_text(f"[tool.flor.snapshot]\nbeside = {str(beside).lower()}\n")
    git(root, "init", "-q")
    git(root, "config", "user.name", "benchmark")
    git(root, "config", "user.email", "benchmark@flor.invalid")
    for number in range(files):
        folder = root / f"pkg{number // 100}"
        folder.mkdir(exist_ok=True)
        (folder / f"module{number}.py").write_text(f"value = {number}\n" * 100)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "all")
    time.sleep(1.1)  # else git takes the files for racily clean, and reads them
    git(root, "update-index", "-q", "--refresh")


def cost(what: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median wall and CPU seconds, children's included."""
    walls: list[float] = []
    cpus: list[float] = []
    for _ in range(rounds):
        before, begin = _cpu(), time.perf_counter()
        what()
        walls.append(time.perf_counter() - begin)
        cpus.append(_cpu() - before)
    return statistics.median(walls), statistics.median(cpus)


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{'files':>6} {'tree':6} {'what':18} {'wall ms':>8} {'CPU ms':>8} {'x status':>9}")
    for files in options.files:
        with tempfile.TemporaryDirectory() as scratch:
            root, other = Path(scratch, "plain"), Path(scratch, "beside")
            make(root, files, beside=False)
            make(other, files, beside=True)
            for tree in ("clean", "dirty"):
                if tree == "dirty":
                    for top in (root, other):
                        for number in range(5):
                            (top / f"pkg0/module{number}.py").write_text(f"changed = {number}\n")
                        (top / "new.py").write_text("new = 1\n")
                commands: dict[str, Callable[[], object]] = {
                    "git status": lambda: git(root, "status", "--porcelain"),  # noqa: B023
                    "git stash create": lambda: git(root, "stash", "create"),  # noqa: B023
                    "snapshot": lambda: snapshot(root),  # noqa: B023
                    "first one beside": lambda: snapshot(other),  # noqa: B023
                    "snapshot beside": lambda: snapshot(other),  # noqa: B023
                }
                base = 0.0
                for name, command in commands.items():
                    wall, cpu = cost(command, 1 if name.startswith("first") else options.rounds)
                    base = base or wall
                    print(
                        f"{files:6} {tree:6} {name:18} {wall * 1e3:8.1f} {cpu * 1e3:8.1f} {wall / base:9.1f}"
                    )


if __name__ == "__main__":
    main()
