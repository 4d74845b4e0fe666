"""How long a checkpoint holds the training up: the stall against one copy of the same bytes.

    python benchmarks/checkpoint.py [MEGABYTES ...]

For each size a model with Adam is trained a step, then captured as a recorded run captures it and handed to the writer.
Printed are medians over the rounds, in milliseconds of the training thread's CPU time: the walk over the objects, the
copy, both as a ratio to one `np.copyto` of the same tensors into memory that is there already; then the CPU time of the
writer's thread for one checkpoint, and how much slower a training step is while it writes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.checkpoints import CheckpointStore, Manifest
from flor_dagster.recording.memory import KnownMemory
from flor_dagster.recording.writing import CheckpointWriter, Snapshot

ROUNDS = 9
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
        sources = [tensor.detach().numpy().reshape(-1).view(np.uint8) for tensor in tensors]
        target = np.ones(sum(source.nbytes for source in sources), np.uint8)
        ends = np.cumsum([source.nbytes for source in sources])
        self._pairs = [
            (target[end - s.nbytes : end], s) for end, s in zip(map(int, ends), sources, strict=True)
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


def measure(megabytes: int) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    model = model_of(megabytes)
    optimizer = torch.optim.Adam(model.parameters())
    known = KnownMemory(most=4 << 30)
    walks: list[float] = []
    copies: list[float] = []
    plain: list[float] = []
    alone = [step(model, optimizer) for _ in range(ROUNDS)]
    beside: list[float] = []
    size = 0
    with tempfile.TemporaryDirectory() as folder:
        writer = CheckpointWriter(CheckpointStore(Path(folder)), "run", print)
        for number in range(ROUNDS):
            begin = time.thread_time()
            capturer = Capturer(lambda _: False, "", known)
            capturer.add("object:model", model)
            capturer.add("object:optimizer", optimizer)
            capturer.follow()
            walk = time.thread_time() - begin
            size = capturer.pending_bytes
            walked = time.thread_time()
            capturer.copy()
            copied = time.thread_time()
            written: list[Manifest] = []
            writer.put(
                Snapshot(
                    str(number), capturer, {}, (), {}, lambda manifest, _, to=written: to.append(manifest)
                )
            )
            del capturer
            while not written:
                beside.append(step(model, optimizer))
            if number >= 2:  # the first ones find no memory to use again
                walks.append(walk)
                copies.append(copied - walked)
                plain.append(Plain(tensors_of(model, optimizer)).seconds())
            for path in Path(folder).glob("objects/*/*"):
                path.unlink()
        writer.close()
    walk, copy = statistics.median(walks), statistics.median(copies)
    whole = statistics.median(plain)
    slower = statistics.median(beside) / statistics.median(alone)
    return (
        f"{size / 1e6:8.0f} {walk * 1e3:8.1f} {copy * 1e3:8.1f} {whole * 1e3:10.1f} "
        f"{copy / whole:8.2f} {(walk + copy) / whole:8.2f} {writer.cpu_seconds / ROUNDS * 1e3:10.0f} {slower:10.2f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("megabytes", nargs="*", type=int, default=[10, 100, 400])
    torch.set_num_threads(1)
    print(
        f"{'MB':>8} {'walk':>8} {'copy':>8} {'np.copyto':>10} {'copy/':>8} {'stall/':>8} {'writer':>10} {'step beside':>10}"
    )
    for megabytes in parser.parse_args().megabytes:
        print(measure(megabytes), flush=True)


if __name__ == "__main__":
    main()
