"""A small training project with a history of its own: a git repository, three versions, their training runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

V1 = """\
import random

import flor_dagster as flor

rate = flor.arg("rate", 0.1)
random.seed(flor.arg("seed", 1))
weight = 1.0
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(4)):
        noise = random.random()
        weight = weight - rate * (weight - noise)
        flor.log("loss", (weight - noise) ** 2)
"""

V2 = '''\
"""Trains one weight and its bias."""

import random

import flor_dagster as flor

rate = flor.arg("rate", 0.1)
random.seed(flor.arg("seed", 1))
if flor.arg("broken", False):
    raise ValueError("told to fail")
weight, bias = 1.0, 0.0
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(4)):
        noise = random.random()
        bias = bias + rate * noise
        weight = weight - rate * (weight - noise)
        flor.log("loss", (weight - noise) ** 2)
    flor.log("mean", (weight + bias) / 2)
'''

NEWEST = V2.replace(
    '        flor.log("loss", (weight - noise) ** 2)\n',
    '        flor.log("loss", (weight - noise) ** 2)\n        flor.log("gap", weight - noise)\n',
).replace(
    '    flor.log("mean", (weight + bias) / 2)\n',
    '    flor.log("mean", (weight + bias) / 2)\n'
    '    flor.log("size", abs(weight))\n'
    '    flor.log("bias_size", abs(bias))\n',
)

# It rounds what the newest version does not: where `size` and `gap` go is likely, and not certain.
ROUNDED = V2.replace("    for step in flor.loop", "    weight = round(weight, 3)\n    for step in flor.loop")

REDEFINED = NEWEST.replace('flor.log("size", abs(weight))', 'flor.log("size", abs(weight) + 100)')

ASSET = '''\
"""A training function that is an asset."""

import random

import flor_dagster as flor


@flor.flor_asset(group_name="models", description="A weight, trained by Dagster.")
def weighted():
    rate = flor.arg("rate", 0.2)
    random.seed(7)
    weight = 1.0
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(4)):
            noise = random.random()
            weight = weight - rate * (weight - noise)
        flor.log("asset_loss", weight * weight)
    return weight
'''

ASSET_ASKED = ASSET.replace(
    '        flor.log("asset_loss", weight * weight)\n',
    '        flor.log("asset_loss", weight * weight)\n        flor.log("asset_weight", weight)\n',
)


def git(folder: Path, *arguments: str) -> str:
    """Run git there, as somebody."""
    who = ["-c", "user.name=Toy", "-c", "user.email=toy@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path, message: str, **files: str) -> None:
    """Write files (`train=...` is train.py) and commit them."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)


def environment() -> dict[str, str]:
    """The environment of a person's terminal with the package installed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLOR_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}


def train(folder: Path, script: str = "train.py", *, check: bool = True, args: str = "{}") -> None:
    """`python train.py` in a terminal."""
    subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env={**environment(), "FLOR_ARGS": args},
        check=check,
        capture_output=True,
    )


def make_project(folder: Path, newest: str = NEWEST) -> Path:
    """A repository with two trained versions (one of them twice) and a newest one that asks questions."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "one weight", train=V1)
    train(folder)
    commit(folder, "a bias", train=V2)
    train(folder)
    train(folder, args='{"rate": 0.3, "seed": 5}')
    commit(folder, "questions", train=newest)
    return folder


def make_doubtful_project(folder: Path) -> Path:
    """A repository whose one trained version does something to `weight` that the newest one does not."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "a rounded weight", train=ROUNDED)
    train(folder)
    train(folder, args='{"seed": 5}')
    commit(folder, "questions", train=NEWEST)
    return folder
