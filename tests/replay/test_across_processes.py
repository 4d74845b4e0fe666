"""A training that goes on in another process, from the middle, is bit for bit the one that ran through.

By `flor run --resume` after a kill, and by a replay that begins at a restore point: parameters, optimizer, generators and every
later record. One program holds all traps at once; the slow matrix takes them one by one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from flor_dagster.errors import ReplayError
from flor_dagster.replay.model import Question
from flor_dagster.replay.resuming import resume
from tests.replay.batch_lab import Trainer, rows
from tests.replay.conftest import Lab
from tests.replay.oracle_lab import with_asked, without_asked

pytestmark = pytest.mark.ci

pytest.importorskip("torch", reason="torch is not installed: `pip install --group torch` runs these tests")

EPOCHS, DEATH = 5, 3
Pairs = tuple[list[tuple[object, ...]], list[tuple[object, ...]]]


@dataclass(frozen=True)
class Trap:
    """What is easily lost between two processes.

    Args:
        setup: at the top of the script.
        epoch: at the beginning of each epoch.
        loader: what the steps go over.
        loss: added to the loss of a step, of `x` and the output `y`.
        after: behind each step's update.
        state: further expressions, compared at each epoch's end.
    """

    setup: str = ""
    epoch: str = ""
    loader: str = ""
    loss: str = ""
    after: str = ""
    state: str = ""


TRAPS = {
    "dropout": Trap(setup="net[1].p = 0.4"),
    "shuffling": Trap(
        setup="shuffled = torch.utils.data.DataLoader(data, 8, shuffle=True)", loader="shuffled"
    ),
    "a loader's generator": Trap(
        setup="own = torch.Generator().manual_seed(9)\nordered = torch.utils.data.DataLoader(data, 8, shuffle=True, generator=own)",
        loader="ordered", state="own.get_state()",
    ),
    "workers that draw": Trap(
        setup="""
class Augmented(torch.utils.data.Dataset):
    def __len__(self):
        return 24
    def __getitem__(self, index):
        return data[index] + torch.rand(4) * random.random()
worked = torch.utils.data.DataLoader(Augmented(), 8, shuffle=True, num_workers=1)
""",
        loader="worked",
    ),
    "numpy's and Python's generators": Trap(
        setup="draws = np.random.default_rng(3)",
        loss="draws.normal() * y.mean() + np.random.rand() * y.sum() + random.gauss(0, 1) * y.max()",
        state="str(draws.bit_generator.state)",
    ),
    "a scheduler of a function": Trap(
        setup="scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.97**step)",
        after="scheduler.step()", state="str(scheduler.get_last_lr())",
    ),
    "aliases": Trap(
        setup="""
tied = torch.nn.Linear(4, 6, bias=False)
tied.weight = net[0].weight
held = {"net": net, "first": net[0].weight}
average = [p.detach().clone() for p in net.parameters()]
""",
        loss="tied(x).square().mean() + held['first'].sum() * 0.01",
        after="for kept, p in zip(average, held['net'].parameters()): kept.mul_(0.9).add_(p.detach(), alpha=0.1)",
        state="*average, tied.weight, held['first']",
    ),
    "flags": Trap(
        epoch="net.train(epoch % 2 == 0)\nnet[2].weight.requires_grad_(epoch % 3 != 1)",
        after="net[2].eval() if epoch == 2 else None",
        state="str([m.training for m in net.modules()]), str([p.requires_grad for p in net.parameters()])",
    ),
    "threads": Trap(
        setup="torch.set_num_threads(2)\nlarge = torch.randn(1_000_003)",
        loss="(large * float(net[0].bias.detach()[0])).sum() * y.mean() * 1e-3",
        state="str(torch.get_num_threads())",
    ),
    "the order of a set": Trap(
        setup="words = {f'word {n}' for n in range(40)}",
        loss="sum(y.mean() * (1.0 + n / 7) for n, word in enumerate(words) if word.endswith('3')) * 0.01",
    ),
}  # fmt: skip

SCRIPT = """\
import hashlib
import os
import random
import signal
import numpy as np
import torch
import flor_dagster as flor

torch.manual_seed(5)
np.random.seed(6)
random.seed(7)
data = torch.randn(24, 4)
net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Dropout(0.0), torch.nn.Linear(6, 2))
optimizer = torch.optim.Adam(net.parameters(), 0.01)
{setup}

def fingerprint(*parts):
    found = hashlib.sha256()
    for part in parts:
        found.update(part.detach().numpy().tobytes() if isinstance(part, torch.Tensor) else str(part).encode())
    return found.hexdigest()

def moments():
    return [optimizer.state[p][k] for p in net.parameters() for k in ("exp_avg", "exp_avg_sq", "step") if p in optimizer.state]

def train_on(x, epoch):
    optimizer.zero_grad()
    y = net(x)
    loss = y.square().mean() {loss}
    loss.backward()
    #? flor.log("ASKED_gradient", torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm())
    optimizer.step()
    {after}
    flor.log("loss", loss)

def main():
    for epoch in flor.loop("epoch", range({epochs})):
        {epoch}
        {loops}
        #? flor.log("ASKED_weights", fingerprint(*net.parameters(), torch.get_rng_state()))
        if os.environ._data.get(b"PYTEST_FLOR_DIE") == str(epoch).encode():
            os.kill(os.getpid(), signal.SIGKILL)
        flor.log("state", fingerprint(*net.parameters(), *moments(), torch.get_rng_state(), random.getstate(), np.random.rand() {state}))

main()
flor.log("end", fingerprint(*net.parameters(), *moments(), torch.get_rng_state(), random.random(), np.random.rand() {state}))
"""
LOOP = """\
for x in flor.loop("{loader}", {loader}):
            train_on(x, epoch)
        flor.log("over", float(net[0].weight.detach()[0, 0]))
"""

PERSISTENT = """\
import os
import random
import signal
import torch
import flor_dagster as flor

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return random.random() + index

random.seed(3)
torch.manual_seed(4)
loader = torch.utils.data.DataLoader(Data(), 2, num_workers=1, persistent_workers=True)
total = 0.0
for epoch in flor.loop("epoch", range(5)):
    for batch in flor.loop("step", loader):
        total += float(batch.sum())
        #? flor.log("drawn", total * 2)
        flor.log("total", total)
    if os.environ._data.get(b"PYTEST_FLOR_DIE") == str(epoch).encode():
        os.kill(os.getpid(), signal.SIGKILL)
    flor.log("mean", total / 4)
"""


def script(*names: str) -> str:
    """A training with some of the traps."""
    traps = [TRAPS[name] for name in names]

    def joined(part: str, indent: int) -> str:
        lines = [line for trap in traps for line in getattr(trap, part).strip().splitlines()]
        return ("\n" + " " * indent).join(lines) or "pass"

    loaders = [trap.loader for trap in traps if trap.loader] or ["data.split(8)"]
    return SCRIPT.format(
        setup=joined("setup", 0), epoch=joined("epoch", 8), after=joined("after", 4), epochs=EPOCHS,
        loss="".join(f"+ ({trap.loss})" for trap in traps if trap.loss),
        state="".join(f", {trap.state}" for trap in traps if trap.state),
        loops="        ".join(LOOP.format(loader=loader) for loader in loaders).rstrip(),
    )  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What programs came to: trained through, and killed.

    Args:
        lab: holds the dead runs, and what became of them.
        whole: the oracle, which has the asked statements.
        dead: script → the killed run's key.
        through: script → the oracle's run.
    """

    lab: Lab
    whole: Lab
    dead: dict[str, str]
    through: dict[str, str]

    def resume(self, script: str) -> str:
        """Go on with a killed run in another process; the new run's key."""
        with self.lab.open() as workspace:
            return resume(workspace, self.dead[script]).key

    def records(self, script: str, run: str, name: str, origin: Literal["recorded", "replayed"]) -> Pairs:
        """Of a run and of the one that went through."""
        with self.lab.open() as mine, self.whole.open() as wanted:
            mine.sync()
            return rows(mine, run, name, origin), rows(wanted, self.through[script], name, "recorded")


def train(folder: Path, files: Mapping[str, str]) -> Trained:
    """Train through, and train until the death."""
    lab, whole = Lab(folder / "project"), Lab(folder / "whole")
    lab.commit({name: without_asked(text) for name, text in files.items()})
    whole.commit({name: with_asked(text) for name, text in files.items()})
    time.sleep(0.05)  # a file that is younger than its process would make the version an uncertain one
    trainer = Trainer("torch")
    through = [trainer.start(whole.root, name) for name in files]
    killed = [trainer.start(lab.root, name, variables={"PYTEST_FLOR_DIE": str(DEATH)}) for name in files]
    left = trainer.finish()
    assert [left[output] for output in through] == [0] * len(files), [o.read_text() for o in through]
    assert [left[output] for output in killed] == [-9] * len(files), [o.read_text() for o in killed]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if all((run / "version.json").exists() for run in (lab.root / ".flor/runs").iterdir()):
            break
        time.sleep(0.02)  # the version's child outlives the training
    keys: list[dict[str, str]] = []
    for one in (lab, whole):
        with one.open() as workspace:
            workspace.sync()
            keys.append({run.entrypoint: run.key for run in workspace.runs()})
    return Trained(lab, whole, *keys)


def see_resumed(trained: Trained, new: str) -> None:
    """Every record is there with its bits, and nothing that was done before the death was done again."""
    for name in ("loss", "state", "over", "end"):
        mine, wanted = trained.records("train.py", new, name, "recorded")
        assert mine == wanted, name
        assert len(wanted) == 1 if name == "end" else len({value for _, value in wanted}) >= EPOCHS, name
    with trained.lab.open() as workspace:
        workspace.sync()
        # How far the writer had come before the kill is chance in a training of milliseconds.
        where = workspace.store.run(new).tags["flor/resumed_at"]
        assert where.startswith(tuple(f"epoch#0[{epoch}]" for epoch in range(DEATH + 1))), where


def see_replayed(trained: Trained, text: str, new: str) -> None:
    """A replay that skips all steps, and one that begins at a restore point, answer with the bits of the run that had the statements."""
    trained.lab.write({"train.py": with_asked(text)})
    later = tuple(range(2, EPOCHS))
    for name, some, of in (
        ("ASKED_weights", None, "loss"),
        ("ASKED_gradient", {"epoch": later}, "state"),
    ):
        with trained.lab.open() as workspace:
            report = workspace.answer(Question((name,), runs=(new,), iterations=some))
        (answer,), (replay,) = report.cells, report.replays
        assert answer.cell.fidelity == "exact", answer.cell.sentence
        # How many checkpoints a fast training's writer came to before the kill is chance.
        all_of_it = len(trained.records("train.py", new, of, "recorded")[0])
        assert trained.lab.emitted(replay.id, of) < all_of_it, report.plan.runs[0].detail
        mine, true = trained.records("train.py", new, name, "replayed")
        wanted = tuple(f"epoch#0[{e}]" for e in (later if some else range(EPOCHS)))
        assert mine == [row for row in true if str(row[0]).startswith(wanted)]
        assert mine


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """The program that holds all traps, and the one whose workers can't be captured."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("FLOR_")]:
            patch.delenv(name)
        patch.setenv("FLOR_CACHE", str(folder / "cache"))
        patch.setenv("FLOR_CHECKPOINTS", "all")
        yield train(folder, {"train.py": script(*TRAPS), "persistent.py": PERSISTENT})


def test_a_training_goes_on_in_other_processes_with_every_bit(trained: Trained) -> None:
    new = trained.resume("train.py")
    see_resumed(trained, new)
    see_replayed(trained, script(*TRAPS), new)


def test_workers_that_live_on_are_named_and_their_loops_executed_from_the_beginning(trained: Trained) -> None:
    words = r"`loader\._iterator` keeps the loader's workers \(persistent_workers=True\)"
    with pytest.raises(ReplayError, match=f"no restore point, since {words}"):
        trained.resume("persistent.py")
    dead = trained.dead["persistent.py"]
    trained.lab.write({"persistent.py": with_asked(PERSISTENT)})
    with trained.lab.open() as workspace:
        report = workspace.answer(Question(("drawn",), runs=(dead,), iterations={"epoch": (DEATH - 1,)}))
    assert any(re.search(words, note) for note in report.plan.runs[0].detail["notes"])
    mine, wanted = trained.records("persistent.py", dead, "drawn", "replayed")
    assert mine[-2:] == wanted[2 * (DEATH - 1) : 2 * DEATH], "whatever is said of them, these are the values"
    assert trained.lab.emitted(report.replays[0].id, "total") == 2 * DEATH, "nothing was skipped"


@pytest.mark.slow
@pytest.mark.parametrize("trap", TRAPS)
def test_each_trap_alone_goes_on_with_every_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    for name in [n for n in os.environ if n.startswith("FLOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FLOR_CHECKPOINTS", "all")
    trained = train(tmp_path, {"train.py": script(trap)})
    new = trained.resume("train.py")
    see_resumed(trained, new)
    see_replayed(trained, script(trap), new)
