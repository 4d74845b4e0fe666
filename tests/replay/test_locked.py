"""`--env uv`: an old version runs with the packages that its own lock file names, whatever is installed today."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from flor_dagster.cli import cli
from flor_dagster.errors import ReplayError
from flor_dagster.replay.locked import find_lock, find_uv
from flor_dagster.replay.model import Question
from flor_dagster.replay.reproducing import verify_run
from tests.replay.conftest import PACKAGE, Lab

pytestmark = pytest.mark.ci

UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
needs_uv = pytest.mark.skipif(UV is None, reason="uv is not installed")

SCRIPT = """\
import flor_dagster as flor
import tinydep
for epoch in flor.loop("epoch", range(2)):
    flor.log("scaled", tinydep.scale(epoch))
    {more}
"""
ASKED = 'flor.log("version", tinydep.VERSION)'


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two versions of a package, which is all that uv may look at."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        wheel(folder, version)
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    return folder


def wheel(folder: Path, version: str) -> Path:
    info = f"tinydep-{version}.dist-info"
    files = {
        "tinydep.py": f"VERSION = {version!r}\n\ndef scale(x):\n    return x * {version}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tinydep\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / f"tinydep-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD")))
    return path


def train(lab: Lab, wheels: Path, version: str, script: str = "train.py") -> None:
    """As somebody had it then: one version of the package beside everything else, and gone since."""
    site = wheels.with_name("then") / "site-packages"
    with zipfile.ZipFile(wheels / f"tinydep-{version}-py3-none-any.whl") as archive:
        archive.extractall(site)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment |= {"PYTHONPATH": f"{PACKAGE}{os.pathsep}{site}", "PYTHONHASHSEED": "0"}
    subprocess.run([sys.executable, script], cwd=lab.root, env=environment, check=True)
    shutil.rmtree(site)


@needs_uv
def test_each_version_runs_with_the_packages_that_it_names(lab: Lab, wheels: Path) -> None:
    for version in ("1.0", "2.0"):
        lab.commit({"train.py": SCRIPT.format(more=""), "requirements.txt": f"-r more.txt\n# {version}\n",
                    "more.txt": f"tinydep=={version}\n"})  # fmt: skip
        train(lab, wheels, version)
    lab.write({"train.py": SCRIPT.format(more=ASKED)})
    with lab.open() as workspace:
        # Today's interpreter lacks the package: it fails with that sentence, and a plan says so before.
        plan = workspace.plan(Question(("version",)))
        said = "; ".join(warning for part in plan.runs for warning in part.detail["warnings"])
        assert "tinydep (not installed) instead of 1.0" in said
        report = workspace.answer(Question(("version",)))
        assert [c.cell.status for c in report.cells] == ["failed", "failed"]
        assert "No module named 'tinydep'" in report.cells[0].cell.sentence
        assert not report.complete

        plan = workspace.plan(Question(("version",), environment="uv"))
        assert "its environment is made first, of requirements.txt" in str(plan.runs[0].detail["warnings"])
        said_of: list[str] = []
        report = workspace.answer(Question(("version",), environment="uv"), on_line=said_of.append)
        cells = [c.cell for c in report.cells]
        assert [(c.status, c.fidelity) for c in cells] == [("replayed", "exact")] * 2, cells
        assert workspace.store.dataframe("version")["version"].tolist() == ["1.0", "1.0", "2.0", "2.0"]
        assert sum("makes the environment" in line for line in said_of) == 2
        made = sorted(workspace.cache.glob("environments/*/flor-ready.json"))
        run = workspace.runs()[0].key
        lacking = verify_run(workspace, run)
        assert "No module named 'tinydep'" in lacking.sentence
        assert any("tinydep (not installed) instead of 1.0" in warning for warning in lacking.warnings)
    assert len(made) == 2
    for chosen in (("--env", "uv"), ("--python", str(made[0].parent / "bin" / "python"))):
        shown = CliRunner().invoke(cli, ["verify", run, *chosen, "--project", str(lab.root)])
        # The first folder may hold the other version's packages: then its values are not the recorded ones.
        right = chosen[0] == "--env" or holds(made[0].parent, "1.0")
        assert shown.exit_code == (0 if right else 1), shown.output
        assert ("exact  2 records" in shown.output) == right, shown.output
    shown = CliRunner().invoke(
        cli, ["verify", run, "--env", "uv", "--python", "x", "--project", str(lab.root)]
    )
    assert shown.exit_code == 2
    assert "give one of them" in shown.output


def holds(environment: Path, version: str) -> bool:
    return bool(list(environment.glob(f"lib/python*/site-packages/tinydep-{version}.dist-info")))


@needs_uv
def test_a_lock_of_uv_is_taken_before_all_else_and_made_once(lab: Lab, wheels: Path) -> None:
    project = (
        '[project]\nname = "toy"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["tinydep<2"]\n'
    )
    lab.write(
        {
            "pyproject.toml": project,
            "requirements.txt": "tinydep==2.0\n",
            "work/train.py": SCRIPT.format(more=""),
        }
    )
    subprocess.run([find_uv(), "lock", "--quiet", "--python", sys.executable], cwd=lab.root, check=True)
    lab.commit({})
    train(lab, wheels, "1.0", "work/train.py")
    train(lab, wheels, "1.0", "work/train.py")
    lab.write({"work/train.py": SCRIPT.format(more=ASKED)})
    said: list[str] = []
    with lab.open() as workspace:
        report = workspace.answer(Question(("version",), environment="uv"), on_line=said.append)
        assert {c.cell.fidelity for c in report.cells} == {"exact"}, report.cells[0].cell
        assert workspace.store.dataframe("version")["version"].tolist() == ["1.0"] * 4
    assert sum("makes the environment of uv.lock" in line for line in said) == 1


@needs_uv
def test_an_environment_that_cant_be_made_fails_its_run_alone(lab: Lab, wheels: Path) -> None:
    for pin in ("tinydep==9.9", "tinydep==1.0"):
        lab.commit({"train.py": SCRIPT.format(more=""), "requirements.txt": f"{pin}\n"})
        train(lab, wheels, "1.0")
    lab.write({"train.py": SCRIPT.format(more=ASKED)})
    with lab.open() as workspace:
        bad, good = (c.cell for c in workspace.answer(Question(("version",), environment="uv")).cells)
        assert bad.status == "failed"
        assert "the environment of requirements.txt could not be made" in bad.sentence
        assert "tinydep==9.9" in bad.sentence
        assert (good.status, good.fidelity) == ("replayed", "exact")
        assert len(list(workspace.cache.glob("environments/*/flor-ready.json"))) == 1
        bad_run = verify_run(workspace, workspace.runs()[0].key, environment="uv")
        assert bad_run.fidelity is None
        assert "the environment of requirements.txt could not be made" in bad_run.sentence


def test_without_a_lock_or_without_uv_the_run_fails_and_says_what_to_do(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'import flor_dagster as flor\nflor.log("a", 1)\n{}'
    lab.commit({"train.py": script.format("")})
    lab.train()
    lab.commit({"requirements.txt": "nothing-of-this-name\n"})
    lab.train()
    lab.write({"train.py": script.format('flor.log("b", 2)\n')})
    monkeypatch.setattr("flor_dagster.replay.locked.shutil.which", lambda *_, **__: None)
    with lab.open() as workspace:
        report = workspace.answer(Question(("b",), environment="uv"))
    without_lock, without_uv = (c.cell for c in report.cells)
    assert without_lock.status == without_uv.status == "failed"
    assert "has no uv.lock, requirements.txt or pyproject.toml" in without_lock.sentence
    assert "pip install uv" in without_uv.sentence
    assert not report.complete


def test_the_nearest_description_counts_and_its_content_is_the_key() -> None:
    files = {"pyproject.toml": "[tool.x]\n", "a/requirements.txt": "-r ../common.txt\nx\n", "common.txt": "y==1\n",
             "requirements.txt": "z\n"}  # fmt: skip
    near = find_lock(files.get, "a/b/train.py", "3.11.7", "v")
    assert near.file == "a/requirements.txt"
    assert [name for name, _ in near.texts] == ["a/requirements.txt", "common.txt"]
    assert find_lock(files.get, "train.py:f", "3.11.7", "v").file == "requirements.txt"
    changed = files | {"common.txt": "y==2\n"}
    keys = {
        find_lock(f, "a/b/train.py", p, "v").key
        for f in (files.get, changed.get)
        for p in ("3.11.7", "3.12.1")
    }
    assert len(keys) == 4
    with pytest.raises(ReplayError, match="has no uv"):
        find_lock({"pyproject.toml": "[tool.x]\n"}.get, "train.py", "", "v")
