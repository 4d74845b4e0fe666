"""What holds a value of the clock, the process or the machine, and what does not."""

from __future__ import annotations

import ast

import pytest

from flor_dagster.recording.tainting import tainted_branches, tainted_calls, tainted_names_at

HELD = [
    ("import sys", "sys.flags.safe_path"),
    ("import sys\nstarted = sys.orig_argv[0]", "started"),
    ("seconds = time.time() - begun", "seconds"),
    ("rates = []\nrates.append(time.time())", "sum(rates) / len(rates)"),
    ("history = {'time': time.time(), 'loss': 1}", "history['time']"),
    ("history = {'time': time.time(), 'loss': 1}", "history"),
    ("class T:\n    def go(self):\n        self.t = time.time()\n        flor.log('a', self.t)", ""),
    ("def elapsed():\n    return time.time() - 3\n", "elapsed()"),
    ("def say(s):\n    flor.log('a', s)\nsay(os.getpid())", ""),
    ("a, b = time.time(), 3", "a"),
    ("text = f'run {os.getpid()}'", "text"),
    ("", "time.perf_counter()"),
    ("import psutil\nused = psutil.virtual_memory().percent", "used"),
]
FREE = [
    ("import sys", "sys.argv[0]"),
    ("history = {'time': time.time(), 'loss': 1}", "history['loss']"),
    ("a, b = time.time(), 3", "b"),
    ("draw = random.Random(time.time_ns())\nx = draw.random()", "x"),
    ("rng = np.random.default_rng(int(time.time()))\nloss = rng.normal()", "loss"),
    ("seed = int(time.time())\ntorch.manual_seed(seed)\nx = net(data)", "x"),
    ("def f():\n    seconds = time.time()\nseconds = 3", "seconds"),
    ("meter = Meter(time.time())", "meter.average"),
    ("folder = Path(f'run-{os.getpid()}')\nx = (folder / 'a').read_text()", "x"),
]


def calls(before: str, asked: str) -> tuple[ast.Module, int]:
    text = before + (f"\nflor.log('a', {asked})\n" if asked else "\n")
    tree = ast.parse(text)
    line = next(
        n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "flor.log"
    )
    return tree, line


@pytest.mark.parametrize(("before", "asked"), HELD)
def test_a_value_of_the_clock_is_known_wherever_it_goes(before: str, asked: str) -> None:
    tree, line = calls(before, asked)
    assert tainted_names_at(tree, [line], "log")


@pytest.mark.parametrize(("before", "asked"), FREE)
def test_what_only_stands_beside_one_or_is_drawn_from_it_is_compared(before: str, asked: str) -> None:
    tree, line = calls(before, asked)
    assert not tainted_names_at(tree, [line], "log")
    assert line not in tainted_calls(tree)


def test_a_branch_that_decides_something_is_told_from_one_that_prints() -> None:
    text = """
begun = time.time()
if time.time() - begun > 5:
    print("slow")
if time.time() - begun > 50:
    x = 0
while time.time() < begun + 9:
    n += 1
y = 1 if begun > 3 else 2
"""
    assert tainted_branches(ast.parse(text)) == [5, 7, 9]
