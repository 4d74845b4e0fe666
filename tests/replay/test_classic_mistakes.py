"""Each classic mistake of replay systems, made again on purpose: the answer is never called exact.

The mistakes are made in processes that run our own code with one part of it spoiled: the replay's child, or the recorded training.
Every script is asked without a mistake first: then it is exact.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flor_dagster.replay.model import Question
from flor_dagster.store.models import CellRow
from tests.replay.conftest import PACKAGE, Lab

pytestmark = pytest.mark.ci

NUMPY = """\
import random
import numpy as np
import flor_dagster as flor

random.seed(4)
weights = np.zeros(30)
velocity = {"w": weights}
for epoch in flor.loop("epoch", range(5)):
    for step in flor.loop("step", range(3)):
        weights += random.random() * np.arange(30)
        velocity["w"] *= 1.01
        # steps
        flor.log("first", float(weights[1]))
    # epochs
    flor.log("total", float(weights.sum()) + random.random())
"""
TORCH = """\
import torch
import flor_dagster as flor

torch.set_num_threads(2)
torch.manual_seed(4)
net = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
x = torch.randn(20, 3)
large = torch.randn(3_000_001)
with flor.checkpointing(net=net, optimizer=optimizer):
    for epoch in flor.loop("epoch", range(4)):
        for step in flor.loop("step", range(2)):
            optimizer.zero_grad()
            loss = (net(x) ** 2).mean() + 0 * (large * net.weight[0, 0].detach()).sum()
            loss.backward()
            optimizer.step()
            # steps
            flor.log("loss", loss.item())
        # epochs
        flor.log("sum", (large * net.weight[0, 0].detach()).sum().item())
"""
WORKERS = """\
import random
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
for epoch in flor.loop("epoch", range(4)):
    for batch in flor.loop("step", loader):
        total += float(batch.sum())
        # steps
        flor.log("total", total)
    # epochs
    flor.log("mean", total / 4)
"""
SCRIPTS = {"numpy": NUMPY, "torch": TORCH, "workers": WORKERS}
VALUES = {"numpy": "float(weights.max())", "torch": "net.bias.item()", "workers": "total * 2"}

RESTORE = """
import sys
from flor_dagster.recording.replaying import ReplaySession
restore = ReplaySession._put_back
def spoiled(self, execution, name, index):
{body}
ReplaySession._put_back = spoiled
"""


def restoring(body: str) -> str:
    return RESTORE.format(body=textwrap.indent(textwrap.dedent(body).strip(), "    "))


IN_THE_REPLAY: dict[str, tuple[str, str, str]] = {
    "the end of an epoch is loaded and its steps are run on it": ("numpy", "steps", restoring("""
        if index is not None:
            name = self._spec(execution)["points"][str(index + 1)]
        return restore(self, execution, name, index)
    """)),
    "the last epoch's end is loaded one too early": ("numpy", "steps", restoring("""
        if index is not None:
            name = self._spec(execution)["points"][str(index - 1)]
        return restore(self, execution, name, index)
    """)),
    "just the last step is run again after loading": ("numpy", "epochs", """
        from flor_dagster.recording.replaying import ReplaySession
        items = ReplaySession.items
        def spoiled(self, execution, iterable):
            values = list(iterable)
            found = items(self, execution, values)
            again = self._spec(execution)["action"] == "skip"
            return iter([(len(values) - 1, values[-1])]) if again else found
        ReplaySession.items = spoiled
    """),
    "the random state is forgotten": ("numpy", "steps", restoring("""
        import random
        before = random.getstate()
        restore(self, execution, name, index)
        random.setstate(before)
    """)),
    "two names of one array are put back as two": ("numpy", "steps", restoring("""
        restore(self, execution, name, index)
        main = sys.modules["__main__"]
        main.velocity["w"] = main.weights.copy()
    """)),
    "model and optimizer are put back apart, so that the one no longer updates the other": ("torch", "steps", restoring("""
        restore(self, execution, name, index)
        optimizer = sys.modules["__main__"].optimizer
        for group in optimizer.param_groups:
            group["params"] = [p.detach().clone().requires_grad_() for p in group["params"]]
    """)),
    "the optimizer's momentum is forgotten": ("torch", "steps", restoring("""
        restore(self, execution, name, index)
        sys.modules["__main__"].optimizer.state.clear()
    """)),
    "another number of threads adds up": ("torch", "epochs", """
        import torch
        torch.set_num_threads = lambda number, plain=torch.set_num_threads: plain(1)
    """),
}  # fmt: skip

IN_THE_TRAINING: dict[str, tuple[str, str, str]] = {
    "state is kept by reference as if that were a copy of it": ("torch", "steps", """
        import ctypes
        from flor_dagster.recording.capture import Capturer
        from flor_dagster.recording.memory import Copy
        from flor_dagster.recording.writing import CheckpointWriter
        copy_of, put, close, held = Capturer._copy_of, CheckpointWriter.put, CheckpointWriter.close, []
        def by_reference(self, buffer, *more):
            if buffer.address is None:
                return copy_of(self, buffer, *more)
            return Copy((ctypes.c_char * buffer.size).from_address(buffer.address + buffer.start))
        def closing(self, *more):
            for snapshot in held:
                put(self, snapshot)
            close(self, *more)
        Capturer._copy_of = by_reference
        CheckpointWriter.put = lambda self, snapshot: held.append(snapshot)
        CheckpointWriter.close = closing
    """),
    "persistent workers are left out, though their generators live there": ("workers", "epochs", """
        from torch.utils.data import dataloader
        from flor_dagster.recording.adapters import registry
        def recognise(kind):
            if issubclass(kind, dataloader._BaseDataLoaderIter):
                return lambda walk, value, node: ["opaque", "loader"]
        registry.families.insert(0, recognise)
    """),
}  # fmt: skip

MISTAKES = {**IN_THE_REPLAY, **IN_THE_TRAINING}
SOUND = "none"


def key_of(mistake: str) -> str:
    return f"asked_{[SOUND, *MISTAKES].index(mistake)}"


def newest(script: str) -> str:
    """A statement of its own for every mistake: what is answered is not computed again."""
    text = SCRIPTS[script]
    for place in ("steps", "epochs"):
        here = [m for m, (of, at, _) in MISTAKES.items() if (of, at) == (script, place)]
        names = [key_of(m) for m in here] + [f"{key_of(SOUND)}_{place}"]
        line = next(line for line in text.splitlines() if line.strip() == f"# {place}")
        indent = line[: line.index("#")]
        text = text.replace(
            line, "\n".join(f'{indent}flor.log("{name}", {VALUES[script]})' for name in names)
        )
    return text


_TRAIN = """
import sys
exec(open(sys.argv[1]).read())
script = sys.argv[2]
del sys.argv[:2]
main = type(sys)("__main__")
main.__file__ = script
sys.modules["__main__"] = main
exec(compile(open(script).read(), script, "exec"), main.__dict__)
"""


def train(lab: Lab, script: str, mistake: str = "") -> None:
    made = lab.root.parent / f"{script}-mistake.py"
    made.write_text(textwrap.dedent(mistake))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment |= {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0", "FLOR_CHECKPOINTS": "all"}
    path = str(lab.root / f"train_{script}.py")
    command = [sys.executable, "-c", _TRAIN, str(made), path]
    done = subprocess.run(command, cwd=lab.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def project(folder: Path, script: str, mistake: str = "") -> Lab:
    lab = Lab(folder / script)
    lab.commit({f"train_{script}.py": SCRIPTS[script]})
    train(lab, script, mistake)
    lab.write({f"train_{script}.py": newest(script)})
    return lab


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Lab]]:
    """A script, trained without a mistake; each only when it is asked for: not everywhere is a torch."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("FLOR_")]:
            patch.delenv(name)
        folder = tmp_path_factory.mktemp("mistakes")
        patch.setenv("FLOR_CACHE", str(folder / "cache"))
        yield cache(lambda script: project(folder, script))


def ask(lab: Lab, name: str, **how: Any) -> CellRow:
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question((name,), iterations={"epoch": (2,)}, **how)).cells
    return answer.cell


def ask_no_more(lab: Lab, name: str, mistake: str, monkeypatch: pytest.MonkeyPatch) -> CellRow:
    """Ask in children that make a mistake, within what the plan costs: no execution of the run from its beginning."""
    made = lab.root.parent / "mistake.py"
    made.write_text(textwrap.dedent(mistake))
    boot = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from flor_dagster.replay.child import main; "
        f"exec(open({str(made)!r}).read()); sys.path[0] = ''; os._exit(main(sys.argv[2]))"
    )
    monkeypatch.setattr(
        "flor_dagster.replay.workers._BOOT",
        "import sys; sys.path.insert(0, sys.argv[1]); from flor_dagster.replay import server; "
        f"server.BOOT = {boot!r}; sys.path[0] = ''; sys.exit(server.main(int(sys.argv[2]), sys.argv[3], sys.argv[1]))",
    )
    with lab.open() as workspace:
        seconds = workspace.plan(Question((name,), iterations={"epoch": (2,)})).estimated_seconds
    return ask(lab, name, warm=False, max_seconds=seconds + 0.01)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("place", ["steps", "epochs"])
def test_without_a_mistake_the_answer_is_exact(
    trained: Callable[[str], Lab], script: str, place: str
) -> None:
    if script != "numpy":
        pytest.importorskip("torch")
    cell = ask(trained(script), f"{key_of(SOUND)}_{place}")
    assert cell.fidelity == "exact", cell.sentence


@pytest.mark.parametrize("mistake", IN_THE_REPLAY)
def test_a_mistake_of_the_replay_is_never_exact(
    trained: Callable[[str], Lab], mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, _, code = MISTAKES[mistake]
    if script != "numpy":
        pytest.importorskip("torch")
    cell = ask_no_more(trained(script), key_of(mistake), code, monkeypatch)
    assert (cell.status, cell.fidelity) == ("failed", "diverged"), cell.sentence


@pytest.mark.slow
@pytest.mark.parametrize("mistake", IN_THE_TRAINING)
def test_a_mistake_of_the_recorder_is_never_exact(
    tmp_path: Path, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    for name in [n for n in os.environ if n.startswith("FLOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLOR_CACHE", str(tmp_path / "cache"))
    script, _, code = MISTAKES[mistake]
    lab = project(tmp_path, script, code)
    with lab.open() as workspace:
        seconds = workspace.plan(Question((key_of(mistake),), iterations={"epoch": (2,)})).estimated_seconds
    cell = ask(lab, key_of(mistake), max_seconds=seconds + 0.01)
    assert (cell.status, cell.fidelity) == ("failed", "diverged"), cell.sentence
