"""Run a training script of a project in a child process, as `python script` would, from the files on disk or from a version."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import ReplayError
from flor_dagster.recording import layout
from flor_dagster.recording.identity import new_run_id
from flor_dagster.recording.journal import correct_end
from flor_dagster.recording.masking import Masker, masked_lines, secrets_of
from flor_dagster.recording.owners import own_mark
from flor_dagster.recording.portable import THREADS, portable_variables
from flor_dagster.recording.settings import is_portable_project
from flor_dagster.replay.speaking import python_path, run_python
from flor_dagster.store.models import RunRow
from flor_dagster.versions import Clone, link_untracked

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace


class TrainingFailedError(ReplayError):
    """A training run that was started here failed; it is recorded all the same.

    Args:
        message: what happened, with the child's last lines.
        run: the failed run, None where it recorded nothing.
    """

    def __init__(self, message: str, run: RunRow | None) -> None:
        super().__init__(message)
        self.run = run


def train(
    workspace: Workspace,
    entrypoint: str,
    args: Mapping[str, Any],
    *,
    ref: str | None = None,
    tags: Mapping[str, str] | None = None,
    origin: str = "script",
    portable: bool | None = None,
    variables: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> RunRow:
    """Run a training script in a child process.

    Args:
        workspace: the project.
        entrypoint: the script, relative to the repository.
        args: values for its `flor.arg`s; texts are read in the type of the default.
        ref: a commit or branch to train instead of the files on disk, in a checkout of our own.
        tags: kept with the run.
        origin: who started it.
        portable: whether it is started with kernels that every machine of this one's kind gives alike; None takes what the
            project's pyproject.toml says.
        variables: environment variables besides this process's own.
        on_line: given each line that the script prints.

    Returns:
        The finished run.

    Raises:
        TrainingFailedError: the script failed; the run is recorded, the message has its last lines.
    """
    with workspace.asking():
        return _train(workspace, entrypoint, args, ref, tags, origin, portable, variables, on_line)


def _train(
    workspace: Workspace, entrypoint: str, args: Mapping[str, Any], ref: str | None, tags: Mapping[str, str] | None,
    origin: str, portable: bool | None, variables: Mapping[str, str] | None, on_line: Callable[[str], None] | None,
) -> RunRow:  # fmt: skip
    run_id = new_run_id()
    base = {**os.environ, **(variables or {})}
    if portable or (portable is None and _is_portable(workspace.root)):
        threads = base.get(THREADS, "")
        base |= portable_variables() | ({THREADS: threads} if threads.isdecimal() else {})
    mask = Masker(secrets_of(base).values())
    environment = {
        **base, "FLOR_RUN_ID": run_id, "FLOR_ARGS": json.dumps(dict(args)), "FLOR_HOME": str(workspace.home),
        "FLOR_TAGS": json.dumps(dict(tags or {})), "FLOR_ORIGIN": origin, "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    environment.setdefault("PYTHONHASHSEED", "0")
    environment["PYTHONPATH"] = python_path()
    root = workspace.root if ref is None else _checkout(workspace, ref, run_id)
    try:
        if not (root / entrypoint).is_file():
            raise ReplayError(
                f"there is no script {entrypoint} in {workspace.root}" + (f" at {ref}" if ref else "")
            )
        status, tail = run_python([str(root / entrypoint)], root, environment, masked_lines(on_line, mask))
    finally:
        if ref is not None:
            shutil.rmtree(root, ignore_errors=True)
    for journal in layout.run_folder(workspace.home, run_id).glob("journal.0.jsonl"):
        correct_end(journal, status)
    workspace.sync()
    found = workspace.store.runs(ids=[run_id])
    if status != 0:
        said = mask("\n  ".join(tail)) or "(it printed nothing)"
        name = f"training run {found[0].key}" if found else "the training"
        raise TrainingFailedError(
            f"{name} ({entrypoint}) failed with exit status {status}. Its last lines:\n  {said}",
            found[0] if found else None,
        )
    if not found:
        raise TrainingFailedError(
            f"{entrypoint} ended without a flor call, so nothing was recorded: use `import flor_dagster as flor` and "
            "`flor.log`, `flor.loop` in it.", None,
        )  # fmt: skip
    return found[0]


def _is_portable(root: Path) -> bool:
    try:
        return is_portable_project(root)
    except ValueError as error:
        raise ReplayError(str(error)) from error


def _checkout(workspace: Workspace, ref: str, run_id: str) -> Path:
    clone = Clone.open(workspace.root, workspace.cache)
    folder = clone.place / "trainings" / f"{run_id}.{own_mark()}"
    checkout = clone.checkout(workspace.repository.resolve(ref), folder)
    linked = link_untracked(workspace.root, checkout.path)
    exclude = checkout.path / ".git" / "info" / "exclude"
    exclude.parent.mkdir(parents=True, exist_ok=True)
    # What is linked in is no part of the version.
    exclude.write_text("".join(f"/{path}\n" for path, _ in linked), encoding="utf-8")
    return checkout.path
