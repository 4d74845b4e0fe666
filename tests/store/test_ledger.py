"""Database and ledger say the same, whenever the process dies between the two and whatever copy of either is put back."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from flor_dagster.errors import StoreError, UnknownNameError
from flor_dagster.store import LogStore
from flor_dagster.store.ledger import Ledger
from tests.store.store_lab import Lab, cell_row, replay_row


def opened(home: Path) -> LogStore:
    return LogStore.open(home / "flor.db", home=home)


def keys(home: Path) -> list[str]:
    with opened(home) as store:
        return [row.key for row in store.statements()]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / ".flor"


def test_what_is_only_looked_at_makes_no_ledger(home: Path) -> None:
    assert keys(home) == []
    assert not (home / "ledger.jsonl").exists()


def test_a_process_that_dies_before_the_database_commits_has_decided(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(home) as store:
        store.add_statement("a", "1", file="t.py")

        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("flor_dagster.store.deciding._set_mark", die)
        monkeypatch.setattr(Ledger, "void", lambda *_: None)  # a killed process takes nothing back
        with pytest.raises(KeyboardInterrupt):
            store.add_statement("a", "2", file="t.py")
        monkeypatch.undo()
    assert keys(home) == ["a", "a:2"]
    with opened(home) as store:
        assert store.add_statement("a", "3", file="t.py").key == "a:3"


def test_what_the_database_could_not_commit_is_taken_back(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(home) as store:
        store.add_statement("a", "1", file="t.py")
        real = Ledger.append

        def refuse(ledger: Ledger, decisions: Any) -> Any:
            real(ledger, decisions)
            raise OSError("no space left on device")

        monkeypatch.setattr(Ledger, "append", refuse)
        with pytest.raises(StoreError, match="nothing was decided"):
            store.add_statement("a", "2", file="t.py")
        monkeypatch.undo()
        batch = list(Ledger(home / "ledger.jsonl").read())[-1]
        Ledger(home / "ledger.jsonl").void(batch)
        assert [row.expression for row in store.statements()] == ["1"]
        store.add_statement("a", "3", file="t.py")
    (home / "flor.db").unlink()
    with opened(home) as store:
        assert [row.expression for row in store.statements()] == ["1", "3"]


def test_a_decision_that_fails_is_in_neither(home: Path) -> None:
    with opened(home) as store:
        store.add_statement("a", "1", file="t.py")
        before = (home / "ledger.jsonl").read_bytes()
        with pytest.raises(UnknownNameError):
            store.fail_replay("unknown", "x")
        assert (home / "ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_line_costs_itself_alone(home: Path, cut: int) -> None:
    with opened(home) as store:
        for number in range(3):
            store.add_statement("a", str(number), file="t.py")
    path = home / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    (home / "flor.db").unlink()
    assert keys(home) == ["a", "a:2"]
    with opened(home) as store:
        store.add_statement("a", "again", file="t.py")
    (home / "flor.db").unlink()
    assert keys(home) == ["a", "a:2", "a:3"]


def test_a_ledger_older_than_the_database_is_made_anew(home: Path) -> None:
    with opened(home) as store:
        store.add_statement("a", "1", file="t.py", identity="one")
    old = (home / "ledger.jsonl").read_bytes()
    with opened(home) as store:
        store.add_statement("a", "2", file="t.py", question=True)
    (home / "ledger.jsonl").write_bytes(old)
    assert keys(home) == ["a", "a:2"]
    (home / "flor.db").unlink()
    assert keys(home) == ["a", "a:2"]
    with opened(home) as store:
        assert store.find_form("one") == store.statement("a")
        assert store.statement("a:2").question


@pytest.mark.parametrize(
    ("text", "words"), [('["flor-ledger",9,{}]\n', "Update"), ("hello\n", "does not start")]
)
def test_a_foreign_or_later_ledger_is_refused(home: Path, text: str, words: str) -> None:
    home.mkdir()
    (home / "ledger.jsonl").write_text(text)
    with pytest.raises(StoreError, match=words):
        opened(home)
    assert (home / "ledger.jsonl").read_text() == text


def test_a_store_elsewhere_keeps_a_ledger_of_its_own(home: Path, tmp_path: Path) -> None:
    with opened(home) as store:
        store.add_statement("a", "1", file="t.py")
    with LogStore.open(tmp_path / "other.db", home=home) as store:
        assert store.statements() == []
        store.add_statement("b", "1", file="t.py")
    assert keys(home) == ["a"]
    assert len(list(home.glob("ledger*"))) == 2


def test_a_server_s_database_is_made_anew_too(lab: Lab) -> None:
    place = lab.store._database.url.render_as_string(hide_password=False)
    with LogStore.open(place, home=lab.home) as store:
        journal = lab.journal()
        for _ in journal.loop("epoch", 3):
            journal.log("loss", 0.5)
        journal.end()
        run = store.ingest_run(journal.path.parent)
        assert run is not None
        store.add_statement("loss", "x", file="train.py", identity="one")
        found = store.rebuild()
        assert found.counts["training runs"] == found.counts["statements"] == 1
        assert store.runs() == [run]
        assert store.dataframe("loss")["loss"].tolist() == [0.5] * 3
        assert json.loads((next(lab.home.glob("ledger*"))).read_text().splitlines()[0])[0] == "flor-ledger"


def _all_kinds(home: Path) -> None:
    with LogStore.open(home / "flor.db", home=home) as store:
        lab = Lab(home, store)
        journal = lab.journal()
        for epoch in journal.loop("epoch", 3):
            journal.log("loss", float(epoch), line=3)
        journal.end()
        run = lab.ingest(journal)
        statement = store.add_statement("grad", "g", file="train.py", line=9, identity="i")
        store.set_question(statement.id, True)
        replay = lab.replay(run.id, "rp1", {"train.py": {"9": "grad"}})
        for epoch in replay.loop("epoch", 3):
            replay.log("grad", float(epoch), line=9)
        replay.end()
        store.commit_replay(replay_row(run.id), [replay.path], [cell_row(run.id, statement.id, rows=3)])


def _differences(home: Path, tmp_path: Path) -> tuple[list[str], list[str]]:
    folder = tmp_path / f"compared{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    with LogStore.open(home / "flor.db", home=home) as store:
        return store.ledger_differences(folder)


def test_each_line_of_the_ledger_that_is_damaged_is_found_and_a_new_one_is_as_good(
    home: Path, tmp_path: Path
) -> None:
    _all_kinds(home)
    path = home / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) >= 4
    assert _differences(home, tmp_path) == ([], [])
    for number in range(1, len(lines)):
        damaged = b"#" * (len(lines[number]) - 1) + b"\n"
        path.write_bytes(b"".join([*lines[:number], damaged, *lines[number + 1 :]]))
        damage, other = _differences(home, tmp_path)
        assert "1 lines of it can't be read" in damage[0]
        assert other, f"line {number} says nothing that the others do not: {lines[number]!r}"
    path.unlink()
    with LogStore.open(home / "flor.db", home=home) as store:
        store.add_statement("more", "m", file="train.py", line=9, identity="m")
    assert _differences(home, tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE cells SET fidelity = 'unverified'", "1 cells are one thing in the database and another"),
        ("UPDATE statements SET name_id = (SELECT name_id FROM names WHERE name = 'loss')", "1 statements are one thing"),
        ("UPDATE replays SET sentence = 'x'", "1 replays are one thing"),
        ("DELETE FROM cells", "1 cells are in the ledger and not in the database"),
        ("UPDATE runs SET key = 'x'", "1 training runs are one thing"),
    ],
)  # fmt: skip
def test_a_flipped_bit_in_what_was_decided_is_found_and_a_rebuild_mends_it(
    home: Path, tmp_path: Path, change: str, words: str
) -> None:
    _all_kinds(home)
    with sqlite3.connect(home / "flor.db") as connection:
        assert connection.execute(change).rowcount
    damage, other = _differences(home, tmp_path)
    assert damage == []
    assert any(words in sentence for sentence in other), other
    with LogStore.open(home / "flor.db", home=home) as store:
        store.rebuild(accept_loss=True)
    assert _differences(home, tmp_path) == ([], [])


def test_a_run_that_was_first_named_while_it_ran_takes_no_other_ones_number_when_the_database_is_lost(
    home: Path, tmp_path: Path
) -> None:
    with opened(home) as store:
        lab = Lab(home, store)
        long = lab.journal(pid=os.getpid(), started=time.time_ns())
        long.log("loss", 1.0)
        assert lab.ingest(long).status == "running"
        for _ in range(3):
            short = lab.journal()
            short.log("loss", 2.0)
            short.end()
            lab.ingest(short)
        statement = store.add_statement("grad", "g", file="train.py", line=9, identity="i")
        replay = lab.replay(short.run, "rp1", {"train.py": {"9": "grad"}})
        replay.log("grad", 1.0, line=9)
        replay.end()
        store.commit_replay(replay_row(short.run), [replay.path], [cell_row(short.run, statement.id, rows=1)])
        long.end()
        lab.ingest(long)
        still = lab.journal()
        still.end()  # it was over when nobody looked
        before = {run.id: run.ingested_seq for run in store.runs()}
    (home / "flor.db").unlink()
    with opened(home) as store:
        store.ingest_all(home)
        after = {run.id: run.ingested_seq for run in store.runs()}
        assert [cell.rows for cell in store.cells()] == [1]
    assert after == before | {still.run: len(before) + 1}
    assert _differences(home, tmp_path) == ([], [])
