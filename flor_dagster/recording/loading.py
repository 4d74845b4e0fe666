"""`flor.load`: the objects of a checkpoint, made anew, without running the training.

Only the project's own store is read: a run is looked up in it by its id, a manifest and a buffer by their place, and each
is checked against its digest before anything is made of it. Making objects of a checkpoint runs the code of their
classes, as loading a pickle would: whoever may write the store may run code here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording import layout, letgo, listening, process
from flor_dagster.recording.checkpoints import CheckpointStore, Manifest
from flor_dagster.recording.graft import Grafter
from flor_dagster.recording.journal import read_journal
from flor_dagster.recording.mainly import as_defined_here, undefined_here
from flor_dagster.recording.shape import MISSING
from flor_dagster.recording.switches import KIND

ENDED = -1
_ID = re.compile(r"[a-z2-7]{4,32}")


def load(run: str, epoch: int | None = None, *, project: str | Path | None = None) -> dict[str, Any]:
    """The objects of one checkpoint of a training run, as new objects, without running the training.

    The classes of the objects must be importable, as the script's modules are where the script lies. Those that the
    script itself defined are looked for in `__main__` (a notebook's cells, this script) and in the script's module, where
    that was imported. They stay as they are here: nothing is written to a class.

    Args:
        run: the training run's id, or the end of its key; as many characters as tell it from the others.
        epoch: the iteration of the outermost loop whose end is wanted, from 0; None for the last one that was kept.
        project: a folder in the repository; default: the working directory.

    Returns:
        The registered and the captured objects by name. What several of them share is shared here, too.

    Raises:
        CheckpointError: there is no such run or checkpoint, it was altered on disk, or an object can't be made anew.
    """
    replayed = process.replaying() if project is None else None
    place = layout.find_place(Path(project) if project is not None else Path.cwd())
    place = place or layout.place_without_git(Path(project) if project is not None else Path.cwd())
    if replayed is not None:  # it runs in a copy of the project, whose runs lie where they always do
        place = layout.Place(place.root, replayed.place.home)
    run_id = _find_run(place.home, run)
    store = CheckpointStore(layout.checkpoints_folder(place.home))
    points, pinned = _points(place.home, run_id)
    kept = {index: name for index, name in points.items() if store.manifest_path(run_id, name).exists()}
    if not kept:
        raise CheckpointError(f"training run {run_id} has no checkpoint of its outermost loop")
    wanted = max(kept) if epoch is None else epoch
    if wanted not in kept:
        shown = ", ".join(map(str, sorted(kept)))
        raise CheckpointError(f"training run {run_id} has no checkpoint of epoch {wanted}; it has {shown}")
    store.pin(run_id, pinned)
    manifest = store.read(run_id, kept[wanted])
    return _objects(store, manifest, str(place.root), _entrypoint(place.home, run_id))


def _entrypoint(home: Path, run_id: str) -> str:
    """The script of a run, relative to its repository."""
    for entry in read_journal(layout.run_folder(home, run_id) / "journal.0.jsonl"):
        if entry.parts[0] == "flor":
            return str(entry.parts[2].get("entrypoint", "")).partition(":")[0]
    return ""


def _find_run(home: Path, run: str) -> str:
    tail = run.rpartition("-")[2] if "-" in run else run
    if not _ID.fullmatch(tail):
        raise CheckpointError(f"{run!r} is no training run's id or key")
    folder = layout.runs_folder(home)
    ids = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    found = [i for i in ids if i.startswith(tail)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(
            f"{run!r} may be any of {len(found)} training runs: {', '.join(sorted(found)[:5])}"
        )
    raise CheckpointError(f"there is no training run {run!r} in {folder}")


def _points(home: Path, run_id: str) -> tuple[dict[int, str], dict[str, str]]:
    """Iteration of the outermost loop → checkpoint's name; of several outermost loops the last one counts. And the manifests' digests."""
    pinned: dict[str, str] = {}
    outermost: set[int] = set()
    found: dict[int, dict[int, str]] = {}
    counts: dict[int, int] = {}
    for entry in read_journal(layout.run_folder(home, run_id) / "journal.0.jsonl"):
        parts = entry.parts
        if parts[0] == "l" and parts[2] == 0:
            outermost.add(parts[1])
        elif parts[0] == "k" and parts[1]["loop"] in outermost:
            index = ENDED if parts[1]["index"] is None else parts[1]["index"]
            found.setdefault(parts[1]["loop"], {})[index] = parts[1]["name"]
            if "digest" in parts[1]:
                pinned[parts[1]["name"]] = parts[1]["digest"]
        elif parts[0] == "e" and parts[1] in outermost and parts[3]:
            counts[parts[1]] = parts[3]
    for loop, points in found.items():
        if ENDED in points:  # the loop's end is the end of its last iteration
            points[counts.get(loop, 1) - 1] = points.pop(ENDED)
    return found[max(found)] if found else {}, pinned


def _objects(store: CheckpointStore, manifest: Manifest, root: str, entrypoint: str) -> dict[str, Any]:
    roots = {
        name: ref
        for name, ref in manifest.roots.items()
        if not name.startswith(("random:", f"{KIND}:", f"{listening.KIND}:", f"{letgo.KIND}:"))
    }
    for name in sorted(
        {node[1].rpartition(".")[0] for node in manifest.nodes if node[0] in ("class", "object")}
    ):
        _import(name)
    wanted = {name: ref for name, ref in roots.items() if _is_data(manifest, ref)}
    nodes = as_defined_here(manifest.nodes, entrypoint)
    grafter = Grafter(nodes, lambda digest: store.buffer(manifest, digest), root)
    try:
        values = grafter.restore({name: (ref, MISSING) for name, ref in wanted.items()})
    except CheckpointError as error:
        unknown = undefined_here(nodes, f"{error}")
        if unknown:
            where = entrypoint if entrypoint.endswith(".py") else "a notebook or an interactive session"
            raise CheckpointError(
                f"checkpoint {manifest.name} of training run {manifest.run} can't be loaded here: {unknown} was defined in "
                f"{where}, as a part of the program itself (`__main__`). {_how_to_define(entrypoint, unknown)}"
            ) from error
        raise CheckpointError(
            f"checkpoint {manifest.name} of training run {manifest.run} can't be loaded here: {error}. Load it where "
            "the script's modules can be imported, in the version that the run had"
        ) from error
    return _by_name(values)


def _how_to_define(entrypoint: str, name: str) -> str:
    first = name.partition(".")[0]
    if not entrypoint.endswith(".py"):
        return f"Run the cell that defines {first} here first, or move {first} into a module of its own"
    module = entrypoint.removesuffix(".py").replace("/", ".")
    return (
        f"Import it first: `from {module} import {first}`, where {entrypoint} trains only under `if __name__ == "
        f'"__main__"`; or move {first} into a module of its own'
    )


def _is_data(manifest: Manifest, ref: Any) -> bool:
    """Functions, classes and modules are code, and the code of this process counts."""
    kind = manifest.nodes[ref][0] if isinstance(ref, int) else "scalar"
    return kind not in ("function", "class", "find", "opaque", "holder", "bound", "method")


def _by_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """A registered object's name comes first, then a local name, then a global one."""
    order = {"object": 0, "name": 1}
    found: dict[str, Any] = {}
    for root in sorted(values, key=lambda r: order.get(r.partition(":")[0], 2)):
        found.setdefault(root.partition(":")[2], values[root])
    return found


def _import(module: str) -> None:
    while module and module != "__main__":
        try:
            importlib.import_module(module)
        except ImportError:
            module = module.rpartition(".")[0]  # a class inside a class
        else:
            return
