"""Values of the clock and of `hash()` that objects keep: no false alarm, and no answer that hangs on one is called exact."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flor_dagster.replay.model import Question
from flor_dagster.replay.unrepeatable import Unrepeatable, reads_of
from tests.replay.conftest import PACKAGE, Lab
from tests.replay.oracle_lab import with_asked, without_asked

KEPT = """\
import datetime, time
import flor_dagster as flor

class Net:
    def __init__(self):
        self.made_of, self.w = hash("config"), 1.0
        self.born, self.began, self.day = time.time(), time.perf_counter(), datetime.datetime.now()
        self.names = {"folder": datetime.datetime.now().strftime("%H-%M-%S-%f")}

net = Net()
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        net.w *= 0.9
        flor.log("w", net.w)
        #? flor.log("twice", net.w * 2)
        #? flor.log("born", net.born)
"""


def train_unseeded(lab: Lab) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONHASHSEED" and not k.startswith("FLOR_")}
    environment |= {"PYTHONPATH": str(PACKAGE), "FLOR_CHECKPOINTS": "all"}
    subprocess.run([sys.executable, "train.py"], cwd=lab.root, env=environment, check=True)


def test_kept_values_are_left_out_and_listed_and_answers_that_read_one_are_not_exact(lab: Lab) -> None:
    lab.commit({"train.py": without_asked(KEPT)})
    train_unseeded(lab)
    lab.write({"train.py": with_asked(KEPT)})
    with lab.open() as workspace:
        (twice,) = workspace.answer(Question(("twice",))).cells
        assert (twice.cell.status, twice.cell.fidelity) == ("replayed", "exact"), twice.cell.sentence
        for place in ("net.born", "net.began", "net.day", "net.names['folder']"):
            assert f"{place} (a value of the clock)" in twice.cell.sentence
        assert "net.made_of (a value of hash())" in twice.cell.sentence
        assert workspace.store.dataframe("twice")["twice"].tolist() == pytest.approx(
            [1.8, 1.62, 1.458, 1.3122]
        )
        (born,) = workspace.answer(Question(("born",))).cells
        assert born.cell.fidelity != "exact", born.cell.sentence


def test_a_state_that_differs_alone_is_named_with_both_values(lab: Lab) -> None:
    script = KEPT.replace(
        "self.names = {", "self.odd = [{'k': int(open('odd').read())}]\n        self.names = {"
    )
    lab.write_early({"odd": "3", ".gitignore": "odd\n"})
    lab.commit({"train.py": without_asked(script)})
    train_unseeded(lab)
    lab.write_early({"odd": "4"})
    lab.write({"train.py": with_asked(script)})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("twice",))).cells
    assert answer.cell.fidelity == "diverged"
    assert "net.odd[0]['k'] was 3 and is 4" in answer.cell.sentence
    assert "every record is equal" in answer.cell.sentence
    assert "hash seed" not in answer.cell.sentence


@pytest.mark.parametrize(
    ("expression", "read"),
    [
        ("net.w * 2", False), ("net.born", True), ("float(net.w)", False), ("net.elapsed()", True), ("evaluate(net)", True),
        ("getattr(net, 'born')", True), ("other.mean()", False),
    ],
)  # fmt: skip
def test_an_expression_reads_what_it_names_and_what_its_calls_may_look_at(
    expression: str, read: bool
) -> None:
    assert bool(reads_of(expression, [Unrepeatable("net.born", "the clock")], {})) == read


def test_a_call_may_read_what_the_programs_own_code_reads_anywhere() -> None:
    place = Unrepeatable("net.made_of", "hash()")
    assert not reads_of(
        "model(x)", [place], {"a.py": "class A:\n    def f(self):\n        self.made_of = 1\n"}
    )
    assert reads_of(
        "model(x)", [place], {"a.py": "class A:\n    def f(self):\n        return self.made_of\n"}
    )
