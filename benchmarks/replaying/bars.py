"""The design's bars: an epoch-level statement, a step-level one in one epoch, two segments; warm and cold."""

from __future__ import annotations

import os
import time
from collections.abc import Collection

from benchmarks.replaying.lab import Clock, Prepared, Seconds, median, same
from flor_dagster.replay.model import Question
from flor_dagster.replay.workspace import Workspace


def show(name: str, taken: Seconds, against: Seconds, bar: str = "", *, wall_only: bool = False) -> None:
    ratio = f"{against.wall / taken.wall:6.1f}x wall"
    ratio += "" if wall_only else f" {against.cpu / max(taken.cpu, 0.01):6.1f}x CPU"
    print(f"{name:58} {taken.wall:8.2f} s {taken.cpu:8.2f} CPU s   {ratio}   {bar}", flush=True)


PARTS = ("epoch", "step", "segments", "plan", "cold")


def bars(prepared: Prepared, rounds: int, parts: Collection[str] = PARTS) -> None:
    """Ask, and print what each took beside running the versions again.

    Args:
        prepared: the trainings.
        rounds: how often each question is asked.
        parts: which ones.
    """
    project, size, again = prepared.project, prepared.size, prepared.again
    project.begin()
    print(
        f"{prepared.versions} versions x {size.epochs} epochs of {again.cpu / prepared.versions / size.epochs:.2f} CPU s; "
        f"running them again: {again.wall:.2f} s, {again.cpu:.2f} CPU s (by the median of {len(prepared.timed)})"
    )
    epoch = size.epochs // 2
    cases = [
        (f"epoch-level, {size.epochs} epochs", "weight_norm", {"segments": 1}, None, "bar: 20x"),
        (f"step-level, 1 of {size.epochs} epochs", "grad_norm", {"iterations": {"epoch": (epoch,)}}, epoch, "bar: 10x"),
    ]  # fmt: skip
    for words, name, question, only, bar in cases:
        if words.partition("-")[0] not in parts:
            continue
        for warm in (True, False) if "cold" in parts else (True,):
            first, later = project.ask(rounds if warm else 0, statements=(name,), warm=warm, **question)
            same(prepared, name, epoch=only)
            if warm:
                show(f"{words}, warm workers", median(later), again, bar)
            show(f"{words}, {'workers start first' if warm else 'cold children'}", first, again)
    if "segments" in parts:
        segments(prepared, rounds)
    if "plan" in parts:
        plan(prepared)


def segments(prepared: Prepared, rounds: int) -> None:
    """All epochs of the newest run executed again: in one piece, and in two on two workers."""
    project = prepared.project
    with Workspace.open(project.folder) as workspace:
        newest = workspace.runs()[-1].key
    asked = {"statements": ("grad_norm",), "runs": (newest,)}
    # The workers are warm from the questions before, or nearly: each answer executes the whole training.
    one, two = [], []
    for _ in range(max(1, rounds // 2)):
        two.append(project.ask(0, segments=2, workers=2, **asked)[0])
        same(prepared, "grad_norm", newest=True)
        one.append(project.ask(0, segments=1, workers=1, **asked)[0])
    show("step-level, one run, all epochs, one segment", median(one), median(one), wall_only=True)
    show(
        "the same, two segments on two workers",
        median(two),
        median(one),
        "bar: 1.6x, on two idle cores",
        wall_only=True,
    )
    same(prepared, "grad_norm", newest=True)
    print(f"cores: {os.cpu_count()}, load: {os.getloadavg()[0]:.1f} (wall ratios need idle cores)")


def plan(prepared: Prepared) -> None:
    """How long the plan of a question over all runs takes."""
    prepared.project.forget()
    with Workspace.open(prepared.project.folder) as workspace, Clock() as clock:
        begin = time.perf_counter()
        runs = len(workspace.plan(Question(statements=("weight_norm",))).runs)
        taken = time.perf_counter() - begin
    print(f"plan over {runs} runs of {prepared.size.epochs} epochs: {taken:.2f} s")
    del clock
