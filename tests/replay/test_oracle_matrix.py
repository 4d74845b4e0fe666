"""The oracle over everything that may change how a replay goes: places, depths, libraries, checkpoints, segments, workers."""

from __future__ import annotations

import itertools
import os
import textwrap
from pathlib import Path

import pytest

from tests.replay.batch_lab import Batch, Case

LIBRARIES, DEPTHS, POLICIES, PARTS, WARMTH = (
    ("numpy", "sklearn", "torch"),
    (1, 2, 3),
    ("all", "sparse", "none"),
    (1, 2),
    (True, False),
)
Way = tuple[str, int, str, int, bool]

FULL: list[Way] = list(itertools.product(LIBRARIES, DEPTHS, POLICIES, PARTS, WARMTH))
PAIRS: list[Way] = [
    ("numpy", 1, "all", 1, True), ("numpy", 2, "sparse", 2, False), ("numpy", 3, "none", 1, False),
    ("sklearn", 1, "sparse", 1, True), ("sklearn", 2, "none", 2, True), ("sklearn", 3, "all", 2, False),
    ("torch", 1, "none", 2, False), ("torch", 2, "all", 1, True), ("torch", 3, "sparse", 2, True),
]  # fmt: skip
"""Every pair of values of two axes is in one of them."""

SETUP = {
    "numpy": """
weights, velocity = np.zeros(8), np.zeros(8)
batches = [np.random.rand(8) for _ in range(4)]
def step(batch):
    global velocity
    velocity = 0.9 * velocity + 0.01 * batch * random.random()
    weights[:] += velocity
    found = float(weights.sum())
    #? flor.log("ASKED_function", found * 2)
    return found
def state():
    return weights.tolist()
""",
    "sklearn": """
from sklearn.linear_model import SGDClassifier
model = SGDClassifier(loss="log_loss", random_state=3, shuffle=True, learning_rate="optimal")
batches = [(np.random.rand(12, 3), np.random.randint(0, 2, 12)) for _ in range(4)]
def step(batch):
    order = np.random.permutation(12)
    model.partial_fit(batch[0][order], batch[1][order], classes=[0, 1])
    found = float(model.coef_.sum()) + random.random()
    #? flor.log("ASKED_function", found * 2)
    return found
def state():
    return model.coef_[0].tolist()
""",
    "torch": """
import torch
torch.manual_seed(4)
net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.3), torch.nn.Linear(6, 1))
optimizer = torch.optim.AdamW(net.parameters(), 0.01)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.7)
data = torch.utils.data.TensorDataset(torch.randn(16, 4), torch.randn(16, 1))
batches = torch.utils.data.DataLoader(data, 4, shuffle=True, num_workers=WORKERS)
def step(batch):
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(net(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    scheduler.step()
    found = loss.item() + random.random()
    #? flor.log("ASKED_function", found + optimizer.param_groups[0]["lr"])
    return found
def state():
    return [float(p.detach().sum()) for p in net.parameters()]
""",
}

STEPS = """\
for batch in flor.loop("step", batches):
    x = step(batch)
    #? flor.log("ASKED_inside", x + 1)
    flor.log("x", x)
    if x > 0.7:
        flor.log("high", x)
    else:
        #? flor.log("ASKED_else", x * 3)
        seen += 1
"""
AROUND = """\
for {name} in flor.loop("{name}", range({count})):
{inner}
    #? flor.log("ASKED_{name}", [x, seen])
    flor.log("{name}_end", x)
"""
BEHIND = """\
#? flor.log("ASKED_between", [x, seen, random.random() * 0])
for check in flor.loop("check", range(2)):
    seen += check
    flor.log("checked", seen)
    #? flor.log("ASKED_checking", seen)
#? flor.log("ASKED_after", state())
flor.log("end", seen)
"""


def script(library: str, depth: int, workers: int = 0) -> str:
    """All places at once, in loops of some depth."""
    loops = STEPS
    for name, count in (("epoch", 3), ("fold", 2))[: depth - 1]:
        loops = AROUND.format(name=name, count=count, inner=textwrap.indent(loops, "    ").rstrip("\n"))
    head = "import random\nimport numpy as np\nimport flor_dagster as flor\nrandom.seed(3)\nnp.random.seed(4)\nx, seen = 0.0, 0\n"
    behind = BEHIND.replace(", random.random() * 0", "")
    setup = (
        SETUP[library].replace("WORKERS", str(workers))
        + '#? flor.log("ASKED_before", state() if "sk" not in __name__ else 0)\n'
    )
    setup = setup.replace('state() if "sk" not in __name__ else 0', "len(batches)")
    return head + setup + loops + behind


def name_of(way: Way) -> str:
    library, depth, policy, parts, warm = way
    return f"on_{library}_{depth}_{policy}_{parts}_{'warm' if warm else 'cold'}"


def case_of(way: Way) -> Case:
    library, depth, policy, parts, warm = way
    workers = 1 if library == "torch" and depth == 2 else 0
    how = {"segments": parts, "workers": parts, "warm": warm}
    return Case(script(library, depth, workers), policy=policy, how=how)


def see_all(folder: Path, ways: list[Way], monkeypatch: pytest.MonkeyPatch) -> int:
    """Ask all of them; how many values were right."""
    pytest.importorskip(
        "torch", reason="torch is not installed: `pip install --group torch` runs these tests"
    )
    for name in [n for n in os.environ if n.startswith("FLOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLOR_CACHE", str(folder / "cache"))
    with Batch(folder, "numpy", "sklearn.linear_model", "torch") as batch:
        found = batch.ask({name_of(way): case_of(way) for way in ways})
    values = 0
    for way in ways:
        answers = found[name_of(way)]
        assert len(answers) == 6 + way[1], sorted(answers)
        for name, one in answers.items():
            assert one.right, (way, name, one.sentence, one.values[:3], one.wanted[:3])
            assert one.fidelity == "exact", (way, name, one.sentence)
            values += len(one.values)
    return values


@pytest.mark.slow
def test_every_pair_of_ways_gives_the_values_of_the_oracle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    covered = {pair for way in PAIRS for pair in itertools.combinations(enumerate(way), 2)}
    assert covered == {pair for way in FULL for pair in itertools.combinations(enumerate(way), 2)}
    assert see_all(tmp_path, PAIRS, monkeypatch) >= 300


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("depth", DEPTHS)
def test_every_way_gives_the_values_of_the_oracle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, depth: int
) -> None:
    ways = [way for way in FULL if way[:2] == (library, depth)]
    assert see_all(tmp_path, ways, monkeypatch) > 0
