"""Several processes are one training run where they are ranks of one, and several where they are not. No torch needed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from flor_dagster.recording import ranks as rank_module
from flor_dagster.recording.layout import run_folder
from flor_dagster.replay.model import Question
from tests.distributed.rank_lab import Ranks, finish

SCRIPT = """\
import os, sys, time
import flor_dagster as flor
rank = int(os.environ.get("RANK", 0))
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        time.sleep(float(os.environ.get("SLEEP", 0)))
    flor.log("loss", 10.0 * rank + epoch)
    if rank == 1:
        flor.log("only_of_one", epoch)
if str(rank) in sys.argv[1:]:
    raise ValueError(f"rank {rank} gives up")
"""


def wait_for(what: object, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ranks_by_variables_are_one_run_with_one_version_and_a_journal_each(ranks: Ranks) -> None:
    ranks.commit({"train.py": SCRIPT})
    finish(ranks.rank(0, 2), ranks.rank(1, 2))
    ((run, journals),) = ranks.runs().items()
    assert journals == [0, 1]
    for rank in (0, 1):
        (header,) = ranks.of(run, rank, "flor")
        assert (header[2]["rank"], header[2]["world_size"], header[2]["launcher"]) == (rank, 2, "RANK")
    names = sorted(path.name for path in (ranks.root / f".flor/runs/{run}").iterdir())
    assert [name for name in names if not name.startswith("files")] == [
        "journal.0.jsonl",
        "journal.1.jsonl",
        "leader",
        "lock",
        "lock.1",
        "losses",
        "version.json",
    ]
    with ranks.open() as workspace:
        (row,) = workspace.sync().runs
        assert (row.status, row.reason) == ("finished", "")
        assert row.commit is not None


def test_the_view_shows_the_first_rank_unless_asked(ranks: Ranks) -> None:
    ranks.commit({"train.py": SCRIPT})
    finish(ranks.rank(0, 2), ranks.rank(1, 2))
    with ranks.open() as workspace:
        workspace.sync()
        store = workspace.store
        assert store.dataframe("loss")["loss"].tolist() == [0.0, 1.0]
        both = store.dataframe("loss", ranks="all")
        assert list(both.columns)[:2] == ["run", "rank"]
        assert list(zip(both["rank"], both["epoch"], both["loss"], strict=True)) == [
            (0, 0, 0.0), (0, 1, 1.0), (1, 0, 10.0), (1, 1, 11.0),
        ]  # fmt: skip
        assert store.dataframe("loss", ranks=[1])["loss"].tolist() == [10.0, 11.0]
        one = store.dataframe("loss", "only_of_one", ranks="all")
        assert one["only_of_one"].isna().tolist() == [True, True, False, False]
        assert one.attrs["empty"] == {}


def test_two_launches_of_one_launcher_are_two_runs(ranks: Ranks) -> None:
    ranks.commit({"train.py": SCRIPT})
    finish(ranks.rank(0, 2), ranks.rank(1, 2))
    finish(ranks.rank(1, 2), ranks.rank(0, 2))
    assert list(ranks.runs().values()) == [[0, 1], [0, 1]]


def test_two_launches_at_once_are_told_apart_by_their_rendezvous(ranks: Ranks) -> None:
    ranks.commit({"train.py": SCRIPT})
    finish(*(ranks.rank(r, 2, MASTER_PORT=port, SLEEP="0.05") for port in ("29500", "29501") for r in (0, 1)))
    assert list(ranks.runs().values()) == [[0, 1], [0, 1]]
    with ranks.open() as workspace:
        assert {row.status for row in workspace.sync().runs} == {"finished"}


def test_a_given_id_joins_ranks_whatever_started_them(ranks: Ranks) -> None:
    """As on two nodes, whose launchers are two processes; two machines can't be had here."""
    ranks.commit({"train.py": SCRIPT})
    inner = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, 'train.py']))"
    both = [
        ranks.start("-c", inner, RANK=str(r), WORLD_SIZE="2", FLOR_RUN_ID="aaaabbbbccccdddd") for r in (0, 1)
    ]
    finish(*both)
    assert ranks.runs() == {"aaaabbbbccccdddd": [0, 1]}


def test_without_a_rank_every_process_is_a_run_of_its_own(ranks: Ranks) -> None:
    ranks.commit({"train.py": SCRIPT})
    finish(ranks.start("train.py"), ranks.start("train.py", RANK="0", WORLD_SIZE="1"), ranks.start("train.py", RANK="2", WORLD_SIZE="2"))  # fmt: skip
    assert list(ranks.runs().values()) == [[0], [0], [0]]


def test_a_killed_rank_leaves_a_readable_run_that_says_which(ranks: Ranks) -> None:
    ranks.commit({"train.py": SCRIPT})
    zero, one = ranks.rank(0, 2, SLEEP="0.01"), ranks.rank(1, 2, SLEEP="30")
    finish(zero)
    wait_for(lambda: ranks.runs() and list(ranks.runs().values()) == [[0, 1]])
    wait_for(lambda: ranks.of(next(iter(ranks.runs())), 1, "l"))
    wait_for(lambda: list(ranks.root.glob(".flor/runs/*/version.json")))
    with ranks.open() as workspace:
        assert [row.status for row in workspace.sync().runs] == ["running"]
    os.kill(one.pid, signal.SIGKILL)
    one.communicate()
    with ranks.open() as workspace:
        workspace.sync()
        (row,) = workspace.runs()
        assert row.status == "lost"
        assert row.reason == "rank 1 lost: its process is gone without an end in its journal; rank 0 finished"
        assert workspace.store.dataframe("loss")["loss"].tolist() == [0.0, 1.0]


def test_a_run_whose_rank_failed_has_failed_and_says_what_became_of_each(ranks: Ranks) -> None:
    ranks.commit({"train.py": SCRIPT})
    children = [ranks.start("train.py", "1", RANK=str(r), WORLD_SIZE="3") for r in (0, 1)]
    for child in children:
        child.communicate()
    with ranks.open() as workspace:
        (row,) = workspace.sync().runs
    assert row.status == "failed"
    assert (
        row.reason == "rank 1 failed: ValueError: rank 1 gives up; rank 0 finished; rank 2 recorded nothing"
    )


def test_a_restart_of_torchrun_is_a_run_that_names_its_parent(ranks: Ranks) -> None:
    ranks.commit({"train.py": SCRIPT})
    for variables in ({}, {"FLOR_RUN_ID": "aaaabbbbccccdddd"}):
        for attempt in ("0", "1", "2"):
            more = {"TORCHELASTIC_RUN_ID": "job", "TORCHELASTIC_RESTART_COUNT": attempt, **variables}
            finish(*(ranks.rank(r, 2, **more) for r in (0, 1)))
    runs = list(ranks.runs())
    assert list(ranks.runs().values()) == [[0, 1]] * 6
    parents = [ranks.header(ranks.root / ".flor/runs" / run).get("parent") for run in runs]
    assert parents == ["", runs[0], runs[1], "", runs[3], runs[4]]
    assert runs[3] == "aaaabbbbccccdddd"


def test_a_run_that_only_a_later_rank_records_is_readable(ranks: Ranks) -> None:
    ranks.commit({"train.py": SCRIPT})
    finish(ranks.rank(1, 2))
    (ranks.root / "train.py").write_text(
        SCRIPT.replace("    if rank", '    flor.log("new", epoch)\n    if rank')
    )
    with ranks.open() as workspace:
        (row,) = workspace.sync().runs
        assert row.status == "finished"
        assert workspace.store.dataframe("loss", ranks="all")["rank"].tolist() == [1, 1]
        (answer,) = workspace.answer(Question(("new",))).cells
        assert "2 ranks" in answer.cell.sentence


MULTIPROCESSING = """\
import multiprocessing, os, sys
import flor_dagster as flor
if {outer}:
    flor.log("outer", 1.0)

def work(rank):
    if {ranks}:
        os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), "2"
    for epoch in flor.loop("epoch", range(2)):
        flor.log("loss", 10.0 * rank + epoch)
    if rank == {failing}:
        raise ValueError("no more")

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    children = [context.Process(target=work, args=(rank,)) for rank in (0, 1)]
    [child.start() for child in children]
    [child.join() for child in children]
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("failing", [None, 1])
def test_children_that_become_ranks_are_one_run_that_ends_as_they_do(
    ranks: Ranks, method: str, failing: int | None
) -> None:
    ranks.commit(
        {"train.py": MULTIPROCESSING.format(method=method, outer=False, ranks=True, failing=failing)}
    )
    ranks.run("train.py")
    ((_, journals),) = ranks.runs().items()
    assert journals == [0, 1]
    with ranks.open() as workspace:
        (row,) = workspace.sync().runs
        assert row.status == ("failed" if failing else "finished")
        if failing:
            assert row.reason == "rank 1 failed: ValueError: no more; rank 0 finished"
        assert workspace.store.dataframe("loss", ranks="all")["loss"].tolist() == [0.0, 1.0, 10.0, 11.0]


def test_forked_children_that_are_no_ranks_record_nothing(ranks: Ranks) -> None:
    ranks.commit({"train.py": MULTIPROCESSING.format(method="fork", outer=True, ranks=False, failing=None)})
    ranks.run("train.py")
    ((run, journals),) = ranks.runs().items()
    assert journals == [0]
    assert [p[2] for p in ranks.entries(run, 0) if isinstance(p[0], int)] == [1.0]


def test_ranks_forked_from_a_recording_process_name_its_run_as_their_parent(ranks: Ranks) -> None:
    ranks.commit({"train.py": MULTIPROCESSING.format(method="fork", outer=True, ranks=True, failing=None)})
    ranks.run("train.py")
    (outer, inner) = ranks.runs()
    assert list(ranks.runs().values()) == [[0], [0, 1]]
    assert ranks.header(ranks.root / ".flor/runs" / inner)["parent"] == outer


def test_a_process_that_becomes_a_rank_late_says_so_and_is_not_replayed(ranks: Ranks) -> None:
    late = 'import os\nimport flor_dagster as flor\nflor.log("early", 1)\nos.environ.update(RANK="1", WORLD_SIZE="2")\n'
    late += 'for epoch in flor.loop("epoch", range(2)):\n    flor.log("loss", epoch)\n'
    ranks.commit({"train.py": late})
    assert "became rank 1 of 2 after its first flor call" in ranks.run("train.py")
    (ranks.root / "train.py").write_text(late + '    flor.log("new", epoch)\n')
    with ranks.open() as workspace:
        (row,) = workspace.sync().runs
        assert any("became rank" in message for _, message in workspace.store.warnings(row.id))
        (answer,) = workspace.answer(Question(("new",))).cells
    assert answer.cell.status == "refused"


def test_a_place_of_ranks_long_gone_is_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    first = rank_module.find_topology(tmp_path)
    folder = run_folder(tmp_path, first.run_id)
    header = '["flor",1,{"started":%d}]\n'
    (folder / "journal.0.jsonl").write_text(header % time.time_ns())
    (folder / "lock").touch()
    monkeypatch.setenv("RANK", "1")
    assert rank_module.find_topology(tmp_path).run_id == first.run_id
    (folder / "journal.1.jsonl").unlink()
    (folder / "journal.0.jsonl").write_text(header % (time.time_ns() - 600 * 10**9))
    assert rank_module.find_topology(tmp_path).run_id != first.run_id
