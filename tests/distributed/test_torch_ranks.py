"""torch's own launchers on gloo: one training run, a rank on each record, each rank's states in its own checkpoints."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from flor_dagster.recording import layout
from flor_dagster.recording.checkpoints import CheckpointStore
from tests.distributed.rank_lab import ASKED, Ranks, ask, emitted, without_asked

pytestmark = pytest.mark.ci

pytest.importorskip("torch")

SCRIPT = """\
import os, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
import flor_dagster as flor

def note(name, value):
    # What the training saw, beside its record: a replay must see the same.
    if b"PYTEST_FLOR_TRUTH" in os.environ._data:
        with open(os.environ._data[b"PYTEST_FLOR_TRUTH"].decode() + f".{dist.get_rank()}", "a") as file:
            file.write(f"{name} {value.hex()}\\n")

def train(rank, size, init=None):
    if init:
        dist.init_process_group("gloo", init_method=init, rank=rank, world_size=size)
    else:
        dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(7 + rank)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
    model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    data = TensorDataset(torch.arange(24.0).reshape(8, 3) / 24, torch.arange(8.0).reshape(8, 1) / 8)
    sampler = DistributedSampler(data, seed=3)
    loader = DataLoader(data, batch_size=2, sampler=sampler)
    with flor.checkpointing(model=model, optimizer=optimizer):
        for epoch in flor.loop("epoch", range(3)):
            sampler.set_epoch(epoch)
            for x, y in flor.loop("step", loader):
                optimizer.zero_grad()
                loss = ((model(x) - y) ** 2).mean()
                loss.backward()
                note("gradient", float(model.module[0].weight.grad.norm()))
                #? flor.log("gradient", float(model.module[0].weight.grad.norm()))
                optimizer.step()
                flor.log("loss", loss.item())
            flor.log("first", x[0, 0].item())
            flor.log("weight", model.module[0].weight.sum().item())
            note("norm", float(sum(p.detach().norm() for p in model.parameters())) + rank)
            #? flor.log("norm", float(sum(p.detach().norm() for p in model.parameters())) + rank)
            if os.environ._data.get(b"PYTEST_FLOR_HANG") == str(rank).encode() and epoch == 1:
                print("hanging", flush=True)
                import time
                time.sleep(60)
    dist.destroy_process_group()

if __name__ == "__main__":
    if sys.argv[1:] == ["spawn"]:
        import tempfile
        torch.multiprocessing.spawn(train, args=(2, "file://" + tempfile.mkdtemp() + "/meet"), nprocs=2)
    else:
        train(None, None)
"""


def torchrun(*more: str) -> tuple[str, ...]:
    return ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *more, "train.py")


@pytest.mark.parametrize("how", ["torchrun", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_training_by_torchs_launchers_is_one_run_and_is_replayed(
    ranks: Ranks, how: str, tmp_path: Path
) -> None:
    ranks.commit({"train.py": without_asked(SCRIPT)})
    truth = str(tmp_path / "truth")
    ranks.run(*(torchrun() if how == "torchrun" else ("train.py", "spawn")), PYTEST_FLOR_TRUTH=truth)
    ((run, journals),) = ranks.runs().items()
    assert journals == [0, 1]
    assert ranks.header(ranks.root / ".flor/runs" / run)["launcher"] == (
        "torchrun" if how == "torchrun" else "torch.distributed"
    )
    with ranks.open() as workspace:
        (row,) = workspace.sync().runs
        assert (row.status, row.reason) == ("finished", "")
        frame = workspace.store.dataframe("loss", "first", "weight", ranks="all")
    by_rank = dict(iter(frame.groupby("rank")))
    assert {rank: len(part) for rank, part in by_rank.items()} == {0: 6, 1: 6}
    # What the gradients of both made is the same; what each drew and saw is its own.
    assert by_rank[0]["weight"].tolist() == by_rank[1]["weight"].tolist()
    assert by_rank[0]["loss"].tolist() != by_rank[1]["loss"].tolist()
    assert by_rank[0]["first"].tolist() != by_rank[1]["first"].tolist()

    manifests = sorted(path.name for path in ranks.root.glob(f".flor/checkpoints/manifests/{run}/*.json"))
    names = [{parts[1]["name"] for parts in ranks.of(run, rank, "k")} for rank in (0, 1)]
    assert names[0]
    assert len(names[0]) == len(names[1])
    assert not names[0] & names[1]
    assert {f"{name}.json" for name in names[0] | names[1]} == set(manifests)
    assert all(any(parts[1] == "random:torch" for parts in ranks.of(run, rank, "g")) for rank in (0, 1))
    store = CheckpointStore(layout.checkpoints_folder(ranks.root / ".flor"))
    states = [store.read(run, max(names[rank])) for rank in (0, 1)]
    assert all("random:torch" in state.roots for state in states)
    # The sampler's epoch is an attribute of an object that the loop found: it is in the end state of the outer loop.
    assert all('"epoch"' in json.dumps(state.nodes) for state in states)

    # What was never logged, as each rank saw it: every epoch without a step, then the steps of one from a checkpoint.
    ranks.write({"train.py": SCRIPT.replace(ASKED, "")})
    answer, report = ask(ranks, "norm")
    assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell
    assert emitted(ranks, report, "loss") == {0: 0, 1: 0}
    assert seen(ranks, "norm") == {rank: noted(truth, rank, "norm") for rank in (0, 1)}
    answer, report = ask(ranks, "gradient", iterations={"epoch": (2,)})
    assert answer.cell.fidelity == "exact", answer.cell
    assert emitted(ranks, report, "loss") == {0: 2, 1: 2}
    assert seen(ranks, "gradient") == {rank: noted(truth, rank, "gradient")[4:] for rank in (0, 1)}


@pytest.mark.slow  # its fast sibling has two
@pytest.mark.parametrize("size", [3, 4])
def test_three_and_four_ranks_are_replayed_bit_for_bit(ranks: Ranks, size: int, tmp_path: Path) -> None:
    script = SCRIPT.replace("torch.arange(24.0).reshape(8, 3) / 24, torch.arange(8.0).reshape(8, 1) / 8",
                            "torch.arange(72.0).reshape(24, 3) / 72, torch.arange(24.0).reshape(24, 1) / 24")  # fmt: skip
    ranks.commit({"train.py": without_asked(script)})
    truth = str(tmp_path / "truth")
    ranks.run(*(word if word != "2" else str(size) for word in torchrun()), PYTEST_FLOR_TRUTH=truth)
    ranks.write({"train.py": script.replace(ASKED, "")})
    answer, report = ask(ranks, "norm")
    assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell
    assert emitted(ranks, report, "loss") == dict.fromkeys(range(size), 0)
    assert seen(ranks, "norm") == {rank: noted(truth, rank, "norm") for rank in range(size)}
    answer, report = ask(ranks, "gradient", iterations={"epoch": (2,)})
    assert answer.cell.fidelity == "exact", answer.cell
    # The first gradients after a restore would be summed in another order.
    steps = 24 // size // 2
    assert emitted(ranks, report, "loss") == dict.fromkeys(range(size), 3 * steps)
    assert seen(ranks, "gradient") == {rank: noted(truth, rank, "gradient") for rank in range(size)}


def noted(truth: str, rank: int, name: str) -> list[str]:
    lines = Path(f"{truth}.{rank}").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[0] == name]


def seen(ranks: Ranks, name: str) -> dict[int, list[str]]:
    with ranks.open() as workspace:
        frame = workspace.store.dataframe(name, ranks="all")
    return {rank: [value.hex() for value in part[name].dropna()] for rank, part in frame.groupby("rank")}


def test_a_killed_rank_under_torchrun_leaves_a_run_that_says_what_became_of_each(ranks: Ranks) -> None:
    ranks.commit({"train.py": SCRIPT})
    launcher = ranks.start(*torchrun(), PYTEST_FLOR_HANG="1")
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if "hanging" in line:
            break
    (run,) = ranks.runs()
    os.kill(ranks.of(run, 1, "flor")[0][2]["pid"], signal.SIGKILL)
    launcher.communicate(timeout=90)
    deadline = time.monotonic() + 60
    while True:
        with ranks.open() as workspace:
            workspace.sync()
            (row,) = workspace.runs()
            if row.status != "running" or time.monotonic() > deadline:
                frame = workspace.store.dataframe("loss", ranks="all")
                break
    # torchrun asks the rank that is left to end; it may have noticed before that its partner is gone.
    assert row.status in ("failed", "lost", "interrupted")
    assert "rank 1 lost" in row.reason or "ranks 0, 1 lost" in row.reason
    assert set(frame["rank"]) == {0, 1}


@pytest.mark.slow  # torchrun itself waits half a minute; its fast sibling is in test_ranks
def test_a_restart_by_torchrun_is_a_second_run_with_its_parent_named(ranks: Ranks) -> None:
    fails_once = SCRIPT.replace(
        "    dist.destroy_process_group()",
        '    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":\n        raise RuntimeError("once")\n    dist.destroy_process_group()',
    )
    ranks.commit({"train.py": fails_once})
    ranks.run(*torchrun("--max-restarts", "1"))
    first, second = ranks.runs()
    assert list(ranks.runs().values()) == [[0, 1], [0, 1]]
    assert ranks.header(ranks.root / ".flor/runs" / second)["parent"] == first
    with ranks.open() as workspace:
        statuses = {row.id: row.status for row in workspace.sync().runs}
    assert statuses[second] == "finished"
    assert statuses[first] == "failed"
