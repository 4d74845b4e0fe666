"""The `flor` command: a process for each call, in a real repository."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flor_dagster import cli
from flor_dagster.cli import output
from flor_dagster.cli.reference import reference
from flor_dagster.cli.run import parse_arguments
from tests.forked import run_forked

ROOT = Path(__file__).parents[1]

FIRST = """\
import random

import flor_dagster as flor

state = [0.0]
rng = random.Random(flor.arg("seed", 7))
scale = flor.arg("scale", 1.0)

with flor.checkpointing(state=state, rng=rng):
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(4)):
            change = rng.random() * scale
            state[0] += change
            flor.log("loss", state[0])
        state[0] *= 1.0
        flor.log("total", state[0])
"""

# The second version renames and adds what the first one lacks.
SECOND = """\
import random

import flor_dagster as flor

weights = [0.0]
rng = random.Random(flor.arg("seed", 7))
scale = flor.arg("scale", 1.0)
decay = flor.arg("decay", 0.5)

with flor.checkpointing(weights=weights, rng=rng):
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(4)):
            change = rng.random() * scale
            weights[0] += change
            flor.log("loss", weights[0])
        weights[0] *= decay
        flor.log("decay_by", decay)
        flor.log("total", weights[0])
"""

QUESTIONS = SECOND.replace(
    '            flor.log("loss", weights[0])\n',
    '            flor.log("loss", weights[0])\n            flor.log("change", change)\n',
).replace(
    '        flor.log("total", weights[0])\n',
    '        flor.log("total", weights[0])\n        flor.log("square", weights[0] ** 2)\n'
    '        flor.log("decayed", weights[0] * decay)\n',
)


@dataclass(frozen=True)
class Done:
    """What a command left: its exit status and its two streams."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The second stream, whatever line it is broken in."""
        return " ".join(self.err.split())

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document that it has to be."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Project:
    """A git repository to run the command in."""

    root: Path

    def write(self, path: str, text: str) -> None:
        (self.root / path).write_text(text)

    def commit(self, text: str, subject: str = "a version") -> None:
        self.write("train.py", text)
        git(self.root, "add", "--all")
        git(self.root, "commit", "--quiet", "--message", subject)

    def flor(self, *arguments: str, cwd: Path | None = None) -> Done:
        return flor(*arguments, cwd=cwd or self.root)

    def ask(self, *arguments: str) -> Any:
        done = self.flor(*arguments, "--json")
        assert done.code == 0, done.err
        return done.document


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def flor(*arguments: str, cwd: Path) -> Done:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("FLOR_", "PYTHONHASHSEED"))
    }
    environment |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cwd.parent / "cache")}
    done = Done(*run_forked(cli.main, arguments, cwd=cwd, environment=environment))
    for stream in (done.out, done.err):
        assert "Traceback" not in stream or "train.py" in stream, stream
        assert "\x1b" not in stream
    return done


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return new_project(tmp_path)


@pytest.fixture
def trained(project: Project) -> Project:
    """Two versions, three training runs, and a newest script with three questions, not committed."""
    return train(project)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """As `trained`, made once, for tests that only look."""
    return train(new_project(tmp_path_factory.mktemp("untouched")))


def new_project(folder: Path) -> Project:
    root = folder / "project"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitignore").write_text("__pycache__/\n*.txt\n")
    return Project(root)


def train(project: Project) -> Project:
    project.commit(FIRST)
    project.ask("run", "train.py")
    project.ask("run", "train.py", "--arg", "scale=2.0")
    project.commit(SECOND)
    project.ask("run", "train.py")
    project.write("train.py", QUESTIONS)
    return project


# --------------------------------------------------------------------------------------------------------- done well


def test_it_is_a_module_and_an_installed_command(project: Project) -> None:
    project.commit(FIRST)
    for command in (
        [sys.executable, "-m", "flor_dagster.cli"],
        [str(Path(sys.executable).with_name("flor"))],
    ):
        done = subprocess.run(
            [*command, "runs", "--json"], cwd=project.root, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (done.returncode, json.loads(done.stdout)) == (0, {"runs": []}), done.stderr


def test_run_records_a_training_run_with_its_arguments_and_a_fixed_hash_seed(project: Project) -> None:
    project.commit(
        FIRST.replace("import random\n", "import os\nimport random\n")
        + 'print(os.environ["PYTHONHASHSEED"])\n'
    )
    done = project.flor("run", "train.py", "--arg", "scale=0.5", "--arg", "seed=3")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "0"
    assert re.fullmatch(r"training run \S+ finished in [\d.]+ s", done.out.splitlines()[-1])
    (run,) = project.ask("runs")["runs"]
    assert run["args"] == {"scale": 0.5, "seed": 3}
    assert run["status"] == "finished"
    assert run["entrypoint"] == "train.py"


def test_run_finds_the_script_from_a_folder_below_and_from_elsewhere(project: Project) -> None:
    project.commit(FIRST)
    below = project.root / "below"
    below.mkdir()
    assert project.flor("run", "../train.py", cwd=below).code == 0
    assert flor("run", "train.py", "--project", str(project.root), cwd=project.root.parent).code == 0
    assert len(project.ask("runs")["runs"]) == 2


def test_runs_lists_what_was_trained(untouched: Project) -> None:
    done = untouched.flor("runs")
    assert done.code == 0
    keys = [run["key"] for run in untouched.ask("runs")["runs"]]
    assert len(keys) == 3
    assert all(key in done.out for key in keys)
    assert "scale=2" in done.out
    assert [run["key"] for run in untouched.ask("runs", "--latest", "1")["runs"]] == keys[-1:]


def test_view_shows_a_row_per_loop_context_and_json_has_them_all(untouched: Project) -> None:
    document = untouched.ask("view", "loss", "total")
    assert {"run", "epoch", "step", "loss", "total"} <= set(document["columns"])
    assert document["row_count"] == len(document["rows"]) == 3 * 3 * 4
    text = untouched.flor("view", "loss", "--limit", "5")
    assert text.code == 0
    assert "31 more rows" in text.out


def test_view_says_why_a_name_is_empty(untouched: Project) -> None:
    document = untouched.ask("view", "total", "decay_by")
    keys = [run["key"] for run in untouched.ask("runs")["runs"]]
    assert [place["run"] for place in document["empty"]] == keys[:2]
    assert all(place["name"] == "decay_by" and place["reason"] for place in document["empty"])
    assert "decay_by is empty" in untouched.flor("view", "total", "decay_by").out
    by_run = {key: [row["decay_by"] for row in document["rows"] if row["run"] == key] for key in keys}
    assert list(by_run.values()) == [[None] * 3, [None] * 3, [0.5] * 3]


def test_propagate_shows_a_diff_or_a_refusal_and_runs_nothing(untouched: Project) -> None:
    placed = untouched.flor("propagate", "square")
    assert placed.code == 0, placed.err
    assert '+        flor.log("square", state[0] ** 2)' in placed.out
    assert '+        flor.log("square", weights[0] ** 2)' in placed.out

    refused = untouched.ask("propagate", "decayed")["versions"]
    assert [entry["placement"]["status"] for entry in refused] == ["refused", "placed"]
    assert "decay" in refused[0]["placement"]["sentence"]
    assert " came with " in refused[0]["placement"]["sentence"]
    assert {entry["name"] for entry in refused} == {"decayed"}
    chosen = untouched.ask("propagate", "square", "decayed", "--version", refused[1]["commit"][:10])
    assert [(entry["name"], entry["commit"]) for entry in chosen["versions"]] == [
        ("square", refused[1]["commit"]),
        ("decayed", refused[1]["commit"]),
    ]
    run = untouched.ask("runs")["runs"][0]
    assert [e["commit"] for e in untouched.ask("propagate", "square", "--runs", run["key"])["versions"]] == [
        run["commit"]
    ]
    unknown = untouched.flor("propagate", "square", "--version", "no-such-version")
    assert unknown.code != 0
    assert "no-such-version" in unknown.said
    assert (untouched.root / "train.py").read_text() == QUESTIONS


def test_hindsight_fills_the_columns_and_asking_again_starts_no_child(trained: Project) -> None:
    answer = trained.ask("hindsight", "square", "change")
    assert answer["complete"]
    assert {cell["cell"]["status"] for cell in answer["cells"]} == {"replayed"}
    rows = trained.ask("view", "total", "square", "--provenance")["rows"]
    assert len(rows) == 3 * 3
    assert all(row["square"] == row["total"] ** 2 for row in rows)
    assert {row["square_origin"] for row in rows} == {"replayed"}
    assert {row["square_fidelity"] for row in rows} == {"exact"}
    changes = trained.ask("view", "change")["rows"]
    assert len(changes) == 3 * 3 * 4
    assert trained.ask("hindsight", "square", "change")["children"] == 0


def test_a_refusal_is_an_answer(trained: Project) -> None:
    done = trained.flor("hindsight", "decayed")
    assert done.code == 0, done.err
    assert "1 replayed" in done.out
    assert "2 refused" in done.out
    assert "decay" in done.out


def test_a_likely_place_is_shown_with_its_diff_and_answered_once_a_person_confirmed_it(
    project: Project,
) -> None:
    project.commit(FIRST.replace("state[0] *= 1.0", "state[0] = round(state[0], 2)"))
    project.ask("run", "train.py")
    asked = '        flor.log("total", state[0])\n        flor.log("double", 2 * state[0])\n'
    project.write(
        "train.py",
        FIRST.replace('        flor.log("total", state[0])\n', asked).replace(
            "        state[0] *= 1.0\n", ""
        ),
    )
    likely = "place likely: `state = …` comes before the place"

    shown = project.flor("propagate", "double")
    assert (shown.code, likely in shown.out) == (0, True), shown.out
    assert '+        flor.log("double", 2 * state[0])' in shown.out
    assert "double: 1 placed (likely), of 1 versions" in shown.out
    (version,) = project.ask("propagate", "double")["versions"]
    assert (version["placement"]["verdict"], len(version["placement"]["reasons"])) == ("likely", 1)

    plan = project.flor("hindsight", "double", "--plan")
    assert (plan.code, likely in plan.out) == (0, True), plan.out
    assert '+        flor.log("double", 2 * state[0])' in plan.out
    assert "1 place to confirm: `flor hindsight double --accept-likely`." in plan.out

    waits = project.flor("hindsight", "double")
    assert waits.code == 1
    assert "waits for a person: its place at train.py:" in waits.said
    document = project.flor("hindsight", "double", "--json").document
    assert (document["complete"], document["children"]) == (False, 0)
    assert [one["statement"] for one in document["unconfirmed"]] == ["double"]
    assert "its place" in project.flor("view", "double").out

    done = project.flor("hindsight", "double", "--accept-likely")
    assert done.code == 0, done.err
    assert done.out.index(likely) < done.out.index("place confirmed"), "what is confirmed is shown first"
    assert "1 cells: 1 replayed (1 exact; 1 place confirmed)" in done.out
    (cell,) = [one["cell"] for one in project.ask("hindsight", "double")["cells"]]
    assert (cell["fidelity"], cell["place"]) == ("exact", "confirmed")
    rows = project.ask("view", "total", "double", "--provenance")["rows"]
    assert {(row["double_fidelity"], row["double_place"], row["total_place"]) for row in rows} == {
        ("exact", "confirmed", "certain")
    }
    assert (
        "double: its place in this version is likely, and was confirmed by a person"
        in project.flor("view", "double").out
    )


def test_a_plan_runs_nothing(untouched: Project) -> None:
    done = untouched.flor("hindsight", "square", "--plan")
    assert done.code == 0, done.err
    assert "3 of 3 training runs to replay" in done.out
    assert "Nothing was run." in done.out
    assert untouched.ask("hindsight", "square", "--plan")["plan"]["runs"]
    assert untouched.ask("view", "total", "square")["empty"]


def test_iterations_ask_a_part_and_leave_the_question_open(trained: Project) -> None:
    trained.ask("hindsight", "change", "--latest", "1", "--iterations", "epoch=0,last")
    rows = trained.ask("view", "change")["rows"]
    assert {row["epoch"] for row in rows if row["change"] is not None} == {0, 2}
    plan = trained.ask("hindsight", "change", "--plan")["plan"]
    assert [len(part["todo"]) for part in plan["runs"]] == [1, 1, 1]


def test_one_training_run_can_be_asked(trained: Project) -> None:
    key = trained.ask("runs")["runs"][1]["key"]
    answer = trained.ask("hindsight", "square", "--runs", key)
    assert [cell["run"]["key"] for cell in answer["cells"]] == [key]


# ------------------------------------------------------------------------------------------- errors that are understood


@pytest.mark.parametrize(
    "command", [["runs"], ["view", "loss"], ["propagate", "loss"], ["hindsight", "loss"]]
)
def test_without_a_repository_the_command_says_so(tmp_path: Path, command: list[str]) -> None:
    done = flor(*command, cwd=tmp_path)
    assert done.code == output.USAGE
    assert "git repository" in done.said
    assert not done.out
    document = flor(*command, "--json", cwd=tmp_path).document
    assert document["error"]["kind"] == "NoRepositoryError"


def test_without_training_runs_there_is_nothing_to_see(project: Project) -> None:
    project.commit(FIRST)
    assert project.ask("runs") == {"runs": []}
    runs = project.flor("runs")
    assert runs.code == 0
    assert "No training runs yet" in runs.out
    for command in (["view", "loss"], ["hindsight", "loss"]):
        done = project.flor(*command)
        assert done.code == output.FAILED
        assert "no training runs yet" in done.said
        assert "flor run" in done.said


@pytest.mark.parametrize("command", [["hindsight"], ["propagate"], ["view"]])
def test_an_unknown_name_is_answered_with_near_ones(untouched: Project, command: list[str]) -> None:
    done = untouched.flor(*command, "sqare" if command != ["view"] else "totl")
    assert done.code == output.USAGE
    assert "square" in done.err if command != ["view"] else "total" in done.said
    assert untouched.flor(*command, "sqare", "--json").document["error"]["kind"] == "UnknownNameError"


def test_a_syntax_error_in_the_newest_script_names_file_and_line(trained: Project) -> None:
    trained.write("train.py", QUESTIONS.replace("for step in", "for step ni"))
    done = trained.flor("hindsight", "square")
    assert done.code == output.FAILED
    assert "train.py" in done.said
    assert "12" in done.said
    assert trained.flor("hindsight", "square", "--json").document["error"]["kind"] == "SourceSyntaxError"


def test_a_script_that_fails_names_the_training_run_and_its_last_lines(project: Project) -> None:
    project.commit(FIRST + 'raise RuntimeError("out of luck")\n')
    done = project.flor("run", "train.py")
    assert done.code == output.FAILED
    (run,) = project.ask("runs")["runs"]
    assert run["status"] == "failed"
    assert run["key"] in done.said
    assert "out of luck" in done.err + done.out
    assert project.flor("run", "train.py", "--json").document["error"]["run"]


def test_one_old_version_that_fails_now_stops_no_other(project: Project) -> None:
    project.write("data.txt", "1.0")
    reads = FIRST.replace('flor.arg("scale", 1.0)', 'float(open("data.txt").read())')
    project.commit(reads)
    project.ask("run", "train.py")
    project.commit(SECOND)
    project.ask("run", "train.py")
    (project.root / "data.txt").unlink()
    project.write("train.py", QUESTIONS)

    done = project.flor("hindsight", "square")
    broken, sound = (run["key"] for run in project.ask("runs")["runs"])
    assert done.code == output.FAILED
    assert f"square of {broken} failed" in done.said
    assert "data.txt" in done.said
    rows = project.ask("view", "square")["rows"]
    assert {row["run"] for row in rows if row["square"] is not None} == {sound}
    assert [cell["run"] for cell in project.flor("hindsight", "square", "--json").document["failed"]] == [
        broken
    ]


def test_a_diverged_cell_is_named_and_fails_the_command(trained: Project) -> None:
    for journal in trained.root.glob(".flor/runs/*/journal.0.jsonl"):
        lines = journal.read_text().splitlines(keepends=True)
        at = [number for number, line in enumerate(lines) if re.match(r"\[\d+,\d+,", line)][-1]
        lines[at] = re.sub(r",[^,]*\]", ",123.5]", lines[at])
        journal.write_text("".join(lines))
    for store in trained.root.glob(".flor/flor.db*"):
        store.unlink()
    done = trained.flor("hindsight", "square", "--latest", "1")
    assert done.code == output.FAILED
    assert "123.5" in done.err + done.out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["view"],
        ["hindsight"],
        ["nonsense"],
        ["run", "missing.py"],
        ["run", "train.py", "--arg", "scale"],
        ["hindsight", "square", "--iterations", "epoch"],
        ["hindsight", "square", "--iterations", "epoch=first"],
        ["hindsight", "square", "--workers", "-1"],
        ["view", "loss", "--project", "/nowhere/at/all"],
    ],
)
def test_wrong_usage_is_status_2(project: Project, arguments: list[str]) -> None:
    project.commit(FIRST)
    project.flor("run", "train.py") if arguments[:1] == ["hindsight"] else None
    assert project.flor(*arguments).code == output.USAGE


# --------------------------------------------------------------------------------------------------------- small parts


def test_help_loads_nothing_heavy() -> None:
    heavy = "dagster pandas numpy sqlalchemy libcst git rich"
    code = f"import sys; import flor_dagster.cli; print(set('{heavy}'.split()) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_command_and_option_is_in_the_reference() -> None:
    assert "docs/cli.md" in (ROOT / "README.md").read_text()
    assert all(f"## `flor {name}`" in reference() for name in cli.COMMANDS)
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), (
        "make it anew: python -m flor_dagster.cli.reference > docs/cli.md"
    )


def test_argument_values_are_json_else_text() -> None:
    assert parse_arguments(["lr=0.1", "n=3", "name=adam", "on=true", "path=a=b", "sizes=[1, 2]"]) == {
        "lr": 0.1,
        "n": 3,
        "name": "adam",
        "on": True,
        "path": "a=b",
        "sizes": [1, 2],
    }


def test_json_of_values_that_json_lacks() -> None:
    assert output.jsonable([math.nan, math.inf, -math.inf, 0.1]) == ["NaN", "Infinity", "-Infinity", 0.1]
    assert output.jsonable({"when": Done(0, "", "")}) == {"when": {"code": 0, "out": "", "err": ""}}
