"""A warm worker gives the bits that a cold child gives, is used only where it is safe, and dies with its owner."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from flor_dagster.replay.model import Question
from flor_dagster.replay.units import Unit
from flor_dagster.replay.warmth import preloadable
from flor_dagster.replay.workers import LocalBackend, Worker
from tests.replay.conftest import PACKAGE, Lab
from tests.replay.test_faults import command_lines, wait_until
from tests.replay.test_segments import INNER, OUTER, TAIL, files, values

pytestmark = pytest.mark.ci


@pytest.mark.parametrize("segments", [1, 2])
def test_warm_and_cold_give_the_same_bits(lab: Lab, segments: int) -> None:
    lab.commit(files())
    lab.train()
    lab.write(files(inner=INNER, outer=OUTER, tail=TAIL))
    found: list[list[list[object]]] = []
    for name in ("warm", "cold"):
        with lab.open() as workspace:
            names = ("spread", "middle", "last")
            report = workspace.answer(Question(names, segments=segments, warm=name == "warm"))
            assert all(c.cell.fidelity == "exact" for c in report.cells), report.cells[0].cell.sentence
            backend = workspace.backend(1)
            assert backend.unsafe == {}
            keys = [key[3] for key in backend._workers]
            assert ("numpy",) in keys if name == "warm" and segments == 2 else ("numpy",) not in keys
        found.append([values(lab, name) for name in ("spread", "middle", "last")])
        _forget(lab)
    assert found[0] == found[1]


def _forget(lab: Lab) -> None:
    import sqlite3

    with sqlite3.connect(lab.root / ".flor" / "flor.db") as connection:
        connection.execute("delete from cells")


def library(folder: Path, name: str, text: str) -> dict[str, str]:
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import random\nrandom.seed(3)", "importing curious changes the random generator of python"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()", "threads"),
        ("raise ImportError('not here')", "can't be imported"),
    ],
)  # fmt: skip
def test_a_library_that_does_more_than_load_makes_a_worker_unsafe(
    tmp_path: Path, text: str, words: str
) -> None:
    environment = library(tmp_path, "curious", text)
    worker = Worker(sys.executable, environment, ("curious",))
    try:
        assert words in worker.ready()
    finally:
        worker.close()


@pytest.mark.parametrize("draw", ["import random\nrandom.random()", "import numpy\nnumpy.random.rand()"])
def test_what_draws_while_it_is_imported_is_left_to_each_child_and_the_rest_is_loaded_before(
    tmp_path: Path, draw: str
) -> None:
    package = tmp_path / "curious"
    package.mkdir()
    for name, text in {
        "__init__": "from curious import plain", "plain": "", "draws": draw, "wants": "from . import draws, plain",
        "also": "import curious.wants", "apart": "import curious.plain",
    }.items():  # fmt: skip
        (package / f"{name}.py").write_text(text)
    asked = ("numpy", "curious.apart", "curious.wants", "curious.also")
    worker = Worker(sys.executable, {**os.environ, "PYTHONPATH": str(tmp_path)}, asked)
    try:
        assert worker.ready() == ""
        loaded = Path(f"/proc/{worker.pid}/cmdline").read_text().split("\0")[-2].split(",")
    finally:
        worker.close()
    assert {name for name in loaded if name.startswith("curious")} == {
        "curious",
        "curious.plain",
        "curious.apart",
    }
    assert "numpy" in loaded


@pytest.mark.parametrize(
    ("source", "libraries"),
    [
        ("import numpy as np\nimport train_helper\nfrom sklearn.svm import SVC", ("numpy", "sklearn.svm")),
        ("import os\nos.environ['OMP_NUM_THREADS'] = '1'\nimport numpy", None),
        ("import os\nos.environ.setdefault('A', '1')\nimport numpy", None),
        ("import os\nimport numpy\nprint(os.environ.get('A'))", ("numpy",)),
        ("def main():\n    import torch\n", ()),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", ()),
        ("this is no python", None),
    ],
)
def test_only_what_a_script_loads_first_thing_is_loaded_before_it(
    source: str, libraries: tuple[str, ...] | None
) -> None:
    assert preloadable({"train.py": source}) == libraries


def test_a_repository_with_a_module_of_a_librarys_name_gets_a_cold_child() -> None:
    assert preloadable({"train.py": "import numpy", "numpy.py": "x = 1"}) is None


def test_a_worker_dies_with_its_owner() -> None:
    script = textwrap.dedent("""
        import os, signal, sys
        from flor_dagster.replay.workers import Worker
        worker = Worker(sys.executable, dict(os.environ), ("json",))
        assert not worker.ready()
        print(worker.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(PACKAGE)},
                          capture_output=True, text=True, check=False)  # fmt: skip
    pid = int(done.stdout)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), f"the worker {pid} lives on", 20.0)


def test_a_lost_worker_is_told_and_the_next_unit_gets_another(tmp_path: Path) -> None:
    backend = LocalBackend(1)
    unit = Unit(
        str(tmp_path / "none.json"),
        str(tmp_path),
        str(tmp_path / "out.txt"),
        sys.executable,
        dict(os.environ),
    )
    try:
        first = backend.run(unit)
        assert first.status == 1, "a plan that is not there"
        assert "none.json" in (tmp_path / "out.txt").read_text()
        (worker,) = backend._all()
        os.kill(worker.pid, 9)
        wait_until(lambda: worker._process.poll() is not None, "the worker lives on")
        assert backend.run(unit).why in ("worker", "")
        assert backend.run(unit).status == 1
    finally:
        backend.close()
    assert str(tmp_path) not in command_lines()
