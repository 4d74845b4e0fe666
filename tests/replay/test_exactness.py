"""Where what ran is not exactly what the version holds, the answer says so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import PACKAGE, Lab

pytestmark = pytest.mark.ci

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
        (run,) = workspace.runs()
    assert "local.py" in run.approximate
    assert "ignored by git" in run.approximate
    assert "approximate" in answered(lab, "local")


def test_code_outside_the_repository_is_kept_by_digest_and_a_change_is_told(lab: Lab, tmp_path: Path) -> None:
    outside = tmp_path / "shared"
    outside.mkdir()
    (outside / "common.py").write_text("VALUE = 1\n")
    lab.commit({"train.py": SCRIPT.format(module="common", outside=str(outside), more="")})
    lab.train()
    with lab.open() as workspace:
        workspace.sync()
        (run,) = workspace.runs()
        assert not run.approximate
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
        (run,) = workspace.runs()
    assert not run.approximate
    assert os.path.exists(lab.root / "libs/.git")


EDITED = """\
import os, time
import flor_dagster as flor
import helper
flor.log("first", 1)
{change}
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        pass
    flor.log("a", helper.VALUE + epoch)
    {more}
"""
CHANGES = {
    "the script, at once": "open(__file__, 'a').write('# edited\\n')",
    "the script, later": "time.sleep(1.5); open(__file__, 'a').write('# edited\\n')",
    "a module, at once": "open('helper.py', 'w').write('VALUE = 77\\n')",
    "a module, later": "time.sleep(1.5); open('helper.py', 'w').write('VALUE = 77\\n')",
    "a module, deleted": "os.remove('helper.py')",
    "a module, renamed": "os.rename('helper.py', 'other.py')",
    "a module, staged": "open('helper.py', 'w').write('VALUE = 77\\n'); os.system('git add helper.py')",
    "a module, committed": "open('helper.py', 'w').write('VALUE = 77\\n'); os.system('git commit -qam next')",
}


@pytest.mark.parametrize("uncommitted", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_who_edits_what_a_training_has_loaded_changes_nothing_of_its_run(
    lab: Lab, change: str, uncommitted: bool
) -> None:
    script = EDITED.format(change=CHANGES[change], more="")
    lab.commit({"train.py": script, **({} if uncommitted else {"helper.py": "VALUE = 1\n"})})
    lab.write({"helper.py": "VALUE = 2\n"})
    lab.train()
    assert lab.git("stash", "list") == ""
    lab.write(
        {
            "train.py": EDITED.format(change=CHANGES[change], more='flor.log("b", helper.VALUE * 10)'),
            "helper.py": "VALUE = 5\n",
        }
    )
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("b",))).cells
        (run,) = workspace.runs()
        assert run.commit is not None
        assert workspace.repository.read(run.commit, "helper.py") == "VALUE = 2\n"
        assert workspace.repository.read(run.commit, "train.py") == script
        assert list(workspace.store.dataframe("b")["b"]) == [20, 20]
    assert "approximate" not in answer.cell.sentence
    # A replay executes the change, too, and what it then loads again is the checkout's.
    assert answer.cell.fidelity == "exact", answer.cell.sentence


RELOADS = {
    "a reload": "open('helper.py', 'w').write('VALUE = 3\\n'); import importlib; importlib.reload(helper)",
    "its source": "open('helper.py', 'w').write('VALUE = 3\\n'); import linecache; linecache.getlines(helper.__file__)",
    "a child that is not forked": (
        "open('helper.py', 'w').write('VALUE = 3\\n'); import multiprocessing.popen_spawn_posix"
    ),
}


@pytest.mark.parametrize("how", RELOADS)
def test_what_was_edited_and_may_have_been_loaded_again_makes_the_version_approximate(
    lab: Lab, how: str
) -> None:
    lab.commit(
        {
            "train.py": EDITED.format(change=f"time.sleep(1.5); {RELOADS[how]}", more=""),
            "helper.py": "VALUE = 2\n",
        }
    )
    lab.train()
    with lab.open() as workspace:
        workspace.sync()
        (run,) = workspace.runs()
    assert "helper.py changed while" in run.approximate


PAUSE = "print('here', flush=True); time.sleep(0.4)\n"
ANEW = "import helper\n", "import helper\nhelper.VALUE += 1\n"


def train_and_save(lab: Lab, **texts: str) -> None:
    """A training that waits at its pause until files were saved anew."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment |= {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0", "FLOR_CHECKPOINTS": "all"}
    command = [sys.executable, "train.py"]
    with subprocess.Popen(
        command, cwd=lab.root, env=environment, text=True, stdout=subprocess.PIPE
    ) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "here\n"
        time.sleep(0.05)
        lab.write({f"{name}.py": text for name, text in texts.items()})
        assert training.wait() == 0


@pytest.mark.parametrize(
    ("first", "change", "approximate"),
    [
        (PAUSE, ANEW, True),
        (PAUSE + "# a comment\n", ("# a", "# another"), False),
        (PAUSE + "# a comment\n", ("# a", "\n# a"), True),
        ("import flor_dagster\n" + PAUSE, ANEW, False),
        ("import flor_dagster, helper\n" + PAUSE, ANEW, False),
    ],
    ids=["other code", "a comment", "other lines", "after our import", "after our import, with a module"],
)
def test_a_script_that_was_saved_before_its_first_flor_call_is_known_by_its_code_or_approximate(
    lab: Lab, first: str, change: tuple[str, str], approximate: bool
) -> None:
    text = "import os, time\n" + first + EDITED.removeprefix("import os, time\n")
    lab.commit({"train.py": text.format(change="", more=""), "helper.py": "VALUE = 2\n"})
    train_and_save(lab, train=text.format(change="", more="").replace(*change))
    with lab.open() as workspace:
        workspace.sync()
        (run,) = workspace.runs()
    assert ("train.py changed while" in run.approximate) == approximate, run.approximate
    lab.write({"train.py": text.format(change="", more='flor.log("b", helper.VALUE)')})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("b",))).cells
        frame = workspace.store.dataframe("b", fidelity="any")
    if approximate:
        assert answer.cell.fidelity != "exact"
    else:
        assert answer.cell.fidelity == "exact", answer.cell.sentence
        assert set(frame["b"].dropna()) == {2}


@pytest.mark.parametrize("late", [False, True])
def test_a_module_that_was_saved_before_it_was_loaded_is_certain(lab: Lab, late: bool) -> None:
    text = "import time\nimport flor_dagster as flor\n" + 'flor.log("first", 1)\n' * late + PAUSE
    text += EDITED.replace('flor.log("first", 1)\n', "").format(change="", more="")
    lab.commit({"train.py": text, "helper.py": "VALUE = 2\n"})
    train_and_save(lab, helper="VALUE = 7\n")
    with lab.open() as workspace:
        workspace.sync()
        (run,) = workspace.runs()
        assert workspace.store.dataframe("a")["a"].tolist() == [7, 8]
    if not late:  # its version may have been made before or after
        assert not run.approximate


def test_a_module_that_was_saved_at_the_moment_of_its_loading_makes_the_version_approximate(lab: Lab) -> None:
    text = "import os, time\nimport flor_dagster as flor\nopen('helper.py', 'a').write('# more\\n')\n"
    text += EDITED.removeprefix("import os, time\nimport flor_dagster as flor\n").format(change="", more="")
    lab.commit({"train.py": text, "helper.py": "VALUE = 2\n"})
    lab.train()
    with lab.open() as workspace:
        workspace.sync()
        (run,) = workspace.runs()
    assert "helper.py changed while" in run.approximate


def test_another_run_of_the_same_version_is_not_less_certain_for_it(lab: Lab) -> None:
    early = "import os, time\nif os.path.exists('slow'):\n    os.remove('slow'); time.sleep(0.1); import helper; os.utime('helper.py')\n"
    lab.commit(
        {
            "train.py": early + EDITED.format(change="", more=""),
            "helper.py": "VALUE = 2\n",
            ".gitignore": "slow\n",
        }
    )
    lab.write({"slow": ""})
    lab.train()
    lab.train()
    lab.write({"train.py": early + EDITED.format(change="", more='flor.log("b", helper.VALUE)')})
    with lab.open() as workspace:
        cells = [answer.cell for answer in workspace.answer(Question(("b",))).cells]
        first, second = workspace.runs()
    assert first.commit == second.commit
    assert (bool(first.approximate), bool(second.approximate)) == (True, False)
    assert [cell.fidelity for cell in cells] == ["unverified", "exact"]
