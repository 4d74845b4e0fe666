"""`flor doctor`: what stands in the way of recording and of fast replays, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flor_dagster.cli.command import project_command
from flor_dagster.cli.output import DONE, FAILED, Output
from flor_dagster.errors import ReplayError

if TYPE_CHECKING:
    from flor_dagster.replay.examining import LoopFinding
    from flor_dagster.replay.variable_mentions import Mention
    from flor_dagster.replay.workspace import Workspace

_MARKS = {"ok": "ok      ", "warning": "warning ", "problem": "PROBLEM "}


@click.command("doctor")
@click.argument("script", required=False)
@click.option(
    "--deep",
    is_flag=True,
    help="Also hold every value against the journals and the ledger against the log store; read every checkpoint and version.",
)
@project_command
def doctor_command(workspace: Workspace, output: Output, script: str | None, deep: bool) -> int:
    """Look at the project's health; with a SCRIPT, at what keeps its loops from being skipped in replays."""
    from flor_dagster.replay.examining import examine, imported_sources
    from flor_dagster.replay.health import check_health
    from flor_dagster.replay.variable_mentions import variables_named
    from flor_dagster.replay.wholeness import check_deeply

    checks = (*check_health(workspace), *(check_deeply(workspace) if deep else ()))
    loops: tuple[LoopFinding, ...] = ()
    variables: tuple[Mention, ...] = ()
    if script is not None:
        name = _relative(workspace.root, script)
        files = _files(workspace.root)
        loops = examine(workspace.root, files, name, workspace.store)
        variables = variables_named(imported_sources(workspace.root, files, name))
    bad = any(check.level == "problem" for check in checks) or any(not loop.skippable for loop in loops)
    output.document(
        {
            "fine": not bad,
            "checks": checks,
            "loops": [
                {
                    "name": loop.name, "file": loop.file, "line": loop.line, "skippable": loop.skippable,
                    "obstacles": loop.obstacles, "seen": loop.seen,
                }
                for loop in loops
            ],
            "variables": variables,
        }
    )  # fmt: skip
    for check in checks:
        output.text(f"{_MARKS[check.level]}{check.name}: {check.sentence}")
    if script is not None and not loops:
        output.text(f"{script} has no flor.loop: without one a replay executes the whole training.")
    for loop in loops:
        verdict = "can be skipped in replays" if loop.skippable else "is executed in replays"
        output.text(f"{loop.file}:{loop.line}: loop `{loop.name}` {verdict}")
        for obstacle in loop.obstacles:
            hint = f" ({obstacle.hint})" if obstacle.hint else ""
            output.text(f"  {obstacle.file or loop.file}:{obstacle.line}: {obstacle.sentence}{hint}")
        for sentence in loop.seen:
            output.text(f"  {sentence}")
    for found in variables:
        output.text(f"{found.file}:{found.line}: environment variable {found.name}: {found.sentence}")
    return FAILED if bad else DONE


def _relative(root: Path, script: str) -> str:
    """A script as the repository names it: relative to the working directory or to the repository."""
    for path in (Path(script), root / script):
        if path.is_file() and path.resolve().is_relative_to(root):
            return path.resolve().relative_to(root).as_posix()
    raise ReplayError(f"there is no script {script} in {root}")


def _files(root: Path) -> list[str]:
    """The Python files of a repository, without hidden folders and virtual environments."""
    found: list[str] = []
    folders = [root]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            if path.is_dir() and not path.is_symlink():
                if not path.name.startswith(".") and not (path / "pyvenv.cfg").exists():
                    folders.append(path)
            elif path.suffix == ".py":
                found.append(path.relative_to(root).as_posix())
    return found
