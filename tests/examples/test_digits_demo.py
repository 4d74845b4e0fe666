"""`make demo` answers its questions: the demo with few epochs, from nothing to its last line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from example_pipelines.digits.history import load_history

pytestmark = pytest.mark.ci

ROOT = Path(__file__).parents[2]
HISTORY = load_history()
EPOCHS = 2


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    into = tmp_path_factory.mktemp("demo") / "demo"
    command = [
        sys.executable,
        "-m",
        "example_pipelines.digits.demo",
        "--into",
        str(into),
        "--epochs",
        str(EPOCHS),
    ]
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def section(output: str, title: str) -> str:
    """One part of the closing answer."""
    rest = output[output.index(f"\n{title}\n") + len(title) + 2 :]
    return re.split(r"\n\n(?=\S)", rest, maxsplit=1)[0]


def test_it_is_plain_text_when_piped(output: str) -> None:
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 110


def test_it_says_what_was_asked(output: str) -> None:
    asked = section(output, "What was asked")
    assert all(name in asked for name in HISTORY.statements)


def test_it_says_which_versions_took_it_and_which_refused_and_why(output: str) -> None:
    took = section(output, "Which versions took it")
    assert "grad_norm: 7 of 7 versions" in took
    assert "weight_norm: 7 of 7 versions" in took
    assert "update_ratio: 6 of 7 versions" in took
    assert "velocity" in took


def test_it_says_which_values_are_new(output: str) -> None:
    runs = sum(len(version.trainings) for version in HISTORY.versions)
    new = section(output, "Which values are new")
    assert f"weight_norm: {EPOCHS * runs} values in {runs} training runs" in new
    assert f"update_ratio: {EPOCHS * (runs - 2)} values in {runs - 2} training runs" in new


def test_it_says_how_they_are_known_to_be_right(output: str) -> None:
    right = section(output, "How they are known to be right")
    assert re.search(r"31 cells exact\.", right)
    assert re.search(r"[1-9]\d* records and [1-9]\d* digests", right)


def test_it_says_what_it_cost(output: str) -> None:
    cost = section(output, "What it cost against training again")
    assert len(re.findall(r"[\d.]+ s", cost)) >= 6


def test_the_log_view_shows_origin_and_fidelity(output: str) -> None:
    assert "replayed, exact" in output
    assert "refused" in output
