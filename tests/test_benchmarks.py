"""Every benchmark runs: in a tiny size, whose figures say nothing, to the end of what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

TINY: dict[str, list[str]] = {
    "view.py": ["--records", "20000", "--rounds", "1"],
    "snapshot.py": ["--files", "10", "--rounds", "1"],
    "importing.py": ["1"],
    "placecheck.py": ["programs", "--count", "2"],
    "public.py": [],
}
SLOW: dict[str, list[str]] = {
    "checkpoint.py": ["1"],
    "portable.py": ["1", "8"],
    "policy.py": ["--seeds", "1", "--seconds", "0.2"],
    "overhead.py": ["--peers", sys.executable, "--alone", "--pairs", "1"],
    "record.py": ["--peers", sys.executable, "--repeats", "1", "--pairs", "1"],
    "replay.py": ["--versions", "2", "--epochs", "2", "--steps", "2", "--hidden", "8", "--rounds", "1"],
    "long_history.py": [],
}
FROM_DATA = {"propagation.py"}
"""What scores sets that its own `build` makes of many repositories: shown here is that it starts."""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment["PYTHONPATH"] = str(BENCHMARKS.parent)
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments], env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip


def test_every_benchmark_is_tried_here() -> None:
    assert {path.name for path in BENCHMARKS.glob("*.py")} == TINY.keys() | SLOW.keys() | FROM_DATA


@pytest.mark.parametrize("script", [*TINY, *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW)])
def test_a_benchmark_runs_in_a_tiny_size(script: str) -> None:
    done = run(script, *(TINY | SLOW)[script])
    assert "Traceback" not in done.stderr, done.stderr
    # A bar is for the real size: in this one it may not be held.
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("script", sorted(FROM_DATA))
def test_a_benchmark_of_data_sets_starts(script: str) -> None:
    assert "usage:" in run(script, "--help").stdout
