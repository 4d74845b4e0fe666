"""`flor view` and its relatives: readable, whole, wherever the project lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

import flor_dagster as flor
from flor_dagster.cli import cli
from flor_dagster.store.models import RunRow
from tests.recording.disk_lab import namespaces
from tests.replay.conftest import PACKAGE, Lab, lab

__all__ = ["lab"]

SCRIPT = """\
import numpy as np
import flor_dagster as flor
lr = flor.arg("lr", 1.0)
for epoch in flor.loop("epoch", range(3)):
    flor.log("loss", lr / (epoch + 1))
    flor.log("shape", np.array([epoch, 2], dtype=np.int8))
    {more}
"""


@pytest.fixture
def trained(lab: Lab) -> Lab:
    lab.commit({"train.py": SCRIPT.format(more="")})
    lab.train(lr=1.0)
    lab.train(lr=2.0)
    return lab


def run(lab: Lab, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--project", str(lab.root)])


def read_only(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command where nothing below a folder can be written."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment |= {"PYTHONPATH": str(PACKAGE)}
    if namespaces():
        before = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'
        command = (*namespaces(), "sh", "-c", before, str(root), *command)
    elif os.geteuid() == 0:
        pytest.skip(
            "root writes where it may not, and this kernel lets it mount nothing: no disk is read-only"
        )
    else:
        subprocess.run(["chmod", "-R", "a-w", str(root)], check=True)
    try:
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(root)], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_project_that_can_only_be_read_is_viewed_and_left_as_it_is(trained: Lab) -> None:
    """With a run that its store has, and one that it does not have yet."""
    with trained.open() as workspace:
        workspace.sync()
    trained.train(lr=4.0)
    before = contents(trained.root)
    flor = (sys.executable, "-m", "flor_dagster.cli")
    viewed = read_only(trained.root, *flor, "view", "loss", "lr", "--json")
    assert viewed.returncode == 0, viewed.stderr
    assert [row["loss"] for row in json.loads(viewed.stdout)["rows"]] == [
        lr / (epoch + 1) for lr in (1.0, 2.0, 4.0) for epoch in range(3)
    ]
    listed = read_only(trained.root, *flor, "runs", "--json")
    runs = json.loads(listed.stdout)["runs"]
    assert [one["status"] for one in runs] == ["finished"] * 3
    why = read_only(trained.root, *flor, "why", runs[2]["key"], "loss", "--at", "epoch=1")
    assert "loss is there: 2" in why.stdout
    python = "import flor_dagster as flor; print(len(flor.dataframe('loss')))"
    framed = read_only(trained.root, sys.executable, "-c", python)
    assert framed.stdout.strip() == "9", framed.stderr
    assert contents(trained.root) == before


def test_arrays_stay_arrays_in_json(trained: Lab) -> None:
    rows = json.loads(run(trained, "view", "shape", "--json").stdout)["rows"]
    assert [row["shape"] for row in rows] == [[0, 2], [1, 2], [2, 2]] * 2


def test_where_four_names_come_from_is_readable_in_a_narrow_terminal_and_in_a_pipe(trained: Lab) -> None:
    names = ("loss", "shape", "gap", "ratio")
    trained.write(
        {"train.py": SCRIPT.format(more='flor.log("gap", lr - epoch)\n    flor.log("ratio", lr / 2)')}
    )
    assert run(trained, "hindsight", "gap", "ratio").exit_code == 0
    shown = run(trained, "view", *names, "--provenance")
    assert shown.exit_code == 0, (shown.output, shown.exception)
    said = shown.output
    lines = said.splitlines()
    assert lines[0].split() == ["run", "epoch", *names]
    assert lines[2].split()[2:] == ["1", "[a]", "[0", "2]", "[a]", "1", "[b]", "0.5", "[b]"]
    assert "[a] recorded" in lines
    assert "[b] replayed, exact, place certain" in lines
    assert max(map(len, lines)) <= 110
    document = json.loads(run(trained, "view", *names, "--provenance", "--json").stdout)
    assert document["rows"][0]["gap_place"] == "certain"
    long = {f"a_rather_long_name_{number}": number for number in range(12)}
    more = "\n    ".join(f'flor.log("{name}", {number})' for name, number in long.items())
    trained.commit({"train.py": SCRIPT.format(more=more)})
    trained.train()
    piped = run(trained, "view", *long, "--latest", "1").output.splitlines()
    assert piped[0].split() == ["run", "epoch", *long]
    assert piped[2].split()[1:] == ["0", *map(str, long.values())]


def test_a_partly_filled_column_says_where_its_reasons_are(lab: Lab) -> None:
    script = SCRIPT.format(more='flor.log("even", epoch) if epoch % 2 == 0 else None')
    lab.commit({"train.py": script})
    lab.train()
    shown = run(lab, "view", "loss", "even")
    assert (
        "even is empty in some rows of 1 training run: `flor why RUN even --at LOOP=0` says why"
        in shown.output
    )
    (partly,) = json.loads(run(lab, "view", "loss", "even", "--json").stdout)["partly"]
    assert (partly["name"], partly["missing"], partly["rows"]) == ("even", 1, 3)
    why = run(lab, "why", partly["run"], "even", "--at", "epoch=1").output
    assert "even is empty: not reached at epoch=1; this run has 2 values of it in other places" in why
    assert run(lab, "why", partly["run"], "even", "--at", "epoch=9").exit_code == 2


def test_a_view_is_narrowed_and_written_as_a_person_asks(trained: Lab, tmp_path: Path) -> None:
    view = ("view", "loss", "args.lr")
    chosen = run(trained, *view, "--where", "loss < 0.9 and args.lr > 1", "--format", "csv")
    assert chosen.exit_code == 0, chosen.output
    header, *lines = chosen.stdout.splitlines()
    assert header == "run,epoch,loss,args.lr"
    assert [line.split(",")[1:] for line in lines] == [["2", str(2 / 3), "2.0"]]
    document = json.loads(run(trained, *view, "--at", "run", "--latest", "1", "--format", "json").stdout)
    assert [(row["loss"], row["args.lr"]) for row in document["rows"]] == [(2 / 3, 2.0)]
    first = json.loads(run(trained, *view, "--at", "run", "--keep", "first", "--json").stdout)
    assert [row["loss"] for row in first["rows"]] == [1.0, 2.0]
    every = json.loads(run(trained, *view, "--at", "run", "--keep", "all", "--json").stdout)
    assert [row["ordinal"] for row in every["rows"]] == [0, 1, 2, 0, 1, 2]
    file = tmp_path / "view.csv"
    assert run(trained, *view, "--format", "csv", "--output", str(file)).exit_code == 0
    assert len(file.read_text().splitlines()) == 7
    wrong = run(trained, *view, "--where", "loss < ")
    assert wrong.exit_code == 1
    assert wrong.output.splitlines()[-1].index("^") == 4 + len("loss < ")
    unknown = run(trained, *view, "--where", "lss < 1")
    assert (unknown.exit_code, "'loss'" in unknown.output) == (2, True)
    assert run(trained, *view, "--format", "table", "--output", "x").exit_code == 2
    parquet = tmp_path / "view.parquet"
    asked = run(trained, *view, "--format", "parquet", "--output", str(parquet))
    if find_spec("pyarrow") is None:
        assert asked.exit_code == 1
        assert "pip install pyarrow" in asked.output
        assert not parquet.exists()
    else:
        assert (
            pd.read_parquet(parquet)["loss"].tolist()
            == flor.dataframe("loss", project=trained.root)["loss"].tolist()
        )
    assert run(trained, *view, "--format", "parquet").exit_code == 2


def test_runs_are_chosen_by_the_same_conditions_from_python_and_the_command_line(trained: Lab) -> None:
    listed = json.loads(run(trained, "runs", "--where", "args.lr > 1 and last(loss) < 0.7", "--json").stdout)[
        "runs"
    ]
    assert [one["args"]["lr"] for one in listed] == [2.0]
    frame = flor.runs(where="args.lr > 1 and last(loss) < 0.7", project=trained.root)
    assert frame["run"].tolist() == [one["key"] for one in listed]
    assert {"status", "version", "started", "seconds", "args.lr"} <= set(frame.columns)
    assert len(flor.runs(project=trained.root)) == 2
    assert flor.latest("loss", "args.lr", at="run", project=trained.root)["args.lr"].tolist() == [2.0]
    assert "No training run fulfils" in run(trained, "runs", "--where", "args.lr > 9").output
    for where in ("lr > 1", "loss < 1"):
        assert run(trained, "runs", "--where", where).exit_code == 1
        with pytest.raises(flor.FlorError):
            flor.runs(where=where, project=trained.root)


def test_sql_is_asked_from_the_command_line_and_from_python(trained: Lab) -> None:
    top = "SELECT run, max(number) AS top FROM records WHERE name = :name GROUP BY run ORDER BY top"
    table = run(trained, "sql", top, "--param", "name=loss")
    assert table.exit_code == 0, table.output
    assert table.output.splitlines()[0].split() == ["run", "top"]
    document = json.loads(run(trained, "sql", top, "--param", "name=loss", "--json").stdout)
    assert (document["columns"], [row[1] for row in document["rows"]]) == (["run", "top"], [1.0, 2.0])
    header, *lines = run(
        trained, "sql", "SELECT number FROM records WHERE name = 'loss'", "--format", "csv"
    ).stdout.split()
    assert (header, len(lines)) == ("number", 6)
    some = run(trained, "sql", "SELECT * FROM records", "--limit", "2").output
    assert "These are the first 2 rows; --limit 0 prints all." in some
    assert flor.query(top, name="loss", project=trained.root)["top"].tolist() == [1.0, 2.0]
    listed = run(trained, "sql").output
    assert all(view in listed for view in ("records", "runs", "args"))
    for wrong in ("DELETE FROM runs", "SELECT * FROM names", "SELECT 1; SELECT 2", "SELECT nothing"):
        done = run(trained, "sql", wrong)
        assert (done.exit_code, done.output.startswith("flor: ")) == (1, True), wrong
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    assert "longer than 0.2 s" in run(trained, "sql", endless, "--seconds", "0.2").output


def test_every_command_that_chooses_runs_takes_the_condition(trained: Lab) -> None:
    (key,) = [one.key for one in trained_runs(trained) if one.args["lr"] == 2.0]
    trained.write({"train.py": SCRIPT.format(more='flor.log("gap", lr - epoch)')})
    where = ("--where", "args.lr > 1")
    verified = json.loads(run(trained, "verify", *where, "--json").stdout)
    assert [one["run"]["key"] for one in verified["verifications"]] == [key]
    placed = json.loads(run(trained, "propagate", "gap", *where, "--json").stdout)
    assert [one["runs"] for one in placed["versions"]] == [1]
    assert run(trained, "gc", "--plan", *where).exit_code == 0
    planned = json.loads(run(trained, "hindsight", "gap", "--plan", *where, "--json").stdout)
    assert [part["run"]["key"] for part in planned["plan"]["runs"]] == [key]
    for command in (["verify"], ["propagate", "gap"], ["gc", "--plan"]):
        none = run(trained, *command, "--where", "args.lr > 9")
        assert (none.exit_code, "no training run fulfils" in none.output) == (1, True), command
        assert run(trained, *command, "--where", "lr >").exit_code == 1
    assert run(trained, "verify").exit_code == 2


def trained_runs(lab: Lab) -> tuple[RunRow, ...]:
    with lab.open() as workspace:
        workspace.sync()
        return workspace.runs()
