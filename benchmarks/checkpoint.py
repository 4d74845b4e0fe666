"""How long a checkpoint holds the training up: the stall against one copy of the same bytes.

    python benchmarks/checkpoint.py [MEGABYTES ...]

For each size a model with Adam is trained a step, then captured as a recorded run captures it and handed to the writer.
In turns with it, behind a training step of its own, the same tensors are copied with one `np.copyto` each into memory that
is there already: both find the caches as a training step leaves them. Printed are medians over the rounds, in milliseconds
of the training thread's CPU time: the walk over the objects (along the plan that earlier checkpoints have made), the survey
(which objects were replaced since the loop began), the copy, and what they are as ratios to the plain copy (the bar is 1.3
for the whole stall); then the first stall, which has no plan yet, the CPU
time of the writer's thread for one checkpoint, and how much slower a training step is while it writes. Exits 1 where the bar does not hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.checkpoints import CheckpointStore, Manifest
from flor_dagster.recording.memory import KnownMemory
from flor_dagster.recording.retracing import Place
from flor_dagster.recording.surveying import by_node, survey
from flor_dagster.recording.writing import CheckpointWriter, Snapshot

ROUNDS = 11
WARM = 5
"""The first rounds find no memory to use again and no plan."""
BAR = 1.3
WIDTH = {10: 256, 100: 512, 400: 1024}


def model_of(megabytes: int) -> Any:
    """A stack of linear layers whose parameters, gradients and Adam's moments take about so many megabytes."""
    width = WIDTH.get(megabytes, 512)
    layers = max(1, round(megabytes * 1e6 / 4 / 4 / (width * width + width)))
    return torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(layers)])


def step(model: Any, optimizer: Any) -> float:
    """One training step; its CPU seconds on this thread."""
    begin = time.thread_time()
    optimizer.zero_grad()
    model(torch.randn(4, model[0].in_features)).square().mean().backward()
    optimizer.step()
    return time.thread_time() - begin


class Plain:
    """A plain copy of the same memory, into memory whose pages are there already."""

    def __init__(self, tensors: list[Any]) -> None:
        self._target = np.ones(sum(tensor.nbytes for tensor in tensors), np.uint8)
        self._pairs: list[tuple[Any, Any]] = []
        self.look_at(tensors)

    def look_at(self, tensors: list[Any]) -> None:
        """Where the tensors lie now: gradients move with each step."""
        sources = [tensor.detach().numpy().reshape(-1).view(np.uint8) for tensor in tensors]
        ends = np.cumsum([source.nbytes for source in sources])
        self._pairs = [
            (self._target[end - s.nbytes : end], s) for end, s in zip(map(int, ends), sources, strict=True)
        ]

    def seconds(self) -> float:
        """CPU seconds of one copy."""
        begin = time.thread_time()
        for target, source in self._pairs:
            np.copyto(target, source)
        return time.thread_time() - begin


def tensors_of(model: Any, optimizer: Any) -> list[Any]:
    """Everything that a checkpoint of the two holds."""
    parameters = list(model.parameters())
    moments = [v for state in optimizer.state.values() for v in state.values() if v.dim()]
    return [*parameters, *(p.grad for p in parameters), *moments]


def measure(megabytes: int) -> tuple[str, float]:
    """One line of the table, and the ratio that the bar is for."""
    torch.manual_seed(0)
    model = model_of(megabytes)
    optimizer = torch.optim.Adam(model.parameters())
    known = KnownMemory(most=4 << 30)
    place = Place(lambda _: False, "", known)
    roots = {"object:model": model, "object:optimizer": optimizer}
    walks: list[float] = []
    copies: list[float] = []
    surveys: list[float] = []
    plain: list[float] = []
    alone = [step(model, optimizer) for _ in range(ROUNDS)]
    target = Plain(tensors_of(model, optimizer))
    beside: list[float] = []
    size = 0
    first = 0.0
    with tempfile.TemporaryDirectory() as folder:
        writer = CheckpointWriter(CheckpointStore(Path(folder)), "run", print)
        before = survey(roots, lambda _: False)
        for number in range(ROUNDS + WARM):
            step(model, optimizer)
            target.look_at(tensors_of(model, optimizer))
            plain.append(target.seconds())
            step(model, optimizer)
            begin = time.thread_time()
            capturer = place.capture(roots)
            if capturer is None:
                capturer = Capturer(lambda _: False, "", known)
                for name, value in roots.items():
                    capturer.add(name, value)
                capturer.follow()
                place.walked(capturer, roots)
            walked = time.thread_time()
            now = survey(roots, lambda _: False)
            by_node(before, now, capturer.identities())
            surveyed = time.thread_time()
            capturer.copy()
            copied = time.thread_time()
            before = now
            size = capturer.pending_bytes
            walks.append(walked - begin)
            surveys.append(surveyed - walked)
            copies.append(copied - surveyed)
            first = first or copied - begin
            written: list[Manifest] = []
            writer.put(
                Snapshot(
                    str(number), capturer, {}, (), {}, lambda manifest, _, to=written: to.append(manifest)
                )
            )
            del capturer
            while not written:
                beside.append(step(model, optimizer))
            for path in Path(folder).glob("objects/*/*"):
                path.unlink()
        writer.close()
    walk, copy = statistics.median(walks[WARM:]), statistics.median(copies[WARM:])
    whole = statistics.median(plain[WARM:])
    slower = statistics.median(beside) / statistics.median(alone)
    look = statistics.median(surveys[WARM:])
    ratio = (walk + look + copy) / whole
    line = (
        f"{size / 1e6:8.0f} {walk * 1e3:8.2f} {look * 1e3:8.2f} {copy * 1e3:8.2f} {whole * 1e3:10.2f} "
        f"{copy / whole:8.2f} {(walk + copy) / whole:10.2f} {ratio:8.2f} {first * 1e3:8.1f} {writer.cpu_seconds / (ROUNDS + WARM) * 1e3:8.0f} {slower:12.2f}"
    )
    return line, ratio


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("megabytes", nargs="*", type=int, default=[10, 100, 400])
    torch.set_num_threads(1)
    print(
        f"{'MB':>8} {'walk':>8} {'survey':>8} {'copy':>8} {'np.copyto':>10} {'copy/':>8} {'walk+copy/':>10} {'stall/':>8} {'first':>8} {'writer':>8} {'step beside':>12}"
    )
    ratios: list[float] = []
    for megabytes in parser.parse_args().megabytes:
        line, ratio = measure(megabytes)
        ratios.append(ratio)
        print(line, flush=True)
    sys.exit(max(ratios) > BAR)


if __name__ == "__main__":
    main()
