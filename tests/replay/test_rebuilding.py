"""The database can be deleted, damaged or taken from an old copy: journals, ledger and repository give all of it back."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from flor_dagster.cli import cli
from flor_dagster.replay.model import Question
from flor_dagster.replay.reproducing import verify_run
from flor_dagster.store import LogStore, schema
from flor_dagster.store.models import CellRow
from tests.replay.conftest import Lab, lab

__all__ = ["lab"]

SCRIPT = """\
import sys
import flor_dagster as flor
lr = flor.arg("lr", 1.0)
state = [0.0] * 50
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        {rate}
        state = [value + lr * (step + i) for i, value in enumerate(state)]
        {inner}
    flor.log("loss", state[0])
    {outer}
if lr > 5:
    sys.exit(3)
"""
# Times at which something was taken in, and places that no run has reached: nothing that was recorded or decided.
LEFT_OUT = {"schema_version": ("applied",), "version_archives": ("saved",), "unsettled": ("news",)}


def tables(home: Path) -> dict[str, list[str]]:
    """Every row of every table, as text, in order."""
    found: dict[str, list[str]] = {}
    with LogStore.open(home / "flor.db", home=home) as store, store._database.read() as connection:
        for table in schema.metadata.sorted_tables:
            rows = [row._asdict() for row in connection.execute(select(table))]
            if table.name == "counters":
                rows = [row for row in rows if row["name"] != "news"]
            for row in rows:
                for column in LEFT_OUT.get(table.name, ()):
                    del row[column]
            found[table.name] = sorted(map(repr, rows))
    return found


def rebuild(lab: Lab, *arguments: str, status: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["rebuild", "--json", "--project", str(lab.root), *arguments])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which all was decided that can be: it is copied for each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOR_CACHE", str(tmp_path_factory.mktemp("cache")))
        lab = Lab(tmp_path_factory.mktemp("lived") / "p")
        plain = {"rate": "pass", "inner": "pass", "outer": "pass"}
        lab.commit({"train.py": SCRIPT.format(**plain)})
        lab.train(lr=1.0)
        lab.train(lr=9.0, fails=True)
        with lab.open() as workspace:
            workspace.sync()
        lab.commit({"train.py": SCRIPT.format(**plain | {"rate": "rate = lr / 2"})})
        lab.train(lr=2.0)
        more = {
            "rate": "rate = lr / 2",
            "outer": 'flor.log("total", sum(state))',
            "inner": 'flor.log("rate", rate)',
        }
        lab.write({"train.py": SCRIPT.format(**more)})
        lab.train(lr=3.0)
        more["outer"] += '\n    flor.log("most", max(state))\n    flor.log("total", sum(state) / 2)'
        lab.write({"train.py": SCRIPT.format(**more)})
        with lab.open() as workspace:
            for names in (("total", "rate"), ("most",)):
                report = workspace.answer(Question(names))
                assert not report.failed
            first, *_, last = workspace.runs()
            verify_run(workspace, last.key)
            total = workspace.store.statements(name="total")[0]
            excluded = CellRow(
                first.id, total.id, "excluded", None, "by hand: it was a test", 0, None, first.started
            )
            workspace.store.save_cell(excluded)
            workspace.close_question(total.key)
            workspace.store.begin_replay(workspace.store.replays()[0].__class__(
                "deadbeef", first.id, first.started, None, 1.0, "running", None, 0, 0, "s", {"a": [1, None]}
            ))  # fmt: skip
            workspace.store.fail_replay("deadbeef", "it was stopped")
            statuses = {cell.status for cell in workspace.store.cells()}
            assert statuses == {"recorded", "replayed", "refused", "excluded"}
        return lab.root


@pytest.fixture
def copy(lived: Path, lab: Lab) -> Lab:
    shutil.rmtree(lab.root)
    shutil.copytree(lived, lab.root, symlinks=True)
    return lab


def delete_database(home: Path) -> None:
    for path in home.glob("flor.db*"):
        path.unlink()


def test_a_deleted_database_comes_back_row_by_row(copy: Lab) -> None:
    home = copy.root / ".flor"
    before = tables(home)
    assert all(
        before[name] for name in ("records", "cells", "placements", "statement_forms", "replays", "versions")
    )
    delete_database(home)
    with copy.open() as workspace:  # any command does it
        workspace.sync()
        assert workspace.answer(Question(("most",))).complete, "nothing is computed again"
    after = tables(home)
    assert {name: after[name] for name in before if after[name] != before[name]} == {}
    assert rebuild(copy)["counts"]["training runs"] == 4
    assert tables(home) == before


def test_it_comes_back_after_collecting_and_with_the_repository_packed(copy: Lab) -> None:
    home = copy.root / ".flor"
    done = CliRunner().invoke(cli, ["gc", "--keep-bytes", "0", "--project", str(copy.root)])
    assert done.exit_code == 0, done.output
    subprocess.run(["git", "gc", "-q", "--prune=now"], cwd=copy.root, check=True)
    before = tables(home)
    rebuild(copy)
    delete_database(home)
    rebuild(copy)
    after = tables(home)
    # The journal of a verification holds no values: it was collected.
    assert len(before["journals"]) - len(after.pop("journals")) == 1
    del before["journals"]
    assert after == before


def test_a_damaged_database_is_put_away_and_made_anew(copy: Lab) -> None:
    home = copy.root / ".flor"
    before = tables(home)
    damaged = b"SQLite format 3\0" + b"\xff" * 50_000
    (home / "flor.db").write_bytes(damaged)
    said = CliRunner().invoke(cli, ["runs", "--project", str(copy.root)])
    assert said.exit_code == 1
    assert "flor rebuild" in said.output
    (away,) = rebuild(copy)["put_away"]
    assert Path(away).read_bytes() == damaged
    assert tables(home) == before


def test_an_old_copy_of_the_database_learns_what_was_decided_since(copy: Lab) -> None:
    home = copy.root / ".flor"
    with copy.open() as workspace:  # closing writes everything into the one file
        workspace.sync()
    old = (home / "flor.db").read_bytes()
    copy.train(lr=4.0)
    with copy.open() as workspace:
        workspace.sync()
        assert workspace.answer(Question(("most",))).complete
    before = tables(home)
    delete_database(home)
    (home / "flor.db").write_bytes(old)
    with copy.open() as workspace:
        workspace.sync()
    assert tables(home) == before


def test_what_the_database_alone_has_is_never_thrown_away_unasked(copy: Lab) -> None:
    home = copy.root / ".flor"
    before = tables(home)
    shutil.rmtree(next((home / "runs").iterdir()))
    error = rebuild(copy, status=1)["error"]
    assert (error["kind"], "1 training runs" in error["message"]) == ("WouldLoseError", True)
    assert tables(home) == before
    assert rebuild(copy, "--accept-loss", status=1)["lost"]
    assert len(tables(home)["runs"]) == len(before["runs"]) - 1


def test_a_project_without_a_ledger_gets_one_of_what_its_database_holds(copy: Lab) -> None:
    home = copy.root / ".flor"
    before = tables(home)
    (home / "ledger.jsonl").unlink()
    copy.train(lr=4.0)
    with copy.open() as workspace:
        workspace.sync()
    after = tables(home)
    assert len(after["runs"]) == len(before["runs"]) + 1
    delete_database(home)
    rebuild(copy)
    assert tables(home)["cells"] == after["cells"]
    assert len(tables(home)["records"]) == len(after["records"])
