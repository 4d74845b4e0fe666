"""One small training per sentence of the rules of capture and skipping: skipped rightly, or executed and named.

All of them stand in one script: it is trained once without and once with the statements, and asked once.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from flor_dagster.recording.journal import read_journal
from flor_dagster.replay.model import Question
from flor_dagster.replay.workspace import Workspace
from tests.recording.record_lab import Project

pytestmark = pytest.mark.ci

HEAD = """\
import collections, functools, itertools, random, sys
import numpy as np
import flor_dagster as flor
import own_state
from pkg import deep

random.seed(1)
np.random.seed(1)
rng = np.random.default_rng(5)
TOTAL = 0
LOG = []

def fill(out, x):
    out.append(x * random.random())

def bump(x):
    global TOTAL
    TOTAL += x

def judge(tracker, x):
    tracker.eval()
    tracker.vars.append(x)

class Tracker:
    registry = []
    count = 0
    def __init__(self):
        self.best = None
        self.lives = 0
        self.vars = []
    def eval(self):
        self.lives += 1
    def see(self, x):
        type(self).count += 1
        Tracker.registry.append(x)
        if self.best is None or x > self.best[0]:
            self.best = [x]

class SubTracker(Tracker):
    pass
"""

OTHER = {
    "own_state.py": "value = 0\nitems = []\ndef add(x):\n    global value\n    value += x\n    items.append(x)\n",
    "pkg/__init__.py": "",
    "pkg/deep.py": "seen = []\ndef note(x):\n    seen.append(x)\n",
    "late.py": "calls = []\ndef call(x):\n    calls.append(x)\n",
    ".gitignore": "__pycache__/\n",
}

# name → (before the outer loop, body of the inner loop, asked expression, what the inner loop is executed for)
RULES: dict[str, tuple[str, str, str, str]] = {
    "helper_appends": ("out = []", "fill(out, step)", "sum(out)", ""),
    "best_attribute": ("t = Tracker()", "t.see(random.random())", "t.best[0]", ""),
    "class_attributes_by_a_subclass": ("t = SubTracker()", "t.see(step)", "(SubTracker.count, len(Tracker.registry))", ""),
    "global_of_this_module": ("pass", "bump(step)", "TOTAL", ""),
    "global_of_another_module": ("pass", "own_state.add(step)", "(own_state.value, len(own_state.items))", ""),
    "module_in_a_package": ("pass", "deep.note(step)", "len(deep.seen)", ""),
    "module_imported_in_a_function": (
        "def go(x):\n    import late\n    late.call(x)", "go(step)", "len(sys.modules['late'].calls)", "",
    ),
    "closure": (
        ("cell = [0]\ndef make():\n    n = 0\n    def inc(x):\n        nonlocal n\n        n += x\n        cell[0] = n\n"
        "        return n\n    return inc\ninc = make()"),
        "last = inc(step)", "(cell[0], last)", "",
    ),
    "average_in_a_dict": ("ema = {'w': 0.0}", "ema['w'] = 0.9 * ema['w'] + step", "ema['w']", ""),
    "made_anew": ("box = Tracker()\nfirst = box", "box = Tracker(); box.lives = step", "(box.lives, first.lives)", ""),
    "moved_along": (
        "a, b = [0], [1]\nkept = (a, b)", "a, b = b, [a[0] + b[0]]", "(a, b, kept)", "",
    ),
    "two_names_one_object": ("xs = ys = []", "xs.append(step)", "(len(ys), xs is ys)", ""),
    "generator_of_numpy": ("draws = np.zeros(3)", "draws += rng.normal(size=3)", "draws.tolist()", ""),
    "global_random_state": ("draws = np.zeros(3)", "draws += np.random.rand(3)", "float(draws.sum())", ""),
    "swapped_function": ("act = np.sin", "act = np.cos if step % 2 else np.tan", "act(1.0)", ""),
    "default_argument": (
        "def add(x, memory=[]):\n    memory.append(x)\n    return len(memory)", "n = add(step)", "(n, add.__defaults__)", "",
    ),
    "partial": ("xs = []\nput = functools.partial(xs.append)", "put(step)", "len(xs)", ""),
    "ordered": ("d = collections.OrderedDict(a=1, b=2, c=3)", "d.move_to_end('a'); d['b'] += step", "list(d.items())", ""),
    "bounded_queue": ("q = collections.deque(maxlen=3)", "q.append(step)", "list(q)", ""),
    "else_runs": ("n = 0", "n += step", "n", ""),
    "iterator_in_a_variable": ("feed = itertools.count()", "x = next(feed)", "x", "iterator's position"),
    "generator_in_a_variable": ("feed = (i * i for i in range(10**6))", "x = next(feed)", "x", "iterator's position"),
    "open_file": ("f = open(__file__)", "x = len(f.readline())", "x", "open file that is read from"),
    "exec_in_the_body": ("n = 0", "exec('pass'); n += 1", "n", "calls `exec`"),
    "exec_by_its_module": (
        "import builtins\ndef go():\n    builtins.exec('pass')\n    return 1", "n = go()", "n", "uses `exec`",
    ),
    "methods_named_like_builtins": ("t = Tracker()", "judge(t, step)", "t.lives", ""),
    "deleted_name": ("gone = 1", "if epoch == 0 and step == 2: del gone", "epoch", "deleted in the loop"),
    "cached": (
        "@functools.lru_cache\ndef buffer(k):\n    return []", "buffer(1).append(step)", "len(buffer(1))", "cache of results",
    ),
}  # fmt: skip

SHAPES = """\
def by_break():
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(5)):
            n = epoch * step
            if step == epoch + 1:
                break
        flor.log("by_break", (n, step))
        {by_break}

def with_else():
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(3)):
            done = False
            if epoch == 1 and step == 1:
                break
        else:
            done = True
        flor.log("with_else", done)
        {with_else}

def by_return():
    def inner(k):
        for step in flor.loop("step", range(4)):
            LOG.append(step)
            if step == k:
                return step
    for epoch in flor.loop("epoch", range(3)):
        got = inner(epoch)
        flor.log("by_return", got)
        {by_return}

def twice():
    for epoch in flor.loop("epoch", range(3)):
        a = b = 0
        for step in flor.loop("step", range(2)):
            a += random.random()
        flor.log("between", a)
        for step in flor.loop("step", range(3)):
            b += a
        flor.log("twice", b)
        {twice}

def recursive(depth):
    for step in flor.loop("step", range(2)):
        LOG.append((depth, step))
        if depth:
            recursive(depth - 1)
    return len(LOG)

def recursion():
    for epoch in flor.loop("epoch", range(2)):
        got = recursive(2)
        flor.log("recursion", got)
        {recursion}

def zipped():
    for epoch in flor.loop("epoch", range(2)):
        for step, other in zip(flor.loop("step", range(3)), "abc"):
            got = other * step
        flor.log("zipped", got)
        {zipped}

def comprehended():
    for epoch in flor.loop("epoch", range(2)):
        got = [random.random() for step in flor.loop("step", range(3))]
        flor.log("comprehended", got)
        {comprehended}

def enumerated():
    for epoch in flor.loop("epoch", range(2)):
        for i, step in enumerate(flor.loop("step", [5, 6])):
            got = i * step
        flor.log("enumerated", (i, got))
        {enumerated}

def generating():
    def pairs():
        for step in flor.loop("step", range(3)):
            yield step, random.random()
    for epoch in flor.loop("epoch", range(2)):
        got = list(pairs())
        flor.log("generating", got)
        {generating}

by_break(); with_else(); by_return(); twice(); recursion(); zipped(); comprehended(); enumerated(); generating()
"""
ASKED_OF_SHAPES = {
    "by_break": "(n, step)", "with_else": "(done, step)", "by_return": "(got, len(LOG))", "twice": "(a, b, step)",
    "recursion": "(got, LOG[-1])", "zipped": "(got, step)", "comprehended": "sum(got)", "enumerated": "(i, step, got)",
    "generating": "got[-1][1]",
}  # fmt: skip


def script(*, asked: bool) -> str:
    parts = [HEAD]
    for name, (before, body, expression, _) in RULES.items():
        statement = f'flor.log("asked_{name}", {expression})' if asked else "pass"
        parts.append(
            f"def {name}():\n"
            + textwrap.indent(before, "    ")
            + f"""
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(4)):
            EXECUTED.append("{name}")
            {body}
        flor.log("{name}", epoch)
        {statement}
""".replace('            EXECUTED.append("' + name + '")\n', "")
        )
    shapes = {n: f'flor.log("asked_{n}", {e})' if asked else "pass" for n, e in ASKED_OF_SHAPES.items()}
    parts.append(SHAPES.format(**shapes))
    parts += [f"{name}()\n" for name in RULES]
    return "\n".join(parts)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory):
    """The recorded run, its oracle, and what the replay gave."""
    place = tmp_path_factory.mktemp("rules")
    patch = pytest.MonkeyPatch()
    patch.setenv("FLOR_CACHE", str(place / "cache"))
    project, oracle = Project(place / "p", git=True), Project(place / "o", git=True)
    project.commit({**OTHER, "train.py": script(asked=False)})
    recorded = project.run(script(asked=False))
    oracle.commit(OTHER)
    wanted = oracle.run(script(asked=True))
    project.write({"train.py": script(asked=True)})
    names = tuple(f"asked_{n}" for n in [*RULES, *ASKED_OF_SHAPES])
    with Workspace.open(project.root) as workspace:
        report = workspace.answer(Question(names))
    replays = sorted(Path(project.root, ".flor/replays").glob("*/journal.0.jsonl"))
    patch.undo()
    return recorded, wanted, report, replays


def test_every_rule_gives_the_values_that_the_run_would_have_logged(answered) -> None:
    _, wanted, report, replays = answered
    assert {c.cell.status for c in report.cells} == {"replayed"}, [
        c.cell.sentence for c in report.cells if c.cell.status != "replayed"
    ]
    assert {c.cell.fidelity for c in report.cells} == {"exact"}, report.cells[0].cell.sentence
    assert len(replays) == 1, "no restore was refused, so nothing was replayed twice"
    entries = [e.parts for e in read_journal(replays[0])]
    names = {p[1]: p[2] for p in entries if p[0] == "n"}
    got: dict[str, list[str]] = {}
    for parts in entries:
        if isinstance(parts[0], int) and names[parts[0]].startswith("asked_"):
            got.setdefault(names[parts[0]], []).append(json.dumps(parts[2]))
    expected: dict[str, list[str]] = {}
    for name, _, value in wanted.records():
        if name.startswith("asked_"):
            expected.setdefault(name, []).append(json.dumps(value))
    different = {n: (expected[n], got.get(n)) for n in expected if expected[n] != got.get(n)}
    assert not different


@pytest.mark.parametrize("name", RULES)
def test_an_inner_loop_is_skippable_or_says_by_name_why_not(answered, name: str) -> None:
    recorded = answered[0]
    inner = [p[1] for p in recorded.of("l") if p[3] == "step" and p[6].split(".")[0] == name]
    reasons = [p for p in recorded.of("u") if p[1] in inner]
    captured = {p[1]["loop"] for p in recorded.of("k")}
    reason = RULES[name][3]
    if reason:
        assert reasons
        assert all(reason in json.dumps(p) for p in reasons), reasons
    else:
        assert not reasons
        assert set(inner) <= captured


REASONS = {
    "by_break": "", "with_else": "", "twice": "", "enumerated": "", "recursive": "recursion",
    "zipped": "consumed by `zip", "comprehended": "can't be seen", "generating": "yields",
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_how_a_loop_is_written_decides_whether_it_can_be_skipped(answered, name: str) -> None:
    recorded = answered[0]
    inner = [p[1] for p in recorded.of("l") if p[3] == "step" and p[6].split(".")[0] == name]
    assert inner
    reasons = [p for p in recorded.of("u") if p[1] in inner]
    assert (REASONS[name] in json.dumps(reasons)) if REASONS[name] else not reasons
