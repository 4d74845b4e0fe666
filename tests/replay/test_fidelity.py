"""Fidelity can fail: what was spoiled is never called exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flor_dagster.recording.checkpoints import FORMAT, OBJECT_VERSION
from flor_dagster.recording.state import digest_bytes
from flor_dagster.replay.model import CellAnswer, Question
from tests.replay.conftest import Lab

SCRIPT = """\
import random
import numpy as np
import flor_dagster as flor

random.seed(1)
weights = np.zeros(400)
with flor.checkpointing(weights=weights):
    for epoch in flor.loop("epoch", range(4)):
        for step in flor.loop("step", range(3)):
            weights += random.random() * np.arange(400)
            flor.log("first", float(weights[1]))
        {tail}
"""
TAIL = 'flor.log("total", float(weights.sum()) + random.random())'
ASKED = 'flor.log("spread", float(weights.max() - weights.min()))'


@pytest.fixture
def trained(lab: Lab) -> Lab:
    lab.commit({"train.py": SCRIPT.format(tail=TAIL)})
    lab.train()
    lab.write({"train.py": SCRIPT.format(tail=f"{TAIL}\n        {ASKED}")})
    return lab


def ask(lab: Lab, **how: Any) -> CellAnswer:
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("spread",), **how)).cells
        return answer


def ask_no_more(lab: Lab, said: list[str] | None = None) -> CellAnswer:
    """Ask within what the plan costs: executing the run from its beginning is beyond that."""
    with lab.open() as workspace:
        seconds = workspace.plan(Question(("spread",))).estimated_seconds
        tell = None if said is None else said.append
        (answer,) = workspace.answer(Question(("spread",), max_seconds=seconds + 0.01), on_line=tell).cells
        return answer


def manifests(lab: Lab) -> list[Path]:
    return sorted((lab.root / ".flor" / "checkpoints" / "manifests").rglob("*.json"))


def rewrite(path: Path, change: Any) -> None:
    """Alter a manifest as somebody would who also mends its checksum, and what the journal says of it."""
    head = json.loads(path.read_bytes().partition(b"\n")[0])
    _, objects, body = path.read_bytes().split(b"\n", 2)
    fields = json.loads(body)
    change(fields)
    body = json.dumps(fields).encode()
    rest = objects + b"\n" + body
    facts = {"flor-checkpoint": FORMAT, "digest": digest_bytes(rest)}
    path.write_bytes(json.dumps(facts).encode() + b"\n" + rest)
    journal = path.parents[3] / "runs" / path.parent.name / "journal.0.jsonl"
    said = journal.read_bytes()
    assert head["digest"].encode() in said
    journal.write_bytes(said.replace(head["digest"].encode(), facts["digest"].encode()))


def test_an_unspoiled_replay_is_exact(trained: Lab) -> None:
    answer = ask(trained)
    assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence
    assert answer.cell.rows == 4


def test_a_flipped_byte_in_a_checkpoint_is_found_and_nothing_is_put_back_from_it(trained: Lab) -> None:
    objects = sorted((trained.root / ".flor" / "checkpoints" / "objects").rglob("*/*"))
    assert objects
    for path in objects:
        data = bytearray(path.read_bytes())
        data[len(OBJECT_VERSION) + 100] ^= 1
        path.write_bytes(data)
    answer = ask_no_more(trained)
    assert answer.cell.status == "failed"
    assert answer.cell.fidelity != "exact"
    assert "was altered on disk" in answer.cell.sentence
    assert "--without-checkpoints" in answer.cell.sentence
    with trained.open() as workspace:
        assert workspace.store.dataframe("total").shape[0] == 4, "what was recorded stays"
    executed = ask(trained)
    assert (executed.cell.status, executed.cell.fidelity) == ("replayed", "exact"), executed.cell.sentence
    assert "executed from the beginning, since" in executed.cell.sentence
    assert "was altered on disk" in executed.cell.sentence


def test_a_flipped_byte_in_a_manifest_is_found(trained: Lab) -> None:
    for path in manifests(trained):
        data = bytearray(path.read_bytes())
        data[-10] ^= 1
        path.write_bytes(data)
    answer = ask_no_more(trained)
    assert (answer.cell.status, answer.cell.fidelity) == ("failed", None)
    assert "altered on disk" in answer.cell.sentence


def test_a_spoiled_random_state_diverges(trained: Lab) -> None:
    def spoil(fields: dict[str, Any]) -> None:
        node = fields["nodes"][fields["roots"]["random:python"]]
        node[1][1][5] ^= 1

    for path in manifests(trained):
        rewrite(path, spoil)
    said: list[str] = []
    answer = ask_no_more(trained, said)
    assert (answer.cell.status, answer.cell.fidelity) == ("failed", "diverged"), answer.cell
    assert any("; repeating it" in line for line in said)
    assert any("from the beginning is beyond the seconds that were asked" in line for line in said)
    assert "a second replay gave the same" in answer.cell.sentence
    assert "python" in answer.cell.sentence or "total" in answer.cell.sentence, answer.cell.sentence
    with trained.open() as workspace:
        assert (
            workspace.store.dataframe("spread").empty
            or workspace.store.dataframe("spread")["spread"].isna().all()
        )
        shown = workspace.store.dataframe("spread", fidelity="any")
        assert set(shown["spread_fidelity"].dropna()) == {"diverged"}
        (whole,) = workspace.answer(Question(("spread",)), on_line=said.append).cells
    assert any("executing it from the beginning" in line for line in said)
    assert (whole.cell.status, whole.cell.fidelity) == ("replayed", "exact"), whole.cell


def test_spoiled_weights_diverge_by_their_digest_alone(trained: Lab) -> None:
    """The epoch's tail emits nothing here that depends on the weights: the digest at its end still tells."""

    def spoil(fields: dict[str, Any]) -> None:
        name = "__main__:step"
        fields["nodes"].append(["list", []])
        fields["roots"][name] = ["v", 17]

    for path in manifests(trained):
        if "." not in path.stem:
            rewrite(path, spoil)
    answer = ask_no_more(trained)
    assert (answer.cell.status, answer.cell.fidelity) == ("failed", "diverged"), answer.cell
    assert "step" in answer.cell.sentence


def test_an_altered_record_diverges(trained: Lab) -> None:
    (journal,) = (trained.root / ".flor" / "runs").rglob("journal.0.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    number = next(json.loads(line)[1] for line in lines if line.startswith('["n"') and '"total"' in line)
    index = next(i for i, line in enumerate(lines) if line.startswith(f"[{number},"))
    call, context, value = json.loads(lines[index])
    lines[index] = json.dumps([call, context, value + 1e-9], separators=(",", ":")) + "\n"
    journal.write_text("".join(lines))
    answer = ask_no_more(trained)
    assert (answer.cell.status, answer.cell.fidelity) == ("failed", "diverged"), answer.cell
    assert "`total` at epoch#0[0] was" in answer.cell.sentence


def test_a_replay_with_nothing_to_compare_is_unverified(lab: Lab) -> None:
    script = 'import flor_dagster as flor\nvalue = 3\nprint("x", flor.arg("n", 1))\n{more}'
    lab.commit({"train.py": script.format(more="")})
    lab.train()
    lab.write({"train.py": script.format(more='flor.log("spread", value + 1)\n')})
    answer = ask(lab)
    assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "unverified"), answer.cell.sentence


def test_code_that_is_not_deterministic_is_never_exact(lab: Lab) -> None:
    script = """\
import os
import flor_dagster as flor
for epoch in flor.loop("epoch", range(2)):
    noise = int.from_bytes(os.urandom(4), "big")
    flor.log("noise", noise)
    {more}
"""
    lab.commit({"train.py": script.format(more="")})
    lab.train()
    lab.write({"train.py": script.format(more='flor.log("spread", noise + 1)')})
    answer = ask(lab)
    assert (answer.cell.status, answer.cell.fidelity) == ("failed", "diverged"), answer.cell
    assert "`noise` at epoch#0[0]" in answer.cell.sentence


def test_recorded_times_are_left_out_and_listed(lab: Lab) -> None:
    script = """\
import time
import flor_dagster as flor
total = 0
for epoch in flor.loop("epoch", range(3)):
    begin = time.perf_counter()
    for step in flor.loop("step", range(2)):
        total += step
    flor.log("seconds", time.perf_counter() - begin)
    flor.log("total", total)
    {more}
"""
    lab.commit({"train.py": script.format(more="")})
    lab.train()
    lab.write({"train.py": script.format(more='flor.log("spread", total * 2)')})
    answer = ask(lab)
    assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence
    assert "not compared: seconds" in answer.cell.sentence


def test_an_expression_that_draws_random_numbers_is_refused_and_the_others_are_answered(lab: Lab) -> None:
    script = """\
import random
import flor_dagster as flor

def draw():
    return random.random()

random.seed(2)
total = 0.0
for epoch in flor.loop("epoch", range(3)):
    total += random.random()
    flor.log("total", total)
    {more}
"""
    lab.commit({"train.py": script.format(more="")})
    lab.train()
    lab.write(
        {"train.py": script.format(more='flor.log("spread", draw())\n    flor.log("twice", total * 2)')}
    )
    with lab.open() as workspace:
        report = workspace.answer(Question(("spread", "twice")))
    by_key = {a.statement.key: a.cell for a in report.cells}
    assert by_key["spread"].status == "refused"
    assert "random" in by_key["spread"].sentence
    assert (by_key["twice"].status, by_key["twice"].fidelity) == ("replayed", "exact"), by_key[
        "twice"
    ].sentence


BEHIND = """\
import flor_dagster as flor

def main():
    w = [1.0]
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(2)):
            w[0] *= 0.5
            flor.log("w", w[0])
    {asked}

main()
"""


@pytest.mark.parametrize("in_function", [True, False])
def test_a_question_behind_the_loop_is_exact_by_the_state_that_it_begins_with(
    lab: Lab, *, in_function: bool
) -> None:
    """Nothing is logged there that could be compared."""
    text = BEHIND
    if not in_function:
        text = text.replace("\n    ", "\n").replace("def main():", "").replace("main()", "")
        text = text.replace("    for step", "    for step").replace("for step", "    for step", 1)
        text = text.replace("    w[0]", "        w[0]").replace("    flor.log", "        flor.log")
    lab.commit({"train.py": text.format(asked="")})
    lab.train()
    lab.write({"train.py": text.format(asked='flor.log("spread", w[0] * 2)')})
    answer = ask(lab)
    assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence
    assert answer.cell.detail["values"]["last"] == 0.03125
