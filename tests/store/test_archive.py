"""The git objects of versions are kept once, in any database, and a store of the first schema learns to keep them."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import delete, inspect

from flor_dagster.store import LogStore, schema
from flor_dagster.store.database import Database
from flor_dagster.store.migrations import NEWEST
from tests.store.store_lab import COMMIT, Lab


def test_objects_are_kept_once_and_come_back_byte_for_byte(lab: Lab) -> None:
    journal = lab.journal()
    journal.log("loss", 1.0)
    lab.ingest(journal)
    store = lab.store
    assert store.unarchived_versions() == [COMMIT]
    everything = bytes(range(256))
    store.archive_version(COMMIT, {"a": everything, "b": None}, {"big.bin": "too big"})
    store.archive_version(COMMIT, {"a": b"never twice", "c": b"\\N\t\n"}, {})
    assert store.unarchived_versions() == []
    assert store.known_objects(["a", "b", "c", "d"]) == {"a", "b", "c"}
    assert [store.version_object(name) for name in "abcd"] == [everything, None, b"\\N\t\n", None]


def test_a_store_of_the_first_schema_is_migrated(tmp_path: Path) -> None:
    with LogStore.open(tmp_path / "flor.db"):
        pass
    database = Database(tmp_path / "flor.db")
    with database.write() as connection:
        schema.version_archives.drop(connection)
        schema.version_objects.drop(connection)
        connection.exec_driver_sql("ALTER TABLE cells DROP COLUMN coverage")
        connection.execute(delete(schema.schema_version))
        connection.execute(schema.schema_version.insert().values(version=1, applied=0))
    database.close()
    with LogStore.open(tmp_path / "flor.db") as store:
        assert store.unarchived_versions() == []
        assert store.cells() == []
    database = Database(tmp_path / "flor.db")
    with database.read() as connection:
        assert inspect(connection).has_table("version_objects")
        assert NEWEST in connection.execute(schema.schema_version.select()).scalars().all()
    database.close()
