"""What a training script may rely on: values pass through, loops are what they were, every end is told rightly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recording.record_lab import Project, environment

HEAVY = ("dagster", "pandas", "sqlalchemy", "libcst", "git", "numpy", "click", "rich", "torch")


def test_recording_loads_nothing_heavy(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run(f"""
import sys
import flor_dagster as flor
model = {{"w": 1}}
with flor.checkpointing(model=model):
    for epoch in flor.loop("epoch", range(2)):
        for step in flor.loop("step", range(2)):
            model["w"] += flor.log("x", 1)
print([name for name in {HEAVY!r} if name in sys.modules])
import numpy
print("numpy.random" in sys.modules)
before = "numpy.random" in sys.modules
for epoch in flor.loop("epoch", range(2)):
    model["v"] = numpy.zeros(3)
print(("numpy.random" in sys.modules) == before)
""")
    assert run.out.splitlines()[0] == "[]"
    assert run.out.splitlines()[2] == "True"
    assert run.status == "finished"


def test_flor_off_records_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    run = project.run(
        'import flor_dagster as flor\nprint(flor.log("x", 1), flor.arg("a", 2), list(flor.loop("i", "ab")))',
        FLOR_OFF="1",
    )
    assert run.out == "1 2 ['a', 'b']\n"
    assert not (project.root / ".flor").exists()


SHAPES = """
import flor_dagster as flor
def tqdm(x, **k): return x
value = [1]
assert flor.log("x", value) is value
assert [i for i in flor.loop("a", [3, 4])] == [3, 4]
assert [(i, x) for i, x in enumerate(flor.loop("a", "xy"))] == [(0, "x"), (1, "y")]
assert list(zip(flor.loop("b", range(2)), "pq")) == [(0, "p"), (1, "q")]
loop = flor.loop("again", range(2))
assert len(loop) == 2 and list(loop) == list(loop) == [0, 1]
for i in tqdm(flor.loop("wrapped", range(2)), total=2):
    flor.log("w", i)
def gen():
    for i in flor.loop("gen", range(3)):
        yield i
for g in gen():
    flor.log("in_gen", g)
for i in flor.loop("brk", range(9)):
    if i == 4: continue
    if i == 5: break
else:
    raise AssertionError
def back():
    for i in flor.loop("ret", range(9)):
        if i == 2:
            return i
assert back() == 2
try:
    for i in flor.loop("err", range(9)):
        1 / (3 - i)
except ZeroDivisionError:
    pass
def bad():
    yield 1
    raise KeyError("source")
try:
    for i in flor.loop("bad", bad()):
        pass
except KeyError:
    pass
flor.log("after", 1)
for i in flor.loop("out", range(2)):
    for j in flor.loop("in", range(2)):
        if j == 1: break
    flor.log("out_level", i)
it = iter(flor.loop("held", range(3)))
next(it); flor.log("held_level", 0)
del it
for i in flor.loop("next", range(1)):
    flor.log("next_level", i)
for i in flor.loop("empty", []):
    pass
flor.log(3, "odd name"); flor.log("nan", float("nan"))
"""


def test_loops_yield_what_they_were_given_and_every_end_is_told(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run(SHAPES)
    assert run.status == "finished", run.err
    ends = [e for e in run.ends() if e[0] not in ("in", "out", "a", "b", "again")]
    assert ends == [
        ("wrapped", "exhausted", 2), ("gen", "exhausted", 3), ("brk", "break", 6), ("ret", "return", 3),
        ("err", "raise", 4), ("bad", "raise", 1), ("held", "raise", 1), ("next", "exhausted", 1),
        ("empty", "exhausted", 0),
    ]  # fmt: skip
    records = {(name, context): value for name, context, value in run.records()}
    assert ("after", "") in records
    assert ("out_level", "out[1]") in records
    assert ("in_gen", "gen[2]") in records
    assert ("held_level", "held[0]") in records
    assert ("next_level", "next[0]") in records
    assert ("3", "") in records
    assert [e for e in run.ends() if e[0] == "in"] == [("in", "break", 2)] * 2
    assert [e for e in run.ends() if e[0] == "again"] == [("again", "exhausted", 2)] * 2


ENDS = [
    ("raise ValueError('x')", 1, "failed", "ValueError: x"),
    ("raise KeyboardInterrupt", -2, "interrupted", "KeyboardInterrupt"),
    ("sys.exit(0)", 0, "finished", ""),
    ("sys.exit()", 0, "finished", ""),
    ("sys.exit(3)", 3, "failed", "SystemExit: 3"),
    ("sys.exit('no data')", 1, "failed", "SystemExit: no data"),
    ("raise SystemExit(4)", 4, "failed", "SystemExit"),
    ("exec('try: sys.exit(2)\\nexcept SystemExit: pass')", 0, "finished", ""),
    (
        "import threading; t = threading.Thread(target=sys.exit, args=(5,)); t.start(); t.join()",
        0,
        "finished",
        "",
    ),
    ("os._exit(0)", 0, "finished", "os._exit(0)"),
    ("os.kill(os.getpid(), 9)", -9, None, ""),
]


@pytest.mark.parametrize(("ending", "code", "status", "reason"), ENDS)
def test_how_a_run_ended_is_told_rightly(
    tmp_path: Path, ending: str, code: int, status: str | None, reason: str
) -> None:
    project = Project(tmp_path / "p")
    child = project.start(f"import os, sys\nimport flor_dagster as flor\nflor.log('x', 1)\n{ending}\n")
    out, err = child.communicate(timeout=60)
    assert child.returncode in (code, 130), out + err
    from tests.recording.record_lab import Run

    run = Run(project, out, err)
    assert run.status == status
    if reason:
        assert reason in run.of("z")[0][2]


ARGS = """
import json
import flor_dagster as flor
print(json.dumps([flor.arg("lr", 0.1), flor.arg("n", 3), flor.arg("on", False), flor.arg("s", "a"), flor.arg("l", [1]), flor.arg("o", None)]))
flor.arg("lr", 0.1)
try:
    flor.arg("bad", 1)
except ValueError as error:
    print(error)
"""


def test_arguments_come_from_outside_in_the_type_of_their_default(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    run = project.run(ARGS)
    assert run.out.splitlines()[0] == json.dumps([0.1, 3, False, "a", [1], None])
    assert run.of("a")[0][1:] == ["lr", 0.1, 0.1, "default"]
    assert len([p for p in run.of("a") if p[1] == "lr"]) == 1
    given = {"lr": "1", "n": "7", "on": "true", "s": "5", "l": "[2, 3]", "o": "x", "bad": "many"}
    run = project.run(ARGS, FLOR_ARGS=json.dumps(given))
    values, error = run.out.splitlines()
    assert values == json.dumps([1.0, 7, True, "5", [2, 3], "x"])
    assert "bad='many' does not read as int" in error
    assert {p[4] for p in run.of("a")} == {"given"}


def test_what_the_training_lets_go_of_is_not_kept_alive(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run("""
import weakref
import flor_dagster as flor
class Big:
    pass
def train():
    model = {"n": 0}
    big = Big()
    kept = weakref.ref(big)
    with flor.checkpointing(model=model):
        del big
        flor.log("gone", kept() is None)
        for epoch in flor.loop("epoch", range(2)):
            big = Big()
            kept = weakref.ref(big)
            del big
            flor.log("gone", kept() is None)
        flor.log("gone", kept() is None)
train()
""")
    assert [value for _, _, value in run.records()] == [True] * 4


def test_outside_a_repository_it_is_said_once_and_recorded(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run("import flor_dagster as flor\nfor i in range(5): flor.log('x', i)\n")
    assert run.err.count("no git repository") == 1
    assert len(run.records()) == 5


FORK = """
import os, sys, multiprocessing
import flor_dagster as flor
def child(n):
    for i in flor.loop("child", range(3)):
        flor.log("from_child", n)
for i in flor.loop("i", range(3)):
    flor.log("x", i)
    pid = os.fork()
    if pid == 0:
        flor.log("forked", 1)
        for j in flor.loop("j", range(3)):
            flor.log("forked", j)
        if i == 2:
            sys.exit(0)
        os._exit(0)
    os.waitpid(pid, 0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(child, [1, 2])
"""


def test_forked_children_leave_the_parents_journal_alone(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run(FORK)
    assert run.records() == [("x", f"i[{i}]", i) for i in range(3)]
    assert run.ends() == [("i", "exhausted", 3)]
    assert run.status == "finished"
    assert run.err.count("flor_dagster:") == 1


def test_two_runs_at_once_are_two_runs(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    source = "import time\nimport flor_dagster as flor\nfor i in flor.loop('i', range(20)):\n    flor.log('x', i)\n    time.sleep(0.01)\n"
    (project.root / "train.py").write_text(source)
    children = [
        subprocess.Popen(
            [sys.executable, "train.py"], cwd=project.root, env=environment(), stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    assert [c.wait(60) for c in children] == [0, 0]
    for child in children:
        child.communicate()
    assert len(project.journals) == 2
    for path in project.journals:
        assert path.read_text().count("\n[1,") == 20


THREADS = """
import threading
import flor_dagster as flor
def work(k):
    for i in flor.loop(f"t{k}", range(200)):
        flor.log("v", (k, i))
for epoch in flor.loop("epoch", range(1)):
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    flor.log("after", 1)
"""


def test_threads_have_their_own_loop_context(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run(THREADS)
    records = run.records()
    for k in range(4):
        mine = [(c, v["v"]) for n, c, v in records if n == "v" and v["v"][0] == k]
        assert mine == [(f"t{k}[{i}]", [k, i]) for i in range(200)]
    assert ("after", "epoch[0]", 1) in records


def test_a_function_is_recorded_in_this_process(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    run = project.run("""
from pathlib import Path
import flor_dagster as flor
from flor_dagster.recording.process import recorded_run
with recorded_run("train.py:fit", root=Path.cwd(), origin="dagster", tags={"a": "b"}, args={"lr": 2}) as run:
    print(flor.arg("lr", 1.0), flor.log("x", 1))
try:
    with recorded_run("train.py:fit", root=Path.cwd()):
        raise ValueError("no")
except ValueError:
    print("raised")
""")
    assert run.out == "2.0 1\nraised\n"
    texts = [p.read_text() for p in project.journals]
    assert any('["z","failed","ValueError: no"' in t for t in texts)
    assert any('"tags":{"a":"b"}' in t and '["z","finished"' in t for t in texts)
