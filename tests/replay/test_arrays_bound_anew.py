"""An array of numpy may come to lie where one lay that is gone: nothing tells them apart, and the answer is right all the same."""

from __future__ import annotations

import pytest

from flor_dagster.replay.model import Question, Report
from tests.replay.conftest import Lab

AT = """\
def at(place, size):
    others = []
    while id(array := np.empty(size)) != place and len(others) < 1000:
        others.append(array)
    return array

"""
BODY = """\
{head}
    a, last = np.zeros(1), np.arange(6.0)
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(4)):
            flor.log("was", len(a))
            place, size = id(a), 2 + epoch + step
            del a
            a = at(place, size)
            a.fill(size / 3)
            flor.log("same_place", id(a) == place)
            del place
            last = last[: -1 if len(last) > 2 else 9].copy()[:: 1 + step % 2]
        {asked}
        flor.log("size", len(a))
    flor.log("end", float(a.sum() + last.sum()))
"""
IMPORTS = f"import numpy as np\nimport flor_dagster as flor\n\n{AT}"
HEADS = {"a function's names": f"{IMPORTS}def main():", "a module's names": f"{IMPORTS}if True:"}


def script(where: str) -> str:
    text = BODY.replace("{head}", HEADS[where])
    return text + "\nmain()\n" if "def main" in text else text


def answered(lab: Lab, text: str, asked: str) -> tuple[Report, list[object]]:
    """What comes of a statement that the recorded run did not have."""
    lab.commit({"train.py": text.format(asked="pass")})
    lab.train()
    lab.write({"train.py": text.format(asked=f'flor.log("asked", {asked})')})
    with lab.open() as workspace:
        report = workspace.answer(Question(("asked",), warm=False))
        frame = workspace.store.dataframe("asked")
        return report, list(frame["asked"][frame["asked"].notna()])


def places_taken(lab: Lab) -> list[bool]:
    """Where an array took the place of another one: what these tests are about."""
    with lab.open() as workspace:
        return [bool(taken) for taken in workspace.store.dataframe("same_place")["same_place"]]


@pytest.mark.parametrize("where", HEADS)
def test_arrays_of_other_shapes_at_the_places_of_dead_ones_are_put_back(lab: Lab, where: str) -> None:
    report, values = answered(lab, script(where), "(len(a), float(a.sum()), float(last.sum()))")
    assert sum(places_taken(lab)) > 6, "no array took the place of another one: this test shows nothing"
    assert [answer.cell.fidelity for answer in report.cells] == ["exact"], report.cells[0].cell
    assert lab.emitted(report.replays[0].id, "was") == 0
    assert report.children == 1
    assert [value[0] for value in values] == [5, 6, 7]  # type: ignore[index]


ALIAS = """\
import numpy as np
import flor_dagster as flor

def longer(a):
    a.resize(len(a) + 1, refcheck=False)
    a[-1] = len(a)
    return a

def go(a):
    try:
        for step in flor.loop("step", range(2)):
            a = longer(a)
            flor.log("went", step)
    except Exception:
        pass

def main():
    a = np.zeros(1)
    for epoch in flor.loop("epoch", range(3)):
        go(a)
        {asked}
        flor.log("size", len(a))

main()
"""


def test_a_resized_array_that_somebody_else_holds_is_not_replaced_by_another_one(lab: Lab) -> None:
    report, values = answered(lab, ALIAS, "(len(a), float(a.sum()))")
    assert values == [[3, 5.0], [5, 14.0], [7, 27.0]], report.cells[0].cell
    assert report.cells[0].cell.fidelity == "exact"
    assert lab.emitted(report.replays[-1].id, "went") == 6, "it was executed from the beginning"
    assert report.children == 2


HELD = f"""\
import numpy as np
import flor_dagster as flor

{AT}
b, c = np.ones(3), np.arange(4.0)
outer = [b]
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(1)):
        place = id(c)
        del c
        b = at(place, 3)
        flor.log("same_place", id(b) == place)
        del place
        b.fill(step + epoch)
        c = np.arange(4.0)
    {{asked}}
    flor.log("size", len(b))
"""


def test_an_array_that_somebody_holds_stays_though_its_name_has_one_at_a_dead_ones_place(lab: Lab) -> None:
    report, values = answered(lab, HELD, "[*map(float, outer[0]), float(b.sum())]")
    assert places_taken(lab)[0]
    assert report.cells[0].cell.fidelity == "exact"
    assert values == [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 3.0]]


PART = f"""\
import numpy as np
import flor_dagster as flor

{AT}
order = np.arange(8.0)
part, y = order[4:], None
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(1)):
        place = id(part)
        del part, y
        y = at(place, 4)
        flor.log("same_place", id(y) == place)
        del place
        y.fill(7.0)
        part = order[4:]
    {{asked}}
    flor.log("size", len(y))
"""


def test_an_array_at_the_place_of_a_part_of_another_one_is_not_written_into_that(lab: Lab) -> None:
    report, values = answered(lab, PART, "[*map(float, (*order, *part, *y))]")
    assert places_taken(lab)[0]
    assert report.cells[0].cell.fidelity == "exact"
    assert values == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 4.0, 5.0, 6.0, 7.0] + [7.0] * 4] * 2
    assert report.children == 1
    assert lab.emitted(report.replays[0].id, "same_place") == 0
