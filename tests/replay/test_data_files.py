"""A replay reads what the training read: nothing that it made itself, nothing that changed since without a word."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flor_dagster.replay.inputs import read_inputs
from flor_dagster.replay.model import Question
from flor_dagster.replay.record import read_run
from tests.replay.batch_lab import Batch, Case
from tests.replay.oracle_lab import Asked

pytestmark = pytest.mark.ci

HEAD = "import json, os, random\nimport numpy as np\nimport flor_dagster as flor\nrandom.seed(3)\nx = 0.0\n"
LOOP = """
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        x += random.random()
        flor.log("x", x)
        {step}
    flor.log("e", x)
    #? flor.log("ASKED", {asked})
"""
READS = 'values = [float(v) for v in open("{file}").read().split()]\n'


def reading(file: str, asked: str = "sum(values)") -> str:
    return HEAD + READS.format(file=file) + LOOP.format(step="pass", asked=asked)


CASES = {
    # What the script wrote itself.
    "stepfile": Case(HEAD + LOOP.format(step='json.dump([x, epoch], open("state.data", "w"))', asked='json.load(open("state.data", "r"))')),
    "best": Case(HEAD + LOOP.format(step='np.save("best.data.npy", np.array([x]))', asked="x") + 'flor.log("b", float(np.load("best.data.npy")[0]))\n#? flor.log("ASKED_tail", float(np.load("best.data.npy")[0]) + 1)\n'),
    "setupfile": Case(HEAD + 'json.dump({"a": 1}, open("cfg.data", "w"))\n' + LOOP.format(step="pass", asked="x") + 'flor.log("cfg", json.load(open("cfg.data"))["a"])\n'),
    "made": Case(HEAD + 'if os.path.exists("made.data.npy"):\n    x = float(np.load("made.data.npy")[0])\n' + LOOP.format(step='np.save("made.data.npy", np.array([x]))', asked="x")),
    # What it resumed from, and wrote over.
    "resumed": Case(
        HEAD + 'if os.path.exists("last.ckpt"):\n    x = json.load(open("last.ckpt"))\nflor.log("start", x)\n'
        + LOOP.format(step='json.dump(x, open("last.ckpt", "w"))', asked="x * 2"),
        prepare='import json; json.dump(7.5, open("last.ckpt", "w"))',
    ),
    # What changed since.
    "same": Case(reading("a.data"), data={"a.data": "1 2 3"}),
    "touched": Case(reading("b.data"), data={"b.data": "1 2 3"}, between=lambda root: os.utime(root / "b.data")),
    "changed": Case(reading("c.data"), data={"c.data": "1 2 3"}, oracle=False, between=lambda root: (root / "c.data").write_text("1 2 4")),
    "grown": Case(reading("d.data"), data={"d.data": "1 2 3"}, oracle=False, between=lambda root: (root / "d.data").write_text("1 2 3 4")),
    "missing": Case(reading("f.data"), data={"f.data": "1 2 3"}, oracle=False, between=lambda root: (root / "f.data").unlink()),
    # In the version, but not as it was read: the training wrote over it before its first flor call.
    "counted": Case(
        "import json\nimport flor_dagster as flor\n"
        'number = json.load(open("counted.json"))["n"]\n'
        'json.dump({"n": number + 1}, open("counted.json", "w"))\n'
        'for epoch in flor.loop("epoch", range(2)):\n    flor.log("e", epoch)\n    #? flor.log("ASKED", number * 10)\n',
        files={"counted.json": '{"n": 1}'}, oracle=False,
    ),
    "unread": Case(
        HEAD + 'def total():\n    return sum(float(v) for v in open("g.data").read().split())\n' + LOOP.format(step="pass", asked="total()"),
        data={"g.data": "1 2 3"}, oracle=False, between=lambda root: (root / "g.data").write_text("4"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Batch, dict[str, dict[str, Asked]]]]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("FLOR_")]:
            patch.delenv(name)
        folder = tmp_path_factory.mktemp("data")
        patch.setenv("FLOR_CACHE", str(folder / "cache"))
        with Batch(folder, "numpy", "json") as batch:
            yield batch, batch.ask(CASES)


Answers = tuple[Batch, dict[str, dict[str, Asked]]]


@pytest.mark.parametrize("case", ["stepfile", "best", "setupfile", "made", "resumed", "same", "touched"])
def test_what_was_there_is_read_as_it_was(asked: Answers, case: str) -> None:
    for name, one in asked[1][case].items():
        assert one.right, (name, one.sentence, one.values, one.wanted)
        assert one.fidelity == "exact", (name, one.sentence)


def test_a_replay_that_needs_what_was_skipped_to_be_written_is_executed_from_the_beginning(
    asked: Answers,
) -> None:
    answers = asked[1]
    assert answers["stepfile"]["asked"].steps["x"] == 6
    assert answers["setupfile"]["asked"].steps["x"] in (0, 6)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("changed", "c.data, which this run read, changed since (its size is the same, its content is not)"),
        ("grown", "d.data, which this run read, changed since (5 bytes then, 7 now)"),
        ("counted", "counted.json, which this run read, was written over before its version was kept"),
        ("missing", "f.data, which this run read, is missing"),
        ("unread", "No such file or directory: 'g.data'"),
    ],
)
def test_what_changed_since_is_said_and_nothing_is_called_exact(
    asked: Answers, case: str, words: str
) -> None:
    batch, answers = asked
    one = answers[case]["asked"]
    assert one.answer.cell.status == "failed"
    assert words in one.sentence
    with batch.lab.open() as workspace:
        shown = (
            workspace.store.dataframe(f"{case}_asked") if f"{case}_asked" in workspace.store.names() else None
        )
        assert shown is None or shown[f"{case}_asked"].map(lambda v: not isinstance(v, float) or v != v).all()


def test_the_plan_names_missing_and_changed_files_before_anything_runs(asked: Answers) -> None:
    batch, _ = asked
    with batch.lab.open() as workspace:
        for case, words in (("changed", "changed since"), ("missing", "is missing")):
            run = next(r for r in workspace.runs() if r.entrypoint == f"{case}.py")
            (part,) = workspace.plan(Question((f"{case}_asked",), runs=(run.key,))).runs
            assert any(words in warning for warning in part.detail["warnings"]), part.detail


def test_path_size_time_and_content_of_what_was_read_are_kept(asked: Answers) -> None:
    batch, _ = asked
    home = batch.lab.root / ".flor"
    with batch.lab.open() as workspace:
        runs = {r.entrypoint: r for r in workspace.runs()}
    run = runs["same.py"]
    inputs = read_inputs(home, run.id, read_run(home / "runs" / run.id))
    status = (batch.lab.root / "a.data").stat()
    assert inputs.known
    assert inputs.read["a.data"] == (status.st_size, status.st_mtime_ns)
    assert set(inputs.digests) == {"a.data"}
    run = runs["resumed.py"]
    kept = read_inputs(home, run.id, read_run(home / "runs" / run.id)).kept
    assert {name: Path(copy).read_text() for name, copy in kept.items()} == {"last.ckpt": "7.5"}
