"""The training of the fault lab, and what every version of it logs, worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

EPOCHS, STEPS = 4, 5

ACK = """\
import os, sys

def said(text):
    try:
        with open(os.path.join("acks", sys.argv[1]), "a") as file:
            file.write(text + "\\n")
    except OSError:
        pass
"""

TRAIN = """\
MARKER = {marker}
import sys
import time
{above}
import flor_dagster as flor
import numpy as np
from ack import said

seed = flor.arg("seed", 0)
flor.log("marker", MARKER)
state = np.zeros(300)
with flor.checkpointing(state=state):
    for epoch in flor.loop("epoch", range(4)):
        for step in flor.loop("step", range(5)):
            state += MARKER + seed * 0.5 + epoch + step * 0.25
            total = float(state[7])
            {asked}
            flor.log("total", total)
            said(f"{{epoch}} {{step}} {{total}}")
            time.sleep(0.02)
        flor.log("mean", float(state.mean()))
"""


def train_text(marker: int) -> str:
    """The script's text in the version of this number: every other one lacks the statement that is asked."""
    asked = 'flor.log("asked", total * 2)' if marker % 2 == 0 else "pass"
    return TRAIN.format(marker=marker, asked=asked, above="\n" * (marker % 7))


def total_of(marker: float, seed: float, epoch: int, step: int) -> float:
    """What `total` is there."""
    value = 0.0
    for e in range(epoch + 1):
        for s in range(STEPS if e < epoch else step + 1):
            value += marker + seed * 0.5 + e + s * 0.25
    return value


def wrong_rows(frame: pd.DataFrame) -> Iterator[str]:
    """Values of the log view that no training logged, contexts that stand there twice, in words."""
    if not {"marker", "epoch", "step", "total"} <= set(frame.columns):
        return
    rows = frame[frame["step"].notna() & frame["epoch"].notna()]
    twice = rows[rows.duplicated(["run", "epoch", "step"])]
    for _, row in twice.iterrows():
        yield f"{row['run']} has epoch={row['epoch']}, step={row['step']} twice"
    markers = frame.groupby("run")["marker"].max().to_dict()
    for _, row in rows.iterrows():
        marker = markers.get(row["run"])
        if marker is None or marker != marker:
            continue  # killed before it had said which code it is
        right = total_of(float(marker), float(row["arg:seed"]), int(row["epoch"]), int(row["step"]))
        for name, expected in (("total", right), ("asked", 2 * right)):
            value = row.get(name)
            if value is not None and value == value and float(value) != expected:
                place = f"epoch={row['epoch']}, step={row['step']}"
                yield f"{row['run']}: {name} at {place} is {value}, and should be {expected}"
