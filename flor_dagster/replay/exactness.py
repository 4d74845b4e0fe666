"""Is a training run's version exactly what ran? What is known for sure, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flor_dagster.replay.standard_input import why_input_is_lost
from flor_dagster.replay.surroundings import hardware_differences
from flor_dagster.versions.repository import blob_id
from flor_dagster.versions.submodules import compare_loaded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flor_dagster.store import LogStore
    from flor_dagster.store.models import RunRow
    from flor_dagster.versions import Repository


_NOT_IN_IT = ", is not in it"


def mark_approximate(repository: Repository, store: LogStore, run: RunRow) -> None:
    """A run's version is approximate where a module that the run had loaded is not in it, or otherwise."""
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
    said = [f"{file}, which {run.key} loaded{_NOT_IN_IT} ({why})" for file, why in lacking.items()]
    if changed:
        said.append(f"{', '.join(changed)} changed while {run.key} was running")
    fresh = [sentence for sentence in said if sentence not in run.approximate]
    if fresh:
        store.set_approximate(run.id, "; ".join(filter(None, (run.approximate, *fresh))))


def why_approximate(store: LogStore, run: RunRow) -> str:
    """Why a replay of a run may not execute exactly the code that ran; empty where it does."""
    reasons = [run.approximate]
    outside = {file: blob for file, blob in store.modules(run.id).items() if Path(file).is_absolute()}
    changed = sorted(file for file, blob in outside.items() if not _has(file, blob))
    if changed:
        reasons.append(f"{', '.join(changed)}, outside the repository, changed since")
    return "; ".join(filter(None, reasons))


def why_doubtful(repository: Repository, store: LogStore, run: RunRow) -> str:
    """Why a replay of a run can't be exact, whatever it compares: code that is not certainly what ran. Empty where it is.

    A loaded module that the version lacks, but that lies where it lay with the content that it had, is what ran.
    """
    if run.commit is None:
        return ""
    reasons = [part for part in run.approximate.split("; ") if part and _NOT_IN_IT not in part]
    modules = store.modules(run.id)
    inside = {file: blob for file, blob in modules.items() if not Path(file).is_absolute()}
    lacking = set(compare_loaded(repository, run.commit, inside))
    changed = [f for f in sorted(lacking) if not _has(str(repository.root / f), inside[f])]
    changed += sorted(f for f, blob in modules.items() if Path(f).is_absolute() and not _has(f, blob))
    if changed:
        reasons.append(f"{', '.join(changed[:5])}, which this run loaded, changed since")
    texts = ((f, repository.read(run.commit, f)) for f in sorted(inside) if f.endswith(".py"))
    reasons.append(why_input_is_lost(run.header, ((f, text) for f, text in texts if text is not None)))
    return "; ".join(filter(None, reasons))


def machine_difference(recorded: Mapping[str, Any], replayed: Mapping[str, Any]) -> str:
    """How the machine of a replay differs from the recorded one; empty where it does not, as far as is known.

    Another processor counts as none for a run that was recorded as portable, and replayed so: its values are exact by what is
    compared.

    Args:
        recorded: the run's header.
        replayed: the replay's.
    """
    before, after = recorded.get("hardware") or {}, replayed.get("hardware") or {}
    if (
        recorded.get("portable")
        and replayed.get("portable")
        and before.get("machine") == after.get("machine")
    ):
        before, after = {"gpus": before.get("gpus")}, {"gpus": after.get("gpus")}
    return "; ".join(hardware_differences(before, after))


def _why_excluded(file: str, excluded: Mapping[str, str]) -> str:
    parts = file.split("/")
    folders = ["/".join(parts[:n]) + "/" for n in range(1, len(parts))]
    return next((excluded[place] for place in (file, *folders) if place in excluded), "")


def _has(file: str, blob: str) -> bool:
    try:
        return blob_id(Path(file).read_bytes()) == blob
    except OSError:
        return False
