"""What a training run and a cell say in Dagster: one function each, used by assets, jobs and sensors alike."""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Mapping
from typing import Any

import dagster as dg

from flor_dagster.errors import StoreError
from flor_dagster.orchestration.metadata import (
    fence_value,
    link_value,
    metadata_value,
    seconds,
    tag_value,
    text_value,
    url_value,
)
from flor_dagster.orchestration.partitions import cell_key
from flor_dagster.orchestration.private import launchpad_path
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.replay.model import CellAnswer
from flor_dagster.replay.workspace import Workspace
from flor_dagster.showing import shown
from flor_dagster.store.models import RunRow

MAX_VALUES = 40
MAX_SHOWN = 900
"""So many characters of Markdown Dagster shows where they stand."""


def run_materialization(
    project: FlorProject, workspace: Workspace, run: RunRow, key: dg.AssetKey
) -> dg.AssetMaterialization:
    """The event of one training run on `runs`: given what, logged what last, ended how, which code.

    Args:
        project: whose asset it is.
        workspace: the open project.
        run: a training run that is over.
        key: the asset's key.
    """
    version = _version(workspace, run)
    metadata: dict[str, dg.MetadataValue[Any]] = {"status": text_value(_ending(run))}
    metadata |= {f"arg {shown(name)}": metadata_value(value) for name, value in run.args.items()}
    metadata |= _last_values(workspace, run)
    if run.seconds is not None:
        metadata["seconds"] = metadata_value(run.seconds)
    if run.lost:
        metadata["lost"] = text_value(f"{run.lost} lines of its journal could not be written")
    metadata["iterations"] = text_value(_loops(workspace, run))
    metadata["entry point"] = _link(project, run.commit, run.entrypoint, None)
    metadata["commit"] = _commit(project, run.commit)
    if version is not None and version.dirty:
        metadata["uncommitted changes"] = text_value("part of this version, kept under refs/flor/versions")
    if run.approximate:
        metadata["approximate"] = text_value(run.approximate)
    tags = {
        "flor/run": tag_value(run.id),
        "flor/commit": tag_value((run.commit or "none")[:12]),
        "flor/origin": tag_value(run.origin),
        "flor/dirty": "unknown" if version is None else str(version.dirty).lower(),
        "flor/status": tag_value(run.status),
        "dagster/data_version": _data_version(run),
    }
    return dg.AssetMaterialization(
        asset_key=key, partition=run.key, description=shown(_ending(run)), metadata=metadata, tags=tags
    )


def cell_materialization(
    project: FlorProject, answer: CellAnswer, key: dg.AssetKey
) -> dg.AssetMaterialization:
    """The event of one settled cell on `hindsight`. Its first row is the answer in words.

    Args:
        project: whose asset it is.
        answer: a settled cell with its training run, statement and placement.
        key: the asset's key.
    """
    cell, statement, detail = answer.cell, answer.statement, answer.cell.detail
    metadata: dict[str, dg.MetadataValue[Any]] = {"answer": text_value(cell.sentence)}
    values: Mapping[str, Any] = detail.get("values") or {}
    metadata |= {
        name: metadata_value(value) for name, value in values.items() if value is not None and name != "count"
    }
    metadata["rows"] = metadata_value(cell.rows)
    if cell.place is not None:
        metadata["place"] = text_value(_place_words(answer))
    if cell.fidelity is not None:
        metadata["fidelity"] = text_value(cell.fidelity)
    if isinstance(detail.get("seconds"), int | float):
        metadata["seconds"] = metadata_value(float(detail["seconds"]))
    metadata["expression"] = text_value(statement.expression)
    placement = answer.placement
    if cell.status != "refused":
        file = (placement.file if placement else "") or str(detail.get("file") or statement.file)
        line = placement.line if placement else detail.get("line")
        metadata["place in this version"] = _link(project, answer.run.commit, file, line)
    elif placement is not None and placement.line is not None:
        metadata["nearest place"] = _link(project, answer.run.commit, placement.file, placement.line)
    diff = (placement.diff if placement else "") or str(detail.get("diff") or "")
    if diff:
        metadata["diff"] = _diff(diff)
    metadata["commit"] = _commit(project, answer.run.commit)
    if detail.get("plan"):
        metadata["how"] = text_value(str(detail["plan"]))
    if cell.replay_id:
        metadata["replay"] = text_value(cell.replay_id)
    tags = {
        "flor/fidelity": tag_value(cell.fidelity or "none"),
        "flor/place": tag_value(cell.place or "none"),
        "flor/status": tag_value(cell.status),
        "flor/run": tag_value(answer.run.id),
    }
    return dg.AssetMaterialization(
        asset_key=key,
        partition=cell_key(answer.run.key, statement.key),
        description=shown(cell.sentence),
        metadata=metadata,
        tags=tags,
    )


def waiting_observation(
    project: FlorProject, answer: CellAnswer, key: dg.AssetKey, run: dg.DagsterRun
) -> dg.AssetObservation:
    """What a cell says while it waits for a person: the verdict on the place, the diff, and where to confirm it.

    Args:
        project: whose asset it is.
        answer: an open cell whose place is likely.
        key: the asset's key.
        run: the Dagster run that says it.
    """
    cell = answer.cell
    words = "open: its place is likely, not certain; it is answered once a person has looked at the diff and confirmed it"
    metadata: dict[str, dg.MetadataValue[Any]] = {
        "answer": text_value(words),
        "place": text_value(_place_words(answer)),
        "confirm": confirm_link(project, answer, run),
        "diff": _diff(str(cell.detail.get("diff") or "")),
        "expression": text_value(answer.statement.expression),
        "commit": _commit(project, answer.run.commit),
    }
    return dg.AssetObservation(
        asset_key=key,
        partition=cell_key(answer.run.key, answer.statement.key),
        description="its place waits to be confirmed",
        metadata=metadata,
        tags={"flor/place": "likely", "flor/status": "open", "flor/run": tag_value(answer.run.id)},
    )


def confirm_job_name(project: FlorProject) -> str:
    """`<project>_confirm`."""
    return f"{project.name}_confirm"


def place_of(answer: CellAnswer) -> str:
    """A waiting cell's place, as `<project>_confirm` takes it."""
    digest = str((answer.cell.detail.get("place") or {}).get("digest") or "")
    return f"{answer.statement.key}@{(answer.run.commit or '')[:12]}" + (f"#{digest[:12]}" if digest else "")


def confirm_link(project: FlorProject, answer: CellAnswer, run: dg.DagsterRun) -> dg.MetadataValue[Any]:
    """The launchpad of `<project>_confirm`, filled in with a cell's place and the lines that a person is to look at."""
    added = [
        line
        for line in str(answer.cell.detail.get("diff") or "").split("\n")
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    config = (
        f"ops:\n  confirm_{project.name}:\n    config:\n      places: [{json.dumps(place_of(answer))}]\n"
        "      confirmed_by: ''\n"
    )
    verdict = textwrap.wrap(f"place {_place_words(answer)}", 76)
    for said in ([*verdict, *added], verdict, []):
        comments = "".join(f"# {shown(line)}\n" for line in said)
        path = launchpad_path(run, confirm_job_name(project), comments + config)
        # A longer text is put behind a button.
        if path and len(path) < MAX_SHOWN:
            return link_value("Confirm this place and answer its cells", path)
    return text_value(f"launch the job {confirm_job_name(project)} with the place {place_of(answer)}")


def _place_words(answer: CellAnswer) -> str:
    cell = answer.cell
    known = cell.detail.get("place") or {}
    reasons = "; ".join(map(str, known.get("reasons") or ()))
    if cell.place == "confirmed":
        return f"likely, confirmed by {known.get('confirmed_by')} on {str(known.get('confirmed'))[:10]}; the doubt was: {reasons}"
    return f"{cell.place}: {reasons}" if reasons else str(cell.place)


def _diff(text: str) -> dg.MetadataValue[Any]:
    return fence_value(text, language="diff")


def failure_text(answer: CellAnswer) -> str:
    """One failed cell for a message: its training run, its statement, the reason, the child's last lines."""
    tail = [str(line) for line in answer.cell.detail.get("tail") or ()]
    lines = "".join(f"\n    {line}" for line in tail)
    return f"{answer.run.key}|{answer.statement.key}: {answer.cell.sentence}{lines}"


def _ending(run: RunRow) -> str:
    after = f" after {seconds(run.seconds)}" if run.seconds is not None else ""
    reason = f": {run.reason}" if run.reason else ""
    if run.status == "lost":
        return f"lost{after}: its process is gone and wrote no end{f' ({run.reason})' if run.reason else ''}"
    return f"{run.status}{after}{reason}"


def _loops(workspace: Workspace, run: RunRow) -> str:
    counts: dict[str, int] = {}
    for loop in workspace.store.loops(run.id):
        counts[loop.name] = counts.get(loop.name, 0) + loop.count
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"


def _last_values(workspace: Workspace, run: RunRow) -> dict[str, dg.MetadataValue[Any]]:
    """The last value of each name that the run logged, read by its own statements: a name may mean another by now."""
    keys = {row.id: row.key for row in workspace.store.statements()}
    columns: dict[str, str] = {}
    for _, name, *_, statement_id in workspace.store.call_sites(run.id):
        key = keys.get(statement_id) if statement_id is not None else None
        columns[name] = name if key is None else key if ":" in key else f"{key}:1"
    if not columns:
        return {}
    columns = dict(list(columns.items())[:MAX_VALUES])
    frame = workspace.store.dataframe(*columns.values(), runs=[run.key])
    found: dict[str, dg.MetadataValue[Any]] = {}
    for name, column in columns.items():
        values = frame[frame.attrs["columns"][column]].dropna()
        if len(values):
            found[f"last {shown(name)}"] = metadata_value(values.iloc[-1])
    return found


def _version(workspace: Workspace, run: RunRow) -> Any:
    if run.commit is None:
        return None
    try:
        return workspace.store.version(run.commit)
    except StoreError:
        return None


def _data_version(run: RunRow) -> str:
    said = json.dumps([run.commit, run.entrypoint, run.args], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _commit(project: FlorProject, commit: str | None) -> dg.MetadataValue[Any]:
    if commit is None:
        return text_value("no version could be kept")
    if project.remote_url:
        return url_value(project.remote_url, "commit", commit)
    return text_value(commit)


def _link(project: FlorProject, commit: str | None, entry: str, line: int | None) -> dg.MetadataValue[Any]:
    file = entry.partition(":")[0]
    if project.remote_url and commit:
        return url_value(project.remote_url, "blob", commit, file, line=line)
    return text_value(f"{entry}:{line}" if line else entry)
