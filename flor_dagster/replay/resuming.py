"""Go on with a training that died, as a new training run that ends as one that never died.

The new run is complete in itself: what the dead one recorded up to the restore point is the beginning of its journal (and of
its checkpoints), so that it is looked at, asked and resumed like any other, also when the dead one is deleted. Its tags name
the dead one (`flor/parent`) and the restore point (`flor/resumed_at`).
"""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import FlorError, ReplayError
from flor_dagster.parsing import parse_python
from flor_dagster.recording import layout
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.recording.exits import EXIT_CHANGED, EXIT_DAMAGED, EXIT_RESTORE
from flor_dagster.recording.identity import new_run_id
from flor_dagster.recording.masking import SECRETS, masked_lines, masker_of
from flor_dagster.recording.source import find_loop
from flor_dagster.recording.variables import is_numeric
from flor_dagster.replay.given import given_back
from flor_dagster.replay.record import Execution, RunRecord, read_record
from flor_dagster.replay.restart import Restart, plan_restart
from flor_dagster.replay.speaking import PACKAGE_PARENT, python_path, run_python
from flor_dagster.replay.training import TrainingFailedError
from flor_dagster.replay.verifying import tainted_statements
from flor_dagster.store.models import RunRow

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace

OnLine = Callable[[str], None]

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from flor_dagster.replay.resumed import main; "
    "sys.path[0] = ''; main(sys.argv[2])"
)


class ResumedTrainingFailedError(TrainingFailedError):
    """A training that was resumed failed again; `run` is the new run."""


def resume(
    workspace: Workspace,
    name: str,
    entrypoint: str = "",
    *,
    allow_changed: bool = False,
    variables: Mapping[str, str] | None = None,
    on_line: OnLine | None = None,
) -> RunRow:
    """Go on with a training run that failed, was interrupted, lost or left a loop early, from its last restore point.

    The script runs in the user's own tree, as a training does. Its code, its libraries and what it logs before the restore
    point must be those of the run that died.

    Args:
        workspace: the project.
        name: key, id or unique beginning of the run that died.
        entrypoint: the script, relative to the repository, where it is to be checked; empty takes the run's.
        allow_changed: go on also where code, libraries or setup differ: the result is then another training's.
        variables: as in a question: what the run read and that is not kept with it.
        on_line: told what goes on, and each line that the script prints.

    Returns:
        The new run.

    Raises:
        ReplayError: there is nothing to go on with, or something differs; the message says what.
        ResumedTrainingFailedError: the training failed again.
    """
    workspace.sync()
    run = workspace.store.run(name)
    journal = layout.run_folder(workspace.home, run.id) / "journal.0.jsonl"
    record = read_record(journal)
    left = left_early(record) if run.status == "finished" else None
    _check(workspace, run, entrypoint, left, allow_changed=allow_changed)
    if left is not None and on_line is not None:
        on_line(
            f"training run {run.key} left its loop {left.path.partition('#')[0]} in iteration {left.count - 1}, by {left.how}: "
            "it goes on as if it had not"
        )
    supplied = {**workspace.supply(), **(variables or {})}
    record.given = given = given_back(record, workspace.home, supplied)
    if given.missing:
        raise ReplayError(f"training run {run.key} can't be resumed: {'; '.join(given.missing)}")
    others = _given_otherwise(record, supplied)
    if others and on_line is not None:
        on_line(
            f"training run {run.key} had another {' and another '.join(others)}: what it read before its restore point stays as "
            "it was, what it reads from there on is what you gave"
        )
    without: set[str] = set()
    reason = _no_point(record)
    while True:
        restart = _restart(workspace, run, record, without, left)
        if restart is None:
            raise ReplayError(
                f"training run {run.key} can't be resumed: {reason}. Train again from the beginning: flor run {run.entrypoint}"
            )
        if on_line is not None:
            on_line(f"training run {run.key} {restart.sentence}")
        run_id = new_run_id()
        status, tail, reason = _go_on(
            workspace, run, record, restart, run_id, on_line, allow_changed=allow_changed
        )
        if status in (EXIT_RESTORE, EXIT_DAMAGED):
            # The training did not go on from there: nothing was recorded, an earlier point may do.
            shutil.rmtree(layout.run_folder(workspace.home, run_id), ignore_errors=True)
            without.add(restart.checkpoint)
            continue
        return _ended(workspace, run, run_id, status, tail, reason)


def _given_otherwise(record: RunRecord, supplied: Mapping[str, str]) -> list[str]:
    """The variables that the program read, no secrets, and that are supplied with other values."""
    reads = {name: record.variables[name] for name in supplied.keys() & record.variables.keys()}
    return sorted(n for n, read in reads.items() if read.value is not None and read.value != supplied[n])


def _no_point(record: RunRecord) -> str:
    """That there is nothing to begin at, and why, as the run itself said it."""
    outermost = [e for e in record.executions.values() if e.parent is None]
    why = next((reasons[0] for e in reversed(outermost) if (reasons := e.reasons or e.no_points)), "")
    return f"it has no restore point{f', since {why}' if why else ''}"


def left_early(record: RunRecord) -> Execution | None:
    """The outermost loop, the last of such, that a finished run left before it was done.

    A signal's handler that calls `sys.exit(0)`, or sets a flag that the loop looks at, ends a training politely: its status
    is `finished`. A training that stops early because it is good enough looks alike; resumed, it stops there again.
    """
    outermost = [e for e in record.executions.values() if e.parent is None and e.ended is not None]
    return max((e for e in outermost if e.how != "exhausted"), key=lambda e: e.opened, default=None)


def _check(
    workspace: Workspace, run: RunRow, entrypoint: str, left: Execution | None, *, allow_changed: bool
) -> None:
    """Refuse what can't be gone on with, before anything is started."""
    if run.status == "finished" and left is None:
        raise ReplayError(f"training run {run.key} is finished: there is nothing to go on with")
    if run.status == "running":
        raise ReplayError(
            f"training run {run.key} is still running, on {run.header.get('host', 'its machine')}"
        )
    if ":" in run.entrypoint or run.entrypoint.startswith("<"):
        raise ReplayError(
            f"training run {run.key} was started as {run.entrypoint}; only a script can be resumed. Launch it again from there"
        )
    if entrypoint and entrypoint != run.entrypoint:
        raise ReplayError(f"training run {run.key} is one of {run.entrypoint}, not of {entrypoint}")
    if int(run.header.get("world_size") or 1) > 1:
        raise ReplayError(
            f"training run {run.key} had {run.header['world_size']} ranks; a distributed training can't be resumed yet"
        )
    if run.commit is None:
        raise ReplayError(
            f"the code of training run {run.key} was not kept, so it can't be told whether today's is the same"
        )
    if not (workspace.root / run.entrypoint).is_file():
        raise ReplayError(f"there is no {run.entrypoint} in {workspace.root} any more")
    changed = _changed(workspace, run)
    if changed and not allow_changed:
        raise ReplayError(
            f"{', '.join(changed)} {'differs' if len(changed) == 1 else 'differ'} from the version of training run {run.key} "
            f"({run.commit[:12]}). Put {'it' if len(changed) == 1 else 'them'} back, or say --allow-changed: the result is "
            "then not the one of a training that never died"
        )


def _changed(workspace: Workspace, run: RunRow) -> list[str]:
    """Files that the run had loaded and that are not today what its version has."""
    commit = run.commit or ""
    blobs = workspace.repository.blob_ids(commit)
    known = {*workspace.store.modules(run.id), run.entrypoint}
    now = {file: _blob(workspace.root / file) for file in known if file in blobs}
    return workspace.repository.compare_loaded(commit, now)


def _blob(path: Path) -> str:
    from flor_dagster.versions.repository import blob_id

    try:
        return blob_id(path.read_bytes())
    except OSError:
        return ""


def _restart(
    workspace: Workspace, run: RunRow, record: RunRecord, without: set[str], left: Execution | None
) -> Restart | None:
    store = CheckpointStore(layout.checkpoints_folder(workspace.home))
    store.pin(run.id, record.pinned)
    trees: dict[str, ast.Module | None] = {}

    def usable(name: str) -> bool:
        if name in without:
            return False
        try:
            store.read(run.id, name)
        except FlorError:
            return False
        return True

    def skippable(execution: Execution) -> bool:
        if execution is left or execution.reasons or execution.how not in ("exhausted", "break"):
            return False
        return execution.how == "exhausted" or not _has_else(workspace, run, execution, trees)

    return plan_restart(record, skippable, usable)


def _has_else(
    workspace: Workspace, run: RunRow, execution: Execution, trees: dict[str, ast.Module | None]
) -> bool:
    if execution.file not in trees:
        text = workspace.repository.read(run.commit or "", execution.file)
        trees[execution.file] = None if text is None else parse_python(text)
    tree = trees[execution.file]
    found = None if tree is None else find_loop(tree, execution.line, execution.column)
    return found is None or found.has_else


def _go_on(
    workspace: Workspace, run: RunRow, record: RunRecord, restart: Restart, run_id: str, on_line: OnLine | None,
    *, allow_changed: bool,
) -> tuple[int, Sequence[str], str]:  # fmt: skip
    """Start the process and wait for it: exit status, last lines, what its journal says of its end."""
    folder = layout.run_folder(workspace.home, run_id)
    folder.mkdir(parents=True, exist_ok=True)
    plan_path = folder / "resume.json"
    plan = _plan(workspace, run, record, restart, run_id, allow_changed=allow_changed)
    plan_path.write_text(json.dumps(plan), encoding="utf-8")
    given = record.given
    assert given is not None
    ours = ("FLOR_RUN_ID", "FLOR_ARGS", "FLOR_TAGS")
    environment = {k: v for k, v in os.environ.items() if k not in ours and not is_numeric(k)} | dict(
        given.environment
    )
    environment |= {"FLOR_HOME": str(workspace.home), "PYTHONUNBUFFERED": "1", "PYTHONPATH": python_path()}
    late = {SECRETS: json.dumps(dict(given.secrets))} if given.secrets else {}
    mask = masker_of(environment, late)
    arguments = [*given.options, "-P", "-c", _BOOT, PACKAGE_PARENT, str(plan_path)]
    status, tail = run_python(arguments, workspace.root, environment | late, masked_lines(on_line, mask))
    tail = [mask(line) for line in tail]
    journal = folder / "journal.0.jsonl"
    ended = read_record(journal).ended if journal.exists() else None
    return status, tail, str(ended[2]) if ended else ""


def _plan(
    workspace: Workspace,
    run: RunRow,
    record: RunRecord,
    restart: Restart,
    run_id: str,
    *,
    allow_changed: bool,
) -> dict[str, Any]:
    header = record.header
    executions = [record.by_path[path] for path in restart.loops]
    libraries: dict[str, Any] = next((parts[1] for _, kind, parts in record.events if kind == "i"), {})
    tainted: set[str] = set()
    for file in sorted({r.file for r in record.records}):
        text = workspace.repository.read(run.commit or "", file)
        lines = tainted_statements(file, text) if text is not None else frozenset[tuple[str, int]]()
        tainted |= {r.name for r in record.records if (r.file, r.line) in lines}
    where = restart.last[0] if restart.last[1] is None else f"{restart.last[0]}[{restart.last[1]}]"
    return {
        "run": run_id, "parent": run.id, "pinned": record.pinned, "root": str(workspace.root), "home": str(workspace.home),
        "entrypoint": run.entrypoint, "argv": header.get("argv", []), "cwd": header.get("began_in") or header.get("cwd") or str(workspace.root),
        "args": record.args, "generators": record.generators, "loops": restart.loops, "last": list(restart.last),
        "dead_journal": str(layout.run_folder(workspace.home, run.id) / "journal.0.jsonl"),
        "sites": [[e.file, e.line, e.column] for e in executions if e.function != "<module>"],
        "tags": {**run.tags, "flor/parent": run.key, "flor/resumed_at": where},
        "blobs": workspace.repository.blob_ids(run.commit or ""), "libraries": libraries, "tainted": sorted(tainted),
        "allow_changed": allow_changed, "masked": header.get("masked") or [], "process": header.get("process") or {},
    }  # fmt: skip


def _ended(
    workspace: Workspace, run: RunRow, run_id: str, status: int, tail: Sequence[str], reason: str
) -> RunRow:
    workspace.sync()
    found = workspace.store.runs(ids=[run_id])
    if status != 0 or not found:
        said = "\n  ".join(tail) or "(it printed nothing)"
        what = reason or f"it ended with exit status {status}"
        hint = " Say --allow-changed to go on all the same" if status == EXIT_CHANGED else ""
        raise ResumedTrainingFailedError(
            f"training run {run.key} could not be brought to its end: {what}.{hint}\n  {said}",
            found[0] if found else None,
        )
    return found[0]
