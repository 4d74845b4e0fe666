"""Each classic mistake of replay systems, made again on purpose: the answer is never called exact.

The mistakes are made in the child: the starter of cold children is given another text to boot them with.
"""

from __future__ import annotations

import textwrap

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab

SCRIPT = """\
import random
import numpy as np
import flor_dagster as flor

random.seed(4)
weights = np.zeros(30)
velocity = {{"w": weights}}
for epoch in flor.loop("epoch", range(5)):
    for step in flor.loop("step", range(3)):
        weights += random.random() * np.arange(30)
        velocity["w"] *= 1.01
        {more}
        flor.log("first", float(weights[1]))
    flor.log("total", float(weights.sum()) + random.random())
"""
ASKED = 'flor.log("asked", float(weights.max()))'

MISTAKES = {
    "the end of an epoch is loaded and its steps are run on it": """
        from flor_dagster.recording.replaying import ReplaySession
        restore = ReplaySession._restore
        def one_late(self, execution, name, index):
            if index is not None:
                name = self._spec(execution)["points"][str(index + 1)]
            return restore(self, execution, name, index)
        ReplaySession._restore = one_late
    """,
    "the last epoch's end is loaded one too early": """
        from flor_dagster.recording.replaying import ReplaySession
        restore = ReplaySession._restore
        def one_early(self, execution, name, index):
            if index is not None:
                name = self._spec(execution)["points"][str(index - 1)]
            return restore(self, execution, name, index)
        ReplaySession._restore = one_early
    """,
    "the random state is forgotten": """
        import random
        from flor_dagster.recording.replaying import ReplaySession
        restore = ReplaySession._restore
        def forgetful(self, execution, name, index):
            before = random.getstate()
            restore(self, execution, name, index)
            random.setstate(before)
        ReplaySession._restore = forgetful
    """,
    "two names of one array are put back as two": """
        import sys
        from flor_dagster.recording.replaying import ReplaySession
        restore = ReplaySession._restore
        def apart(self, execution, name, index):
            restore(self, execution, name, index)
            main = sys.modules["__main__"]
            main.velocity["w"] = main.weights.copy()
        ReplaySession._restore = apart
    """,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_classic_mistake_is_never_exact(lab: Lab, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.commit({"train.py": SCRIPT.format(more="pass")})
    lab.train()
    lab.write({"train.py": SCRIPT.format(more=ASKED)})
    asked = Question(("asked",), iterations={"epoch": (3,)}, warm=False, max_seconds=None)
    with lab.open() as workspace:
        sound = workspace.answer(asked).cells[0].cell
    assert sound.fidelity == "exact", sound.sentence
    made = lab.root.parent / "mistake.py"
    made.write_text(textwrap.dedent(MISTAKES[mistake]))
    boot = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from flor_dagster.replay.child import main; "
        f"exec(open({str(made)!r}).read()); sys.path[0] = ''; os._exit(main(sys.argv[2]))"
    )
    with lab.open() as workspace:
        seconds = workspace.plan(asked).estimated_seconds
        monkeypatch.setattr(
            "flor_dagster.replay.workers._BOOT",
            "import sys; sys.path.insert(0, sys.argv[1]); from flor_dagster.replay import server; "
            f"server.BOOT = {boot!r}; sys.path[0] = ''; sys.exit(server.main(int(sys.argv[2]), sys.argv[3], sys.argv[1]))",
        )
        question = Question(("asked",), iterations={"epoch": (3,)}, warm=False, max_seconds=seconds + 0.01)
        spoiled = workspace.answer(question).cells[0].cell
    assert spoiled.fidelity != "exact", spoiled.sentence
    assert spoiled.status in ("failed", "open")
