"""Checks: how true the replays are, and what the log view still lacks."""

from __future__ import annotations

from typing import Any

import dagster as dg

from flor_dagster.orchestration.metadata import rows
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.orchestration.specs import key_of
from flor_dagster.orchestration.translator import DagsterFlorTranslator
from flor_dagster.replay.places import PLACES_VERSION
from flor_dagster.replay.workspace import Workspace
from flor_dagster.showing import shown
from flor_dagster.store.models import CellRow

FIDELITY = "replay_fidelity"
COMPLETE = "log_view_complete"
MAX_ROWS = 200
WAITING = "waiting"
"""The status of an open cell whose place a person has to confirm."""


def fidelity_check_spec(key: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check `replay_fidelity`; the asset's own step evaluates it, so that a failing one is judged as well."""
    return dg.AssetCheckSpec(
        FIDELITY,
        asset=key,
        description="How the replays compare with the record: an error where one diverged, a warning where one could "
        "not be compared.",
    )


def fidelity_result(workspace: Workspace, key: dg.AssetKey) -> dg.AssetCheckResult:
    """`replay_fidelity` over everything that was replayed, a row per training run, fidelity and place.

    Args:
        workspace: the open project.
        key: the asset `hindsight`.
    """
    runs = {run.id: run.key for run in workspace.runs()}
    statements = {row.id: row.key for row in workspace.store.statements()}
    table: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in workspace.store.cells():
        if cell.fidelity in (None, "recorded"):
            continue
        run = runs.get(cell.run_id, cell.run_id)
        place = cell.place or "unchecked"
        row = {
            "training run": run, "fidelity": cell.fidelity, "place": place, "statements": "", "answer": cell.sentence,
        }  # fmt: skip
        row = table.setdefault((run, str(cell.fidelity), place), row)
        row["statements"] = ", ".join(
            filter(None, [row["statements"], statements.get(cell.statement_id, "?")])
        )
    found = {fidelity for _, fidelity, _ in table}
    ordered = sorted(table.values(), key=lambda row: (row["fidelity"] == "exact", row["training run"]))
    passed = not found & {"diverged", "unverified"}
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=FIDELITY,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if "diverged" in found else dg.AssetCheckSeverity.WARN,
        description=shown(_fidelity_words(ordered)),
        metadata={"training runs": rows(ordered[:MAX_ROWS])} if ordered else {},
    )


def fidelity_evaluation(
    workspace: Workspace, key: dg.AssetKey, target: Any = None
) -> dg.AssetCheckEvaluation:
    """`replay_fidelity` as an event, for whoever tells cells outside the asset's own step.

    Dagster takes a check for unevaluated once its asset has a newer event, so the verdict goes with every event.

    Args:
        workspace: the open project.
        key: the asset `hindsight`.
        target: the event of the asset that it speaks of (see `private.unchecked_materialization`), where it is known.
    """
    result = fidelity_result(workspace, key)
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=FIDELITY,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
        target_materialization_data=target,
    )


def build_log_view_complete_check(
    project: FlorProject, *, translator: DagsterFlorTranslator | None = None
) -> dg.AssetChecksDefinition:
    """The check `log_view_complete`: warns while cells of open questions are not settled, and lists them.

    Args:
        project: the project.
        translator: the one that the assets were built with.
    """

    @dg.asset_check(
        asset=key_of(project, "log_view", translator),
        name=COMPLETE,
        description="Whether every open question is answered for every training run.",
    )
    def log_view_complete() -> dg.AssetCheckResult:
        with project.workspace() as workspace:
            missing = open_cells(workspace)
        words = f"{len(missing)} cells are open or failed." if missing else "Every asked cell is settled."
        return dg.AssetCheckResult(
            passed=not missing,
            severity=dg.AssetCheckSeverity.WARN,
            description=shown(words),
            metadata={"open cells": rows(missing[:MAX_ROWS]), "count": len(missing)} if missing else {},
        )

    return log_view_complete


def open_cells(workspace: Workspace) -> list[dict[str, str]]:
    """The cells of open questions that are not settled: training run, statement, status, reason; newest run first."""
    questions = workspace.questions()
    if not questions:
        return []
    cells = {
        (cell.run_id, cell.statement_id): cell
        for cell in workspace.store.cells(statement_ids=[question.id for question in questions])
    }
    missing = list[dict[str, str]]()
    for run in reversed(workspace.runs()):
        for question in questions:
            cell = cells.get((run.id, question.id))
            if run.status == "running" or (cell is not None and cell.settled):
                continue
            missing.append(
                {
                    "training run": run.key,
                    "statement": question.key,
                    "status": WAITING if cell and _waits(cell) else cell.status if cell else "open",
                    "reason": cell.sentence if cell else "not asked yet",
                }
            )
    return missing


def _waits(cell: CellRow) -> bool:
    """Whether a person has to confirm the place that today's propagation finds; another one would be looked for again."""
    known = (cell.detail.get("place") or {}).get("version")
    return cell.status == "open" and cell.place == "likely" and known == PLACES_VERSION


def _fidelity_words(table: list[dict[str, Any]]) -> str:
    if not table:
        return "Nothing was replayed yet."
    counts: dict[str, int] = {}
    for row in table:
        counts[row["fidelity"]] = counts.get(row["fidelity"], 0) + 1
    return ", ".join(f"{count} training runs {fidelity}" for fidelity, count in counts.items()) + "."
