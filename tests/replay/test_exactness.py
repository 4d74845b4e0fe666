"""Where what ran is not exactly what the version holds, the answer says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab

SCRIPT = """\
import sys
sys.path.insert(0, {outside!r})
import flor_dagster as flor
import {module}
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        pass
    flor.log("a", {module}.VALUE + epoch)
    {more}
"""


def answered(lab: Lab, module: str, outside: str = "") -> str:
    lab.write({"train.py": SCRIPT.format(module=module, outside=outside, more='flor.log("b", epoch)')})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("b",))).cells
    return answer.cell.sentence


def test_a_loaded_module_that_git_ignores_makes_the_version_approximate(lab: Lab) -> None:
    lab.commit({"train.py": SCRIPT.format(module="local", outside="", more=""), ".gitignore": "local.py\n"})
    lab.write({"local.py": "VALUE = 1\n"})
    lab.train()
    with lab.open() as workspace:
        workspace.sync()
        (version,) = workspace.store.versions()
    assert "local.py" in version.approximate_reason
    assert "ignored by git" in version.approximate_reason
    assert "approximate" in answered(lab, "local")


def test_code_outside_the_repository_is_kept_by_digest_and_a_change_is_told(lab: Lab, tmp_path: Path) -> None:
    outside = tmp_path / "shared"
    outside.mkdir()
    (outside / "common.py").write_text("VALUE = 1\n")
    lab.commit({"train.py": SCRIPT.format(module="common", outside=str(outside), more="")})
    lab.train()
    with lab.open() as workspace:
        workspace.sync()
        (version,) = workspace.store.versions()
        assert not version.approximate
        (run,) = workspace.runs()
        assert str(outside / "common.py") in workspace.store.modules(run.id)
    (outside / "common.py").write_text("VALUE = 1  # the same, but who knows\n")
    sentence = answered(lab, "common", str(outside))
    assert f"{outside / 'common.py'}, outside the repository, changed since" in sentence


@pytest.mark.parametrize("edited", [False, True])
def test_a_module_of_a_submodule_is_compared_with_the_submodules_version(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: bool
) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    library = Lab(tmp_path / "library")
    library.commit({"inner.py": "VALUE = 1\n"})
    lab.git("submodule", "add", "--quiet", str(library.root), "libs")
    edit = "open('libs/inner.py', 'a').write('# edited while it ran\\n')" if edited else ""
    lab.commit({"train.py": SCRIPT.format(module="inner", outside="libs", more=edit)})
    (lab.root / "libs/inner.py").write_text("VALUE = 2\n")
    lab.train()
    with lab.open() as workspace:
        workspace.sync()
        (version,) = workspace.store.versions()
    assert ("libs/inner.py changed while" in version.approximate_reason) == edited
    assert os.path.exists(lab.root / "libs/.git")
