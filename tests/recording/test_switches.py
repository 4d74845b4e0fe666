"""A setting of the process that a loop turns is put back with its end state, or the loop is never skipped."""

from __future__ import annotations

import decimal
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flor_dagster.errors import CheckpointError
from flor_dagster.recording import switches
from flor_dagster.recording.switches import put_back, read_all, read_one, turned
from tests.recording.record_lab import Project

HERE = str(Path.cwd())


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = read_all()
    path, filters, environ = list(sys.path), list(warnings.filters), dict(os.environ)
    yield
    sys.path[:], warnings.filters[:] = path, filters  # pyright: ignore[reportIndexIssue]
    os.environ.clear()
    os.environ.update(environ)
    put_back({n: v for n, v in before.values.items() if switches.SWITCHES[n].turn is not None})


def changed_by(change: Callable[[], object], root: str = HERE) -> tuple[dict[str, Any], list[str]]:
    before = read_all()
    change()
    return turned(before, root)


def test_what_is_not_turned_costs_a_checkpoint_nothing() -> None:
    assert changed_by(lambda: decimal.Decimal(1) / 3) == ({}, [])  # raises the flag of a rounding


def there_and_back(change: Callable[[], object], *names: str) -> None:
    """Turn, note, turn back, put back: it is what the end state says."""
    before = read_all()
    change()
    put, reasons = turned(before, HERE)
    assert reasons == []
    assert set(put) == set(names)
    old = {n: before.values[n] for n in names if n in before.values}
    put_back(old | {n: None for n in names if n.startswith("environ.")})
    assert turned(before, HERE) == ({}, [])
    put_back(json.loads(json.dumps(put)))
    assert turned(before, HERE) == (put, [])


def test_the_interpreters_own_settings_come_back() -> None:
    there_and_back(lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 17), "recursion_limit")
    there_and_back(lambda: os.environ.__setitem__("LOOP_MODE", "b"), "environ.LOOP_MODE")
    there_and_back(lambda: os.chdir(Path(HERE, "tests")), "cwd")


def test_numpys_errors_come_back() -> None:
    numpy = pytest.importorskip("numpy")
    there_and_back(lambda: numpy.seterr(divide="raise", under="call"), "numpy.errors")
    assert numpy.geterr()["divide"] == "raise"


TORCH: dict[str, Callable[[Any], object]] = {
    "torch.grad": lambda t: t.set_grad_enabled(False),
    "torch.dtype": lambda t: t.set_default_dtype(t.float64),
    "torch.device": lambda t: t.set_default_device("meta"),
    "torch.threads": lambda t: t.set_num_threads(t.get_num_threads() + 1),
    "torch.matmul": lambda t: t.set_float32_matmul_precision("medium"),
    "torch.cudnn.benchmark": lambda t: setattr(t.backends.cudnn, "benchmark", True),
    "torch.cudnn.deterministic": lambda t: setattr(t.backends.cudnn, "deterministic", True),
    "torch.hooks": lambda t: t.nn.Linear(1, 1).register_forward_hook(lambda *_: None),
}


@pytest.mark.parametrize("name", TORCH)
def test_torchs_settings_come_back(name: str) -> None:
    torch = pytest.importorskip("torch")
    there_and_back(lambda: TORCH[name](torch), name)


def test_torchs_deterministic_algorithms_come_back() -> None:
    torch = pytest.importorskip("torch")
    torch.use_deterministic_algorithms(False)  # loads what sets variables of the environment
    there_and_back(lambda: torch.use_deterministic_algorithms(True, warn_only=True), "torch.deterministic")
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_what_names_the_process_is_put_back_and_not_compared() -> None:
    put: dict[str, switches.Value] = {"environ.A": f"socket-{os.getpid()}", "environ.B": "/tmp/x/y"}
    put |= {"environ.C": "data", "cwd": "/tmp/x", "torch.hooks": 3}
    assert switches.not_compared(put) == ("environ.A", "environ.B", "torch.hooks")


def test_torchs_inference_mode_can_not_be_skipped() -> None:
    torch = pytest.importorskip("torch")
    before = read_all()
    with torch.inference_mode():
        put, reasons = turned(before, HERE)
    assert "torch's inference mode is changed in the loop" in reasons
    assert set(put) <= {"torch.grad"}


def test_what_can_not_be_put_back_is_named(tmp_path: Path) -> None:
    def everything() -> None:
        sys.path.append("/some/where")
        warnings.simplefilter("error", RuntimeWarning)
        decimal.getcontext().prec += 1
        os.environ["SERVICE_TOKEN"] = "of mine"
        os.chdir(tmp_path)

    precision = decimal.getcontext().prec
    try:
        put, reasons = changed_by(everything, HERE)
    finally:
        decimal.getcontext().prec = precision
    assert put == {}
    assert reasons == [
        "the working directory is changed in the loop",
        "sys.path is changed in the loop",
        "which warnings raise (warnings.filters) is changed in the loop",
        "decimal's context is changed in the loop",
        "the environment variable SERVICE_TOKEN is changed in the loop, and its name tells of a secret",
    ]


def test_a_library_that_the_loop_loads_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numpy")
    with monkeypatch.context() as without:
        without.delitem(sys.modules, "numpy")
        without.delitem(sys.modules, "decimal")
        before = read_all()
    put, reasons = turned(before, HERE)
    assert (set(put), reasons) == ({"numpy.buffer", "numpy.errors"}, [])


def test_a_filter_that_only_prints_is_a_librarys_own_business() -> None:
    assert changed_by(lambda: warnings.simplefilter("ignore", ResourceWarning)) == ({}, []) or any(
        entry[0] == "error" for entry in warnings.filters
    )


def test_a_setting_that_does_not_get_there_raises() -> None:
    with pytest.raises(CheckpointError, match="cwd"):
        put_back({"cwd": "/no/such/folder"})
    with pytest.raises(CheckpointError, match="later one"):
        switches.load(["torch.of_tomorrow"])
    with pytest.raises(KeyError):
        read_one("torch.of_tomorrow")


TRAINING = """\
import os, decimal
import flor_dagster as flor
model = [0.0]
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(3)):
        model[0] += 0.5
        {change}
    flor.log("sum", model[0])
"""


def test_a_checkpoint_tells_of_what_was_turned_and_of_nothing_else(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    assert "process-settings" not in roots_of(project, "pass")
    assert "process-settings:environ.MODE" in roots_of(project, "os.environ['MODE'] = str(epoch)")


def roots_of(project: Project, change: str) -> str:
    from flor_dagster.recording.checkpoints import CheckpointStore

    run = project.run(TRAINING.format(change=change), FLOR_CHECKPOINTS="all")
    assert run.of("u") == []
    assert len(run.of("k")) == 5  # two ends of the steps, two of the epochs, one of the epochs' loop
    store = CheckpointStore(project.root / ".flor" / "checkpoints")
    assert run.path is not None
    found = [store.read(run.path.parent.name, parts[1]["name"]).roots for parts in run.of("k")]
    return " ".join(name for roots in found for name in roots)


def test_an_end_state_that_lacks_a_setting_is_never_taken(tmp_path: Path) -> None:
    run = Project(tmp_path / "p").run(
        TRAINING.format(change="decimal.getcontext().prec += 1"), FLOR_CHECKPOINTS="all"
    )
    assert run.of("k") == []
    assert {tuple(parts[3]) for parts in run.of("u")} == {("decimal's context is changed in the loop",)}
