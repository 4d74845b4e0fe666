"""A store opens, is migrated, and says clearly why it can't be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from flor_dagster.errors import StoreError, UnknownNameError
from flor_dagster.store import LogStore, schema
from flor_dagster.store.database import normalise
from flor_dagster.store.migrations import NEWEST
from flor_dagster.store.models import PlacementRow
from tests.store.store_lab import COMMIT, Lab, cell_row


def test_opening_again_keeps_everything(lab: Lab) -> None:
    lab.store.add_statement("loss", "x", file="train.py")
    with LogStore.open(lab.store._database.url.render_as_string(hide_password=False)) as again:
        assert [statement.key for statement in again.statements()] == ["loss"]
        with again._database.read() as connection:
            assert connection.execute(select(schema.schema_version.c.version)).scalars().all() == [NEWEST]


def test_a_store_of_a_later_release_is_refused(lab: Lab) -> None:
    with lab.store._database.write() as connection:
        connection.execute(insert(schema.schema_version).values(version=NEWEST + 1, applied=0))
    with pytest.raises(StoreError, match="Update flor-dagster"):
        LogStore.open(lab.store._database.url.render_as_string(hide_password=False))


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "flor.db"
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StoreError, match="journals hold everything"):
        LogStore.open(path)
    assert path.read_bytes().startswith(b"this is no database")


@pytest.mark.parametrize("url", ["mysql://a:secret@b/c", "sqlite://", "::://"])
def test_a_place_that_is_no_store_is_refused_without_the_password(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        normalise(url)
    assert "secret" not in str(caught.value)


def test_postgresql_urls_use_the_driver_that_is_required() -> None:
    assert normalise("postgresql://u@h/d").drivername == "postgresql+psycopg"
    assert normalise("postgresql+psycopg2://u@h/d").drivername == "postgresql+psycopg"


def test_the_rows_can_be_imported_without_pandas_and_sqlalchemy() -> None:
    code = (
        "import sys, flor_dagster.store.models; import flor_dagster.store;"
        "sys.exit(bool({'pandas', 'sqlalchemy', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_keys_are_never_given_out_twice(lab: Lab) -> None:
    store = lab.store
    keys = [store.add_statement("a b", str(n), file="t.py").key for n in range(3)]
    assert keys == ["a%20b", "a%20b:2", "a%20b:3"]
    with store._database.write() as connection:
        connection.execute(schema.statements.delete())
    assert store.add_statement("a b", "again", file="t.py").key == "a%20b:4"


def test_identities_lead_to_their_statement(lab: Lab) -> None:
    store = lab.store
    row = store.add_statement(
        "loss", "x", file="t.py", loops=("epoch", "step"), identity="one", question=True
    )
    store.add_form(row.id, "two")
    assert (
        store.find_form("one")
        == store.find_form("two")
        == store.statement("loss")
        == store.statement("loss:1")
        == row
    )
    assert store.find_form("three") is None
    other = store.add_statement("acc", "y", file="t.py")
    store.add_form(other.id, "one")
    assert store.find_form("one") == row
    assert store.statements(questions=True) == [row]
    store.set_question(row.id, False)
    assert store.statements(questions=True) == []
    assert store.statements(name="acc") == [other]
    with pytest.raises(UnknownNameError, match="'loss'"):
        store.statement("los")


def test_a_link_made_before_the_line_was_reached_holds(lab: Lab) -> None:
    statement = lab.store.add_statement("loss", "x", file="train.py")
    assert lab.store.link_call_site(COMMIT, "train.py", 7, "loss", statement.id) == 0
    journal = lab.journal()
    journal.log("loss", 1.0, line=7)
    run = lab.ingest(journal)
    assert lab.store.call_sites(run.id)[0][-1] == statement.id


def test_placements_are_kept_by_propagator(lab: Lab) -> None:
    statement = lab.store.add_statement("loss", "x", file="train.py")
    row = PlacementRow(
        statement.id, COMMIT, "1", "refused", 0.5, "no variable 'w'", "no-variable", "", "train.py", None
    )
    lab.store.save_placement(row)
    lab.store.save_placement(row)
    assert lab.store.placements(statement.id) == [row]
    assert lab.store.placement(statement.id, COMMIT, "1") == row
    assert lab.store.placement(statement.id, COMMIT, "2") is None


def test_a_replay_of_another_run_is_not_taken_in(lab: Lab) -> None:
    from tests.store.store_lab import replay_row

    journal = lab.journal()
    journal.end()
    run = lab.ingest(journal)
    statement = lab.store.add_statement("norm", "w", file="train.py")
    stranger = lab.replay("someotherrun", "rp1", {})
    lab.store.begin_replay(replay_row(run.id, status="running"))
    with pytest.raises(StoreError, match="nothing was taken in"):
        lab.store.commit_replay(replay_row(run.id), [stranger.path], [cell_row(run.id, statement.id)])
    assert lab.store.cells() == []
    assert lab.store.replays()[0].status == "running"
    lab.store.fail_replay("rp1", "the child died")
    assert (lab.store.replays()[0].status, lab.store.replays()[0].sentence) == ("failed", "the child died")
