"""A rebuild never replaces what the database holds by less, and names what it would lose."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flor_dagster.errors import StoreError
from flor_dagster.store import LogStore
from flor_dagster.store.damage import is_damaged
from flor_dagster.store.deciding import WouldLoseError
from tests.store.store_lab import Journal, Lab, cell_row, replay_row


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / ".flor"


def trained(home: Path) -> tuple[Path, Path]:
    """A run and a replay of it, taken in; their journals."""
    with LogStore.open(home / "flor.db", home=home) as store:
        lab = Lab(home, store)
        journal: Journal = lab.journal()
        for epoch in journal.loop("epoch", 5):
            journal.log("loss", float(epoch), line=3)
        journal.entry("k", {"name": "1", "loop": 1, "index": None, "t": 1})
        journal.end()
        run = lab.ingest(journal)
        statement = store.add_statement("grad", "g", file="train.py", line=9, identity="i")
        replay = lab.replay(run.id, "rp1", {"train.py": {"9": "grad"}})
        for epoch in replay.loop("epoch", 5):
            replay.log("grad", float(epoch), line=9)
        replay.end()
        store.commit_replay(replay_row(run.id), [replay.path], [cell_row(run.id, statement.id, rows=5)])
        return journal.path, replay.path


def content(home: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(home / "flor.db") as connection:
        return connection.execute("SELECT at, ctx, num FROM records ORDER BY journal, at").fetchall()


def cut_short(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-4]))


def damage_one_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    index = next(i for i, line in enumerate(lines) if line.endswith(b",3.0]\n"))
    lines[index] = b"#" * (len(lines[index]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("damage", [cut_short, damage_one_line])
@pytest.mark.parametrize("which", [0, 1], ids=["run", "replay"])
def test_a_journal_that_gives_less_than_the_database_has_of_it_is_named_and_nothing_is_replaced(
    home: Path, damage: object, which: int
) -> None:
    paths = trained(home)
    before = content(home)
    damage(paths[which])  # type: ignore[operator]
    with LogStore.open(home / "flor.db", home=home) as store:
        with pytest.raises(WouldLoseError, match=r"\d of 5 values of training run .*journal\.0\.jsonl"):
            store.rebuild()
        assert content(home) == before
        lost = store.rebuild(accept_loss=True)
        assert any("of 5 values" in words for words in lost.missing)
    assert len(content(home)) < len(before)


def test_a_database_that_can_not_be_looked_at_is_no_damaged_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(home)
    path = home / "flor.db"
    assert not is_damaged(path)
    path.with_name("flor.db").rename(home / "kept")
    path.mkdir()  # can't be opened, as on a disk that has no room for the side files
    with pytest.raises(StoreError, match="left as it is"):
        is_damaged(path)
    path.rmdir()
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 50_000)
    assert is_damaged(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE records SET num = 3.5 WHERE num = 3.0 AND journal = 1", "1 of 5 values are not what"),
        ("UPDATE records SET num = 3.5 WHERE num = 3.0 AND journal = 2", "1 of 5 values are not what"),
        ("UPDATE records SET ctx = 1 WHERE ctx = 2 AND journal = 1", "1 of 5 values are not what"),
        ("DELETE FROM records WHERE num = 2.0 AND journal = 1", "1 of 5 values of the journal are missing"),
        ("UPDATE contexts SET idx = 9 WHERE ctx = 3", "the loop context 3 is not what"),
        ("UPDATE names SET name = 'lost' WHERE name = 'loss'", "values of 'loss' are called 'lost'"),
    ],
)
def test_a_flipped_bit_in_the_database_is_found_and_a_rebuild_mends_it(
    home: Path, change: str, words: str
) -> None:
    trained(home)
    with LogStore.open(home / "flor.db", home=home) as store:
        assert store.differences() == []
    before = content(home)
    with sqlite3.connect(home / "flor.db") as connection:
        assert connection.execute(change).rowcount
    with LogStore.open(home / "flor.db", home=home) as store:
        (found,) = store.differences()
        assert words in found
        store.rebuild(accept_loss=True)
        assert store.differences() == []
    assert content(home) == before


def test_the_journal_of_a_replay_that_a_later_one_answered_anew_is_missed_by_nobody(home: Path) -> None:
    _, first = trained(home)
    with LogStore.open(home / "flor.db", home=home) as store:
        (run,) = store.runs()
        statement = store.statement("grad")
        again = Lab(home, store).replay(run.id, "rp2", {"train.py": {"9": "grad"}})
        for epoch in again.loop("epoch", 5):
            again.log("grad", epoch + 0.5, line=9)
        again.end()
        later = datetime(2026, 1, 2, tzinfo=UTC)
        answer = cell_row(run.id, statement.id, rows=5, replay_id="rp2", updated=later)
        store.commit_replay(replay_row(run.id, "rp2"), [again.path], [answer])
        first.unlink()
        assert store.differences() == []
        rebuilt = store.rebuild()
        assert (rebuilt.missing, rebuilt.problems) == ((), ())
        assert list(store.dataframe("grad")["grad"]) == [epoch + 0.5 for epoch in range(5)]
        assert {replay.id: replay.status for replay in store.replays()} == {
            "rp1": "finished",
            "rp2": "finished",
        }
        again.path.unlink()
        assert any("can't be read" in words for words in store.differences())
        with pytest.raises(WouldLoseError, match="is gone, and its values with it"):
            store.rebuild()
