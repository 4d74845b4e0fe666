"""Journals become rows: all of them, once, whatever happens in between."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flor_dagster.errors import JournalError, UnknownNameError
from flor_dagster.recording.runlock import held_for_child
from flor_dagster.store import LogStore
from tests.store.store_lab import COMMIT, START, Journal, Lab


def _training(journal: Journal, epochs: int = 3, steps: int = 4) -> None:
    journal.entry("a", "lr", 0.1, 0.001, "given")
    for epoch in journal.loop("epoch", epochs):
        for step in journal.loop("step", steps):
            journal.log("loss", epoch + step / 10, line=3)
        journal.log("acc", epoch * 1.5, line=5)
    journal.entry("k", {"loop": 1, "index": 0, "bytes": 10})
    journal.entry("u", 2, None, ["a socket"])
    journal.entry("m", {"train.py": "b" * 40})
    journal.entry("w", "lost", "2 records were lost")


def test_a_run_is_all_that_its_journal_says(lab: Lab) -> None:
    journal = lab.journal("abcdefghijklmnop")
    _training(journal)
    journal.end()
    run = lab.ingest(journal)
    assert run.key == f"2023-11-14T22-13-20-{COMMIT[:8]}-abcd"
    assert (run.status, run.entrypoint, run.commit, run.origin, run.seconds) == (
        "finished",
        "train.py",
        COMMIT,
        "script",
        5.0,
    )
    assert run.args == {"lr": 0.1}
    assert run.ingested_seq == 1
    loops = lab.store.loops(run.id)
    assert [(loop.name, loop.how, loop.count) for loop in loops] == [
        ("epoch", "exhausted", 3), *[("step", "exhausted", 4)] * 3,
    ]  # fmt: skip
    assert (loops[2].parent_loop, loops[2].parent_index, loops[2].ordinal, loops[0].parent_loop) == (
        1,
        1,
        0,
        None,
    )
    records = lab.store.records(run.id)
    assert len(records) == 15
    assert [value for _, _, _, value in lab.store.records(run.id, names=["acc"])] == [0.0, 1.5, 3.0]
    assert [record[0] for record in records] == sorted(record[0] for record in records)
    assert lab.store.call_sites(run.id) == [
        (1, "loss", "train.py", "<module>", 3, 4, None), (2, "acc", "train.py", "<module>", 5, 4, None),
    ]  # fmt: skip
    assert len(lab.store.contexts(run.id)) == 15
    assert lab.store.checkpoints(run.id) == [{"loop": 1, "index": 0, "bytes": 10}]
    assert lab.store.uncaptured(run.id) == [(2, None, ["a socket"])]
    assert lab.store.warnings(run.id) == [("lost", "2 records were lost")]
    assert lab.store.modules(run.id) == {"train.py": "b" * 40}
    version = lab.store.version(COMMIT)
    assert (version.dirty, version.excluded) == (True, ((".env", "a likely secret"),))
    assert run.approximate == ""


def test_ingesting_again_changes_nothing(lab: Lab) -> None:
    journal = lab.journal()
    _training(journal)
    journal.end()
    first = lab.ingest(journal)
    before = (lab.store.records(first.id), lab.store.contexts(first.id), lab.store.dataframe("loss", "acc"))
    assert lab.ingest(journal) == first
    after = (lab.store.records(first.id), lab.store.contexts(first.id), lab.store.dataframe("loss", "acc"))
    assert before[:2] == after[:2]
    assert before[2].equals(after[2])
    assert lab.store.ingest_all(lab.home) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 2500), max_size=6), data=st.data())
def test_ingesting_in_pieces_is_ingesting_at_once(
    tmp_path: Path, cuts: list[int], data: st.DataObject
) -> None:
    folder = tmp_path / f"{time.monotonic_ns()}"
    with LogStore.open(folder / "a.db") as once, LogStore.open(folder / "b.db") as pieces:
        lab = Lab(folder, once)
        journal = lab.journal("abcdefghijklmnop")
        _training(journal, epochs=data.draw(st.integers(0, 4)), steps=data.draw(st.integers(0, 5)))
        journal.end()
        run = lab.ingest(journal)
        whole = journal.path.read_bytes()
        head = whole.index(b"\n") + 1
        for cut in sorted(cuts):
            journal.path.write_bytes(whole[: max(head, min(cut, len(whole)))])
            pieces.ingest_run(journal.path.parent)
        journal.path.write_bytes(whole)
        same = pieces.ingest_run(journal.path.parent)
        assert (same.key, same.args) == (run.key, run.args)
        for what in (
            LogStore.records,
            LogStore.contexts,
            LogStore.loops,
            LogStore.call_sites,
            LogStore.checkpoints,
        ):
            assert what(pieces, run.id) == what(once, run.id)
        if once.names() != ["lr"]:
            assert pieces.dataframe().equals(once.dataframe())


def test_a_torn_last_line_is_left_out_until_it_is_whole(sqlite_lab: Lab) -> None:
    lab = sqlite_lab
    journal = lab.journal()
    journal.log("loss", 1.0)
    os.write(journal.writer.fd, b"[1,0,2.")
    assert [r[3] for r in lab.store.records(lab.ingest(journal).id)] == [1.0]
    assert lab.store.ingest_all(lab.home) == []
    os.write(journal.writer.fd, b"5]\n")
    changed = lab.store.ingest_all(lab.home)
    assert [r[3] for r in lab.store.records(changed[0].id)] == [1.0, 2.5]


def test_a_shorter_journal_is_refused_and_nothing_is_lost(sqlite_lab: Lab) -> None:
    journal = sqlite_lab.journal()
    journal.log("loss", 1.0)
    run = sqlite_lab.ingest(journal)
    journal.path.write_bytes(journal.path.read_bytes()[:-5])
    with pytest.raises(JournalError, match="shorter"):
        sqlite_lab.ingest(journal)
    assert len(sqlite_lab.store.records(run.id)) == 1


def test_records_whose_context_was_torn_away_are_counted_not_shown(sqlite_lab: Lab) -> None:
    journal = sqlite_lab.journal()
    journal.log("loss", 1.0)
    journal.writer.write(b"[1,77,2.0]\n")
    journal.writer.write(b"[9,0,2.0]\n")
    journal.end()
    run = sqlite_lab.ingest(journal)
    assert len(sqlite_lab.store.records(run.id)) == 1
    [(code, message)] = sqlite_lab.store.warnings(run.id)
    assert code == "torn"
    assert message.startswith("2 record(s)")


MAKING_A_VERSION = """\
import sys, time
from pathlib import Path
from flor_dagster.recording.runlock import held_for_child
with held_for_child(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_run_waits_for_its_version_as_long_as_somebody_makes_it(sqlite_lab: Lab) -> None:
    journal = sqlite_lab.journal(commit=None, pid=1)
    journal.log("loss", 1.0)
    version = journal.path.parent / "version.json"
    command = [sys.executable, "-c", MAKING_A_VERSION, str(version)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert sqlite_lab.ingest(journal) is None
        assert sqlite_lab.store.ingest_all(sqlite_lab.home) == []
        child.kill()
    run = sqlite_lab.ingest(journal)
    assert (run.status, run.commit) == ("lost", None)
    assert "-nogit000-" in run.key
    assert len(sqlite_lab.store.dataframe("loss")) == 1


def test_a_killed_run_of_another_machine_waits_for_its_version_while_it_is_young(sqlite_lab: Lab) -> None:
    journal = sqlite_lab.journal(commit=None, host="elsewhere.invalid")
    assert sqlite_lab.ingest(journal) is None
    hours_ago = time.time() - 2 * 3600
    os.utime(journal.path, (hours_ago, hours_ago))
    assert sqlite_lab.ingest(journal).commit is None


def test_a_version_that_hangs_hides_a_run_for_a_while_only(sqlite_lab: Lab) -> None:
    journal = sqlite_lab.journal(commit=None, pid=1)
    with held_for_child(journal.path.parent / "version.json"):
        assert sqlite_lab.ingest(journal) is None
        hour_ago = time.time() - 3600
        os.utime(journal.path, (hour_ago, hour_ago))
        assert sqlite_lab.ingest(journal).commit is None


def test_a_version_that_could_not_be_kept_is_said(sqlite_lab: Lab) -> None:
    journal = sqlite_lab.journal(commit=None)
    (journal.path.parent / "version.json").write_text(json.dumps({"error": "git is not installed"}))
    run = sqlite_lab.ingest(journal)
    assert run.commit is None
    assert run.tags["flor/version_error"] == "git is not installed"


def test_a_run_outside_a_repository_needs_no_version(sqlite_lab: Lab) -> None:
    assert sqlite_lab.ingest(sqlite_lab.journal(commit=None, root=None)).commit is None


def test_a_killed_run_is_lost_and_its_data_is_in_the_view(sqlite_lab: Lab) -> None:
    journal = sqlite_lab.journal(pid=1)
    _training(journal)
    lock = str(journal.path.parent / "lock")
    hold = f"import fcntl,os,time; fcntl.lockf(os.open({lock!r}, os.O_RDWR), fcntl.LOCK_EX); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        running = sqlite_lab.ingest(journal)
        child.kill()
    assert (running.status, running.ingested_seq, running.ended) == ("running", 0, None)
    assert len(sqlite_lab.store.dataframe("loss")) == 12
    [lost] = sqlite_lab.store.ingest_all(sqlite_lab.home)
    assert (lost.status, lost.ingested_seq) == ("lost", 1)
    assert len(sqlite_lab.store.dataframe("loss")) == 12


def test_the_lock_of_a_run_of_this_process_is_never_touched(sqlite_lab: Lab) -> None:
    journal = sqlite_lab.journal(pid=os.getpid(), started=time.time_ns())
    lock = journal.path.parent / "lock"
    fd = os.open(lock, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    assert sqlite_lab.ingest(journal).status == "running"
    probe = f"import fcntl,os; fcntl.lockf(os.open({str(lock)!r}, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode != 0
    os.close(fd)


def test_an_older_run_with_our_process_number_is_not_ours(sqlite_lab: Lab) -> None:
    assert sqlite_lab.ingest(sqlite_lab.journal(pid=os.getpid(), host=socket.gethostname())).status == "lost"


def test_a_run_that_goes_on_after_it_was_thought_lost_gets_its_true_end_and_no_second_number(
    sqlite_lab: Lab,
) -> None:
    journal = sqlite_lab.journal()
    journal.log("loss", 1.0)
    assert sqlite_lab.ingest(journal).status == "lost"
    journal.log("loss", 2.0)
    journal.end()
    [run] = sqlite_lab.store.ingest_all(sqlite_lab.home)
    assert (run.status, run.ingested_seq) == ("finished", 1)
    assert sqlite_lab.store.dataframe("loss")["loss"].tolist() == [2.0]


def test_ranks_are_one_run_and_the_gravest_end_counts(lab: Lab) -> None:
    first = lab.journal("abcdefghijklmnop")
    second = lab.journal("abcdefghijklmnop", rank=1)
    for rank, journal in enumerate((first, second)):
        for step in journal.loop("step", 3):
            journal.log("loss", step + rank * 100.0)
    first.end()
    second.end("failed", "CUDA out of memory")
    run = lab.ingest(first)
    assert (run.status, run.reason) == ("failed", "rank 1 failed: CUDA out of memory; rank 0 finished")
    assert lab.store.dataframe("loss")["loss"].tolist() == [0.0, 1.0, 2.0]
    assert lab.store.dataframe("loss", rank=1)["loss"].tolist() == [100.0, 101.0, 102.0]
    assert len(lab.store.runs()) == 1


def test_a_replay_journal_is_never_a_run(sqlite_lab: Lab) -> None:
    journal = sqlite_lab.journal(mode="replay")
    with pytest.raises(JournalError, match="never a training run"):
        sqlite_lab.ingest(journal)


def test_a_folder_that_cannot_be_read_stops_no_other(sqlite_lab: Lab) -> None:
    bad = sqlite_lab.home / "runs" / "bad"
    bad.mkdir(parents=True)
    (bad / "journal.0.jsonl").write_text("hello\n")
    (sqlite_lab.home / "runs" / "empty").mkdir()
    journal = sqlite_lab.journal()
    journal.end()
    assert len(sqlite_lab.store.ingest_all(sqlite_lab.home)) == 1
    assert list(sqlite_lab.store.problems) == [str(bad)]


def test_keys_of_one_second_stay_apart(sqlite_lab: Lab) -> None:
    keys = {sqlite_lab.ingest(sqlite_lab.journal(f"aaaa{c * 12}")).key for c in "bcd"}
    assert len(keys) == 3


def test_runs_are_found_by_key_id_and_unique_beginning(lab: Lab) -> None:
    runs = [lab.ingest(lab.journal(f"{c * 16}", started=START + n * 10**10)) for n, c in enumerate("abc")]
    assert lab.store.run(runs[1].key) == lab.store.run(runs[1].id) == lab.store.run("bb") == runs[1]
    assert [run.id for run in lab.store.runs(latest=2)] == [runs[1].id, runs[2].id]
    assert lab.store.runs(ids=[runs[0].id], status=["lost", "finished"]) == [runs[0]]
    assert lab.store.runs(keys=[runs[2].key], entrypoint="train.py") == [runs[2]]
    with pytest.raises(UnknownNameError, match="several"):
        lab.store.run("2023-11")
    with pytest.raises(UnknownNameError, match="Did you mean"):
        lab.store.run(runs[0].key[:-1] + "x")


def test_the_cursor_sees_each_run_once_when_it_is_over(sqlite_lab: Lab) -> None:
    journals = [sqlite_lab.journal() for _ in range(3)]
    for journal in journals:
        journal.end()
    for journal in reversed(journals):
        sqlite_lab.ingest(journal)
    seen = sqlite_lab.store.runs_after(0, 2)
    assert [run.ingested_seq for run in seen] == [1, 2]
    assert [run.id for run in sqlite_lab.store.runs_after(2, 10)] == [journals[0].run]


def _ingest_many(url: str, home: str) -> int:
    with LogStore.open(url) as store:
        return sum(len(store.ingest_all(Path(home))) for _ in range(3))


def _at_once(url: str, lab: Lab) -> None:
    for _ in range(6):
        journal = lab.journal()
        _training(journal)
        journal.end()
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(_ingest_many, [(url, str(lab.home))] * 3)
    with LogStore.open(url) as store:
        assert sorted(run.ingested_seq for run in store.runs()) == [1, 2, 3, 4, 5, 6]
        assert len(store.dataframe("loss")) == 6 * 12
        assert [len(store.records(run.id)) for run in store.runs()] == [15] * 6


def test_processes_that_ingest_at_once_take_each_record_once(tmp_path: Path) -> None:
    _at_once(str(tmp_path / "new" / "flor.db"), Lab(tmp_path / ".flor", None))


def test_processes_that_ingest_at_once_take_each_record_once_on_postgresql(
    tmp_path: Path, new_database
) -> None:
    _at_once(new_database(), Lab(tmp_path / ".flor", None))


def test_a_failing_ingest_leaves_rows_and_watermark_as_they_were(sqlite_lab: Lab, monkeypatch) -> None:
    journal = sqlite_lab.journal()
    _training(journal)
    run = sqlite_lab.ingest(journal)
    before = sqlite_lab.store.records(run.id)
    journal.log("loss", 9.0)
    import flor_dagster.store.ingest as module

    def broken(*_args: object) -> None:
        raise RuntimeError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_settle_status", broken)
        with pytest.raises(RuntimeError):
            sqlite_lab.ingest(journal)
    assert sqlite_lab.store.records(run.id) == before
    sqlite_lab.ingest(journal)
    assert len(sqlite_lab.store.records(run.id)) == len(before) + 1


def test_a_store_rebuilt_from_the_journals_is_the_same(sqlite_lab: Lab, tmp_path: Path) -> None:
    for _ in range(2):
        journal = sqlite_lab.journal()
        _training(journal)
        journal.end()
    sqlite_lab.store.ingest_all(sqlite_lab.home)
    moved = tmp_path / "elsewhere"
    shutil.copytree(sqlite_lab.home / "runs", moved / "runs")
    with LogStore.open(tmp_path / "other.db") as other:
        other.ingest_all(moved)
        assert other.dataframe().equals(sqlite_lab.store.dataframe())
