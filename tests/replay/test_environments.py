"""Which interpreter executes an old version, and what is said where it is another one than the run had."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path

import pytest

from flor_dagster.errors import ReplayError
from flor_dagster.replay.environments import choose_environment
from flor_dagster.replay.model import Question
from flor_dagster.replay.record import RunRecord
from tests.replay.conftest import Lab


def record(executable: str, python: str, **versions: str) -> RunRecord:
    header = {"executable": executable, "python": python}
    return RunRecord(
        header=header, executions={}, by_path={}, records=[], events=[(0, "i", ["i", {"versions": versions}])], args={},
        begin={}, generators={}, ended=None,
    )  # fmt: skip


def test_the_recorded_interpreter_is_taken_and_nothing_is_said_where_nothing_differs() -> None:
    chosen = choose_environment(
        record(sys.executable, platform.python_version(), numpy=metadata.version("numpy")), None
    )
    assert chosen.interpreter == sys.executable
    assert chosen.warnings == ()


def test_every_package_that_differs_is_named_with_both_versions() -> None:
    chosen = choose_environment(record("/gone/python", "3.9.1", numpy="0.1", absent_package="2"), None)
    assert chosen.interpreter == sys.executable
    said = "; ".join(chosen.warnings)
    assert "its interpreter /gone/python is not there any more" in said
    assert f"Python is {platform.python_version()}, the run had 3.9.1" in said
    assert f"numpy is {metadata.version('numpy')}, the run had 0.1" in said
    assert "absent_package is not installed, the run had 2" in said


def test_the_whole_recorded_set_is_compared(tmp_path: Path) -> None:
    packages = [f"numpy=={metadata.version('numpy')}", "click==0.0.1", "never-heard-of==3"]
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "abc.json").write_text(json.dumps(packages))
    run = record(sys.executable, platform.python_version(), numpy=metadata.version("numpy"))
    run.header["packages"] = "abc"
    (said,) = choose_environment(run, None, tmp_path).warnings
    assert f"click {metadata.version('click')} instead of 0.0.1" in said
    assert "never-heard-of (not installed) instead of 3" in said
    run.header["packages"] = "lost"
    assert choose_environment(run, None, tmp_path).warnings == ()


def test_what_is_no_interpreter_is_refused(lab: Lab) -> None:
    script = 'import flor_dagster as flor\nflor.log("a", 1)\n{more}'
    lab.commit({"train.py": script.format(more="")})
    lab.train()
    lab.write({"train.py": script.format(more='flor.log("b", 2)\n')})
    with lab.open() as workspace:
        with pytest.raises(ReplayError, match="Name a Python with --python"):
            workspace.answer(Question(("b",), python=str(lab.root / "train.py")))
        (answer,) = workspace.answer(Question(("b",), python=sys.executable)).cells
        assert answer.cell.status == "replayed", answer.cell.sentence
