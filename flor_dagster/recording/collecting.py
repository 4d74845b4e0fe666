"""Deleting checkpoints and the buffers that nothing refers to any more, while runs and replays go on.

Two locks make that safe. The store's lock: a writer holds it shared from its first look at what is there until its
manifest lies there, so that whoever holds it alone sees every reference to every buffer. A run's lease: who records a run
or replays it holds it shared; its checkpoints stay as long. On a file system without locks nothing is deleted.

A manifest that can't be read may refer to anything: then no buffer is deleted, and it is named.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flor_dagster.errors import CheckpointError
from flor_dagster.recording.checkpoints import CheckpointStore, file_lock
from flor_dagster.recording.retention import Stored, choose, total_bytes

# What a writer that died has left half-written is kept this long: it may only be slow.
TEMPORARY_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What was deleted, or would be.

    Args:
        checkpoints: the checkpoints.
        freed: bytes of buffers and manifests.
        held: runs that are being recorded or replayed: theirs stay.
        unreadable: manifests that can't be read, with the reason; while there is one, no buffer is deleted.
    """

    checkpoints: tuple[Stored, ...]
    freed: int
    held: tuple[str, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict[str, str])


@contextlib.contextmanager
def lease(store: CheckpointStore, run: str) -> Generator[bool]:
    """Keep a run's checkpoints from being deleted; whether that is certain."""
    with file_lock(lease_path(store, run), shared=True, wait=True) as held:
        yield held


def lease_path(store: CheckpointStore, run: str) -> Path:
    """The file whose lock is a run's lease."""
    return store.folder / "leases" / run


def stored(store: CheckpointStore) -> tuple[list[Stored], dict[str, str]]:
    """Every checkpoint that there is, and the manifests that can't be read with the reason."""
    found: list[Stored] = []
    unreadable: dict[str, str] = {}
    for run in runs_of(store):
        for name in store.names(run):
            path = store.manifest_path(run, name)
            try:
                found.append(store.summary(run, name))
            except (CheckpointError, OSError) as error:
                if path.exists():
                    unreadable[str(path)] = str(error)
    return found, unreadable


def runs_of(store: CheckpointStore) -> list[str]:
    """The runs that have checkpoints."""
    folder = store.folder / "manifests"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def collect(
    store: CheckpointStore,
    runs: Sequence[str],
    most: int,
    *,
    gone: Iterable[str] = (),
    plan: bool = False,
) -> Collected:
    """Thin the checkpoints to a number of bytes and delete the buffers that nothing refers to.

    Args:
        store: where they lie.
        runs: the runs that may be thinned, oldest first.
        most: the bytes that may stay.
        gone: runs that do not exist any more: all of theirs go.
        plan: only say what would be deleted.

    Raises:
        CheckpointError: the file system has no locks.
    """
    gone = set(gone)
    with store.lock(shared=plan) as safe:
        if not safe:
            raise CheckpointError(f"nothing is deleted in {store.folder}: its file system has no locks")
        with contextlib.ExitStack() as leases:
            free, held = _free_runs(store, leases, {*runs, *gone})
            everything, unreadable = stored(store)
            doomed = [c for c in everything if c.run in gone and c.run in free]
            left = [c for c in everything if c not in doomed]
            doomed += choose(left, [run for run in runs if run in free and run not in gone], most)
            names = {(c.run, c.name) for c in doomed}
            needed = {d for c in everything if (c.run, c.name) not in names for d in c.objects}
            if not plan:
                for checkpoint in doomed:
                    store.manifest_path(checkpoint.run, checkpoint.name).unlink(missing_ok=True)
            freed = sum(c.own_bytes for c in doomed)
            if not unreadable:
                freed += _sweep(store, needed, plan=plan)
    return Collected(tuple(doomed), freed, tuple(sorted(held)), unreadable)


def thin_run(store: CheckpointStore, run: str, most: int) -> int:
    """Thin a run's checkpoints while it is recorded, by the recorder itself, which holds its lease.

    Args:
        store: where they lie.
        run: the run.
        most: the bytes that its checkpoints may take.

    Returns:
        The bytes that they take afterwards; buffers that other runs refer to as well count.
    """
    with store.lock(shared=False) as safe:
        everything, unreadable = stored(store)
        own = [c for c in everything if c.run == run]
        doomed = choose(own, [run], most) if safe else []
        left = [c for c in everything if c not in doomed]
        for checkpoint in doomed:
            store.manifest_path(run, checkpoint.name).unlink(missing_ok=True)
        needed = {digest for c in left for digest in c.objects}
        for digest in {digest for c in doomed for digest in c.objects} - needed if not unreadable else ():
            store.object_path(digest).unlink(missing_ok=True)
    return total_bytes(c for c in own if c not in doomed)


def _free_runs(
    store: CheckpointStore, leases: contextlib.ExitStack, runs: set[str]
) -> tuple[set[str], set[str]]:
    """The runs that nobody records or replays; they stay leased to the caller as long as the stack is open."""
    free = {
        run
        for run in runs
        if leases.enter_context(file_lock(lease_path(store, run), shared=False, wait=False))
    }
    return free, runs - free


def _sweep(store: CheckpointStore, needed: set[str], *, plan: bool) -> int:
    """Delete what no manifest refers to; the bytes that it took."""
    freed = 0
    now = time.time()
    for path in (store.folder / "objects").glob("*/*"):
        young = path.name.startswith(".") and now - path.stat().st_mtime < TEMPORARY_SECONDS
        if young or path.parent.name + path.name in needed:
            continue
        freed += path.stat().st_size
        if not plan:
            path.unlink(missing_ok=True)
    return freed
