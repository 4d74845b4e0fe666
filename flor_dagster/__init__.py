"""flor_dagster: add a log statement today; get its values for every training run you ever made.

    import flor_dagster as flor

    lr = flor.arg("lr", 1e-3)
    with flor.checkpointing(model=model, optimizer=optimizer):
        for epoch in flor.loop("epoch", range(5)):
            for batch in flor.loop("step", loader):
                ...
                flor.log("loss", loss)

Importing this package loads the recording API alone; everything else is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flor_dagster.recording.api import (
    arg,
    capture,
    checkpointing,
    commit,
    iteration,
    log,
    loop,
    run,
    tags,
)

if TYPE_CHECKING:
    from flor_dagster.errors import FlorError
    from flor_dagster.orchestration import (
        DagsterFlorTranslator,
        FlorProject,
        FlorProjectComponent,
        FlorResource,
        build_flor_asset_specs,
        build_flor_definitions,
        build_hindsight_schedule,
        build_training_schedule,
        flor_asset,
    )
    from flor_dagster.recording.loading import load
    from flor_dagster.replay.asking import hindsight, plan
    from flor_dagster.replay.reading import artifact, dataframe, latest, query, runs
    from flor_dagster.replay.workspace import Workspace

__all__ = [
    "DagsterFlorTranslator",
    "FlorError",
    "FlorProject",
    "FlorProjectComponent",
    "FlorResource",
    "Workspace",
    "arg",
    "artifact",
    "build_flor_asset_specs",
    "build_flor_definitions",
    "build_hindsight_schedule",
    "build_training_schedule",
    "capture",
    "checkpointing",
    "commit",
    "dataframe",
    "flor_asset",
    "hindsight",
    "iteration",
    "latest",
    "load",
    "log",
    "loop",
    "plan",
    "query",
    "run",
    "runs",
    "tags",
]

_LAZY = {
    "FlorError": "flor_dagster.errors",
    "Workspace": "flor_dagster.replay.workspace",
    "hindsight": "flor_dagster.replay.asking",
    "load": "flor_dagster.recording.loading",
    "plan": "flor_dagster.replay.asking",
    "artifact": "flor_dagster.replay.reading",
    "dataframe": "flor_dagster.replay.reading",
    "latest": "flor_dagster.replay.reading",
    "query": "flor_dagster.replay.reading",
    "runs": "flor_dagster.replay.reading",
    **dict.fromkeys(
        (
            "DagsterFlorTranslator",
            "FlorProject",
            "FlorProjectComponent",
            "FlorResource",
            "build_flor_asset_specs",
            "build_flor_definitions",
            "build_hindsight_schedule",
            "build_training_schedule",
            "flor_asset",
        ),
        "flor_dagster.orchestration",
    ),
}

if (
    not TYPE_CHECKING
):  # a type checker sees the imports above; an untyped __getattr__ would hide misspelt names

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("flor-dagster")
        if name == "flor_asset" and _replaying():
            # Old code is replayed in a child that knows nothing of Dagster: the function is called as it is.
            return importlib.import_module("flor_dagster.recording.replaying").plain_flor_asset
        module = _LAZY.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})

    def _replaying() -> bool:
        import builtins

        return "__flor__" in vars(builtins)  # what the child of a replay gives the patched source
