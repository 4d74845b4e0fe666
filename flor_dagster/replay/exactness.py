"""Is a training run's version exactly what ran? What is known for sure, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flor_dagster.versions.repository import blob_id
from flor_dagster.versions.submodules import compare_loaded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flor_dagster.store import LogStore
    from flor_dagster.store.models import RunRow
    from flor_dagster.versions import Repository


def mark_approximate(repository: Repository, store: LogStore, run: RunRow) -> None:
    """A version is approximate where a module that a training run had loaded is not in it, or otherwise."""
    if run.commit is None or run.status == "running":
        return
    loaded = {file: blob for file, blob in store.modules(run.id).items() if not Path(file).is_absolute()}
    different = compare_loaded(repository, run.commit, loaded)
    if not different:
        return
    version = store.version(run.commit)
    excluded = dict(version.excluded)
    lacking = {file: why for file in different if (why := _why_excluded(file, excluded))}
    changed = [file for file in different if file not in lacking]
    said = [f"{file}, which {run.key} loaded, is not in it ({why})" for file, why in lacking.items()]
    if changed:
        said.append(f"{', '.join(changed)} changed while {run.key} was running")
    fresh = [sentence for sentence in said if sentence not in version.approximate_reason]
    if fresh:
        store.set_approximate(run.commit, "; ".join(filter(None, (version.approximate_reason, *fresh))))


def why_approximate(store: LogStore, run: RunRow) -> str:
    """Why a replay of a run may not execute exactly the code that ran; empty where it does."""
    reasons = [store.version(run.commit).approximate_reason] if run.commit else []
    outside = {file: blob for file, blob in store.modules(run.id).items() if Path(file).is_absolute()}
    changed = sorted(file for file, blob in outside.items() if not _has(file, blob))
    if changed:
        reasons.append(f"{', '.join(changed)}, outside the repository, changed since")
    return "; ".join(filter(None, reasons))


def _why_excluded(file: str, excluded: Mapping[str, str]) -> str:
    parts = file.split("/")
    folders = ["/".join(parts[:n]) + "/" for n in range(1, len(parts))]
    return next((excluded[place] for place in (file, *folders) if place in excluded), "")


def _has(file: str, blob: str) -> bool:
    try:
        return blob_id(Path(file).read_bytes()) == blob
    except OSError:
        return False
