"""SQL for people reads the documented views and nothing else, writes nothing, and ends in time; the same on both databases."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flor_dagster.cli import cli
from flor_dagster.errors import QueryError
from flor_dagster.store import LogStore
from flor_dagster.store.query import _with_names
from flor_dagster.store.sql_views import VIEWS
from tests.store.store_lab import Lab

START = "2023-11-14"


def recorded(lab: Lab) -> list[str]:
    keys: list[str] = []
    for lr in (0.1, 0.5, float("inf")):
        journal = lab.journal()
        journal.entry("a", "lr", lr if lr < 1 else {"$": "float", "bits": "7ff0000000000000"}, 0.1, "given")
        journal.entry("a", "kind", "it's 'adam'", "sgd", "given")
        for epoch in journal.loop("epoch", 12):
            journal.log("grad_norm", min(lr, 2.0) * (100 - epoch if epoch < 2 else epoch))
        journal.end()
        keys.append(lab.ingest(journal).key)
    lab.store.add_statement("norm", "w.norm()", file="train.py", question=True)
    return keys


def test_every_documented_view_has_its_columns(lab: Lab) -> None:
    recorded(lab)
    for view in VIEWS:
        assert tuple(lab.store.query(f"SELECT * FROM {view.name}").columns) == view.columns, view.name
    assert lab.store.query("SELECT count(*) AS n FROM records")["n"].tolist() == [36]
    assert lab.store.query("SELECT statement FROM statements WHERE question = 1")["statement"].tolist() == [
        "norm"
    ]


def test_the_question_of_the_learning_rate_is_one_line(lab: Lab) -> None:
    """Which had the largest gradient norm in the last ten epochs of the runs before a day? In SQL, and in Python."""
    recorded(lab)
    found = lab.store.query(
        "SELECT a.number FROM records r JOIN runs u ON u.run = r.run JOIN args a ON a.run = r.run AND a.name = 'lr' WHERE "
        "r.name = :name AND r.iteration >= 2 AND u.started < :day ORDER BY r.number DESC LIMIT 1",
        {"name": "grad_norm", "day": "2026-03-01"},
    )
    assert found["number"].tolist() == [float("inf")]
    frame = lab.store.dataframe(
        "grad_norm", "args.lr", where="run.started < '2026-03-01' and epoch > last(epoch) - 10"
    ).nlargest(1, "grad_norm")
    assert frame["args.lr"].tolist() == [float("inf")]
    assert frame["grad_norm"].tolist() == [22.0]


def test_values_and_times_are_what_they_are_on_both_databases(lab: Lab) -> None:
    recorded(lab)
    args = lab.store.query("SELECT name, value, number FROM args ORDER BY name, number")
    assert args["value"].tolist()[:3] == ["it's 'adam'"] * 3
    assert args["number"].tolist()[3:] == [0.1, 0.5, float("inf")]
    some = "SELECT count(*) AS n FROM runs WHERE started >= '2023-11-14' AND started < '2023-11-15' AND seconds = 5"
    assert lab.store.query(some)["n"].tolist() == [0]
    assert lab.store.query(some.replace("seconds = 5", "seconds > 0"))["n"].tolist() == [3]
    with_cte = "WITH best AS (SELECT run, max(number) AS top FROM records GROUP BY run) SELECT count(*) AS n FROM best WHERE top > 40"
    assert lab.store.query(with_cte)["n"].tolist() == [2]


SQLITE = [
    "SELECT * FROM main.runs",
    "SELECT * FROM names",
    "SELECT * FROM main.records",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM temp.sqlite_temp_master",
    "SELECT * FROM sqlite_schema",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM pragma_table_info('runs')",
    "SELECT load_extension('x')",
    "SELECT readfile('/etc/passwd')",
    "SELECT randomblob(1000000000)",
    "SELECT hex(zeroblob(1000000000))",
    "SELECT fts3_tokenizer('simple')",
    "WITH runs AS (SELECT * FROM main.outputs) SELECT * FROM runs",
    "WITH records AS (SELECT * FROM main.names) SELECT * FROM records",
    "SELECT * FROM (SELECT * FROM main.names) AS runs",
    "SELECT (SELECT name FROM main.names LIMIT 1) FROM runs",
    "SELECT 1 FROM runs WHERE EXISTS (SELECT 1 FROM main.names)",
    "WITH runs AS (SELECT name AS run FROM main.names) SELECT run FROM runs UNION SELECT run FROM args",
    "WITH RECURSIVE runs(n) AS (SELECT count(*) FROM main.names) SELECT * FROM runs",
    "SELECT * FROM dbstat",
    "SELECT count(*) FROM main.checkpoints",
]
WRITES = [
    "DELETE FROM runs", "WITH x AS (SELECT 1) DELETE FROM records", "SELECT 1; DROP TABLE records", "ATTACH 'x' AS y",
    "/* a */ -- b\n PRAGMA journal_mode", "SELECT 1 INTO x", "COMMIT", "", "INSERT INTO runs VALUES (1)", "VACUUM INTO 'x'",
    "WITH x AS (SELECT 1) INSERT INTO args SELECT 1, 2, 3, 4, 5", "CREATE TABLE x (a)", "BEGIN", "EXPLAIN DELETE FROM main.runs",
    "SELECT 1; COMMIT; DELETE FROM runs",
]  # fmt: skip


def contents(lab: Lab) -> list[tuple[str, Any]]:
    with lab.store._database.read() as connection:
        return [
            (name, connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one())
            for name in ("runs", "records", "args", "statements", "names")
        ]


@pytest.mark.parametrize("sql", SQLITE)
def test_nothing_but_the_views_is_read(sqlite_lab: Lab, sql: str) -> None:
    recorded(sqlite_lab)
    with pytest.raises(QueryError):
        sqlite_lab.store.query(sql)


def test_nothing_is_written(lab: Lab) -> None:
    recorded(lab)
    before = contents(lab)
    for sql in WRITES:
        with pytest.raises(QueryError):
            lab.store.query(sql)
    assert contents(lab) == before


POSTGRESQL = [
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_binary_file('/etc/passwd')",
    "SELECT * FROM pg_ls_dir('/')",
    "SELECT * FROM public.runs",
    "SELECT * FROM public.names",
    "SELECT * FROM public.log_view_long",
    "SELECT rolpassword FROM pg_authid",
    "SELECT lo_export(1, '/tmp/x')",
    "SELECT lo_import('/etc/passwd')",
    "COPY runs TO '/tmp/x'",
    "COPY runs TO PROGRAM 'id'",
    "SELECT set_config('role', 'flor', true), query_to_xml('SELECT pg_read_file(''/etc/passwd'')', true, true, '')",
    "SELECT set_config('session_authorization', 'flor', false)",
    "SELECT query_to_xml('DELETE FROM public.runs', true, true, '')",
    "SELECT nextval('public.runs_run_seq')",
    "SELECT set_config('transaction_read_only', 'off', true)",
    "SELECT dblink('dbname=postgres', 'SELECT 1')",
    "SELECT 1; SELECT 2",
    "RESET ROLE",
    "DO $$ BEGIN END $$",
]


def test_a_postgresql_server_gives_away_nothing_else(new_database: Callable[[], str], tmp_path: Path) -> None:
    with LogStore.open(new_database()) as store:
        store.make_reader()
        lab = Lab(tmp_path, store)
        recorded(lab)
        before = contents(lab)
        for sql in POSTGRESQL:
            with pytest.raises(QueryError):
                store.query(sql)
        assert contents(lab) == before
        store.make_reader("a 'password'")  # made anew, with what it may read
        assert len(store.query("SELECT * FROM runs")) == 3


def test_without_a_plain_role_postgresql_answers_no_sql(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    url = new_database()
    with LogStore.open(url) as store:
        with pytest.raises(QueryError, match="flor store init"):
            store.query("SELECT 1")
        store.make_reader()
        assert store.query("SELECT 1 AS one")["one"].tolist() == [1]
        monkeypatch.setenv("FLOR_READER_URL", url)
        with pytest.raises(QueryError, match="no plain role"):
            store.query("SELECT 1")
        monkeypatch.delenv("FLOR_READER_URL")
        for grant, revoke, said in (
            ("GRANT SELECT ON names TO flor_reader", "REVOKE SELECT ON names FROM flor_reader", "names"),
            (
                "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO flor_reader",
                "REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM flor_reader",
                "pg_read_file",
            ),
            (
                "GRANT pg_read_all_data TO flor_reader",
                "REVOKE pg_read_all_data FROM flor_reader",
                "member of",
            ),
            (
                "CREATE FUNCTION all_names() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM names'",
                "DROP FUNCTION all_names",
                "all_names",
            ),
        ):
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(grant)
                try:
                    with pytest.raises(QueryError, match=said):
                        store.query("SELECT 1")
                finally:
                    connection.execute(revoke)
        assert store.query("SELECT 1 AS one")["one"].tolist() == [1]


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {0} FROM n"


def test_what_takes_too_long_or_gives_too_much_is_ended(lab: Lab) -> None:
    recorded(lab)
    began = time.monotonic()
    with pytest.raises(QueryError, match=r"longer than 0\.5 s"):
        lab.store.query(ENDLESS.format("count(*)"), seconds=0.5)
    with pytest.raises(QueryError, match="more than 100 rows"):
        lab.store.query("SELECT a.run FROM records a, records b", rows=100)
    if not lab.store._database.sqlite:
        with pytest.raises(QueryError, match="longer than"):
            lab.store.query("SELECT set_config('statement_timeout', '0', false), pg_sleep(60)", seconds=0.5)
    assert time.monotonic() - began < 30


def test_a_large_result_is_streamed(lab: Lab) -> None:
    recorded(lab)
    with lab.store.stream(
        "SELECT a.run, b.number FROM records a, records b, records c, records d, records e"
    ) as result:
        assert result.names == ["run", "number"]
        taken = [row for row, _ in zip(result.rows, range(5000), strict=False)]
    assert len(taken) == 5000
    with lab.store.stream("SELECT 1 WHERE 1 = 2") as result:
        assert list(result.rows) == []


def test_names_stand_for_parameters_and_for_nothing_else() -> None:
    sql = """SELECT ':a', ":b", x::text, 10 % 3 -- :c
        FROM y /* :d */ WHERE z = :name AND $$:e$$ LIKE '%' AND t = '2026-03-01T12:00'"""
    written = _with_names(sql)
    assert written.count("%(") == 1
    assert "z = %(name)s" in written
    assert written.replace("%(name)s", ":name").replace("%%", "%") == sql


def test_the_documents_name_every_view(lab: Lab) -> None:
    page = (Path(__file__).parents[2] / "docs" / "view.md").read_text()
    for view in VIEWS:
        assert f"`{view.name}`" in page
    assert json.loads(json.dumps([view.row for view in VIEWS]))


def test_a_store_for_a_team_is_made_by_one_command(new_database: Callable[[], str]) -> None:
    url = new_database()
    done = CliRunner().invoke(cli, ["store", "init", url])
    assert done.exit_code == 0, done.output
    assert "flor_reader" in done.output
    with LogStore.open(url) as store:
        assert store.query("SELECT count(*) AS n FROM runs")["n"].tolist() == [0]
    assert CliRunner().invoke(cli, ["store", "init", url]).exit_code == 0, "again"
    wrong = CliRunner().invoke(cli, ["store", "init", url.replace("flor@", "flor_reader@")])
    assert wrong.exit_code == 1
    assert wrong.output.startswith("flor: ")
