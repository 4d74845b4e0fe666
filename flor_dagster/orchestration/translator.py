"""`DagsterFlorTranslator`: the one place to rename, regroup or annotate the assets of a project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import dagster as dg

from flor_dagster.orchestration.project import FlorProject

Kind = Literal["runs", "hindsight", "log_view", "log_query"]


@dataclass(frozen=True, slots=True)
class FlorTranslatorData:
    """What a translator gets to see: the project, which of its assets, and the spec as it would be by default."""

    project: FlorProject
    kind: Kind
    spec: dg.AssetSpec


class DagsterFlorTranslator:
    """Turns a project's assets into Dagster asset specs. Subclass it and override `get_asset_spec`.

    Example:
        class Mine(DagsterFlorTranslator):
            def get_asset_spec(self, data):
                return data.spec.replace_attributes(key=data.spec.key.with_prefix("ml"), group_name="training")
    """

    def get_asset_spec(self, data: FlorTranslatorData) -> dg.AssetSpec:
        """The spec to use: key, group, description, metadata, tags, owners, automation. Partitions stay ours."""
        return data.spec
