"""SEMANTICS.md 15 to 23, sentence by sentence: a small script for each is right, refused, or not exact; never wrong and exact."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flor_dagster.replay.model import Question
from tests.replay.batch_lab import Batch, Case
from tests.replay.oracle_lab import Asked

pytestmark = pytest.mark.ci

HEAD = "import os, random, time, threading\nimport flor_dagster as flor\nrandom.seed(3)\nx = 0.0\n"

RIGHT = {
    # 15: the plan is recursive, the place of a statement dynamic.
    "folds": Case(HEAD + """
for fold in flor.loop("fold", range(2)):
    x = 0.0
    for epoch in flor.loop("epoch", range(2)):
        for step in flor.loop("step", range(2)):
            x = 0.9 * x + random.random()
            #? flor.log("ASKED_step", x * 2)
            flor.log("x", x)
        #? flor.log("ASKED_epoch", x * 3)
    #? flor.log("ASKED_fold", x * 4)
    flor.log("f", x)
#? flor.log("ASKED_end", x * 5)
"""),
    "reached": Case(HEAD + """
w = [0.0]
def train(count, tag):
    for epoch in flor.loop("epoch", range(count)):
        for step in flor.loop("step", range(2)):
            one(tag)
        flor.log("e", w[0])
def one(tag):
    w[0] = 0.9 * w[0] + random.random()
    #? flor.log("ASKED", [tag, w[0]])
    flor.log("loss", w[0])
for part in flor.loop("pretrain", range(2)):
    one("pretrain")
train(2, "finetune")
for again in range(2):
    train(1, "again")
one("tail")
"""),
    "unnamed": Case(HEAD + """
w = [0.0]
def note(value):
    #? flor.log("ASKED", value + 1)
    return value
HANDLERS = {"any": note}
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        w[0] += random.random()
        HANDLERS["an" + "y"](w[0])
    flor.log("e", w[0])
HANDLERS["any"](99)
"""),
    "branches": Case(HEAD + """
best = 0
for epoch in flor.loop("epoch", range(4)):
    for step in flor.loop("step", range(4)):
        x = random.random()
        flor.log("x", x)
        if x > 0.8:
            break
    else:
        #? flor.log("ASKED_else", x)
        best += 1
    if x > 0.5:
        flor.log("high", x)
    else:
        #? flor.log("ASKED_low", x)
        pass
else:
    #? flor.log("ASKED_end", best)
    pass
#? flor.log("ASKED_after", [best, x, epoch, step])
"""),
    # 16: counts come from the record.
    "stopped": Case(HEAD + """
for epoch in flor.loop("epoch", range(50)):
    for step in flor.loop("step", range(2)):
        x += random.random()
        flor.log("x", x)
    #? flor.log("ASKED", x)
    if x > 3:
        break
#? flor.log("ASKED_after", [x, epoch])
"""),
    "died": Case(HEAD + """
for epoch in flor.loop("epoch", range(5)):
    for step in flor.loop("step", range(2)):
        x += random.random()
        flor.log("x", x)
        if epoch == 2:
            raise ValueError("no")
    #? flor.log("ASKED", x)
""", fails=True),
    # 19: what the clock says is neither compared nor asked; a branch on it is flagged.
    "timed": Case(HEAD + """
begun = time.time()
rates = []
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        x += random.random()
    took = time.time() - begun
    rates.append(took)
    if took > 3600:
        x = 0.0
    flor.log("mean_seconds", sum(rates) / len(rates))
    flor.log("x", x)
    #? flor.log("ASKED", x * 2)
"""),
}  # fmt: skip

OTHERS = {
    "never": Case(HEAD + """
for epoch in flor.loop("epoch", range(3)):
    flor.log("x", epoch)
    if epoch == 1:
        raise ValueError("no")
#? flor.log("ASKED_after", x)
for other in flor.loop("other", range(3)):
    #? flor.log("ASKED_behind", x)
    pass
""", fails=True, oracle=False),
    "counts": Case(HEAD + """
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(3 + os.urandom(1)[0] % 50 * 5)):
        x += 1
    flor.log("e", epoch)
    #? flor.log("ASKED", x)
""", policy="none", oracle=False),
    "clock": Case(HEAD + """
for epoch in flor.loop("epoch", range(2)):
    process, seconds = os.getpid(), time.time()
    history = {"time": seconds, "loss": x}
    flor.log("x", x)
    #? flor.log("ASKED_pid", process % 7)
    #? flor.log("ASKED_whole", dict(history))
    #? flor.log("ASKED_loss", history["loss"])
""", oracle=False),
    "nothing": Case("import flor_dagster as flor\nvalue = 3\nflor.arg('n', 1)\n#? flor.log('ASKED', value + 1)\n"),
    "tail": Case(HEAD + """
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        x += random.random()
        flor.log("x", x)
#? flor.log("ASKED", x + 1)
"""),
    "validated": Case(HEAD + """
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        x += random.random()
        flor.log("x", x)
    for batch in flor.loop("validation", range(2)):
        x -= random.random() / 2
        flor.log("y", x)
    flor.log("accuracy", x)
    #? flor.log("ASKED", x + 1)
"""),
    "between": Case(HEAD + """
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        x += random.random()
        flor.log("x", x)
    #? flor.log("ASKED", x + 1)
    for batch in flor.loop("validation", range(2)):
        x -= random.random() / 2
        flor.log("y", x)
    flor.log("accuracy", x)
"""),
    "unrecorded": Case(HEAD + """
for epoch in flor.loop("epoch", range(2)):
    x += 1
    #? flor.log("ASKED", x)
""", policy="none"),
    # 21: code that is not deterministic.
    "entropy": Case(HEAD + """
for epoch in flor.loop("epoch", range(2)):
    noise = int.from_bytes(os.urandom(4), "big")
    flor.log("noise", noise)
    #? flor.log("ASKED", noise + 1)
""", oracle=False),
    "unseeded": Case(HEAD + """
from random import Random
draw = Random()
for epoch in flor.loop("epoch", range(2)):
    x = draw.random()
    flor.log("x", x)
    #? flor.log("ASKED", x + 1)
""", oracle=False),
    # 20: what an expression changes outside of the program's memory: files are seen, folders show where they are looked at.
    "apart": Case(HEAD + """
def make():
    os.mkdir(f"counted{number}/{len(os.listdir(f'counted{number}'))}")
    return 1
def write():
    with open("notes.data", "a") as file:
        file.write("n")
    return 1
def read():
    return os.path.exists("notes.data")
def twice(value):
    return value * 2
number = 0
os.mkdir(f"counted{number}")
for epoch in flor.loop("epoch", range(3)):
    x += random.random()
    flor.log("seen", [x, len(os.listdir(f"counted{number}"))])
    #? flor.log("ASKED_plain", x + 1)
    #? flor.log("ASKED_making", make())
    #? flor.log("ASKED_other", twice(x))
    #? flor.log("ASKED_writing", write())
    #? flor.log("ASKED_there", read())
""", policy="none", oracle=False),
    "paced": Case(HEAD + """
turns = 0
for epoch in flor.loop("epoch", range(2)):
    end = time.perf_counter() + 0.002
    while time.perf_counter() < end:
        turns += 1
    flor.log("turns", turns)
    #? flor.log("ASKED", turns + 1)
""", oracle=False),
    "seeded": Case(HEAD + """
draw = random.Random(time.time_ns())
for epoch in flor.loop("epoch", range(2)):
    x = draw.random()
    flor.log("x", x)
    #? flor.log("ASKED", x + 1)
""", oracle=False),
    "addresses": Case(HEAD + """
class Thing:
    pass
things = [Thing() for _ in range(60)]
for epoch in flor.loop("epoch", range(2)):
    order = sorted(range(60), key=lambda number: id(things[number]) % 977)
    flor.log("first", order[:5])
    #? flor.log("ASKED", order[-1])
""", oracle=False),
    "race": Case(HEAD + """
ended = []
def work(number):
    time.sleep(int.from_bytes(os.urandom(1), "big") / 20000)
    ended.append(number)
for epoch in flor.loop("epoch", range(2)):
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    flor.log("order", ended[-8:])
    #? flor.log("ASKED", ended[-1])
""", oracle=False),
}  # fmt: skip

SPOILED = """
import random
import flor_dagster as flor
random.seed(1)
x = 0.0
for epoch in flor.loop("epoch", range(2)):
    x += random.random()
    flor.log("x", x)
    #? flor.log("ASKED", x * 2)
"""


def without_one(lines: list[str]) -> list[str]:
    index = next(i for i, line in enumerate(lines) if line.startswith("[1,"))
    return lines[:index] + lines[index + 1 :]


def with_one_more(lines: list[str]) -> list[str]:
    index = next(i for i, line in enumerate(lines) if line.startswith("[1,"))
    return [*lines[: index + 1], lines[index], *lines[index + 1 :]]


def spoiled(name: str, change: Callable[[list[str]], list[str]]) -> Case:
    """A training whose record somebody changed."""

    def spoil(root: Path) -> None:
        for journal in (root / ".flor" / "runs").rglob("journal.0.jsonl"):
            lines = journal.read_text().splitlines(keepends=True)
            if json.loads(lines[0])[2]["entrypoint"] == f"{name}.py":
                journal.write_text("".join(change(lines)))

    return Case(SPOILED, between=spoil, oracle=False, how={"without_checkpoints": True})


def on_another_machine(lines: list[str]) -> list[str]:
    parts: list[Any] = json.loads(lines[0])
    parts[2]["hardware"]["cpu"] = "Another Processor 9000"
    return [json.dumps(parts) + "\n", *lines[1:]]


OTHERS |= {
    "lacking": spoiled("lacking", without_one),
    "doubled": spoiled("doubled", with_one_more),
    "elsewhere": spoiled("elsewhere", on_another_machine),
}

Answers = tuple[Batch, dict[str, dict[str, Asked]]]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("FLOR_")]:
            patch.delenv(name)
        folder = tmp_path_factory.mktemp("rules")
        patch.setenv("FLOR_CACHE", str(folder / "cache"))
        with Batch(folder, "json", "random") as batch:
            yield batch, batch.ask({**RIGHT, **OTHERS})


@pytest.mark.parametrize("case", RIGHT)
def test_every_record_is_there_with_its_bits_and_exact(asked: Answers, case: str) -> None:
    for name, one in asked[1][case].items():
        assert one.right, (name, one.sentence, one.values, one.wanted)
        assert one.fidelity == "exact", (name, one.sentence)


def test_what_is_not_asked_for_is_not_executed(asked: Answers) -> None:
    assert asked[1]["stopped"]["asked"].steps["x"] == 0, "a statement behind the steps executed them"


def test_behind_the_place_where_a_run_died_nothing_is_answered(asked: Answers) -> None:
    for one in asked[1]["never"].values():
        assert one.answer.cell.status == "refused"
        assert "never got there: it ended in epoch[1]" in one.sentence


def test_a_replay_whose_contexts_differ_has_failed(asked: Answers) -> None:
    one = asked[1]["counts"]["asked"]
    assert (one.answer.cell.status, one.fidelity) == ("failed", "diverged"), one.sentence
    assert "the recorded run's by exhausted after" in one.sentence


def test_values_of_the_clock_are_refused_and_their_neighbours_are_not(asked: Answers) -> None:
    answers = asked[1]["clock"]
    assert "`process` is a value of the clock" in answers["asked_pid"].sentence
    assert "`history` is a value of the clock" in answers["asked_whole"].sentence
    assert answers["asked_loss"].fidelity == "exact", answers["asked_loss"].sentence
    assert answers["asked_pid"].values == answers["asked_whole"].values == []


def test_names_of_the_clock_are_left_out_and_listed_and_a_branch_on_one_is_flagged(asked: Answers) -> None:
    sentence = asked[1]["timed"]["asked"].sentence
    assert "not compared: mean_seconds" in sentence
    assert "a branch depends on the clock, the process or the machine: timed.py:13" in sentence


def test_a_value_behind_the_last_loop_is_exact_by_the_state_that_it_begins_with(asked: Answers) -> None:
    one = asked[1]["tail"]["asked"]
    assert one.right, (one.values, one.wanted)
    assert one.fidelity == "exact", one.sentence
    assert "0 records and 1 state digest compared" in one.sentence


def test_loops_after_one_another_are_told_exact_by_what_is_compared_behind_the_last(asked: Answers) -> None:
    one, between = asked[1]["validated"]["asked"], asked[1]["between"]["asked"]
    assert one.right, (one.values, one.wanted)
    assert one.fidelity == "exact", one.sentence
    # A value between the two hangs on the first restore alone, and nothing that was recorded does.
    assert between.right, (between.values, between.wanted)
    assert between.fidelity == "unverified", between.sentence
    assert "nothing was compared after the restore of epoch#0[0]/step#0" in between.sentence


@pytest.mark.parametrize("case", ["nothing", "unrecorded"])
def test_with_nothing_to_compare_a_value_is_unverified(asked: Answers, case: str) -> None:
    one = asked[1][case]["asked"]
    assert one.fidelity == "unverified"
    assert one.right


CAUSES = {
    "entropy": ("noise", "entropy.py:7 takes the system's entropy (`os.urandom`)"),
    "unseeded": ("x", "unseeded.py:7 makes `draw`, a generator, without a seed"),
    "seeded": (
        "x",
        "seeded.py:6 makes `draw`, a generator, seeded with the clock, the process or the machine",
    ),
    "addresses": ("first", "addresses.py:10 uses the address of an object (`id`)"),
    "race": ("order", "lets work go on side by side (`threading.Thread`), which ends in no fixed order"),
    "paced": ("turns", "a branch depends on the clock, the process or the machine: paced.py:9"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_code_that_is_not_deterministic_diverges_by_name_and_cause_and_is_not_shown(
    asked: Answers, case: str
) -> None:
    name, cause = CAUSES[case]
    batch, answers = asked
    one = answers[case]["asked"]
    assert (one.answer.cell.status, one.fidelity) == ("failed", "diverged"), one.sentence
    assert f"the code is not deterministic: `{name}` at epoch#0[0]" in one.sentence
    assert cause in one.sentence
    with batch.lab.open() as workspace:
        shown = workspace.store.dataframe(f"{case}_asked", name)
        assert shown[f"{case}_asked"].isna().all()
        run = next(r for r in workspace.runs() if r.entrypoint == f"{case}.py")
        alone = workspace.store.dataframe(f"{case}_asked", runs=[run.key])
        assert alone.attrs["empty"][run.key][f"{case}_asked"].startswith("diverged")
        everything = workspace.store.dataframe(f"{case}_asked", fidelity="any")
        assert set(everything[f"{case}_asked_fidelity"].dropna()) == {"diverged"}


@pytest.mark.parametrize(
    ("case", "status", "fidelity", "words"),
    [
        ("lacking", "failed", "diverged", "`x` at epoch#0[1] was recorded, `x` at epoch#0[0] came instead"),
        ("doubled", "failed", "diverged", "`x` at epoch#0[0] was recorded, `x` at epoch#0[1] came instead"),
        ("elsewhere", "replayed", "unverified", "the processor was Another Processor 9000"),
    ],
)
def test_missing_and_extra_records_count_and_another_machine_is_never_exact(
    asked: Answers, case: str, status: str, fidelity: str, words: str
) -> None:
    one = asked[1][case]["asked"]
    assert (one.answer.cell.status, one.fidelity) == (status, fidelity), one.sentence
    assert words in one.sentence


def test_statements_that_disturb_the_training_are_asked_apart_and_the_others_answered(asked: Answers) -> None:
    answers, random, x = asked[1]["apart"], Random(3), 0.0
    for epoch in range(3):
        x += random.random()
        assert answers["asked_plain"].values[epoch] == (f"epoch#0[{epoch}]", repr(x + 1))
        assert answers["asked_other"].values[epoch] == (f"epoch#0[{epoch}]", repr(x * 2))
    assert [value for _, value in answers["asked_there"].values] == ["False"] * 3, (
        "nobody else's file is there"
    )
    for name in ("asked_plain", "asked_other", "asked_there"):
        assert answers[name].fidelity == "exact", answers[name].sentence
    making, writing = answers["asked_making"], answers["asked_writing"]
    assert (making.answer.cell.status, making.fidelity) == ("failed", "diverged"), making.sentence
    assert "`seen` at epoch#0[1]" in making.sentence
    assert writing.answer.cell.status == "refused"
    assert "changes the file notes.data" in writing.sentence


HASHED = """
import flor_dagster as flor
words = {f"word{number}" for number in range(40)}
for epoch in flor.loop("epoch", range(2)):
    first = list(words)[:5]
    flor.log("first", first)
    #? flor.log("ASKED", first[0])
"""


def test_the_lost_order_of_sets_is_named_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess
    import sys

    from tests.replay.conftest import PACKAGE, Lab
    from tests.replay.oracle_lab import with_asked, without_asked

    for name in [n for n in os.environ if n.startswith("FLOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLOR_CACHE", str(tmp_path / "cache"))
    lab = Lab(tmp_path / "project")
    lab.commit({"train.py": without_asked(HASHED)})
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONHASHSEED"} | {
        "PYTHONPATH": str(PACKAGE)
    }
    subprocess.run([sys.executable, "train.py"], cwd=lab.root, env=environment, check=True)
    lab.write({"train.py": with_asked(HASHED).replace("ASKED", "asked")})
    with lab.open() as workspace:
        cell = workspace.answer(Question(("asked",))).cells[0].cell
    assert (cell.status, cell.fidelity) == ("failed", "diverged"), cell.sentence
    assert (
        "it hangs on the hash seed, which this run drew itself (PYTHONHASHSEED was not set)" in cell.sentence
    )
