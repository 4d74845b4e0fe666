"""A run of several ranks is replayed by as many, each rank's values are its own and right bit for bit. No torch needed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from flor_dagster.errors import ReplayError
from flor_dagster.replay.model import Question
from flor_dagster.replay.reproducing import verify_run
from flor_dagster.replay.resuming import resume
from flor_dagster.replay.workspace import Workspace
from tests.distributed.rank_lab import ASKED, Ranks, ask, emitted, finish, without_asked
from tests.replay.conftest import bits

pytestmark = pytest.mark.ci

# The ranks talk through files, as a collective would: each waits for what the other has said.
SCRIPT = """\
import os, sys, time
from pathlib import Path
import numpy as np
import flor_dagster as flor

rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

def mean(value, what):
    meeting = Path(os.environ["TMPDIR"]) / f"meeting{os.getppid()}"
    meeting.mkdir(exist_ok=True)
    partial = meeting / f".{what}.{rank}"
    partial.write_bytes(np.float64(value).tobytes())
    partial.rename(meeting / f"{what}.{rank}")
    others = [meeting / f"{what}.{r}" for r in range(size)]
    while not all(other.exists() for other in others):
        time.sleep(0.002)
    return float(np.mean([np.frombuffer(other.read_bytes())[0] for other in others]))

random = np.random.default_rng(5 + rank)
weights = np.zeros(3)
with flor.checkpointing(weights=weights, random=random):
    for epoch in flor.loop("epoch", range(4)):
        for step in flor.loop("step", range(3)):
            noise = random.normal(size=3)
            #? flor.log("noise", float(noise[0]))
            weights += mean(noise.sum(), f"step{epoch}.{step}") / size + noise * 1e-3
            flor.log("weight", float(weights.sum()))
            if (rank, epoch, step) == (int(os.environ.get("DIES", -1)), 2, 1):
                os.kill(os.getpid(), 9)
        #? flor.log("norm", float(np.linalg.norm(weights)) + rank)
        flor.log("loss", float(weights[0]))
    #? flor.log("after", float(weights[1]))
"""


@pytest.fixture
def trained(ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ranks:
    """A run of two ranks without the asked statements, which the newest source has; beside it the run that had them."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    train(ranks)
    return ranks


def train(ranks: Ranks, script: str = SCRIPT, *, status: int = 0, **variables: str) -> None:
    ranks.commit({"train.py": without_asked(script)})
    launch(ranks, status, **variables)
    (ranks.root / "train.py").write_text(script.replace(ASKED, ""))


def launch(ranks: Ranks, status: int = 0, **variables: str) -> None:
    port = str(time.monotonic_ns())  # nothing listens there: it tells the meetings apart
    both = [ranks.rank(r, 2, MASTER_PORT=port, TMPDIR=str(ranks.root.parent), **variables) for r in (0, 1)]
    if status == 0:
        finish(*both)
        return
    codes = {child.wait(60) if i == int(variables["DIES"]) else None for i, child in enumerate(both)}
    assert status in codes
    time.sleep(0.2)
    deadline = time.monotonic() + 30
    while not list(ranks.root.glob(".flor/runs/*/version.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    for child in both:
        child.kill()
        child.communicate()


def rows(workspace: Workspace, name: str) -> list[tuple[object, ...]]:
    frame = workspace.store.dataframe(name, ranks="all").drop(columns="run")
    return [tuple(bits(v) for v in row) for row in frame[frame[name].notna()].itertuples(index=False)]


Rows = list[tuple[object, ...]]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    """What a run that had the asked statements recorded: name → its rows."""
    truth = Ranks(tmp_path_factory.mktemp("truth") / "oracle")
    truth.commit({"train.py": SCRIPT.replace(ASKED, "")})
    launch(truth)
    with truth.open() as workspace:
        workspace.sync()
        return {name: rows(workspace, name) for name in ("norm", "noise")}


def test_each_rank_gets_its_own_values_bit_for_bit_without_a_step(
    trained: Ranks, oracle: dict[str, Rows]
) -> None:
    with trained.open() as workspace:
        (part,) = workspace.plan(Question(("norm",), segments=2)).runs
        assert "its 2 ranks stay together: it is not split into segments" in part.detail["notes"]
    answer, report = ask(trained, "norm", segments=2)
    assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell
    assert "8 values on 2 ranks" in answer.cell.sentence
    assert report.children == 1
    with trained.open() as workspace:
        values = rows(workspace, "norm")
        assert workspace.store.dataframe("norm")["norm"].notna().sum() == 4, (
            "the first rank alone, unless asked"
        )
    assert values == oracle["norm"]
    assert len(values) == 8
    assert emitted(trained, report, "weight") == {0: 0, 1: 0}


def test_a_step_is_answered_from_a_checkpoint_that_every_rank_has(
    trained: Ranks, oracle: dict[str, Rows]
) -> None:
    answer, report = ask(trained, "noise", iterations={"epoch": (2,)})
    assert answer.cell.fidelity == "exact", answer.cell.sentence
    with trained.open() as workspace:
        values = rows(workspace, "noise")
    assert values == [row for row in oracle["noise"] if row[1] == 2]
    assert len(values) == 6
    assert emitted(trained, report, "weight") == {0: 3, 1: 3}


def test_a_checkpoint_that_one_rank_lacks_is_used_by_none(trained: Ranks) -> None:
    (run,) = trained.runs()
    manifests = trained.root / f".flor/checkpoints/manifests/{run}"
    first = min(
        (p for p in manifests.glob("r1-*.json") if p.stem.count(".") == 0), key=lambda p: int(p.stem[3:])
    )
    last = max(
        (p for p in manifests.glob("r1-*.json") if p.stem.count(".") == 0), key=lambda p: int(p.stem[3:])
    )
    assert first != last
    last.unlink()
    answer, report = ask(trained, "norm")
    assert answer.cell.fidelity == "exact", answer.cell.sentence
    done = emitted(trained, report, "weight")
    assert done[0] == done[1] == 3, "both ranks execute the loop that one of them can't skip"


def test_a_statement_that_only_one_rank_comes_to_is_answered_there(
    ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    alone = '        if rank == 1:\n            flor.log("mine", epoch)\n            #? flor.log("norm"'
    script = SCRIPT.replace('        #? flor.log("norm"', alone)
    train(ranks, script)
    answer, _ = ask(ranks, "norm")
    assert answer.cell.fidelity == "exact", answer.cell
    with ranks.open() as workspace:
        assert {row[0] for row in rows(workspace, "norm")} == {1}


def test_a_killed_ranks_run_is_answered_as_far_as_every_rank_came(
    ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oracle: dict[str, Rows]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    train(ranks, status=-signal.SIGKILL, DIES="1")
    (root := ranks.root)
    with ranks.open() as workspace:
        (run,) = workspace.sync().runs
        assert run.status == "lost"
    answer, _ = ask(ranks, "norm")
    assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell
    with ranks.open() as workspace:
        values = rows(workspace, "norm")
        behind = workspace.answer(Question(("after",))).cells[0].cell
        with pytest.raises(ReplayError, match="2 ranks; a distributed training can't be resumed yet"):
            resume(workspace, run.key)
    assert values == [row for row in oracle["norm"] if row[1] < 2]  # type: ignore[operator]
    assert len(values) == 4
    assert behind.status == "refused"
    assert "never got there" in behind.sentence
    assert root.exists()


def test_a_run_whose_ranks_completed_nothing_together_is_refused(
    ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    train(ranks, SCRIPT.replace(", 2, 1):", ", 0, 1):"), status=-signal.SIGKILL, DIES="0")
    answer, _ = ask(ranks, "norm")
    assert answer.cell.status == "refused"
    assert "end of an iteration of epoch" in answer.cell.sentence


FAULTS = {
    "dies": ("os.kill(os.getpid(), 9)", "rank 1: the child was killed by SIGKILL"),
    "exits": ("sys.exit('no more')", "rank 1: the script left with exit status no more"),
    "leaves": ("os._exit(3)", "rank 1: the child left with exit status 3"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_rank_that_fails_ends_the_replay_and_is_named(trained: Ranks, name: str) -> None:
    fault, words = FAULTS[name]
    script = (trained.root / "train.py").read_text()
    bad = f"0.0 if rank == 0 or epoch < 1 else {fault}"
    (trained.root / "train.py").write_text(script.replace("float(np.linalg.norm(weights)) + rank", bad))
    answer, report = ask(trained, "norm", allow_effects=True)
    assert answer.cell.status == "failed", answer.cell
    assert words in answer.cell.sentence, answer.cell.sentence
    assert not report.complete
    assert children_of_tests() == []


def children_of_tests() -> list[str]:
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if b"replay.child" in command and parent in (1, os.getpid()):
                found.append(command.decode(errors="replace"))
    return found


def test_a_rank_that_hangs_is_stopped_and_the_statement_named(trained: Ranks) -> None:
    script = (trained.root / "train.py").read_text()
    alone = "float(weights[0]) if rank == 0 else mean(weights[0], f'alone{epoch}')"
    (trained.root / "train.py").write_text(script.replace("float(np.linalg.norm(weights)) + rank", alone))
    answer, _ = ask(trained, "norm", timeout_seconds=6.0)
    assert answer.cell.status == "failed"
    assert "time limit" in answer.cell.sentence
    assert "statement `norm`" in answer.cell.sentence, answer.cell.sentence
    assert "rank 1" in answer.cell.sentence


def test_a_statement_that_needs_all_ranks_runs_on_all(trained: Ranks) -> None:
    script = (trained.root / "train.py").read_text()
    together = "mean(weights[0] + rank, f'asked{epoch}')"
    (trained.root / "train.py").write_text(script.replace("float(np.linalg.norm(weights)) + rank", together))
    answer, _ = ask(trained, "norm")
    assert answer.cell.fidelity == "exact", answer.cell.sentence
    with trained.open() as workspace:
        frame = workspace.store.dataframe("norm", ranks="all")
    by_rank = {rank: part["norm"].dropna().tolist() for rank, part in frame.groupby("rank")}
    assert by_rank[0] == by_rank[1]
    assert len(by_rank[0]) == 4


def test_a_run_of_two_ranks_can_be_verified(trained: Ranks) -> None:
    with trained.open() as workspace:
        (run,) = workspace.sync().runs
        found = verify_run(workspace, run.key, audit=True)
    assert found.good, found.sentence
    assert found.fidelity == "exact"
    assert "32 records" in found.sentence, "those of both ranks"


def test_a_rank_whose_record_differs_makes_the_replay_diverged_and_is_named(trained: Ranks) -> None:
    (run,) = trained.runs()
    journal = trained.root / f".flor/runs/{run}/journal.1.jsonl"
    lines = journal.read_bytes().split(b"\n")
    at = next(i for i, line in enumerate(lines) if line.startswith(b"[2,"))
    number, context, value = lines[at].strip(b"[]").split(b",")
    lines[at] = b"[%s,%s,%s]" % (number, context, repr(float(value) + 0.5).encode())
    journal.write_bytes(b"\n".join(lines))
    answer, _ = ask(trained, "norm")
    assert answer.cell.fidelity == "diverged", answer.cell
    assert "rank 1" in answer.cell.sentence
    with trained.open() as workspace:
        assert rows(workspace, "norm") == []
    journal.unlink()
    lacking, _ = ask(trained, "norm")
    assert lacking.cell.status == "refused", lacking.cell
    assert "trained by 2 ranks together, and rank 1 left no journal here" in lacking.cell.sentence


HEAD, _, BODY = SCRIPT.partition("random = np")
WRITES = '            flor.log("weight", float(weights.sum()))\n'
MORE = f"{WRITES}            own(rank).write_text(repr(float(weights.sum())))\n"
LOSS = '        flor.log("loss"'
KEPT = '        #? flor.log("kept", float(own(rank).read_text()))\n'
MADE = (
    HEAD.replace(
        'rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])', "import multiprocessing"
    ).replace("def mean(value, what):", "def mean(value, what):\n    rank, size = int(os.environ['RANK']), 2")
    + "def own(rank):\n    return Path(os.environ['TMPDIR'], f'weight.{rank}')\n\n"
    + "def train(rank, results):\n    size = 2\n    os.environ.update(RANK=str(rank), WORLD_SIZE='2')\n"
    + "".join(
        f"    {line}\n"
        for line in ("random = np" + BODY.replace(WRITES, MORE).replace(LOSS, KEPT + LOSS)).splitlines()
    )
    + """
    results.put(rank)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    results = context.Queue()
    children = [context.Process(target=train, args=(rank, results)) for rank in range(2)]
    for child in children:
        child.start()
        time.sleep(2 * own("apart").exists())
    if len(sys.argv) > 2:
        print(sorted(results.get() for _ in children))
    [child.join() for child in children]
    sys.exit(max(child.exitcode for child in children))
"""
)


def train_made(ranks: Ranks, *arguments: str) -> None:
    ranks.commit({"train.py": without_asked(MADE)})
    ranks.run("train.py", *arguments, TMPDIR=str(ranks.root.parent))
    (ranks.root / "train.py").write_text(MADE.replace(ASKED, ""))


@pytest.mark.parametrize("how", [("fork",), ("spawn", "waits"), ("forkserver", "waits")])
def test_ranks_that_the_script_makes_are_made_again(
    ranks: Ranks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: tuple[str, ...],
    oracle: dict[str, Rows],
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    train_made(ranks, *how)
    answer, report = ask(ranks, "norm")
    assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell
    assert emitted(ranks, report, "weight") == {0: 0, 1: 0}
    step, _ = ask(ranks, "noise", iterations={"epoch": (1,)})  # the script waits for results that don't come
    assert step.cell.fidelity == "exact", step.cell
    # What the steps wrote last is there, outside the checkout: it is of the last epoch, whatever is skipped.
    kept, report = ask(ranks, "kept")
    assert kept.cell.fidelity == "exact", kept.cell
    assert emitted(ranks, report, "weight") == {0: 12, 1: 12}
    with ranks.open() as workspace:
        assert rows(workspace, "norm") == oracle["norm"]
        assert rows(workspace, "noise") == [row for row in oracle["noise"] if row[1] == 1]
        last_weights = [(rank, epoch, w) for rank, epoch, step, w in rows(workspace, "weight") if step == 2]
        assert rows(workspace, "kept") == last_weights


def test_a_rank_that_begins_late_reads_what_an_earlier_one_has_said(
    ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    train_made(ranks, "spawn", "waits")
    (
        tmp_path / "weight.apart"
    ).touch()  # the first rank has come to its first step before the second one is there
    answer, _ = ask(ranks, "noise", iterations={"epoch": (1,)})
    assert answer.cell.fidelity == "exact", answer.cell


def test_a_rank_that_the_script_made_fails_by_its_name(
    ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    train_made(ranks, "fork")
    newest = ranks.root / "train.py"
    bad = "0.0 if rank == 0 or epoch < 1 else {}"
    plain = newest.read_text()
    newest.write_text(
        plain.replace("float(np.linalg.norm(weights)) + rank", bad.format("os.kill(os.getpid(), 9)"))
    )
    answer, _ = ask(ranks, "norm", allow_effects=True, timeout_seconds=20.0)
    assert answer.cell.status == "failed"
    assert "rank 1" in answer.cell.sentence, answer.cell
    newest.write_text(plain.replace("float(np.linalg.norm(weights)) + rank", bad.format("time.sleep(600)")))
    answer, _ = ask(ranks, "norm", allow_effects=True, timeout_seconds=3.0)
    assert "statement `norm" in answer.cell.sentence, answer.cell
    assert "rank 1" in answer.cell.sentence
