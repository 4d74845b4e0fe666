"""flordb 4.0.1 beside us, in an environment of its own: one version, an epoch-level statement added later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.replaying.bars import show
from benchmarks.replaying.lab import OUTER, Clock, Prepared, Project, Size, environment, run

VERSION = "4.0.1"
_VALUES = """\
import flordb, json
frame = flordb.dataframe("weight_norm")
values = frame.sort_values("epoch", key=lambda c: c.astype(int))["weight_norm"] if "epoch" in frame else []
print()
print(json.dumps([float(v).hex() for v in values]))
"""


def installed(folder: Path) -> str:
    """The interpreter of an environment with flordb in it, made where there is none. torch is this interpreter's own."""
    python = folder / "bin" / "python"
    if not python.exists():
        run(folder.parent, sys.executable, "-m", "venv", str(folder))
        run(folder.parent, str(python), "-m", "pip", "install", "--quiet", f"flordb=={VERSION}")
    site = next(folder.glob("lib/python*/site-packages"))
    # Behind its own packages: only what it does not have, torch above all, comes from here.
    import torch

    shared = {sysconfig.get_path("purelib"), str(Path(torch.__file__).parents[1])}
    (site / "shared.pth").write_text("".join(f"{path}\n" for path in sorted(shared)))
    return str(python)


def beside(prepared: Prepared, folder: Path, python: str) -> None:
    """Record one version with flordb and let it replay an epoch-level statement; the same of one run with us."""
    size: Size = prepared.size
    text = size.script(0).replace("import flor_dagster as flor", "import flordb as flor")
    text = text.replace("with flor.checkpointing(net=net, optimizer=optimizer):", "if True:")
    project = Project(folder)
    recorded = project.train(text, python)
    (folder / "train.py").write_text(
        text.replace(
            '        pass\n        flor.log("accuracy"', f'        {OUTER}\n        flor.log("accuracy"'
        )
    )
    # Its replay starts whatever `python` is on the path, and leaves with status 0 when that fails.
    path = {"PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"}
    with Clock() as clock:
        done = subprocess.run(
            [python, "-m", "flordb", "replay", "weight_norm"], cwd=folder, env=environment() | path, input="y\n",
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    table = run(folder, python, "-c", _VALUES)
    theirs = clock.seconds
    wanted = prepared.oracle.values("weight_norm")[: size.epochs]
    given = json.loads(table.stdout.strip().splitlines()[-1])
    right = sum(one == other for one, other in zip(given, wanted, strict=False))
    print(
        f"flordb {VERSION}, one version: recorded in {recorded.wall:.2f} s ({recorded.cpu:.2f} CPU s); its replay left with "
        f"status {done.returncode} and gave {len(given)} of {size.epochs} values, {right} of them bit for bit right"
    )
    if len(given) < size.epochs:
        print("  the last lines that it printed: " + " | ".join((done.stdout + done.stderr).split("\n")[-8:]))
    with_us = prepared.project
    keys = _newest(with_us)
    _, later = with_us.ask(1, statements=("weight_norm",), runs=(keys,), warm=True)
    cold, _ = with_us.ask(0, statements=("weight_norm",), runs=(keys,), warm=False)
    show(f"flordb {VERSION}: epoch-level statement, one version", theirs, prepared.running(1))
    show("flor_dagster: the same, cold child (against flordb's replay)", cold, theirs)
    show("flor_dagster: the same, asked again (against flordb's)", later[0], theirs)


def _newest(project: Project) -> str:
    from flor_dagster.replay.workspace import Workspace

    with Workspace.open(project.folder) as workspace:
        return workspace.runs()[-1].key
