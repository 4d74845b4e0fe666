"""A person's word for a place: kept with the very place it was given for, in the database and in the ledger."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

from flor_dagster.store import LogStore
from flor_dagster.store.migrations import NEWEST
from flor_dagster.store.models import PlacementRow
from tests.store.store_lab import COMMIT

LIKELY = PlacementRow(
    0, COMMIT, "2.1", "placed", 12.0, "goes to train.py:9", "", "+ flor.log(…)", "train.py", 9, "likely",
    ("`w` is changed before it",), "the digest of a place",
)  # fmt: skip


def open_store(folder: Path) -> LogStore:
    return LogStore.open(folder / "flor.db", home=folder)


def placed(store: LogStore) -> PlacementRow:
    statement = store.add_statement("gap", "a - b", file="train.py", line=9)
    row = replace(LIKELY, statement_id=statement.id)
    store.save_placement(row)
    return row


def test_a_confirmation_holds_for_the_place_that_was_looked_at_and_for_no_other(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        row = placed(store)
        assert row.waits
        confirmed = store.confirm_place(row, "ada")
        assert (confirmed.said, confirmed.confirmed_by, confirmed.waits) == ("confirmed", "ada", False)
        assert store.placement(row.statement_id, COMMIT, "2.1") == confirmed
        moved = replace(row, place="another place", line=4)
        assert store.confirmed(moved).waits
        store.save_placement(moved)
        (kept,) = store.placements(row.statement_id)
        assert kept.said == "likely", "revoked with the place that it was given for"
        assert store.confirmed(replace(row, commit="b" * 40)).waits, "another version is another place"


def test_a_confirmation_survives_a_database_that_is_made_anew(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        row = placed(store)
        before = store.confirm_place(row, "ada")
        rebuilt = store.rebuild()
        assert rebuilt.counts["confirmed places"] == 1
        assert store.placement(row.statement_id, COMMIT, "2.1") == before
    (tmp_path / "flor.db").unlink()
    with open_store(tmp_path) as store:
        assert store.placement(row.statement_id, COMMIT, "2.1") == before
    (tmp_path / "ledger.jsonl").unlink()
    with open_store(tmp_path) as store:
        store.save_placement(replace(row, commit="b" * 40))  # a ledger of what the database holds
        store.rebuild()
        assert store.placement(row.statement_id, COMMIT, "2.1") == before


def test_a_store_without_verdicts_is_migrated_and_what_it_holds_is_unchecked(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        row = placed(store)
    with sqlite3.connect(tmp_path / "flor.db") as old:
        for view in ("log_view_long", "log_view_any"):
            old.execute(f"DROP VIEW {view}")
        old.execute("DROP TABLE confirmations")
        old.execute("ALTER TABLE runs DROP COLUMN approximate")
        old.execute("ALTER TABLE versions ADD COLUMN approximate_reason TEXT NOT NULL DEFAULT 'x.py changed'")
        old.execute("ALTER TABLE cells DROP COLUMN place")
        for column in ("verdict", "reasons", "place"):
            old.execute(f"ALTER TABLE placements DROP COLUMN {column}")
        old.execute("DELETE FROM schema_version")
        old.execute("INSERT INTO schema_version VALUES (6, 0)")
    old.close()
    with open_store(tmp_path) as store:
        (kept,) = store.placements(row.statement_id)
        assert (kept.verdict, kept.reasons, kept.said) == ("", (), None)
        assert [run.approximate for run in store.runs()] == ["x.py changed"] * len(store.runs())
        assert list(store.query("SELECT place FROM log_view_long").columns) == ["place"]
        store.save_placement(row)
        assert store.confirm_place(row, "ada").said == "confirmed"
    with sqlite3.connect(tmp_path / "flor.db") as new:
        assert new.execute("SELECT max(version) FROM schema_version").fetchone() == (NEWEST,)
    new.close()
