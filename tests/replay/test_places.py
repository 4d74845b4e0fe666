"""Where a statement stands decides what is executed; wherever it stands, its values are those of the run, or none."""

from __future__ import annotations

from tests.replay.conftest import Lab
from tests.replay.oracle_lab import ask_each

NESTED = """\
import random
import flor_dagster as flor

def train(fold):
    weight = float(fold)
    for epoch in flor.loop("epoch", range(3)):
        #? flor.log("head", weight + epoch)
        for step in flor.loop("step", range(4)):
            weight += random.random()
            flor.log("loss", weight)
            #? flor.log("inner", weight * 2)
        flor.log("mean", weight / 4)
        #? flor.log("tail", weight + step)
    #? flor.log("fold_end", weight)
    return weight

random.seed(1)
#? flor.log("before", random.getstate()[1][0])
total = 0.0
for fold in flor.loop("fold", range(2)):
    total += train(fold)
    flor.log("total", total)
    #? flor.log("outer", total - fold)
#? flor.log("after", total)
"""


def test_three_loops_deep_every_place_is_answered_and_only_what_it_needs_is_executed(lab: Lab) -> None:
    found = ask_each(
        lab, {"train.py": NESTED}, "before", "head", "inner", "tail", "fold_end", "outer", "after"
    )
    for name, asked in found.items():
        assert asked.right, (name, asked.values, asked.wanted, asked.sentence)
        # Nothing was recorded behind the last loop, so nothing tells what its end state was worth.
        assert asked.fidelity == ("unverified" if name in ("before", "after") else "exact"), (
            name,
            asked.sentence,
        )
    executed = {
        name: (asked.steps["loss"], asked.steps["mean"], asked.steps["total"])
        for name, asked in found.items()
    }
    assert executed == {
        "before": (0, 0, 0), "head": (0, 6, 2), "inner": (24, 6, 2), "tail": (0, 6, 2), "fold_end": (0, 0, 2),
        "outer": (0, 0, 2), "after": (0, 0, 0),
    }  # fmt: skip


def test_several_statements_are_answered_in_one_pass(lab: Lab) -> None:
    found = ask_each(
        lab, {"train.py": NESTED}, "before", "head", "inner", "tail", "outer", "after", together=True
    )
    assert all(asked.right and asked.fidelity == "exact" for asked in found.values()), found
    assert len({asked.answer.cell.replay_id for asked in found.values()}) == 1


SEQUENCE = """\
import random
import flor_dagster as flor

random.seed(3)
weight = 0.0
#? flor.log("first", weight)
for epoch in flor.loop("pretrain", range(3)):
    weight += random.random()
    flor.log("pre", weight)
    #? flor.log("in_pre", weight * 2)
#? flor.log("between", weight)
numbers = iter(range(100))
for epoch in flor.loop("finetune", {how}):
    weight -= random.random() + next(numbers)
    flor.log("fine", weight)
    #? flor.log("in_fine", weight * 3)
#? flor.log("after", weight)
"""


def test_two_loops_in_sequence_are_told_apart(lab: Lab) -> None:
    found = ask_each(
        lab, {"train.py": SEQUENCE.format(how="range(5)")}, "first", "in_pre", "between", "in_fine", "after"
    )
    for name, asked in found.items():
        assert asked.right, (name, asked.values, asked.wanted, asked.sentence)
        assert asked.fidelity == ("unverified" if name == "first" else "exact"), (name, asked.sentence)
    executed = {name: (asked.steps["pre"], asked.steps["fine"]) for name, asked in found.items()}
    # The second loop can't be skipped (an iterator): one iteration of it shows that the first one was put back rightly.
    assert executed == {
        "first": (0, 0),
        "in_pre": (3, 0),
        "between": (0, 1),
        "in_fine": (0, 5),
        "after": (0, 5),
    }


SETUP = """\
import flor_dagster as flor

def build(size):
    layers = [size] * 3
    #? flor.log("in_build", sum(layers))
    return layers

class Trainer:
    def __init__(self, size):
        self.layers = build(size)
        #? flor.log("in_init", len(self.layers))

    def fit(self):
        #? flor.log("in_fit", self.layers[0])
        numbers = iter(range(100))
        for epoch in flor.loop("epoch", range(3)):
            flor.log("loss", next(numbers))
        #? flor.log("fitted", self.layers[1])

def main():
    trainer = Trainer(4)
    #? flor.log("in_main", trainer.layers[2])
    trainer.fit()

main()
"""


def test_a_statement_of_the_setup_runs_the_setup_alone_wherever_it_stands(lab: Lab) -> None:
    found = ask_each(lab, {"train.py": SETUP}, "in_build", "in_init", "in_fit", "in_main", "fitted")
    for name, asked in found.items():
        assert asked.right, (name, asked.values, asked.wanted, asked.sentence)
    assert {name: asked.steps["loss"] for name, asked in found.items()} == {
        "in_build": 0, "in_init": 0, "in_fit": 0, "in_main": 0, "fitted": 3,
    }  # fmt: skip


PLAIN_LOOP = """\
import flor_dagster as flor
total = 0
for fold in range(3):
    #? flor.log("each", fold * 10)
    for epoch in flor.loop("epoch", range(2)):
        total += epoch + fold
        flor.log("total", total)
#? flor.log("end", total)
"""


def test_a_statement_that_a_plain_loop_brings_round_again_is_answered_each_time(lab: Lab) -> None:
    found = ask_each(lab, {"train.py": PLAIN_LOOP}, "each", "end")
    assert found["each"].right, (found["each"].values, found["each"].wanted)
    assert len(found["each"].wanted) > 0
    assert found["end"].right


CALLED = """\
import random
import flor_dagster as flor

def on_step(value):
    #? flor.log("in_callback", value * 2)
    return value

def on_table(value):
    #? flor.log("in_table", value * 3)
    return value

def helper(value):
    #? flor.log("in_helper", value * 4)
    return value

class Net:
    def __call__(self, x):
        return helper(x)

    @property
    def size(self):
        #? flor.log("in_property", 5)
        return 5

def on_name_one(value):
    #? flor.log("by_name", value * 6)
    return value

HANDLERS = {"a": on_table}
callbacks = [on_step]
net = Net()
random.seed(2)
total = 0.0
on_name_one(1.0)
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(3)):
        total += random.random() + net.size
        for callback in callbacks:
            callback(total)
        HANDLERS["a"](total)
        net(total)
        globals()[f"on_name_{'one'}"](total)
        flor.log("loss", total)
    flor.log("total", total)
"""


def test_a_function_that_is_reached_without_its_name_is_still_reached(lab: Lab) -> None:
    names = ("in_callback", "in_table", "in_helper", "in_property", "by_name")
    found = ask_each(lab, {"train.py": CALLED}, *names)
    for name, asked in found.items():
        assert asked.right, (name, asked.values, asked.wanted, asked.sentence)
        assert asked.fidelity == "exact", (name, asked.sentence)


def test_a_function_of_another_file_under_another_name_is_reached(lab: Lab) -> None:
    parts = {
        "parts/__init__.py": "",
        "parts/tools.py": 'import flor_dagster as flor\n\ndef measure(x):\n    #? flor.log("measured", x * 2)\n    return x\n',
        "train.py": (
            "import flor_dagster as flor\n"
            "from parts.tools import measure as gauge\n"
            "total = 0\n"
            'for epoch in flor.loop("epoch", range(2)):\n'
            '    for step in flor.loop("step", range(3)):\n'
            "        total += gauge(step)\n"
            '        flor.log("loss", total)\n'
            '    flor.log("total", total)\n'
        ),
    }
    found = ask_each(lab, parts, "measured")
    assert found["measured"].right, (found["measured"].values, found["measured"].sentence)
    assert found["measured"].fidelity == "exact"


# Rule 10: what is read must be held -----------------------------------------------------------------------------------

READS = """\
import logging
import random
import flor_dagster as flor

class Bar:
    pass

def main():
    random.seed(4)
    total = 0.0
    out = open("lines.txt", "w")
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(3)):
            late = step if epoch < 1 else iter([step])
            total += random.random()
            out.write("x")
            flor.log("loss", total)
        flor.log("total", total)
        #? flor.log("late_type", type(late).__name__)
        #? flor.log("written", out.tell())
        #? if type(late) is int: flor.log("when", total)
    out.close()

main()
"""


def test_what_no_checkpoint_holds_is_executed_and_not_read_from_what_is_left(lab: Lab) -> None:
    """`late` is a number at the end of the first execution and an iterator, which can't be captured, at the others."""
    found = ask_each(lab, {"train.py": READS}, "late_type", "written", "when")
    for name, asked in found.items():
        assert asked.answer.cell.status == "refused" or asked.right, (
            name, asked.values, asked.wanted, asked.sentence,
        )  # fmt: skip
    assert found["late_type"].right
    assert found["written"].right


# Endings --------------------------------------------------------------------------------------------------------------

ENDS = """\
import flor_dagster as flor

def main(numbers):
    total = 0
    for epoch in flor.loop("epoch", range(6)):
        for step in flor.loop("step", (n * n for n in numbers)):
            total += step
            flor.log("loss", total)
            if step > 3 * epoch + 3:
                break
        else:
            total += 1000
            #? flor.log("exhausted", total)
        flor.log("total", total)
        #? flor.log("left", step)
        if total > 2000:
            #? flor.log("stopping", total)
            return total
    return 0

#? flor.log("result", main)
flor.log("answer", main(range(4)))
#? flor.log("last", 1)
"""


def test_break_else_return_and_a_generator_are_as_they_were(lab: Lab) -> None:
    found = ask_each(lab, {"train.py": ENDS}, "exhausted", "left", "stopping", "last")
    for name, asked in found.items():
        assert asked.right, (name, asked.values, asked.wanted, asked.sentence)
        assert asked.fidelity == "exact", (name, asked.sentence)


FAILS = """\
import flor_dagster as flor
total = 0
for epoch in flor.loop("epoch", range(4)):
    for step in flor.loop("step", range(2)):
        total += step
        flor.log("loss", total)
    flor.log("total", total)
    #? flor.log("tail", total * 2)
    if epoch == 2:
        raise RuntimeError("dead")
#? flor.log("after", total)
"""


def test_behind_a_loop_that_the_run_never_finished_is_refused(lab: Lab) -> None:
    found = ask_each(lab, {"train.py": FAILS}, "tail", "after", fails=True)
    assert found["tail"].right, found["tail"].values
    assert found["tail"].fidelity == "exact", found["tail"].sentence
    after = found["after"]
    assert after.answer.cell.status == "refused", after.sentence
    assert "never" in after.sentence
    assert after.values == []
