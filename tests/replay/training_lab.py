"""Random trainings: networks, optimizers, loaders, closures, classes in two files, threads, data that changes, ends that nobody planned.

Where `program_lab` varies what a program does with its objects, this varies what a training is made of. What is asked stands before
the first flor call, in a method, in a step, in an epoch and behind the loop. Each training is made from one number.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PARTS = '''\
import copy, dataclasses, queue, random, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import torch
from torch import nn
import flor_dagster as flor


class Net(nn.Module):
    def __init__(self, width, dropout=0.0, norm=False):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(width, 1)
        self.register_buffer("seen", torch.zeros(()))
        self.peak = 0.0

    def forward(self, x):
        h = torch.relu(self.norm(self.first(x)))
        if self.training:
            self.seen += len(x)
        self.peak = max(self.peak, float(h.detach().max()))
        #? flor.log("ASKED_forward", float(h.detach().sum()))
        return self.last(self.drop(h)).squeeze(-1)


class Average:
    def __init__(self, model, decay=0.9):
        self.model, self.decay = copy.deepcopy(model), decay

    @torch.no_grad()
    def update(self, model):
        for mine, other in zip(self.model.parameters(), model.parameters()):
            mine.mul_(self.decay).add_(other, alpha=1 - self.decay)


@dataclasses.dataclass
class Meter:
    total: float = 0.0
    count: int = 0
    history: list = dataclasses.field(default_factory=list)

    def add(self, value):
        self.total += value
        self.count += 1
        self.history.append(value)
        del self.history[:-3]

    @property
    def mean(self):
        return self.total / max(self.count, 1)


def batches(x, y, size, order=None):
    index = torch.randperm(len(x)) if order is None else torch.as_tensor(order)
    for begin in range(0, len(x), size):
        chosen = index[begin:begin + size]
        yield x[chosen], y[chosen]


def prefetched(items):
    """Whatever it gives came through a thread, in its order."""
    channel, end = queue.Queue(2), object()
    def fill():
        for item in items:
            channel.put(item)
        channel.put(end)
    thread = threading.Thread(target=fill)
    thread.start()
    while (item := channel.get()) is not end:
        yield item
    thread.join()


def pooled(function, items):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, items))


def stepper(model, optimizer, loss_of, clip=None):
    """A closure that trains a step and counts them."""
    steps, losses = 0, []
    def step(x, y):
        nonlocal steps
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        steps += 1
        losses.append(loss.item())
        del losses[:-4]
        return loss.item()
    step.count = lambda: steps
    step.recent = losses
    return step


def norm_of(parameters):
    return float(sum((p.detach() ** 2).sum() for p in parameters)) ** 0.5
'''

LOADERS = {
    "generator": "batches(x, y, 8)",
    "ordered": "batches(x, y, 8, order)",
    "loader": "loader",
    "list": "list(batches(x, y, 8))",
    "prefetched": "prefetched(batches(x, y, 8))",
    "enumerate": "",
}
OPTIMIZERS = [
    "torch.optim.SGD(model.parameters(), lr=0.05)",
    "torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)",
    "torch.optim.Adam(model.parameters(), lr=0.01)",
    'torch.optim.AdamW([{"params": model.first.parameters(), "lr": 0.01}, {"params": model.last.parameters()}], lr=0.02)',
    "torch.optim.RMSprop(model.parameters(), lr=0.01)",
]
SCHEDULERS = [
    "torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)",
    "torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)",
    "torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.9 ** n)",
    "torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)",
    "torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=99)",
]
LOSSES = ["nn.functional.mse_loss", "nn.functional.smooth_l1_loss", "lambda p, t: (p - t).abs().mean()"]
# What a step, an epoch does beside training: lines that may be there, and what they add to what is asked.
IN_STEP = [
    "meter.add(loss)",
    "average.update(model)",
    "table[len(xb)] = table.get(len(xb), 0.0) + loss",
    "best = min(best, loss)",
    "noise = noise * 0.5 + rng.normal()",
    "recent.append(random.random())",
    "grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]",
    "counter = counter + 1 if loss < best else 0",
    "work = pooled(lambda v: float(v) * 2, [loss, best])",
    "order = order[1:] + order[:1]",
    "torch.rand(2, generator=source)",
]
IN_EPOCH = [
    "meter = Meter(history=meter.history)",
    "kept = copy.deepcopy(model.state_dict())",
    "kept = {k: v.clone() for k, v in model.state_dict().items()}",
    "random.shuffle(order)",
    "model.drop.p = min(0.5, model.drop.p + 0.1)",
    "x = x + 0.01 * torch.randn(x.shape)",
    "y[:2] = y[:2] * 0.9",
    "table.clear()",
    "if meter.mean < 0.1:\n    model.load_state_dict(kept)",
    "for group in optimizer.param_groups:\n    group['lr'] *= 0.9",
    "swap = model.first.weight.data.clone()",
    "recent = recent[-2:]",
    "model.eval()\nwith torch.no_grad():\n    checked = float(model(x[:4]).sum())\nmodel.train()",
    "tried = np.random.permutation(3).tolist()",
]
SEEN = [
    "norm_of(model.parameters())", "float(model.seen)", "model.peak", "meter.mean", "list(meter.history)", "norm_of(average.model.parameters())",
    "sorted(table.items())", "best", "float(noise)", "list(recent)", "list(order)", "counter", "float(y.sum())", "float(x.sum())",
    "[g['lr'] for g in optimizer.param_groups]", "step.count()", "list(step.recent)", "model.drop.p", "norm_of(kept.values())",
    "sum(s.get('step', 0) if isinstance(s.get('step', 0), int) else float(s['step']) for s in optimizer.state.values())",
]  # fmt: skip


@dataclass(frozen=True)
class Training:
    """One training.

    Args:
        text: its script; lines behind `#? ` are asked.
        data: files that are not in git.
        files: the other file of its version.
        fails: whether it ends badly.
        between: what becomes of its data before it is asked; None where nothing does.
    """

    text: str
    files: dict[str, str]
    data: dict[str, str]
    fails: bool
    between: Callable[[Path], object] | None


def write_training(seed: int) -> Training:
    """The training of a number."""
    pick = random.Random(seed)
    name = f"numbers{seed}.data"
    head = "import copy, json, os, random, sys, threading\nimport numpy as np\nimport torch\nfrom torch import nn\n"
    head += f"import flor_dagster as flor\nfrom parts{seed} import Average, Meter, Net, batches, norm_of, pooled, prefetched, stepper\n\n"
    head += "torch.manual_seed(3)\nrandom.seed(4)\nnp.random.seed(5)\n"
    width, dropout, norm = pick.choice([3, 8]), pick.choice([0.0, 0.0, 0.3]), pick.random() < 0.3
    reads = pick.random() < 0.3
    lines = ["x = torch.randn(24, 4)"]
    lines += [f"y = torch.tensor(json.load(open('{name}')))" if reads else "y = x[:, 0] * 2 + x[:, 1]"]
    lines += [f"model = Net({width}, {dropout}, {norm})"]
    init = '#? flor.log("ASKED_init", norm_of(model.parameters()))'
    lines += [init] if pick.random() < 0.6 else []
    lines += [f"optimizer = {pick.choice(OPTIMIZERS)}"]
    scheduled = pick.random() < 0.5
    plateau = False
    if scheduled:
        scheduler = pick.choice(SCHEDULERS)
        plateau = "Plateau" in scheduler
        lines += [f"scheduler = {scheduler}"]
    lines += ["average = Average(model)", "meter = Meter()", "table, recent, order = {}, [], list(range(24))"]
    lines += ["best, noise, counter = float('inf'), 0.0, 0", "rng = np.random.default_rng(7)"]
    lines += ["source = torch.Generator().manual_seed(8)", "kept = copy.deepcopy(model.state_dict())"]
    lines += [f"step = stepper(model, optimizer, {pick.choice(LOSSES)}, {pick.choice([None, 1.0])})"]
    loader = pick.choice(list(LOADERS))
    if loader == "loader":
        lines += [
            "loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8, shuffle=True)"
        ]
    over, target = LOADERS[loader], "xb, yb"
    if loader == "enumerate":
        over, target = "enumerate(batches(x, y, 8))", "i, (xb, yb)"
    looped = f'flor.loop("step", {over})'
    if loader == "enumerate" and pick.random() < 0.5:
        looped = 'enumerate(flor.loop("step", batches(x, y, 8)))'
    body = "loss = step(xb, yb)\n" + "".join(f"{line}\n" for line in pick.sample(IN_STEP, pick.randint(1, 4)))
    seen = ", ".join(pick.sample(SEEN, 6))
    if pick.random() < 0.3:
        body += f'#? flor.log("ASKED_step", [{seen}])\n'
    body += 'flor.log("loss", loss)\n'
    epoch = f"for {target} in {looped}:\n{_in(body)}"
    epoch += "".join(f"{line}\n" for line in pick.sample(IN_EPOCH, pick.randint(1, 4)))
    if scheduled:
        epoch += f"scheduler.step({'meter.mean' if plateau else ''})\n"
    wanted = f'#? flor.log("ASKED", [{", ".join(pick.sample(SEEN, 8))}])\n'
    epoch = epoch + wanted if pick.random() < 0.7 else wanted + epoch
    epoch += 'flor.log("mean", meter.mean)\n'
    end, fails = _end(pick)
    epoch += end
    held = "model=model, optimizer=optimizer" if pick.random() < 0.3 else ""
    loops = f'for epoch in flor.loop("epoch", range(4)):\n{_in(epoch)}'
    if held:
        loops = f"with flor.checkpointing({held}):\n{_in(loops)}"
    setting = "".join(f"{line}\n" for line in lines)
    tail = f'#? flor.log("ASKED_end", [{", ".join(pick.sample(SEEN, 6))}])\nflor.log("over", meter.count)\n'
    if pick.random() < 0.5:
        text = f"{head}\ndef main():\n{_in(setting + loops + tail)}\nmain()\n"
    else:
        text = f"{head}{setting}{loops}{tail}"
    data = {name: str([round(pick.random(), 3) for _ in range(24)])} if reads else {}
    return Training(
        text,
        {f"parts{seed}.py": PARTS},
        data,
        fails,
        _changed(pick, name) if reads and pick.random() < 0.5 else None,
    )


def _end(pick: random.Random) -> tuple[str, bool]:
    """How the training ends before its time, where it does, and whether that is a failure."""
    chosen = pick.random()
    if chosen < 0.08:
        return "if epoch == 2:\n    raise KeyboardInterrupt\n", True
    if chosen < 0.16:
        return "if epoch == 2:\n    raise ValueError('no more')\n", True
    if chosen < 0.22:
        return "if epoch == 1:\n    sys.exit(0)\n", False
    if chosen < 0.3:
        return "if meter.count > 5 and epoch > 1:\n    break\n", False
    return "", False


def _changed(pick: random.Random, name: str) -> Callable[[Path], object]:
    """What becomes of a file: gone, written anew with an old time, one number another."""

    def change(root: Path) -> None:
        path = root / name
        before = path.stat()
        how = pick.choice(["gone", "anew", "same"])
        if how == "gone":
            path.unlink()
        elif how == "anew":
            import os

            path.write_text(path.read_text().replace("0.", "1.", 3))
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


def _in(text: str) -> str:
    return textwrap.indent(text if text.endswith("\n") else text + "\n", "    ")
