"""However a training was started, its replay starts the same way: as a module, with arguments, by a console script."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import textwrap
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import PACKAGE, Lab

ASKED = "#? "


def start(lab: Lab, command: Sequence[str], cwd: str = ".", **variables: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_") and k != "PYTHONPATH"}
    path = os.pathsep.join(filter(None, (variables.pop("PYTHONPATH", ""), str(PACKAGE))))
    environment |= {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "FLOR_CHECKPOINTS": "all", **variables}
    done = subprocess.run(
        [sys.executable, *command], cwd=lab.root / cwd, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def values_of(
    lab: Lab, files: Mapping[str, str], command: Sequence[str], cwd: str = ".", **variables: str
) -> tuple[list[float], str]:
    """Train without the asked statement, change the code, ask: its values and what the cell says."""
    texts = {name: textwrap.dedent(text) for name, text in files.items()}
    lab.commit(
        {n: "\n".join(x for x in t.split("\n") if not x.lstrip().startswith(ASKED)) for n, t in texts.items()}
    )
    start(lab, command, cwd, **variables)
    lab.write({name: text.replace(ASKED, "") for name, text in texts.items()})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",))).cells
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), (
            answer.cell.sentence,
            answer.cell.detail,
        )
        return workspace.store.dataframe("asked")["asked"].tolist(), answer.cell.sentence


LOOP = """\
import flor_dagster as flor
{head}
total = 0.0
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        total += scale * step
    flor.log("total", total)
    #? flor.log("asked", total * 2)
"""


def test_a_module_of_a_package_with_relative_imports(lab: Lab) -> None:
    files = {
        "pkg/__init__.py": "", "pkg/settings.py": "SCALE = 1.5\n",
        "pkg/train.py": LOOP.format(head="from .settings import SCALE as scale\nassert __package__ == 'pkg'"),
    }  # fmt: skip
    assert values_of(lab, files, ["-m", "pkg.train"])[0] == [3.0, 6.0, 9.0]


def test_a_package_run_as_a_module_from_a_source_folder(lab: Lab) -> None:
    files = {
        "src/pkg/__init__.py": "", "src/pkg/settings.py": "SCALE = 1.5\n",
        "src/pkg/__main__.py": LOOP.format(head="from pkg.settings import SCALE as scale"),
    }  # fmt: skip
    assert values_of(lab, files, ["-m", "pkg"], PYTHONPATH=str(lab.root / "src"))[0] == [3.0, 6.0, 9.0]


def test_a_script_that_parses_its_own_arguments(lab: Lab) -> None:
    head = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--scale", type=float, default=0.0)
parser.add_argument("--name", required=True)
options = parser.parse_args()
scale = options.scale
"""
    command = ["train.py", "--scale", "2.5", "--name", "a b"]
    assert values_of(lab, {"train.py": LOOP.format(head=head)}, command)[0] == [5.0, 10.0, 15.0]


def test_an_ignored_config_file_is_reached_as_it_was(lab: Lab) -> None:
    lab.write({".gitignore": "config.json\n", "config.json": '{"scale": 4.0}'})
    head = "import json\nscale = json.load(open('config.json'))['scale']"
    files = {"train.py": LOOP.format(head=head)}
    assert values_of(lab, files, ["train.py"])[0] == [8.0, 16.0, 24.0]


def test_a_config_file_that_changed_or_is_gone_never_gives_an_exact_value(lab: Lab) -> None:
    lab.write({".gitignore": "config.json\n", "config.json": '{"scale": 4.0}'})
    head = "import json\nscale = json.load(open('config.json'))['scale']"
    text = LOOP.format(head=head)
    lab.commit({"train.py": "".join(x for x in text.splitlines(True) if ASKED not in x)})
    start(lab, ["train.py"])
    lab.write({"train.py": text.replace(ASKED, "")})
    (lab.root / "config.json").unlink()
    with lab.open() as workspace:
        (gone,) = workspace.answer(Question(("asked",), without_checkpoints=True)).cells
        assert gone.cell.status == "failed"
        assert "config.json" in gone.cell.sentence
        lab.write({"config.json": '{"scale": 5.0}'})
        (changed,) = workspace.answer(Question(("asked",), without_checkpoints=True)).cells
        assert changed.cell.status == "failed"
        assert changed.cell.fidelity == "diverged"
        assert "`total`" in changed.cell.sentence


def test_a_script_in_another_folder_that_changes_directory_and_reads_relative_paths(lab: Lab) -> None:
    head = """
import os
from pathlib import Path
assert Path("here.txt").read_text() == "here"
os.chdir("../data")
scale = float(Path("scale.txt").read_text())
"""
    files = {"jobs/train.py": LOOP.format(head=head), "jobs/here.txt": "here", "data/scale.txt": "3"}
    assert values_of(lab, files, ["train.py"], cwd="jobs")[0] == [6.0, 12.0, 18.0]


def test_a_script_that_makes_an_output_folder_for_each_run_and_works_in_it(lab: Lab) -> None:
    head = """
import json, os
from datetime import datetime
folder = os.path.join("outputs", datetime.now().strftime("%Y-%m-%d/%H-%M-%S-%f"))
os.makedirs(folder)
os.chdir(folder)
os.makedirs(".hydra")
json.dump({"scale": 1.25}, open(".hydra/config.json", "w"))
scale = json.load(open(".hydra/config.json"))["scale"]
del folder
"""
    assert values_of(lab, {"train.py": LOOP.format(head=head), ".gitignore": "outputs\n"}, ["train.py"])[
        0
    ] == [2.5, 5.0, 7.5]
    assert len(list(lab.root.glob("outputs/*/*"))) == 1, (
        "the replay's own output folder is none of the user's"
    )


CONSOLE = """\
#!{python}
import sys
from toy.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""
CLI = """\
import sys
import flor_dagster as flor
from toy.model import SCALE

def main():
    total = 0.0
    for epoch in flor.loop("epoch", range(3)):
        total += SCALE * float(sys.argv[1])
        flor.log("total", total)
        #? flor.log("asked", total * 2)
"""


def test_a_console_script_of_a_package_that_is_installed_editable(lab: Lab, tmp_path: Path) -> None:
    """The installed package points at the user's work tree, which holds another code today."""
    script = tmp_path / "bin" / "train-toy"
    script.parent.mkdir()
    script.write_text(CONSOLE.format(python=sys.executable))
    files = {"src/toy/__init__.py": "", "src/toy/model.py": "SCALE = 1.5\n", "src/toy/cli.py": CLI}
    lab.commit({n: "".join(x for x in t.splitlines(True) if ASKED not in x) for n, t in files.items()})
    start(lab, [str(script), "2"], PYTHONPATH=str(lab.root / "src"))
    newest = {name: text.replace(ASKED, "") for name, text in files.items()}
    lab.write(newest | {"src/toy/model.py": "SCALE = 100.0\n"})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",))).cells
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), (
            answer.cell.sentence,
            answer.cell.detail,
        )
        assert workspace.store.dataframe("asked")["asked"].tolist() == [6.0, 12.0, 18.0]


def test_a_function_of_a_module_with_the_arguments_that_the_run_had(lab: Lab) -> None:
    train = """\
import flor_dagster as flor
from helper import SCALE

def train():
    total = 0.0
    for epoch in flor.loop("epoch", range(flor.arg("epochs", 1))):
        total += SCALE * epoch
        flor.log("total", total)
        #? flor.log("asked", total * 2)
"""
    runner = """
import json, sys
from pathlib import Path
from flor_dagster.recording.process import recorded_run
import lib.train
with recorded_run("lib/train.py:train", root=Path.cwd(), args={"epochs": 3}, module="lib.train"):
    lib.train.train()
"""
    files = {"lib/train.py": train, "lib/__init__.py": "", "helper.py": "SCALE = 2.0\n"}
    assert values_of(lab, files, ["-c", runner])[0] == [0.0, 4.0, 12.0]


TOOL = """\
import sys
sys.argv[:] = sys.argv[1:]
with open(sys.argv[0], "rb") as file:
    code = compile(file.read(), sys.argv[0], "exec")
exec(code, {"__name__": "__main__", "__file__": sys.argv[0], "__spec__": None})
"""


@pytest.fixture
def tools(tmp_path: Path) -> Lab:
    """Another repository, with an interpreter's environment in it that holds a tool and a console script."""
    other = Lab(tmp_path / "tools")
    venv.create(other.root / "venv", with_pip=False)
    (site,) = (other.root / "venv").glob("lib/python*/site-packages")
    (site / "runner.py").write_text(TOOL)
    (site / "ours.pth").write_text(sysconfig.get_path("purelib"))
    script = other.root / "venv" / "bin" / "train-toy"
    script.write_text(CONSOLE.format(python=other.root / "venv" / "bin" / "python"))
    script.chmod(0o755)
    return other


def start_by(tools: Lab, lab: Lab, command: Sequence[str]) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    path = os.pathsep.join([str(PACKAGE), str(lab.root / "src")])
    environment |= {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "FLOR_CHECKPOINTS": "all"}
    binaries = tools.root / "venv" / "bin"
    done = subprocess.run(
        [binaries / command[0], *command[1:]], cwd=lab.root, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def assert_recorded_here_alone(lab: Lab, tools: Lab) -> None:
    assert len(list(lab.root.glob(".flor/runs/*"))) == 1
    assert not (tools.root / ".flor").exists()
    assert not tools.git("for-each-ref", "refs/flor")


def test_a_script_under_a_tool_of_an_interpreter_in_another_repository_is_recorded_where_it_lies(
    lab: Lab, tools: Lab
) -> None:
    head = "class Scale:\n    value = 1.5\nscale = Scale.value"
    text = LOOP.format(head=head)
    lab.commit({"train.py": "".join(x for x in text.splitlines(True) if ASKED not in x)})
    start_by(tools, lab, ["python", "-m", "runner", "train.py"])
    assert_recorded_here_alone(lab, tools)
    lab.write({"train.py": text.replace(ASKED, "")})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",))).cells
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence
        assert workspace.store.dataframe("asked")["asked"].tolist() == [3.0, 6.0, 9.0]
        assert workspace.runs()[0].entrypoint == "train.py"


def test_a_console_script_of_an_interpreter_in_another_repository_is_recorded_with_the_code_it_calls(
    lab: Lab, tools: Lab
) -> None:
    files = {"src/toy/__init__.py": "", "src/toy/model.py": "SCALE = 1.5\n", "src/toy/cli.py": CLI}
    lab.commit({n: "".join(x for x in t.splitlines(True) if ASKED not in x) for n, t in files.items()})
    start_by(tools, lab, ["train-toy", "2"])
    assert_recorded_here_alone(lab, tools)
    lab.write({name: text.replace(ASKED, "") for name, text in files.items()})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",))).cells
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence
        assert workspace.store.dataframe("asked")["asked"].tolist() == [6.0, 12.0, 18.0]


@pytest.mark.parametrize("tool", [["cProfile", "-o", os.devnull], ["trace", "--count", "-C", "counts"]])
def test_a_script_under_one_of_pythons_own_tools_is_the_program(lab: Lab, tool: list[str]) -> None:
    lab.commit({"train.py": "import flor_dagster as flor\nflor.log('x', 1)\n"})
    start(lab, ["-m", *tool, "train.py"])
    with lab.open() as workspace:
        workspace.sync()
        assert [run.entrypoint for run in workspace.runs()] == ["train.py"]


def test_characters_that_end_lines_elsewhere_shift_no_line_of_a_source(lab: Lab) -> None:
    head = 'scale = 2.0\n\f\ntext = "a\u2028b\x85c\x1cd"\n# \x0b e'
    assert values_of(lab, {"train.py": LOOP.format(head=head)}, ["train.py"])[0] == [4.0, 8.0, 12.0]


def test_an_empty_folder_that_the_run_found_is_there_again(lab: Lab) -> None:
    for folder in ("empty", "data/also"):
        (lab.root / folder).mkdir(parents=True)
    head = "import os\nscale = float(len(os.listdir('empty')) + len(os.listdir('data')) + os.path.isdir('data/also'))"
    assert values_of(lab, {"train.py": LOOP.format(head=head)}, ["train.py"])[0] == [4.0, 8.0, 12.0]


def test_a_script_that_goes_to_an_empty_folder_before_it_imports_flor(lab: Lab) -> None:
    (lab.root / "out").mkdir()
    text = "import os\nos.chdir('out')\nopen('made', 'w').close()\n" + LOOP.format(head="scale = 2.0")
    assert values_of(lab, {"train.py": text}, ["train.py"])[0] == [4.0, 8.0, 12.0]


def test_a_folder_that_the_run_made_itself_is_left_to_it(lab: Lab) -> None:
    head = "import os\nos.mkdir('made')\nscale = 2.0 + len(os.listdir('made'))"
    assert values_of(lab, {"train.py": LOOP.format(head=head)}, ["train.py"])[0] == [4.0, 8.0, 12.0]
