"""Exactness on a real torch training: dropout, shuffling, Adam, a scheduler, workers, a function per epoch."""

from __future__ import annotations

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab, bits
from tests.replay.oracle_lab import with_asked, without_asked

pytest.importorskip("torch", reason="torch is not installed: `pip install --group torch` runs these tests")

MODEL = """\
import torch
from torch import nn

best = None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 24)
        self.norm = nn.BatchNorm1d(24)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(24, 2)
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


def remember(accuracy):
    global best
    if best is None or accuracy > best:
        best = accuracy
"""

TRAIN = """\
import torch
from torch import nn

import flor_dagster as flor
import model as models


def train_epoch(net, loader, optimizer, scheduler, average):
    total = 0.0
    for x, y in flor.loop("step", loader):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        {inner}
        optimizer.step()
        scheduler.step()
        for name, parameter in net.named_parameters():
            average[name] = 0.9 * average.get(name, 0.0) + 0.1 * parameter.detach()
        total += loss.item()
        flor.log("loss", loss)
    return total, loss


def main():
    torch.manual_seed(flor.arg("seed", 1))
    x = torch.randn(240, 12)
    y = (x.sum(1) > 0).long()
    data = torch.utils.data.TensorDataset(x, y)
    shuffling = torch.Generator().manual_seed(3)
    loader = torch.utils.data.DataLoader(data, 40, shuffle=True, generator=shuffling, num_workers={workers})
    net = models.Net()
    optimizer = torch.optim.Adam(net.parameters(), flor.arg("lr", 1e-2))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.99**step)
    average, history = {{}}, []
    with flor.checkpointing(net=net, optimizer=optimizer, scheduler=scheduler):
        for epoch in flor.loop("epoch", range(4)):
            net.train()
            total, last = train_epoch(net, loader, optimizer, scheduler, average)
            history.append(total)
            net.eval()
            with torch.no_grad():
                accuracy = (net(x).argmax(1) == y).float().mean().item()
            models.remember(accuracy)
            {outer}
            flor.log("accuracy", accuracy)
    flor.log("best", models.best)
    flor.log("seen", net.seen)


main()
"""

OUTER = 'flor.log("outer", net.first.weight.norm() + average["last.bias"].sum() + optimizer.param_groups[0]["lr"] + last.item())'
INNER = 'flor.log("inner", torch.cat([p.grad.flatten() for p in net.parameters()]).norm())'


def files(*, outer: str = "", inner: str = "", workers: int = 0) -> dict[str, str]:
    return {"model.py": MODEL, "train.py": TRAIN.format(outer=outer, inner=inner, workers=workers)}


def column(lab: Lab, name: str) -> list[object]:
    with lab.open() as workspace:
        workspace.sync()
        return [bits(v) for v in workspace.store.dataframe(name)[name].dropna()]


@pytest.mark.slow  # test_across_processes.py is its fast sibling
@pytest.mark.parametrize("workers", [0, 2])
def test_hindsight_on_torch_is_bit_exact_at_both_levels(lab: Lab, workers: int) -> None:
    lab.commit(files(workers=workers))
    lab.train(seed=5)
    oracle = Lab(lab.root.parent / "oracle")
    oracle.commit(files(outer=OUTER, inner=INNER, workers=workers))
    oracle.train(seed=5)
    lab.write(files(outer=OUTER, inner=INNER, workers=workers))
    with lab.open() as workspace:
        outer = workspace.answer(Question(("outer",)))
        assert (outer.cells[0].cell.status, outer.cells[0].cell.fidelity) == ("replayed", "exact"), (
            outer.cells[0].cell.sentence
        )
        assert lab.emitted(outer.replays[0].id, "loss") == 0
        part = workspace.answer(Question(("inner",), iterations={"epoch": (2,)}))
        assert part.cells[0].cell.fidelity == "exact", part.cells[0].cell.sentence
        assert lab.emitted(part.replays[0].id, "loss") == 6
        one_epoch = column(lab, "inner")
        inner = workspace.answer(Question(("inner",)))
        assert (inner.cells[0].cell.status, inner.cells[0].cell.fidelity) == ("replayed", "exact"), (
            inner.cells[0].cell.sentence
        )
    assert column(lab, "outer") == column(oracle, "outer")
    assert column(lab, "inner") == column(oracle, "inner")
    assert one_epoch == column(oracle, "inner")[12:18]


COMPILED = """\
import torch
import flor_dagster as flor

@torch.compile(backend="eager")
def double(x):
    y = x * 2
    #? flor.log("asked", y.sum().item())
    #? flor.log("wrong", y.nothing())
    return y + 1

w = torch.ones(2)
for epoch in flor.loop("epoch", range(2)):
    w = double(w)
    flor.log("w", w.sum().item())
"""


@pytest.mark.slow
def test_a_statement_within_a_compiled_function_is_answered(lab: Lab) -> None:
    lab.commit({"train.py": without_asked(COMPILED)})
    lab.train()
    lab.write({"train.py": with_asked(COMPILED)})
    with lab.open() as workspace:
        asked, wrong = sorted(
            workspace.answer(Question(("asked", "wrong"))).cells, key=lambda answer: answer.statement.key
        )
        assert (asked.cell.status, asked.cell.fidelity) == ("replayed", "exact"), asked.cell.sentence
        assert "has no attribute 'nothing'" in wrong.cell.sentence
        assert workspace.store.dataframe("asked")["asked"].tolist() == [4.0, 12.0]
