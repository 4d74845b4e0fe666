"""Whatever stands in one run's files, the other runs are read, and the bad one is named: no traceback, no hang."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flor_dagster.errors import FlorError
from flor_dagster.recording.checkpoints import CheckpointStore, Manifest
from flor_dagster.recording.losses import Loss, Losses, read_losses
from flor_dagster.replay.inputs import read_inputs
from flor_dagster.replay.record import read_record, read_run
from flor_dagster.store import LogStore
from flor_dagster.store.ledger import Ledger
from flor_dagster.store.lines import read_lines
from tests.cli.hostile_lab import WHOLE, by_grammar, by_mutation, copy_of
from tests.store.store_lab import Lab, cell_row, replay_row

FILES = ("journal", "replay", "ledger", "files", "version", "losses", "manifest")
OF_STORE = ("journal", "replay", "ledger", "version")
SECONDS = 10.0
BYTES = 1 << 31


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of two runs with all kinds of files."""
    home = tmp_path_factory.mktemp("lived") / ".flor"
    with LogStore.open(home / "flor.db", home=home) as store:
        lab = Lab(home, store)
        for number in range(2):
            journal = lab.journal(argv=["train.py"], tags={"a": "b"})
            journal.entry("a", "lr", 0.1, 0.2, "given")
            journal.entry("m", {"train.py": "0" * 40})
            journal.entry("r", "HOME", "own", "1" * 40, None)
            for epoch in journal.loop("epoch", 2):
                for step in journal.loop("step", 2):
                    journal.log("loss", float(step), line=3)
                journal.log("shape", {"a": [epoch]}, line=4)
                journal.entry("k", {"name": f"1.{epoch}", "loop": 1, "index": epoch, "t": 1, "digest": "d"})
            journal.entry("u", 1, None, ["a file is open"])
            journal.entry("o", 0, 1, "print", "stdout", "hello")
            journal.entry("t", {"c": "d"})
            journal.end()
            folder = journal.path.parent
            Losses(folder, 0).note(Loss(2, "failed", "full", 5))
            notes = [[{"begun": 1}], ["data.txt", 3, 5], ["kept.txt", 3, 5, "1"], [{"asked": "d", "t": 1, "own": True, "is": "file", "size": 3, "time": 4}],
                     [{"listed": ".", "t": 1, "own": True, "names": ["a"]}], [{"digests": {"data.txt": "00"}}]]  # fmt: skip
            (folder / "files.jsonl").write_text("".join(json.dumps(one) + "\n" for one in notes))
            (folder / "kept").mkdir()
            (folder / "kept" / "1").write_text("old")
            run = lab.ingest(journal)
            manifest = Manifest(
                run.id, "1", [["list", []]], {"name:x": ["v", 0]}, {"name:x": "d"}, {}, (), {}, {}
            )
            CheckpointStore(home / "checkpoints").write(manifest, {})
            if number == 0:
                statement = store.add_statement("grad", "g", file="train.py", line=9, identity="i")
                replay = lab.replay(run.id, "rp1", {"train.py": {"9": "grad"}})
                for epoch in replay.loop("epoch", 2):
                    replay.log("grad", float(epoch), line=9)
                replay.end()
                store.commit_replay(
                    replay_row(run.id), [replay.path], [cell_row(run.id, statement.id, rows=2)]
                )
    return home


def victim_of(home: Path) -> tuple[str, str]:
    first, other = sorted(path.name for path in (home / "runs").iterdir())
    return first, other


def target_of(home: Path, file: str) -> Path:
    first, _ = victim_of(home)
    return {
        "journal": home / "runs" / first / "journal.0.jsonl",
        "replay": home / "replays" / "rp1" / "journal.0.jsonl",
        "ledger": home / "ledger.jsonl",
        "files": home / "runs" / first / "files.jsonl",
        "version": home / "runs" / first / "version.json",
        "losses": home / "runs" / first / "losses",
        "manifest": home / "checkpoints" / "manifests" / first / "1.json",
    }[file]


def quietly(read: Callable[[], object]) -> None:
    """It can be read, or an error of ours says why not."""
    with contextlib.suppress(FlorError):
        read()


def read_all(home: Path, file: str, *, anew: bool) -> None:
    """Everything that commands read, with or without the database that knew the files before."""
    first, other = victim_of(home)
    if anew:
        for path in home.glob("flor.db*"):
            path.unlink()
    try:
        with LogStore.open(home / "flor.db", home=home) as store:
            store.ingest_all(home)
            runs = store.runs()
            if file != "ledger":
                assert other in {run.id for run in runs}, store.problems
                assert len(store.dataframe("loss", runs=[other])) == 4
            assert first in {run.id for run in runs} or store.problems or not anew or file == "ledger"
            for run in runs:
                store.warnings(run.id), store.loops(run.id), store.contexts(run.id), store.records(run.id)
                (
                    store.call_sites(run.id),
                    store.checkpoints(run.id),
                    store.uncaptured(run.id),
                    store.output(run.id),
                )
            store.dataframe(), store.cells(), store.statements(), store.replays()
            quietly(store.rebuild)
    except FlorError:
        assert file == "ledger"


def read_by_itself(home: Path, file: str) -> None:
    """What the readers of one file make of it."""
    first, other = victim_of(home)
    target = target_of(home, file)
    if file in ("journal", "replay"):
        quietly(lambda: read_record(target))
        quietly(lambda: read_lines(target))
    elif file == "files":
        quietly(lambda: read_inputs(home, first, read_run(home / "runs" / other)))
    elif file == "losses":
        read_losses(home / "runs" / first)
    elif file == "ledger":
        list(Ledger(target).read())
        quietly(Ledger(target).id)
    elif file == "manifest":
        checkpoints = CheckpointStore(home / "checkpoints")
        quietly(lambda: checkpoints.read(first, "1"))
        quietly(lambda: checkpoints.summary(first, "1"))


def odd(data: bytes, file: str, number: int) -> bytes:
    chance = random.Random(f"{file} {number}")
    return (by_grammar if chance.random() < 0.7 else by_mutation)(data, chance)


def attack(lived: Path, work: Path, file: str, number: int) -> None:
    home = copy_of(lived, work)
    target = target_of(home, file)
    if number < len(WHOLE):
        WHOLE[number](target)
    else:
        target.write_bytes(odd(target.read_bytes(), file, number))
    try:
        read_all(home, file, anew=bool(number % 2))
        if target.is_file() and not target.is_symlink():
            read_by_itself(home, file)
    except BaseException as error:
        error.add_note(f"{file} {number}")
        raise
    assert not Path("/tmp/flor-escaped").exists()


def attack_by_itself(home: Path, file: str, numbers: range) -> None:
    target = target_of(home, file)
    data = target.read_bytes()
    for number in numbers:
        target.write_bytes(odd(data, file, number))
        begin = time.monotonic()
        try:
            read_by_itself(home, file)
        except BaseException as error:
            error.add_note(f"{file} {number}")
            raise
        assert time.monotonic() - begin < SECONDS, (file, number)


@pytest.fixture
def bounded() -> object:
    """No file makes its reader take memory beyond a bound."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("file", FILES)
def test_an_odd_file_is_read_or_named(lived: Path, tmp_path: Path, file: str, bounded: object) -> None:
    attack_by_itself(copy_of(lived, tmp_path / "home"), file, range(100))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_ten_thousand_odd_files_are_read_or_named(
    lived: Path, tmp_path: Path, file: str, bounded: object
) -> None:
    attack_by_itself(copy_of(lived, tmp_path / "home"), file, range(10_000))


@pytest.mark.parametrize("file", OF_STORE)
def test_an_odd_file_stops_no_other_run(lived: Path, tmp_path: Path, file: str, bounded: object) -> None:
    for number in (0, 3, 5, 6, 7, 8):
        attack(lived, tmp_path / "home", file, number)


@pytest.mark.slow
@pytest.mark.parametrize("file", OF_STORE)
def test_many_odd_files_stop_no_other_run(lived: Path, tmp_path: Path, file: str, bounded: object) -> None:
    for number in range(250):
        attack(lived, tmp_path / "home", file, number)


def test_a_run_whose_folder_was_deleted_stops_no_other(lived: Path, tmp_path: Path) -> None:
    home = copy_of(lived, tmp_path / "home")
    first, _ = victim_of(home)
    shutil.rmtree(home / "runs" / first)
    read_all_but_record = home / "runs" / first
    with LogStore.open(home / "flor.db", home=home) as store:
        store.ingest_all(home)
        assert len(store.runs()) == 2
    with pytest.raises(FlorError, match="can't be read"):
        read_run(read_all_but_record)
