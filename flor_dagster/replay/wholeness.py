"""Everything that a project keeps, held against what else says what it should be."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flor_dagster.errors import CheckpointError, FlorError
from flor_dagster.recording import layout
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.replay.health import Check
from flor_dagster.versions.repository import Repository
from flor_dagster.versions.scratch import scratch_folder

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace
    from flor_dagster.store.models import RunRow

_NAMED = 3


def check_deeply(workspace: Workspace) -> tuple[Check, ...]:
    """Hold the log store against the journals, the ledger against the log store, and read every checkpoint and version."""
    return tuple(_checks(workspace))


def _checks(workspace: Workspace) -> Iterator[Check]:
    yield from _against_journals(workspace)
    yield from _against_ledger(workspace)
    yield from _checkpoints(workspace)
    yield from _versions(workspace)


def _against_journals(workspace: Workspace) -> Iterator[Check]:
    found = workspace.store.differences()
    for words in found:
        yield Check(
            "values", "problem", f"{words}. `flor rebuild` makes the log store anew from the journals"
        )
    if not found:
        yield Check("values", "ok", "every value in the log store is what its journal says")


def _against_ledger(workspace: Workspace) -> Iterator[Check]:
    with scratch_folder("doctor") as folder:
        damage, other = workspace.store.ledger_differences(Path(folder))
    path = workspace.store.ledger_path
    away = f"`mv {shlex.quote(str(path))} {shlex.quote(f'{path}.away')}`: the next decision makes a new one of what the database holds"
    if damage:
        said = "; ".join((*damage, *other))
        yield Check("ledger", "problem", f"{path} is damaged: {said}. The database is not. {away}")
    elif other:
        yield Check(
            "ledger", "problem",
            f"{path} and the database disagree: {'; '.join(other)}. If the database was changed: `flor rebuild` makes it "
            f"anew. If the ledger was: {away}",
        )  # fmt: skip
    else:
        yield Check("ledger", "ok", "it says what the database holds and the journals do not")


def _checkpoints(workspace: Workspace) -> Iterator[Check]:
    store = CheckpointStore(layout.checkpoints_folder(workspace.home))
    whole: set[str] = set()
    count = bad = 0
    for run in workspace.store.runs():
        if run.status == "running":
            continue
        names = _pinned(workspace, run)
        store.pin(run.id, {name: digest for name, digest in names.items() if digest})
        found: list[str] = []
        for name in sorted(set(store.names(run.id)) & names.keys()):
            count += 1
            try:
                _read_whole(store, run, name, whole)
            except CheckpointError as error:
                found.append(str(error))
        if found:
            bad += len(found)
            more = f"; and {len(found) - _NAMED} more of this run" if len(found) > _NAMED else ""
            words = f"{'; '.join(found[:_NAMED])}{more}. Replays of {run.key} execute what they would have restored from there"
            yield Check("checkpoints", "problem", f"{words}. Put the files back, or leave it so")
    if not bad:
        yield Check("checkpoints", "ok", f"{count} are whole")


def _pinned(workspace: Workspace, run: RunRow) -> dict[str, str]:
    """The names of a run's checkpoints, with the digests that its journals have."""
    found: dict[str, str] = {}
    for rank in range(max(1, int(run.header.get("world_size") or 1))):
        for facts in workspace.store.checkpoints(run.id, rank=rank):
            found[str(facts["name"])] = str(facts.get("digest") or "")
    return found


def _read_whole(store: CheckpointStore, run: RunRow, name: str, whole: set[str]) -> None:
    """Read all of a checkpoint but the buffers that are known to be whole.

    Raises:
        CheckpointError: something of it is gone or altered.
    """
    manifest = store.read(run.id, name)
    for digest in store.summary(run.id, name).objects:
        if digest not in whole:
            store.buffer(manifest, digest)
            whole.add(digest)


def _versions(workspace: Workspace) -> Iterator[Check]:
    commits = sorted({run.commit for run in workspace.store.runs() if run.commit is not None})
    try:
        repository = Repository.find(workspace.root)
        lacking = repository.lacking(commits, lent=False)
        found = repository.damage([commit for commit in commits if commit not in lacking])
    except FlorError as error:
        yield Check("versions", "problem", str(error))
        return
    kept = len(workspace.store.unarchived_versions())
    there = (
        "the log store has the objects of every version"
        if not kept
        else f"the log store lacks {kept} versions"
    )
    if found:
        more = f"; and {len(found) - _NAMED} more lines" if len(found) > _NAMED else ""
        words = f"`git fsck` finds damage in {repository.root}: {'; '.join(found[:_NAMED])}{more}"
        yield Check("versions", "problem", f"{words}. Fetch the objects from another clone; {there}")
    if lacking:
        named = ", ".join(commit[:12] for commit in lacking[:_NAMED])
        words = f"{len(lacking)} versions are not in {repository.root} any more ({named}); {there}"
        yield Check("versions", "warning", f"{words}, and replays take them from there")
    if not found and not lacking:
        yield Check("versions", "ok", f"{len(commits)} are whole")
