"""Several processes that ask at once register one statement once, and compute no cell twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flor_dagster.propagation import find_statements
from flor_dagster.replay.linking import Linker, Located
from flor_dagster.store import LogStore
from flor_dagster.versions import Repository
from tests.replay.conftest import Lab as Project
from tests.store.store_lab import Lab, cell_row, replay_row

ASKERS = 4
NAMES = 6
SOURCE = "".join(f'flor.log("name{n}", value + {n})\n' for n in range(NAMES))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    if request.param == "sqlite":
        return tmp_path / "home" / "flor.db"
    return request.getfixturevalue("new_database")()


def at_once(url: str | Path, home: Path, work: Callable[[LogStore, int], None]) -> None:
    """Do something in several stores on one database, all at the same time."""
    ready = threading.Barrier(ASKERS)
    failed: list[BaseException] = []

    def asker(number: int) -> None:
        try:
            with LogStore.open(url, home=home) as store:
                ready.wait(30)
                work(store, number)
        except BaseException as error:
            failed.append(error)
            ready.abort()

    threads = [threading.Thread(target=asker, args=(number,)) for number in range(ASKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def test_a_statement_that_several_ask_for_at_once_is_one(url: str | Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    commit = project.commit({"train.py": SOURCE})
    found = [Located("train.py", one, one.name or "") for one in find_statements(SOURCE)]

    def ask(store: LogStore, number: int) -> None:
        linker = Linker(Repository(project.root), store)
        for located in found:
            linker.identify(located, commit, question=bool(number % 2))

    at_once(url, tmp_path / "home", ask)
    with LogStore.open(url, home=tmp_path / "home") as store:
        assert sorted(row.key for row in store.statements()) == sorted(one.name for one in found)
        assert all(store.find_form(one.form) is not None for one in found)


def test_a_moved_statement_that_several_ask_for_at_once_is_one(url: str | Path, tmp_path: Path) -> None:
    """Each asks from another version, in which the same statement stands in another place."""
    project = Project(tmp_path / "project")
    texts = [
        "value = 1\n" + "".join(f"def f{n}():\n    pass\n" for n in range(number)) + SOURCE
        for number in range(ASKERS)
    ]
    texts = [text if number % 2 else text.replace("value", "other") for number, text in enumerate(texts)]
    commits = [project.commit({"train.py": text}) for text in texts]

    def ask(store: LogStore, number: int) -> None:
        linker = Linker(Repository(project.root), store)
        for one in find_statements(texts[number]):
            linker.identify(Located("train.py", one, one.name or ""), commits[number], question=True)

    at_once(url, tmp_path / "home", ask)
    with LogStore.open(url, home=tmp_path / "home") as store:
        assert len(store.statements()) == NAMES


def test_statements_that_were_registered_twice_are_merged(url: str | Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with LogStore.open(url, home=home) as store:
        lab = Lab(home, store)
        journal = lab.journal()
        for _ in journal.loop("epoch", 2):
            journal.log("loss", 0.5, line=3)
        journal.end()
        run = lab.ingest(journal)
        where = {"file": "train.py", "line": 9, "question": True}
        first = store.add_statement("grad", "g", **where)
        other = store.add_statement("grad", "g", **where)
        store.add_form(first.id, "train.py::grad=g@<module>#0")
        for replay, statement in (("rp1", first), ("rp2", other)):
            written = lab.replay(run.id, replay, {"train.py": {"9": statement.key}})
            for epoch in written.loop("epoch", 2):
                written.log("grad", float(epoch), line=9)
            written.end()
            answer = cell_row(run.id, statement.id, rows=2, replay_id=replay)
            store.commit_replay(replay_row(run.id, replay), [written.path], [answer])
        assert other.key == "grad:2"
    for _ in range(2):  # once merged, and once with nothing left to do
        with LogStore.open(url, home=home) as store:
            assert [row.key for row in store.statements()] == ["grad"]
            assert store.statement("grad:2").id == store.statement("grad").id
            view = store.dataframe("grad")
            assert list(view["grad"]) == [0.0, 1.0]
            assert [cell.status for cell in store.cells()] == ["replayed"]
            assert len(store.records(run.id, origin="replayed")) == 2
    with LogStore.open(url, home=home) as store:
        # The key of what was merged is never given to another statement.
        assert store.add_statement("grad", "other", file="t.py", identity="i").key == "grad:3"
        rebuilt = store.rebuild()
        assert (rebuilt.missing, rebuilt.problems) == ((), ())
        assert [row.key for row in store.statements()] == ["grad", "grad:3"]
        assert len(store.records(run.id, origin="replayed")) == 2
        assert store.statement("grad:2").key == "grad"
