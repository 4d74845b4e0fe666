"""What the four assets of a project are called and say of themselves."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import dagster as dg

from flor_dagster.orchestration.metadata import file_value
from flor_dagster.orchestration.partitions import RUN, hindsight_partitions, run_partitions
from flor_dagster.orchestration.project import FlorProject
from flor_dagster.orchestration.translator import DagsterFlorTranslator, FlorTranslatorData, Kind

KINDS: tuple[Kind, ...] = ("runs", "hindsight", "log_view", "log_query")

_DESCRIPTIONS: dict[Kind, str] = {
    "runs": (
        "One partition per **training run**, made anywhere: in a terminal, a notebook, or by Dagster. It only receives "
        "events: what the run was given, what it logged last, how it ended and which code it was."
    ),
    "hindsight": (
        "What is known: **training run by statement**. Grey is open, green is settled (the first row of a cell's "
        "metadata is the answer in words), red is failed. To ask, backfill: pick training runs and statements. Old "
        "code runs in child processes only, in a clone outside the repository."
    ),
    "log_view": (
        "The **log view**: one row per training run and loop context, one column per name, recorded and replayed. "
        "Downstream assets load it as a pandas DataFrame. Diverged values are not in it."
    ),
    "log_query": (
        "An ad-hoc query of the log view. Choose *Open launchpad* beside *Materialize*, fill in columns, a condition, "
        "an order and a limit, or read-only SQL; its table is on this page."
    ),
}


def build_flor_asset_specs(
    project: FlorProject, *, translator: DagsterFlorTranslator | None = None
) -> Sequence[dg.AssetSpec]:
    """The specs of `runs`, `hindsight`, `log_view` and `log_query`, in this order.

    Args:
        project: the project.
        translator: renames, regroups, annotates.
    """
    return [spec_of(project, kind, translator) for kind in KINDS]


def build_runs_spec(project: FlorProject, *, translator: DagsterFlorTranslator | None = None) -> dg.AssetSpec:
    """The asset `runs`: nothing executes it; sensors and jobs log its events, a partition per training run."""
    return spec_of(project, "runs", translator)


def spec_of(project: FlorProject, kind: Kind, translator: DagsterFlorTranslator | None) -> dg.AssetSpec:
    """One asset's spec, translated; partitions and dependencies are ours."""
    spec = _translated(project, kind, translator)

    def upstream(*kinds: Kind) -> list[dg.AssetDep]:
        return [*spec.deps, *(dg.AssetDep(key_of(project, other, translator)) for other in kinds)]

    match kind:
        case "runs":
            return spec.replace_attributes(partitions_def=run_partitions(project))
        case "hindsight":
            with warnings.catch_warnings():
                # Beta in Dagster's words, and the only mapping between a matrix and one of its sides.
                warnings.simplefilter("ignore", dg.BetaWarning)
                mapping = dg.MultiToSingleDimensionPartitionMapping(RUN)
            runs = dg.AssetDep(key_of(project, "runs", translator), partition_mapping=mapping)
            partitions = hindsight_partitions(project)
            return spec.replace_attributes(partitions_def=partitions, deps=[*spec.deps, runs], skippable=True)
        case "log_view":
            return spec.replace_attributes(deps=upstream("runs", "hindsight"))
        case "log_query":
            return spec.replace_attributes(deps=upstream("log_view"))


def key_of(project: FlorProject, kind: Kind, translator: DagsterFlorTranslator | None) -> dg.AssetKey:
    """One asset's key, translated."""
    return _translated(project, kind, translator).key


def _translated(project: FlorProject, kind: Kind, translator: DagsterFlorTranslator | None) -> dg.AssetSpec:
    spec = dg.AssetSpec(
        key=[project.name, kind],
        description=_DESCRIPTIONS[kind],
        group_name=project.group_name or project.name,
        kinds={"flor"},
        metadata={"repository": file_value(str(project.root))},
    )
    return (translator or DagsterFlorTranslator()).get_asset_spec(FlorTranslatorData(project, kind, spec))
