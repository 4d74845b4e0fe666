"""What a recorded run would name, the doctor names before: over the tables of rules, from their sources alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from flor_dagster.replay.examining import LoopFinding, examine
from tests.recording import test_rules as sentences
from tests.recording.rule_table import OTHERS, RULES

# What only the values decide, said neither here nor there beforehand.
OF_VALUES = {"module_in_a_package"}


def step_of(folder: Path, files: dict[str, str], script: str, line: int = 0) -> LoopFinding:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    found = [f for f in examine(folder, list(files), script, None) if f.name == "step" and f.line >= line]
    return found[0]


@pytest.mark.parametrize("name", RULES)
def test_every_reason_of_the_rules_is_foreseen_and_nothing_else_is_certain(tmp_path: Path, name: str) -> None:
    rule = RULES[name]
    finding = step_of(tmp_path, {**OTHERS, "train.py": rule.source(name, asked=False)}, "train.py")
    said = [obstacle.sentence for obstacle in finding.obstacles]
    if rule.reason:
        assert any(rule.reason in sentence for sentence in said), said
    else:
        assert not [o.sentence for o in finding.obstacles if o.certain]


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoopFinding]:
    folder = tmp_path_factory.mktemp("sentences")
    text = sentences.script(asked=False)
    files = {**sentences.OTHER, "train.py": text}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    lines = text.splitlines()
    found = [
        f
        for f in examine(folder, [f for f in files if f.endswith(".py")], "train.py", None)
        if f.name == "step"
    ]
    begins = {name: lines.index(f"def {name}():") for name in sentences.RULES}
    return {name: next(f for f in found if f.line > begin) for name, begin in begins.items()}


@pytest.mark.parametrize("name", sentences.RULES)
def test_every_sentence_of_the_rules_is_foreseen(examined: dict[str, LoopFinding], name: str) -> None:
    reason = sentences.RULES[name][3]
    said = [obstacle.sentence for obstacle in examined[name].obstacles]
    if reason:
        assert any(reason in sentence for sentence in said), said
    else:
        assert examined[name].skippable, said


MORE = {
    "kept workers": ("from torch.utils.data import DataLoader\nfeed = DataLoader([1], num_workers=2, persistent_workers=True)\n", "next(iter(feed))", "`feed` keeps the loader's workers"),
    "another module's pool": ("import helper\n", "helper.ask(step)", "`pool` is a multiprocessing.Pool, which belongs to its process"),
    "by a module's name": ("import helper\nimport sys\n", "sys.modules['helper'].count = step", "`pool` is a multiprocessing.Pool"),
    "an attribute": ("import socket\nclass Line:\n    def __init__(self):\n        self.end = socket.socket()\nline = Line()\n", "line.end.send(b'')", "`….end` is a socket.socket"),
    "a helper that looks at frames": ("import sys\ndef look():\n    return sys._getframe(1)\n", "look()", "`look` uses `_getframe`"),
    "a helper that reads an iterator": ("feed = iter([1, 2])\ndef pull():\n    return next(feed)\n", "pull()", "`feed` is an iterator (`iter(…)`)"),
    "recursion": ("def go(depth):\n    for step in flor.loop('step', range(2)):\n        if depth:\n            go(depth - 1)\n", "pass", "its function is open already (recursion)"),
    "a loop in a thread": ("import threading\ndef train():\n    for step in flor.loop('step', range(2)):\n        print(step)\nthreading.Thread(target=train).start()\n", "pass", "it runs in a thread of its own"),
    "another function's names": ("def other():\n    total = open('x')\n    feed = iter([])\ntotal, feed = 0, []\n", "total = feed", ""),
    "a model in evaluation": ("def evaluate(model):\n    model.eval()\n    return model.vars\nmodel = object()\n", "evaluate(model)", ""),
}  # fmt: skip
HELPER = "from multiprocessing import Pool\npool = Pool(2)\ncount = 0\ndef ask(x):\n    return pool.map(abs, [x])\n"


@pytest.mark.parametrize("case", MORE)
def test_what_helpers_and_other_files_hold_is_foreseen(tmp_path: Path, case: str) -> None:
    top, body, wanted = MORE[case]
    text = f"import flor_dagster as flor\n{top}for step in flor.loop('step', range(3)):\n    {body}\n"
    finding = step_of(tmp_path, {"train.py": text, "helper.py": HELPER}, "train.py")
    said = [obstacle.sentence for obstacle in finding.obstacles]
    assert any(wanted in sentence for sentence in said) if wanted else not said, said
