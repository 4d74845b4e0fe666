"""What an old version writes never reaches the user's files, and other trackers stay offline and in the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import PACKAGE, Lab

# Saves its state as people do: weights, a figure's file, a log that grows; and goes on from a file that it finds.
SCRIPT = """\
import ctypes, os
from pathlib import Path
import numpy as np
import flor_dagster as flor

def save_natively(path):
    # As a C extension opens a file: no audit hook sees it.
    fd = ctypes.CDLL(None).open(str(path).encode(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(fd, b"n" * 2_000_000)
    os.close(fd)

out = Path("outputs")
out.mkdir(exist_ok=True)
start = float(np.load(out / "model.npy")[0]) if (out / "model.npy").exists() else 0.0
assert not (out / "small.npy").exists()
weights = np.full(200_000, start)
for epoch in flor.loop("epoch", range(3)):
    weights += epoch + 1
    np.save(out / "model.npy", weights)
    np.save(out / "small.npy", weights[:9])
    save_natively(out / "native.bin")
    (out / "figure.png").write_bytes(b"png" * 10)
    with open(out / "log.txt", "a") as file:
        file.write(f"{epoch}\\n")
    flor.log("total", float(weights[0]))
    {more}
"""


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and not {".git", ".flor"} & set(p.parts))
    return {str(p.relative_to(root)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def test_what_the_script_saves_is_saved_elsewhere_and_what_it_finds_is_as_it_was(lab: Lab) -> None:
    lab.commit({"train.py": SCRIPT.replace("{more}", ""), ".gitignore": "outputs/\n"})
    lab.train()
    lab.write({"train.py": SCRIPT.replace("{more}", 'flor.log("asked", float(weights[-1]))')})
    before = contents(lab.root)
    assert len(before["outputs/model.npy"][0]) > 1_000_000
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",), without_checkpoints=True)).cells
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence
        # A training that found the end of the one before would have begun at 6.
        assert workspace.store.dataframe("asked")["asked"].tolist() == [1.0, 3.0, 6.0]
    assert contents(lab.root) == before


def test_a_large_file_that_changed_since_is_named_where_it_is_missed(lab: Lab) -> None:
    script = """\
import flor_dagster as flor
size = len(open("data.bin", "rb").read())
for epoch in flor.loop("epoch", range(2)):
    flor.log("size", size)
    {more}
"""
    lab.write({"data.bin": "x" * 2_000_000, ".gitignore": "data.bin\n"})
    lab.commit({"train.py": script.format(more="")})
    lab.train()
    lab.write({"train.py": script.format(more='flor.log("asked", size * 2)')})
    with lab.open() as workspace:
        (run,) = workspace.sync().runs
        lab.write({"data.bin": "y" * 3_000_000})
        (answer,) = workspace.answer(Question(("asked",))).cells
        assert answer.cell.status == "failed"
        assert "data.bin, which this run read, changed since (2000000 bytes then" in answer.cell.sentence
        lab.write({"data.bin": "x" * 2_000_000})
        before_it = run.started.timestamp() - 60
        os.utime(lab.root / "data.bin", (before_it, before_it))
        (answer,) = workspace.answer(Question(("asked",))).cells
        # Its size is what it was, its time is not, and it is too large for a digest.
        assert answer.cell.fidelity == "unverified", answer.cell.sentence
        assert "data.bin, which this run read, was written again since" in answer.cell.sentence


def test_other_trackers_are_offline_and_write_into_the_checkout(lab: Lab) -> None:
    script = """\
import os
import flor_dagster as flor
for epoch in flor.loop("epoch", range(2)):
    flor.log("epoch_is", epoch)
    {more}
"""
    told = (
        "WANDB_MODE",
        "WANDB_DIR",
        "MLFLOW_TRACKING_URI",
        "NEPTUNE_MODE",
        "CLEARML_OFFLINE_MODE",
        "MPLBACKEND",
    )
    lab.commit({"train.py": script.format(more="")})
    lab.train()
    lab.write(
        {
            "train.py": script.format(
                more=f'flor.log("asked", [os.environ.get(n) for n in {told!r}] + [os.getcwd(), os.path.exists(".flor")])'
            )
        }
    )
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",))).cells
        assert answer.cell.status == "replayed", answer.cell.sentence
        wandb, folder, mlflow, neptune, clearml, plots, cwd, in_place = workspace.store.dataframe("asked")[
            "asked"
        ][0]
    assert (wandb, neptune, clearml, plots) == ("offline", "offline", "1", "Agg")
    assert folder.startswith(cwd)
    assert mlflow.startswith(f"file://{cwd}")
    assert cwd == str(lab.root), "a value says the recorded folder"
    assert not in_place, "and the code ran in a checkout"


FENCED = """\
import ctypes, json, os, sys
sys.path.insert(0, {package!r})
from flor_dagster.replay.confining import confine
root, own, out = sys.argv[1:]
stands = confine(root, [own])
try:
    open(os.path.join(out, "by python"), "w")
    python = "written"
except PermissionError as error:
    python = str(error)
native = ctypes.CDLL(None).creat(os.path.join(out, "by c").encode(), 0o644)
open(os.path.join(own, "mine"), "w").close()
print(json.dumps([stands, python, native >= 0]))
"""


def test_both_fences_hold_what_they_promise(tmp_path: Path) -> None:
    """Landlock holds C code where the kernel has it; the audit hook holds Python's own code everywhere."""
    own, root = tmp_path / "own", tmp_path / "root"
    own.mkdir()
    root.mkdir()
    with tempfile.TemporaryDirectory(dir=Path.home(), prefix=".flor-test-") as out:
        if Path(out).resolve().is_relative_to(tempfile.gettempdir()):
            pytest.fail("the home lies in the temporary folder: nothing can be fenced off there")
        done = subprocess.run(
            [sys.executable, "-c", FENCED.format(package=str(PACKAGE)), str(root), str(own), out],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        stands, python, native = json.loads(done.stdout)
        assert "a replay may not write the user's file" in python
        assert native is not stands, "C code is held exactly where the kernel's fence stands"
        assert not (Path(out) / "by python").exists()
