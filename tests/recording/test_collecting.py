"""Checkpoints are thinned evenly, and nothing that anyone still needs is ever deleted."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.recording.collecting import collect, lease, stored, thin_run
from flor_dagster.recording.retention import Stored, choose, steps_more, total_bytes
from flor_dagster.recording.writing import CheckpointWriter, Snapshot, finish_snapshot


def write(
    store: CheckpointStore, run: str, name: str, *arrays: Any, series: str = "s", number: int = 0
) -> None:
    capturer = Capturer(lambda _: False)
    capturer.add("name:arrays", list(arrays))
    capturer.copy()
    manifest, buffers = finish_snapshot(Snapshot(name, capturer, {}, (), {}, lambda *_: None), run)
    store.write(manifest, buffers, series, number)


def read_all(store: CheckpointStore, run: str, name: str) -> None:
    manifest = store.read(run, name)
    for node in manifest.nodes:
        if node[0] == "array":
            store.buffer(manifest, node[4])


def array(value: int) -> np.ndarray:
    return np.full(4000, value)


def series_of(count: int, run: str = "r") -> list[Stored]:
    return [Stored(run, f"1.{i}", "1", i, {f"{run}{i}": 100}, 10) for i in range(count)]


@given(st.integers(1, 200), st.integers(0, 25_000))
def test_the_first_and_the_last_stay_and_the_rest_is_spaced_evenly(count: int, most: int) -> None:
    everything = series_of(count)
    gone = choose(everything, ["r"], most)
    left = [c for c in everything if c not in gone]
    assert everything[0] in left
    assert everything[-2:] == left[-2:]
    assert total_bytes(left) <= max(most, 110 * 3)
    assert not gone or total_bytes(left) > most - 110, "no more than needed goes"
    gaps = [b.number - a.number for a, b in itertools.pairwise(left)]
    assert not gaps or max(gaps) <= 4 * max(1, min(gaps[:-2], default=1)) or len(left) <= 4


def test_older_runs_are_thinned_first_and_pinned_ones_never() -> None:
    old, new = series_of(20, "old"), series_of(20, "new")
    gone = choose([*old, *new], ["old", "new"], 40 * 110 - 500)
    assert {c.run for c in gone} == {"old"}
    pinned = [Stored(c.run, c.name, c.series, c.number, c.objects, c.own_bytes, pinned=True) for c in old]
    assert choose(pinned, ["old"], 0) == []


def test_what_several_refer_to_counts_once_and_is_freed_with_the_last() -> None:
    shared = [Stored("r", str(i), "1", i, {"data": 1000, str(i): 10}, 1) for i in range(10)]
    assert total_bytes(shared) == 1000 + 10 * 11
    assert len(choose(shared, ["r"], 1000 + 5 * 11)) == 5


def test_how_much_slower_a_replay_becomes_is_told() -> None:
    assert steps_more([0, 1, 2, 3], [0, 1, 2, 3]) == 0
    assert steps_more([0, 1, 2, 3], [0, 2]) == 0.5


def test_collecting_leaves_what_others_need_and_frees_the_rest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for number in range(10):
        write(store, "a", f"1.{number}", array(0), array(number + 1), series="1", number=number)
    write(store, "b", "1", array(0), array(3))
    before = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    planned = collect(store, ["a"], 0, plan=True)
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) == before
    done = collect(store, ["a"], 0)
    assert (done.checkpoints, done.freed) == (planned.checkpoints, planned.freed)
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) == before - done.freed
    assert store.names("a") == ["1.0", "1.8", "1.9"]
    for run in ("a", "b"):
        for name in store.names(run):
            read_all(store, run, name)
    collect(store, [], 0, gone=["a", "b"])
    assert not list(tmp_path.glob("objects/*/*"))


def test_a_run_that_is_recorded_or_replayed_keeps_its_checkpoints(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for number in range(6):
        write(store, "a", f"1.{number}", array(number), series="1", number=number)
    with lease(store, "a"):
        assert collect(store, ["a"], 0).held == ("a",)
        assert len(store.names("a")) == 6
    assert len(collect(store, ["a"], 0).checkpoints) == 3


def test_while_a_manifest_cannot_be_read_no_buffer_is_deleted(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for number in range(6):
        write(store, "a", f"1.{number}", array(number), series="1", number=number)
    path = store.manifest_path("a", "1.3")
    path.write_bytes(path.read_bytes()[:20])
    done = collect(store, ["a"], 0)
    assert list(done.unreadable) == [str(path)]
    assert len(list(tmp_path.glob("objects/*/*"))) == 6


def test_what_a_dead_writer_left_is_deleted_once_it_is_old(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    write(store, "a", "1", array(1))
    left = next(tmp_path.glob("objects/*")) / ".left.1.1"
    left.write_bytes(b"x")
    collect(store, [], 10**9)
    assert left.exists()
    os.utime(left, (time.time() - 10**6,) * 2)
    collect(store, [], 10**9)
    assert not left.exists()


def test_a_run_is_thinned_while_it_is_recorded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    writer = CheckpointWriter(store, "a", pytest.fail, most=5 * 33_000)
    for number in range(40):
        capturer = Capturer(lambda _: False)
        capturer.add("name:a", array(number))
        capturer.copy()
        writer.put(Snapshot(f"1.{number}", capturer, {}, (), {}, lambda *_: None, "1", number))
    writer.close()
    left, _ = stored(store)
    assert 3 <= len(left) <= 6
    assert total_bytes(left) <= 5 * 33_000
    assert len(list(tmp_path.glob("objects/*/*"))) == len(left)
    assert {c.number for c in left} >= {0, 38, 39}
    assert thin_run(store, "a", 10**9) == total_bytes(left)


def _writer(folder: str, run: str, seed: int) -> None:
    store, choice = CheckpointStore(Path(folder)), random.Random(seed)
    with lease(store, run):
        for number in range(40):
            write(
                store,
                run,
                f"1.{number}",
                *(array(choice.randrange(6)) for _ in range(3)),
                series="1",
                number=number,
            )
            read_all(store, run, f"1.{number}")


def _collector(folder: str, until: Any) -> None:
    store = CheckpointStore(Path(folder))
    while not until.is_set():
        # What the runs before have left goes all the time, so that buffers vanish and come again.
        collect(store, [], 0, gone=["old0", "old1", "a", "b"])
        time.sleep(0.001)


def test_writers_that_share_buffers_and_a_collector_never_harm_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    store, until = CheckpointStore(tmp_path), context.Event()
    for value in range(6):
        write(store, f"old{value % 2}", str(value), array(value))
    collector = context.Process(target=_collector, args=(str(tmp_path), until))
    writers = [context.Process(target=_writer, args=(str(tmp_path), run, i)) for i, run in enumerate("ab")]
    for process in (collector, *writers):
        process.start()
    for process in writers:
        process.join(120)
    until.set()
    collector.join(60)
    assert [p.exitcode for p in (collector, *writers)] == [0, 0, 0]
    for run in ("a", "b"):
        for name in store.names(run):
            read_all(store, run, name)
    collect(store, [], 0, gone=["a", "b", "old0", "old1"])
    assert not list(tmp_path.glob("objects/*/*"))
