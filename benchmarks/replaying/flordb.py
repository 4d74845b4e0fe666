"""flordb 4.0.1 beside us, in an environment of its own: one version, an epoch-level statement added later."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.replaying.bars import show
from benchmarks.replaying.lab import OUTER, Clock, Prepared, Project, Size, environment, run

VERSION = "4.0.1"


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
    with Clock() as clock:
        done = subprocess.run(
            [python, "-m", "flordb", "replay", "weight_norm"], cwd=folder, env=environment(), input="y\n", capture_output=True,
            text=True, check=False,
        )  # fmt: skip
    table = run(
        folder,
        python,
        "-c",
        "import flordb; print(flordb.dataframe('weight_norm')['weight_norm'].notna().sum())",
    )
    theirs = clock.seconds
    said = (
        ""
        if done.returncode == 0
        else f" (exit status {done.returncode}: {done.stderr.strip().splitlines()[-1:]})"
    )
    print(
        f"flordb {VERSION}, one version: recorded in {recorded.wall:.2f} s ({recorded.cpu:.2f} CPU s); its replay gave "
        f"{table.stdout.strip().splitlines()[-1]} of {size.epochs} values{said}"
    )
    with_us = prepared.project
    keys = _newest(with_us)
    first, later = with_us.ask(1, statements=("weight_norm",), runs=(keys,), warm=True)
    _, cold = first, with_us.ask(0, statements=("weight_norm",), runs=(keys,), warm=False)[0]
    show(f"flordb {VERSION}: epoch-level statement, one version", theirs, recorded)
    show("flor_dagster: the same, cold child (against flordb's replay)", cold, theirs)
    show("flor_dagster: the same, asked again (against flordb's)", later[0], theirs)


def _newest(project: Project) -> str:
    from flor_dagster.replay.workspace import Workspace

    with Workspace.open(project.folder) as workspace:
        return workspace.runs()[-1].key
