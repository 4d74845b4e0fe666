"""What a training asked of the file system is an input: a replay is told the same, or says that it was not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flor_dagster.replay.model import Question
from tests.replay.batch_lab import Batch, Case
from tests.replay.oracle_lab import Asked

pytestmark = pytest.mark.ci

HEAD = "import glob, os, random, shutil\nfrom pathlib import Path\nimport flor_dagster as flor\nrandom.seed(3)\nx = 0.0\n"
LOOP = """
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        x += random.random()
        flor.log("x", x)
        {step}
    flor.log("e", x)
    {epoch}
    #? flor.log("ASKED", {asked})
"""


def counting(how: str) -> str:
    return HEAD + f"n = {how}\n" + LOOP.format(step="pass", epoch="pass", asked="n")


def three(folder: str) -> dict[str, str]:
    return {f"{folder}.data/{name}.bin": "1" for name in "abc"}


def drop(folder: str) -> object:
    return lambda root: (root / f"{folder}.data" / "c.bin").unlink()


HOW = {
    "listdir": 'len(os.listdir("{0}.data"))',
    "scandir": 'sum(1 for _ in os.scandir("{0}.data"))',
    "walk": 'sum(len(files) for _, _, files in os.walk("{0}.data"))',
    "glob": 'len(glob.glob("{0}.data/*.bin"))',
    "iterdir": 'len(list(Path("{0}.data").iterdir()))',
    "exists": 'int(os.path.exists("{0}.data/c.bin"))',
    "is_file": 'int(Path("{0}.data/c.bin").is_file())',
    "getsize": 'os.path.getsize("{0}.data/c.bin")',
}


GONE = ("listdir", "walk", "exists", "getsize")


def _late(root: Path) -> None:
    (root / "added.data" / "d.bin").write_text("1")
    os.utime(root / "added.data" / "d.bin", (0, 0))  # copied in with its old time


CASES = {
    **{f"gone_{name}": Case(counting(how.format(f"gone_{name}")), data=three(f"gone_{name}"), oracle=False, between=drop(f"gone_{name}"))
       for name, how in HOW.items() if name in GONE},
    "same": Case(counting(f"[{', '.join(how.format('same') for how in HOW.values())}]"), data=three("same")),
    "added": Case(counting(HOW["listdir"].format("added")), data=three("added"), oracle=False, between=_late),
    "resized": Case(counting('os.stat("resized.data").st_size'), data={"resized.data": "1"}, oracle=False,
                    between=lambda root: (root / "resized.data").write_text("12")),
    "came": Case(counting('int(os.path.exists("came.data"))'), oracle=False,
                 between=lambda root: ((root / "came.data").write_text("1"), os.utime(root / "came.data", (0, 0)))),
    # The folder of the run's own output was not there when it began.
    "made": Case(HEAD + 'fresh = not os.path.isdir("made.data")\nos.makedirs("made.data", exist_ok=True)\n'
                 + LOOP.format(step="pass", epoch='Path(f"made.data/{epoch}.bin").write_text("1")', asked="x if fresh else -1")),
    # What the loops wrote is counted behind them.
    "counted": Case(HEAD + 'os.makedirs("counted.data", exist_ok=True)\n'
                    + LOOP.format(step='Path(f"counted.data/{epoch}.{step}.bin").write_text("1")', epoch="pass", asked="x")
                    + 'left = len(os.listdir("counted.data"))\nflor.log("left", left)\n#? flor.log("ASKED_tail", left * 2)\n'),
    # A copy onto what an earlier iteration wrote asks whether both are one file: that is writing.
    "copied": Case(HEAD + LOOP.format(step="pass", epoch='Path("copied.now.data").write_text(str(x)); shutil.copy("copied.now.data", "copied.best.data")', asked="x")),
    "dated": Case(HEAD + 'n = os.path.getmtime("dated.txt")\n' + LOOP.format(step="pass", epoch="pass", asked="n"), files={"dated.txt": "1"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Batch, dict[str, dict[str, Asked]]]]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("FLOR_")]:
            patch.delenv(name)
        folder = tmp_path_factory.mktemp("questions")
        patch.setenv("FLOR_CACHE", str(folder / "cache"))
        with Batch(folder, "json") as batch:
            yield batch, batch.ask(CASES)


Answers = tuple[Batch, dict[str, dict[str, Asked]]]


@pytest.mark.parametrize("case", ["same", "made", "counted", "copied"])
def test_what_is_as_it_was_is_answered_as_it_was(asked: Answers, case: str) -> None:
    for name, one in asked[1][case].items():
        assert one.right, (name, one.sentence, one.values, one.wanted)
        assert one.fidelity == "exact", (name, one.sentence)


def test_what_came_since_is_taken_out_where_the_run_was_told_that_it_is_missing(asked: Answers) -> None:
    one = asked[1]["came"]["asked"]
    assert one.fidelity == "exact", one.sentence
    assert {row[-1] for row in one.values} == {"0"}


def test_a_file_has_the_time_that_it_had(asked: Answers) -> None:
    _, answers = asked
    one = answers["dated"]["asked"]
    assert one.fidelity == "exact", one.sentence
    assert one.values[0][-1] == one.values[1][-1]


@pytest.mark.parametrize("case", [*(f"gone_{name}" for name in GONE), "added", "resized"])
def test_what_is_otherwise_is_said_and_nothing_is_called_exact(asked: Answers, case: str) -> None:
    one = asked[1][case]["asked"]
    assert one.fidelity not in ("exact", "unverified"), one.sentence
    assert case in one.sentence, one.sentence


def test_a_copy_over_an_earlier_output_costs_no_skipping(asked: Answers) -> None:
    assert asked[1]["copied"]["asked"].steps["x"] == 0


def test_the_plan_names_what_is_gone_before_anything_runs(asked: Answers) -> None:
    batch, _ = asked
    with batch.lab.open() as workspace:
        for case, words in (("gone_listdir", "lacks c.bin"), ("gone_exists", "is missing")):
            run = next(r for r in workspace.runs() if r.entrypoint == f"{case}.py")
            (part,) = workspace.plan(Question((f"{case}_asked",), runs=(run.key,))).runs
            assert any(words in warning for warning in part.detail["warnings"]), part.detail
