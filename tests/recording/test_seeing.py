"""What is compared around a hindsight expression: every draw and every change of what can be seen shows."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flor_dagster.recording import generators, modules
from flor_dagster.recording.generators import Generators, readings
from flor_dagster.recording.seeing import Sight, changed, changes, sight
from flor_dagster.recording.walking import Walker

DRAWS: dict[str, Callable[[], object]] = {
    "random:python": random.random,
    "random:python, a gaussian": lambda: random.gauss(0, 1),
    "random:numpy": np.random.rand,
    "random:numpy, a gaussian": np.random.randn,
}


@pytest.mark.parametrize("draw", DRAWS)
def test_each_draw_shows_also_the_second_of_a_pair(draw: str) -> None:
    for _ in range(2):  # of two gaussians the second one takes nothing from the bits
        before = readings()
        assert changed(before, readings()) == []
        DRAWS[draw]()
        assert changed(before, readings()) == [
            f"the random state of {draw.partition(':')[2].partition(',')[0]}"
        ]


def test_a_generator_of_a_program_s_own_class_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(random.Random):
        asked = 0

        def random(self) -> float:
            self.asked += 1
            return super().random()

    mine = Counting(1)
    monkeypatch.setattr(generators, "global_generators", lambda: {"random:python": mine})
    before = readings()
    mine.asked += 1
    assert changed(before, readings()) == ["the random state of python"]


def test_a_number_that_becomes_an_equal_one_of_another_type_shows(tmp_path: Path) -> None:
    walker = Walker(tmp_path, lambda module: module == __name__, Generators(lambda root, generator: None))
    for old, new in ((1, True), (1, 1.0), (0.0, -0.0), ((1,), [1])):
        seen = [_seen(walker, value) for value in (old, old, new)]
        assert changes(seen[0], seen[1]) == []
        assert changes(seen[0], seen[2]) == ["`value`"]


def _seen(walker: Walker, value: object) -> Sight:
    return sight(sys._getframe(), walker)


def test_modules_are_the_same_whether_libraries_were_noted_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    root = Path(tmp_path).resolve()
    plain = modules.Modules(root).loaded()
    monkeypatch.setattr(modules, "_libraries", {})
    modules.note_libraries()
    assert modules.Modules(root).loaded() == plain
    __import__("mine")
    assert modules.Modules(root).loaded().keys() - plain.keys() == {"mine.py"}
    sys.modules.pop("mine")
