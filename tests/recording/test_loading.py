"""`flor.load` gives back what a checkpoint holds, as new objects, and reads nothing outside the project's store."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flor_dagster.errors import CheckpointError
from flor_dagster.recording.loading import load
from tests.recording.record_lab import Project

SCRIPT = """\
import numpy as np
import flor_dagster as flor
from own_parts import Model
model = Model()
history = [model.weights]
count = 0
with flor.checkpointing(net=model):
    for epoch in flor.loop("epoch", range(4)):
        for step in flor.loop("step", range(3)):
            model.weights += step
            count += 1
        flor.log("count", count)
"""

PARTS = """\
import numpy as np
class Model:
    def __init__(self):
        self.weights = np.zeros(5000)
        self.names = ["a", {"b": 1}]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("load"), git=True)
    project.commit({"own_parts.py": PARTS, "train.py": SCRIPT})
    project.run(SCRIPT, FLOR_CHECKPOINTS="all")
    return project


def run_of(project: Project) -> str:
    return project.journals[-1].parent.name


@pytest.fixture
def importable(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(project.root)
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)


@pytest.mark.usefixtures("importable")
def test_the_objects_of_any_epoch_are_given_back_anew(project: Project) -> None:
    run = run_of(project)
    for epoch in range(4):
        found = load(run, epoch, project=project.root)
        assert found["count"] == 3 * (epoch + 1)
        assert np.array_equal(found["net"].weights, np.full(5000, 3.0 * (epoch + 1)))
        assert found["net"] is found["model"]
        assert found["net"].names == ["a", {"b": 1}]
        assert type(found["net"]).__module__ == "own_parts"
    again = load(run[:6], project=project.root)
    assert again["net"] is not load(run, project=project.root)["net"]


@pytest.mark.usefixtures("importable")
def test_what_is_not_there_is_said(project: Project, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint of epoch 17; it has 0, 1, 2, 3"):
        load(run_of(project), 17, project=project.root)
    with pytest.raises(CheckpointError, match="there is no training run"):
        load("aaaaaaaaaaaaaaaa", project=project.root)
    for name in ("../../etc", "", "/etc/passwd", "a/b"):
        with pytest.raises(CheckpointError, match="no training run's id"):
            load(name, project=project.root)
    with pytest.raises(CheckpointError, match="there is no training run"):
        load(run_of(project), project=tmp_path)


def test_a_class_that_can_not_be_imported_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    with pytest.raises(CheckpointError, match=r"own_parts.Model.*modules can be imported"):
        load(run_of(project), 0, project=project.root)


@pytest.mark.usefixtures("importable")
def test_an_altered_buffer_is_never_loaded(project: Project) -> None:
    run = run_of(project)
    objects = {path: path.read_bytes() for path in (project.root / ".flor/checkpoints/objects").glob("*/*")}
    try:
        for path, data in objects.items():
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        for epoch in range(4):
            with pytest.raises(CheckpointError, match="altered on disk"):
                load(run, epoch, project=project.root)
    finally:
        for path, data in objects.items():
            path.write_bytes(data)


MAIN = """\
import flor_dagster as flor

class Model:
    made = 0
    def __init__(self):
        self.weights = [0.0]
    def total(self):
        return sum(self.weights)

def main():
    model = Model()
    for epoch in flor.loop("epoch", range(3)):
        model.weights.append(epoch)
        Model.made += 1
        flor.log("total", model.total())

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def of_a_script(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("main"), git=True)
    project.commit({"train.py": MAIN})
    project.run(MAIN, FLOR_CHECKPOINTS="all")
    return project


def test_what_the_script_itself_defined_is_found_in_its_module_and_left_as_it_is_there(
    of_a_script: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(of_a_script.root)
    monkeypatch.delitem(sys.modules, "train", raising=False)
    with pytest.raises(CheckpointError, match=r"Model was defined in train\.py.*`from train import Model`"):
        load(run_of(of_a_script), 1, project=of_a_script.root)
    module = importlib.import_module("train")
    found = load(run_of(of_a_script), 1, project=of_a_script.root)["model"]
    assert type(found) is module.Model
    assert (found.weights, found.total()) == ([0.0, 0, 1], 1)
    assert module.Model.made == 0
    monkeypatch.delitem(sys.modules, "train")


def test_a_notebook_that_defines_the_class_gets_its_own_and_never_another_one(
    of_a_script: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = sys.modules["__main__"]
    cell: dict[str, Any] = {"__name__": "__main__"}
    exec(MAIN.partition("def main")[0].replace("import flor_dagster as flor", ""), cell)
    monkeypatch.setattr(main, "Model", cell["Model"], raising=False)
    assert type(load(run_of(of_a_script), 0, project=of_a_script.root)["model"]) is cell["Model"]
    monkeypatch.setattr(main, "Model", type("Model", (), {"__module__": "__main__"}))
    with pytest.raises(
        CheckpointError, match=r"Model of this program is another class .*: it has no __init__, total"
    ):
        load(run_of(of_a_script), 0, project=of_a_script.root)


WRAPPED = """\
import flor_dagster as flor
from wrapped_parts import Optimizer, count_steps
optimizer = Optimizer()
count_steps(optimizer)
with flor.checkpointing(optimizer=optimizer):
    for epoch in flor.loop("epoch", range(3)):
        optimizer.step(2)
        flor.log("total", optimizer.total)
"""

WRAPPED_PARTS = """\
import functools, weakref
class Optimizer:
    total, steps = 0, 0
    def step(self, by):
        self.total += by
def count_steps(optimizer):
    function, known = optimizer.step.__func__, weakref.ref(optimizer)
    @functools.wraps(function)
    def wrapper(*args):
        known().steps += 1
        return function.__get__(known())(*args)
    optimizer.step = wrapper
"""


def test_an_object_whose_method_was_wrapped_as_schedulers_do_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrapper bears the method's name, and its code lies in the function that made it."""
    project = Project(tmp_path, git=True)
    project.commit({"wrapped_parts.py": WRAPPED_PARTS, "train.py": WRAPPED})
    project.run(WRAPPED, FLOR_CHECKPOINTS="all")
    monkeypatch.syspath_prepend(project.root)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.import_module("wrapped_parts")
    optimizer = load(run_of(project), 1, project=project.root)["optimizer"]
    assert (optimizer.total, optimizer.steps) == (4, 2)
    optimizer.step(3)
    assert (optimizer.total, optimizer.steps) == (7, 3)
