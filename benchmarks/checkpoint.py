"""How long a checkpoint holds the training up: the whole stall against one copy of the same bytes.

    python benchmarks/checkpoint.py [MEGABYTES ...]

For each size a script of its own trains a model with Adam in a loop within a loop and is recorded as any other, with a
checkpoint at each end of the inner one. Measured is what the training's thread does between the last step of the inner loop and
its going on, in CPU time of that thread: all of it, from the end of the loop to the hand-over to the writer. In turns with it, behind a training step of
its own, the same tensors are copied with one `np.copyto` each into memory that is there already: both find the caches
as a training step leaves them. The next checkpoint is not due before the writer is done.

Printed are medians over the rounds, in milliseconds: the walk over the objects (along the plan that earlier checkpoints have
made), what the loop has changed, the copy, all else (settings, listeners, the policy, the hand-over), the whole; the plain copy; the whole as its multiple (the
bar is 1.3), and that of the walk, the changes and the copy alone; what the look at a loop's begin takes; the first stall, which has no plan yet; the CPU time of the writer's
thread for one checkpoint; and how much slower a training step is while it writes. Exits 1 where the bar does not hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import Failed, script

ROUNDS = 9
WARM = 5
"""The first rounds find no memory to use again and no plan."""
BAR = 1.3

TRAINING = """
import sys
import torch
import benchstall
import flor_dagster as flor

def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(4, model[0].in_features)).square().mean().backward()
    optimizer.step()

def main(megabytes, rounds):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    width = {10: 256, 100: 512, 400: 1024}.get(megabytes, 512)
    layers = max(1, round(megabytes * 1e6 / 16 / (width * width + width)))
    model = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(layers)])
    optimizer = torch.optim.Adam(model.parameters())
    with flor.checkpointing(model=model, optimizer=optimizer):
        for epoch in flor.loop("epoch", range(rounds)):
            for i in flor.loop("step", range(2)):
                step(model, optimizer)
            benchstall.between(model, optimizer, step)

main(int(sys.argv[1]), int(sys.argv[2]))
flor.commit()
benchstall.tell()
"""

STALL = '''
"""Measures a recorder from outside: none of it belongs to the training's repository, or to its state."""
import json, sys, time
from pathlib import Path
import numpy as np
from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.capturing import Capturing
from flor_dagster.recording.planned import PlannedCapturer
from flor_dagster.recording.walking import Walker

now = time.thread_time
parts, open_parts, found = {}, [], {"stall": [], "begin": [], "plain": [], "beside": [], "alone": []}
capturing, size = None, 0

def timed(owner, name, part):
    plain = getattr(owner, name)
    def measured(*arguments, **more):
        global size
        if open_parts or not parts:
            return plain(*arguments, **more)
        open_parts.append(part)
        begin = now()
        try:
            return plain(*arguments, **more)
        finally:
            parts[part] += now() - begin
            open_parts.pop()
            if part == "copy":
                size = arguments[0].pending_bytes
    setattr(owner, name, measured)

for owner, name, part in (
    (Walker, "retrace", "walk"), (Walker, "changes", "changes"), (PlannedCapturer, "copy", "copy"), (Capturer, "copy", "copy")
):
    timed(owner, name, part)

reached, begins = Capturing.reached, Capturing.loop_begins
def measured_end(self, execution, index):
    global capturing
    if index is not None or execution.outermost:
        return  # one checkpoint a round is enough
    capturing = self
    parts.update(walk=0.0, changes=0.0, copy=0.0)
    taken, begin = self.policy.taken, now()
    reached(self, execution, index)
    whole = now() - begin
    if self.policy.taken > taken:
        found["stall"].append({**parts, "whole": whole, "bytes": size})
    parts.clear()
def measured_begin(self, execution):
    begin = now()
    begins(self, execution)
    if not execution.outermost:
        found["begin"].append(now() - begin)
Capturing.reached, Capturing.loop_begins = measured_end, measured_begin

target = None
def tensors_of(model, optimizer):
    moments = [v for state in optimizer.state.values() for v in state.values() if v.dim()]
    return [*model.parameters(), *(p.grad for p in model.parameters()), *moments]
def between(model, optimizer, step):
    """Train on while the writer works, then copy plainly, behind a step."""
    global target
    while capturing._writer._queued:
        begin = now(); step(model, optimizer); found["beside"].append(now() - begin)
    for path in Path.cwd().glob(".flor/**/objects/*/*"):
        path.unlink()  # the disk is not what is measured
    begin = now(); step(model, optimizer); found["alone"].append(now() - begin)
    sources = [t.detach().numpy().reshape(-1).view(np.uint8) for t in tensors_of(model, optimizer)]
    if target is None:
        target = np.ones(sum(s.nbytes for s in sources), np.uint8)
    ends = np.cumsum([s.nbytes for s in sources])
    pairs = [(target[e - s.nbytes:e], s) for e, s in zip(map(int, ends), sources)]
    step(model, optimizer)
    sources = [t.detach().numpy().reshape(-1).view(np.uint8) for t in tensors_of(model, optimizer)]
    pairs = [(t, s) for (t, _), s in zip(pairs, sources)]
    begin = now()
    for t, s in pairs:
        np.copyto(t, s)
    found["plain"].append(now() - begin)
def tell():
    found["writer"] = capturing._writer.cpu_seconds / max(1, len(found["stall"]))
    print(json.dumps(found))
'''


def train(megabytes: int) -> dict[str, Any]:
    """What a training measured."""
    with tempfile.TemporaryDirectory() as folder, script(TRAINING, sys.executable) as (command, options):
        (Path(folder) / "benchstall.py").write_text(STALL)
        options["env"] |= {
            "PYTHONPATH": f"{options['env']['PYTHONPATH']}:{folder}", "FLOR_CHECKPOINTS": "all", "FLOR_CHECKPOINT_MEMORY": str(4 << 30)
        }  # fmt: skip
        done = subprocess.run(
            [*command, str(megabytes), str(ROUNDS + WARM)], capture_output=True, check=False, **options
        )
        if done.returncode:
            raise Failed(done.stderr[-2000:])
        return json.loads(done.stdout.splitlines()[-1])


def measure(megabytes: int) -> float:
    """Print one line of the table; the ratio that the bar is for."""
    found = train(megabytes)
    plain = statistics.median(found["plain"][WARM:])
    stalls = found["stall"][WARM:]
    if not stalls:
        raise Failed("no checkpoint was taken")
    of = {
        part: statistics.median(stall[part] for stall in stalls)
        for part in ("walk", "changes", "copy", "whole")
    }
    rest = statistics.median(s["whole"] - s["walk"] - s["changes"] - s["copy"] for s in stalls)
    inner = statistics.median(s["walk"] + s["changes"] + s["copy"] for s in stalls)
    begin, first = statistics.median(found["begin"][WARM:]), found["stall"][0]["whole"]
    slower = statistics.median(found["beside"] or [0.0]) / statistics.median(found["alone"])
    times = [of["walk"], of["changes"], of["copy"], rest, of["whole"], plain]
    print(
        f"{stalls[-1]['bytes'] / 1e6:6.0f}", *(f"{t * 1e3:8.2f}" for t in times), f"{of['whole'] / plain:8.2f}", f"{inner / plain:8.2f}",
        f"{of['copy'] / plain:6.2f}", f"{begin * 1e3:8.2f} {first * 1e3:8.1f} {found['writer'] * 1e3:8.0f} {slower:8.2f}", flush=True,
    )  # fmt: skip
    return of["whole"] / plain


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("megabytes", nargs="*", type=int, default=[10, 100, 400])
    print(
        f"{'MB':>6}", *(f"{name:>8}" for name in ("walk", "changes", "copy", "else", "whole", "copyto", "whole/", "w+c+c/")),
        f"{'copy/':>6} {'begin':>8} {'first':>8} {'writer':>8} {'beside':>8}",
    )  # fmt: skip
    ratios = [measure(megabytes) for megabytes in parser.parse_args().megabytes]
    held = max(ratios) <= BAR
    print(f"bar: the whole stall at most {BAR} times the copy: {'held' if held else 'NOT HELD'}")
    sys.exit(not held)


if __name__ == "__main__":
    main()
