"""A global that a loop's body binds first, such as a loss with its graph, does not keep the loop from being skipped."""

from __future__ import annotations

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab

pytest.importorskip("torch")
SCRIPT = """\
import torch

import flor_dagster as flor

torch.manual_seed(1)
net = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(net.parameters(), 0.1)
with flor.checkpointing(net=net, optimizer=optimizer):
    for epoch in flor.loop("epoch", range(4)):
        for step in flor.loop("step", range(5)):
            optimizer.zero_grad()
            loss = net(torch.randn(8, 4)).square().mean()
            loss.backward()
            optimizer.step()
            flor.log("loss", loss.item())
        {asked}
        flor.log("bias", net.bias.item())
"""


def test_a_loss_at_the_top_of_a_script_is_put_back_and_nothing_runs_again(lab: Lab) -> None:
    lab.commit({"train.py": SCRIPT.format(asked="pass")})
    lab.train()
    lab.write({"train.py": SCRIPT.format(asked='flor.log("norm", net.weight.norm().item())')})
    with lab.open() as workspace:
        report = workspace.answer(Question(("norm",), warm=False))
        assert [answer.cell.fidelity for answer in report.cells] == ["exact"]
        assert report.children == 1
        assert lab.emitted(report.replays[0].id, "loss") == 0
