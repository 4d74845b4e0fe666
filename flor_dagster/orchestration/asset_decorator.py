"""`@flor_asset`: a training function that is an asset, each execution a recorded training run."""

import builtins
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_origin, overload

import dagster as dg
from pydantic import Field

from flor_dagster.errors import FlorError
from flor_dagster.orchestration.metadata import file_value, log_line, metadata_value, tag_value
from flor_dagster.orchestration.project import FILE_METADATA, FUNCTION_METADATA
from flor_dagster.recording import layout
from flor_dagster.recording import process as sessions
from flor_dagster.replay.workspace import Workspace

Training = Callable[[], Any]

SUPPORTED = (
    "@flor_asset takes a plain function without parameters, at the top of a module in a git repository, that takes its "
    "arguments by flor.arg; the asset is unpartitioned and has no inputs."
)


class UnsupportedTrainingError(FlorError):
    """`@flor_asset` was put on something that could not be asked in hindsight."""


class FlorAssetConfig(dg.Config):
    """What a training asset can be given in the launchpad."""

    args: dict[str, Any] = Field(
        default={}, description="Values for the function's flor.arg names, e.g. {lr: 0.01}."
    )


@overload
def flor_asset(function: Training) -> dg.AssetsDefinition: ...
@overload
def flor_asset(
    *,
    name: str | None = ...,
    key: dg.AssetKey | str | Sequence[str] | None = ...,
    key_prefix: str | Sequence[str] | None = ...,
    group_name: str | None = ...,
    io_manager_key: str | None = ...,
    description: str | None = ...,
    metadata: Mapping[str, Any] | None = ...,
    tags: Mapping[str, str] | None = ...,
    kinds: set[str] | None = ...,
    owners: Sequence[str] | None = ...,
    op_tags: Mapping[str, Any] | None = ...,
    pool: str | None = ...,
    code_version: str | None = ...,
    retry_policy: dg.RetryPolicy | None = ...,
    automation_condition: dg.AutomationCondition[Any] | None = ...,
    **refused: Any,
) -> Callable[[Training], dg.AssetsDefinition]: ...
def flor_asset(
    function: Training | None = None, **options: Any
) -> dg.AssetsDefinition | Callable[[Training], dg.AssetsDefinition]:
    """Make a training function an asset; each execution, a retry too, is one training run.

    The asset keeps its key, IO manager and return value. It gets a config field `args` (the function's `flor.arg`
    values), the tag `flor/run`, and metadata of the training run. Name it among a project's `entrypoints` and it is
    part of the project's definitions and can be asked in hindsight, as the entry point `file.py:function`. Keep it in
    a module of its own, without the definitions: a replay imports that module.

    Args:
        function: the training function, without parameters.
        options: what `dagster.asset` takes, but for partitions, inputs and dependencies.

    Raises:
        UnsupportedTrainingError: for a use that could not be asked in hindsight yet; it is named.

    Example:
        @flor.flor_asset(group_name="models")
        def classifier():
            lr = flor.arg("lr", 0.01)
            for epoch in flor.loop("epoch", range(5)):
                ...
            return model
    """

    def decorate(training: Training) -> dg.AssetsDefinition:
        _check_options(training, options)
        _check_function(training)
        if "__flor__" in vars(builtins):
            # In the child of a replay (its patched source calls `__flor__`) the function is called as it stands.
            return training  # pyright: ignore[reportReturnType]
        return _asset(training, options)

    return decorate if function is None else decorate(function)


_OPTIONS = frozenset(
    [
        "name",
        "key",
        "key_prefix",
        "group_name",
        "io_manager_key",
        "description",
        "metadata",
        "tags",
        "kinds",
        "owners",
        "op_tags",
        "pool",
        "code_version",
        "retry_policy",
        "automation_condition",
    ]
)
_REFUSED = {
    "partitions_def": "a partitioned training asset",
    "ins": "a training asset with inputs",
    "deps": "a training asset with dependencies",
    "non_argument_deps": "a training asset with dependencies",
    "config_schema": "a config schema of one's own (arguments come by flor.arg)",
    "check_specs": "checks inside a training asset",
    "required_resource_keys": "a training asset with resources",
    "resource_defs": "a training asset with resources",
    "output_required": "an asset without an output",
    "backfill_policy": "a partitioned training asset",
}


def _check_options(training: Training, options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in _OPTIONS and options[name] is not None:
            what = _REFUSED.get(name, f"the option {name}")
            raise UnsupportedTrainingError(
                f"{_name(training)}: {what} ({name}=…) is not supported. {SUPPORTED}"
            )


def _check_function(training: Training) -> None:
    what = ""
    if not inspect.isfunction(training):
        what = f"a {type(training).__name__} is not a plain function"
    elif inspect.isasyncgenfunction(training) or inspect.iscoroutinefunction(training):
        what = "an async function is not supported"
    elif inspect.isgeneratorfunction(training):
        what = "a generator function (yield) is not supported"
    elif "." in training.__qualname__ or training.__name__ == "<lambda>":
        what = "a function inside a function or class can't be found again by name"
    elif inspect.signature(training).parameters:
        names = ", ".join(inspect.signature(training).parameters)
        what = f"parameters ({names}) are not supported, whether inputs, context, config or resources"
    if what:
        raise UnsupportedTrainingError(f"{_name(training)}: {what}. {SUPPORTED}")


def _asset(training: Training, options: Mapping[str, Any]) -> dg.AssetsDefinition:
    file = Path(inspect.getfile(training)).resolve()
    metadata = {
        **(options.get("metadata") or {}),
        FILE_METADATA: file_value(str(file)),
        FUNCTION_METADATA: training.__name__,
    }

    output_type = _output_type(training)

    def execute(context: dg.AssetExecutionContext, config: FlorAssetConfig) -> Any:
        place = layout.find_place(file.parent)
        if place is None:
            raise UnsupportedTrainingError(f"{_name(training)}: no git repository around {file}. {SUPPORTED}")
        with sessions.recorded_run(
            f"{layout.relative_file(str(file), place.root)}:{training.__name__}",
            root=place.root,
            origin="dagster",
            tags={
                "flor/source_asset": context.asset_key.to_user_string(),
                "flor/dagster_run": context.run.run_id,
            },
            args=config.args,
        ) as run:
            value = training()
        said = _said_of(context, place.root, run.run_id)
        return _with_run(value, run.run_id, said, nothing=output_type is None)

    execute.__name__ = training.__name__
    execute.__doc__ = training.__doc__
    execute.__annotations__["return"] = output_type
    kept: dict[str, Any] = {name: value for name, value in options.items() if name in _OPTIONS}
    kept["metadata"] = metadata
    kinds = set(kept.pop("kinds", None) or ())
    # Dagster takes three kinds at most; the user's come first.
    kept["kinds"] = kinds | {"flor"} if len(kinds) < 3 else kinds
    definition = cast("dg.AssetsDefinition", cast("Any", dg.asset)(**kept)(execute))
    # As functools.wraps does: who wants the plain function finds it here.
    definition.__wrapped__ = training  # pyright: ignore[reportAttributeAccessIssue]
    return definition


def _output_type(training: Training) -> Any:
    """What Dagster is told of the output: as the function says, in the form in which we hand it on."""
    said = inspect.signature(training, eval_str=True).return_annotation
    if said is inspect.Signature.empty:
        return dg.Output
    kind = get_origin(said) or said
    if said is None or (isinstance(kind, type) and issubclass(kind, dg.Output | dg.MaterializeResult)):
        return said
    return dg.Output[said]


def _with_run(value: Any, run_id: str, metadata: Mapping[str, Any], *, nothing: bool) -> Any:
    """The function's own result, with the tag and metadata of its training run added."""
    tags = {"flor/run": tag_value(run_id)}
    if isinstance(value, dg.MaterializeResult):
        return dg.MaterializeResult(
            asset_key=value.asset_key,
            metadata={**(value.metadata or {}), **metadata},
            check_results=value.check_results,
            data_version=value.data_version,
            tags={**(value.tags or {}), **tags},
            value=value.value,
        )
    if isinstance(value, dg.Output):
        return dg.Output(
            value.value,
            output_name=value.output_name,
            metadata={**value.metadata, **metadata},
            data_version=value.data_version,
            tags={**(value.tags or {}), **tags},
        )
    if value is None and nothing:
        return dg.MaterializeResult(metadata=metadata, tags=tags)
    return dg.Output(value, metadata=metadata, tags=tags)


def _said_of(context: dg.AssetExecutionContext, root: Path, run_id: str) -> dict[str, Any]:
    """What can be said of the training run on the asset's page. The training is done: nothing here may fail it."""
    said: dict[str, Any] = {"training run": run_id}
    try:
        with Workspace.open(root) as workspace:
            workspace.sync()
            run = next((run for run in workspace.runs() if run.id == run_id), None)
    except FlorError as error:
        log_line(context.log.warning)(
            f"The training run {run_id} is recorded, but can't be read yet: {error}"
        )
        return said
    if run is None:
        return said
    said["training run"] = run.key
    said |= {f"arg {name}": metadata_value(value) for name, value in run.args.items()}
    said |= {"commit": run.commit or "no version could be kept", "training seconds": run.seconds or 0.0}
    return said


def _name(training: Any) -> str:
    return f"@flor_asset on {getattr(training, '__qualname__', type(training).__name__)}"
