"""What a replay reads and the record does not know is never called exact."""

from __future__ import annotations

import os
import sqlite3

import pytest

from flor_dagster.recording.layout import find_place
from flor_dagster.replay.inputs import read_inputs
from flor_dagster.replay.model import CellAnswer, Question
from flor_dagster.replay.record import read_run
from tests.replay.conftest import Lab

pytestmark = pytest.mark.ci

SCRIPT = """\
{imports}
import flor_dagster as flor
{reads}
total = 0.0
for epoch in flor.loop("epoch", range(3)):
    total += sum(values)
    flor.log("kind", "same")
    {statement}
"""
WAYS = {
    "numpy": ("import numpy as np", 'values = np.loadtxt("d.data")'),
    "genfromtxt": ("import numpy as np", 'values = np.genfromtxt("d.data")'),
    "os": ("import os", 'fd = os.open("d.data", os.O_RDONLY)\nvalues = [float(v) for v in os.read(fd, 99).split()]\nos.close(fd)'),
    "raw": ("import io", 'values = [float(v) for v in io.FileIO("d.data").read().split()]'),
    "sqlite": ("import sqlite3", 'base = sqlite3.connect("d.data")\nvalues = [v for (v,) in base.execute("SELECT v FROM t")]\nbase.close()'),
    "uri": ("", 'import sqlite3\nbase = sqlite3.connect("file:d.data?mode=ro", uri=True)\nvalues = [v for (v,) in base.execute("SELECT v FROM t")]\nbase.close()'),
    "mmap": ("import mmap, os", 'fd = os.open("d.data", os.O_RDONLY)\nwith mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:\n    values = [float(v) for v in memory[:].split()]\nos.close(fd)'),
    "early": ('values = [float(v) for v in open("d.data").read().split()]', ""),
}  # fmt: skip


def put(lab: Lab, way: str, values: tuple[float, ...], *, seconds: int) -> None:
    path = lab.root / "d.data"
    path.unlink(missing_ok=True)
    if way in ("sqlite", "uri"):
        with sqlite3.connect(path) as base:
            base.execute("CREATE TABLE t (v REAL)")
            base.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
        base.close()
    else:
        path.write_text(" ".join(map(str, values)))
    os.utime(path, (seconds, seconds))


def asked(lab: Lab, way: str) -> CellAnswer:
    imports, reads = WAYS[way]
    source = SCRIPT.format(imports=imports, reads=reads, statement='flor.log("total", total)')
    lab.write({"train.py": source})
    with lab.open() as workspace:
        return workspace.answer(Question(("total",), warm=False)).cells[0]


@pytest.mark.parametrize(
    "way",
    [
        "numpy",
        "sqlite",
        "early",
        *(pytest.param(w, marks=pytest.mark.slow) for w in ("genfromtxt", "os", "raw", "uri", "mmap")),
    ],
)
def test_what_was_read_in_another_way_and_replaced_by_an_older_file_is_not_exact(lab: Lab, way: str) -> None:
    imports, reads = WAYS[way]
    lab.write({".gitignore": "d.data\n"})
    put(lab, way, (1.0, 2.0, 4.0), seconds=1_000_000)
    lab.commit({"train.py": SCRIPT.format(imports=imports, reads=reads, statement="pass")})
    lab.train()
    put(lab, way, (1.0, 2.0, 15.0), seconds=900_000)
    cell = asked(lab, way).cell
    assert cell.fidelity != "exact", cell.sentence
    assert "d.data" in cell.sentence
    home = find_place(lab.root).home
    (folder,) = (home / "runs").iterdir()
    read = read_inputs(home, folder.name, read_run(folder)).read
    assert ("d.data" in read) == (way in ("numpy", "genfromtxt", "os", "sqlite", "uri", "mmap"))


@pytest.mark.parametrize("way", ["uri", "mmap", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_what_was_read_by_a_number_or_from_a_database_and_is_the_same_is_exact(lab: Lab, way: str) -> None:
    imports, reads = WAYS[way]
    lab.write({".gitignore": "d.data\n"})
    put(lab, way, (1.0, 2.0, 4.0), seconds=1_000_000)
    lab.commit({"train.py": SCRIPT.format(imports=imports, reads=reads, statement="pass")})
    lab.train()
    answer = asked(lab, way)
    assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence


@pytest.mark.slow
def test_a_database_that_was_written_while_it_was_read_is_not_known(lab: Lab) -> None:
    imports, reads = WAYS["sqlite"]
    reads = reads.replace(
        "base.close()", 'base.execute("INSERT INTO t VALUES (8)")\nbase.commit()\nbase.close()'
    )
    lab.write({".gitignore": "d.data\n"})
    put(lab, "sqlite", (1.0, 2.0, 4.0), seconds=1_000_000)
    lab.commit({"train.py": SCRIPT.format(imports=imports, reads=reads, statement="pass")})
    lab.train()
    (folder,) = (find_place(lab.root).home / "runs").iterdir()
    assert "d.data" not in read_inputs(folder.parent.parent, folder.name, read_run(folder)).read


def test_what_was_noted_under_another_name_is_known(lab: Lab) -> None:
    """The data lies behind a link, and is read through it."""
    (lab.root.parent / "elsewhere").mkdir()
    path = lab.root.parent / "elsewhere" / "d.data"
    path.write_text("1 2 4")
    os.utime(path, (1_000_000, 1_000_000))
    (lab.root / "data").symlink_to(path.parent)
    lab.write({".gitignore": "data\n"})
    imports, reads = "import numpy as np", 'values = np.loadtxt("data/d.data")'
    lab.commit({"train.py": SCRIPT.format(imports=imports, reads=reads, statement="pass")})
    lab.train()
    source = SCRIPT.format(imports=imports, reads=reads, statement='flor.log("total", total)')
    lab.write({"train.py": source})
    with lab.open() as workspace:
        cell = workspace.answer(Question(("total",), warm=False)).cells[0].cell
    assert (cell.status, cell.fidelity) == ("replayed", "exact"), cell.sentence
