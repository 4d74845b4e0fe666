"""A divergence is put down to its cause: what the two processes differ in, and the places in the code that leave it to chance."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from flor_dagster.replay.chance import suspects
from flor_dagster.replay.diagnosing import diagnose
from flor_dagster.replay.planning import LoopPlan
from flor_dagster.replay.record import Execution, RunRecord

PLAN = LoopPlan({}, 1, 0, 1, 0.0, "everything is executed", None, None)
Events = list[tuple[int, str, list[Any]]]


def record(events: Events | None = None, facts: dict[str, Any] | None = None, **header: Any) -> RunRecord:
    same = {
        "hashseed": "0",
        "python": "3.11.7",
        "cores": 2,
        "variables": {"OMP_NUM_THREADS": "1"},
        "executable": sys.executable,
    }
    execution = Execution(0, "epoch#0", "epoch", None, None, "train.py", "<module>", 1, 0, 0, 0)
    return RunRecord(
        header=same | header, executions={0: execution}, by_path={}, records=[], args={}, begin={}, generators={}, ended=None,
        events=[(0, "i", ["i", facts or {}]), *(events or [])],
    )  # fmt: skip


def differs(*roots: str) -> Events:
    return [(1, "d", ["d", 0, 2, "name", list(roots)])]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"cores": 4}, {}, "number of cores was 4 and is 2"),
        ({"python": "3.12.1"}, {}, "Python was 3.12.1 and is 3.11.7"),
        ({"process": {"umask": 0o077}}, {"process": {"umask": 0o022}}, "the umask was 077 and is 022"),
        (
            {"process": {"flags": {"optimize": 1}}},
            {"process": {"flags": {"optimize": 0}}},
            "flag optimize (-O) was 1 and is 0",
        ),
        ({"process": {"affinity": 8}}, {"process": {"affinity": 2}}, "could use 8 processors and can use 2"),
        (
            {"process": {"locale": "de_DE.UTF-8"}},
            {"process": {"locale": "C"}},
            "the locale was de_DE.UTF-8 and is C",
        ),
        ({"variables": {"TZ": "UTC"}}, {"variables": {}}, "the variable TZ was UTC and is not set"),
        (
            {"facts": {"kernels": {"torch": {"matmul precision": "high"}}}},
            {"facts": {"kernels": {"torch": {"matmul precision": "highest"}}}},
            "torch's matmul precision was high and is highest",
        ),
        (
            {
                "facts": {"kernels": {"pools": [{"name": "openblas", "kernel": "Haswell", "threads": 2}]}},
                "variables": {"OPENBLAS_CORETYPE": "Haswell"},
            },
            {
                "facts": {"kernels": {"pools": [{"name": "openblas", "kernel": "SkylakeX", "threads": 4}]}},
                "variables": {},
            },
            (
                "recorded with the BLAS kernel Haswell (openblas), replayed with SkylakeX (OPENBLAS_CORETYPE was Haswell then and is not "
                "set now); openblas had 2 threads and has 4"
            ),
        ),
        (
            {"facts": {"kernels": {"numpy": ["X86_V2", "X86_V3"]}}},
            {"facts": {"kernels": {"numpy": ["X86_V2"]}}},
            "numpy's kernels are chosen without X86_V3",
        ),
        (
            {"hardware": {"features": ["avx", "avx512f"]}},
            {"hardware": {"features": ["avx"]}},
            "the processor lacks avx512f",
        ),
        ({"variables": {"OMP_NUM_THREADS": "4"}}, {}, "the variable OMP_NUM_THREADS was 4 and is 1"),
        (
            {"facts": {"kernels": {"torch": {"threads": 8}}}},
            {"facts": {"kernels": {"torch": {"threads": 1}}}},
            "torch's threads were 8 and are 1",
        ),
        (
            {"facts": {"versions": {"numpy": "1.9"}}},
            {"facts": {"versions": {"numpy": "2.4"}}},
            "numpy was 1.9 and is 2.4",
        ),
        (
            {},
            {"events": [(2, "x", ["x", "data", "a.csv, which this run read, changed since"])]},
            "a.csv, which this run read, changed since",
        ),
        (
            {},
            {"events": differs("random:numpy", "name:w")},
            "the random generator of numpy differs at the end of epoch#0[2]",
        ),
        (
            {},
            {"events": differs("name:w")},
            "no random generator differs at the end of epoch#0[2], where the state first does",
        ),
    ],
)
def test_what_the_two_processes_differ_in_is_named(
    before: dict[str, Any], after: dict[str, Any], words: str
) -> None:
    assert words in diagnose(record(**before), record(**after), PLAN, repeats="")


def test_the_packages_that_nobody_imported_are_compared_too(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "then.json").write_text(json.dumps(["click==0.0.1"]))
    said = diagnose(record(packages="then"), record(packages="now"), PLAN, repeats="", home=tmp_path)
    assert f"click {metadata.version('click')} instead of 0.0.1" in said
    assert "click" not in diagnose(
        record(packages="then"), record(packages="then"), PLAN, repeats="", home=tmp_path
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rng = np.random.default_rng()", "makes `rng`, a generator, without a seed"),
        ("rng = np.random.RandomState(seed=None)", "makes `rng`, a generator, without a seed"),
        ("random.seed()", "calls `random.seed`, without a seed"),
        ("torch.manual_seed(int(time.time()))", "calls `torch.manual_seed`, seeded with the clock"),
        ("rng = np.random.default_rng(os.getpid())", "makes `rng`, a generator, seeded with the clock"),
        ("name = secrets.token_hex(4)", "takes the system's entropy (`secrets.token_hex`)"),
        ("pool = ThreadPoolExecutor(4)", "lets work go on side by side (`ThreadPoolExecutor`)"),
        ("order = [id(one) for one in things]", "uses the address of an object (`id`)"),
    ],
)
def test_what_leaves_it_to_chance_is_found_with_its_line(line: str, words: str) -> None:
    head = "import os, random, secrets, time\nimport numpy as np, torch\nfrom concurrent.futures import ThreadPoolExecutor\n"
    (found,) = suspects({"train.py": head + line})
    assert found.sentence.startswith(f"train.py:4 {words}")
    assert suspects({"train.py": head + line}, repeats=True) == [], "it would not come out the same twice"


@pytest.mark.parametrize(
    "line",
    [
        "rng = np.random.default_rng(3)", "random.seed(seed)", "files = sorted(p for p in Path('.').iterdir())",
        "count = len(os.listdir('.'))", "torch.manual_seed(flor.arg('seed', 1))", "began = time.time()", "x = self.id(3)",
    ],
)  # fmt: skip
def test_what_is_fixed_is_no_suspect(line: str) -> None:
    assert suspects({"train.py": "import os, random, time, torch\nimport numpy as np\n" + line}) == []


def test_what_agrees_on_one_machine_is_named_where_two_replays_do() -> None:
    text = "import os\nfor name in os.listdir('data'):\n    print(name)\n"
    (found,) = suspects({"train.py": text}, repeats=True)
    assert "train.py:2 takes files in the order that the folder has them" in found.sentence
    said = diagnose(record(), record(), PLAN, repeats="", sources={"train.py": text})
    assert "a second replay gave the same" in said
    assert "what may be behind it: train.py:2" in said
    certain = diagnose(record(cores=9), record(), PLAN, repeats="", sources={"train.py": text})
    assert "number of cores" in certain
    assert "what may be behind it" not in certain
