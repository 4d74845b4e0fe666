"""Globals as roots of an end state: `module:name`, or `module:Class.name` for an attribute of a library's class.

The globals of the repository's modules are roots where code names them; of a library only the attributes that the
repository's code sets are.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording.shape import MISSING
from flor_dagster.recording.touching import Chain, Touches

PYTHONS_OWN = frozenset(
    {
        "__name__", "__doc__", "__package__", "__loader__", "__spec__", "__file__", "__builtins__", "__cached__",
        "__path__", "__dict__", "__warningregistry__", "__debug__", "__class__", "__import__", "__annotate__",
    }
)  # fmt: skip
"""Names that every module has by itself."""


def find_global(module: str, name: str) -> Any:
    """The value of a root, or MISSING."""
    owner = _owner(sys.modules.get(module), name)
    last = name.rpartition(".")[2]
    if isinstance(owner, type):
        return vars(owner).get(last, MISSING)
    if owner is None:
        return MISSING
    if last in owner.__dict__:
        return owner.__dict__[last]
    # Settings of some libraries are properties of their module.
    return getattr(owner, last, MISSING) if hasattr(type(owner), last) else MISSING


def live_global(module: str, name: str) -> Any:
    """As `find_global`, where the skipped code may have imported the module.

    Raises:
        CheckpointError: the module can't be loaded.
    """
    if module not in sys.modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise CheckpointError(
                f"the module {module} of the recorded run can't be loaded here: {error}"
            ) from error
    return find_global(module, name)


def put_global(module: str, name: str, value: Any) -> None:
    """Bind a root to another object.

    Raises:
        CheckpointError: there is no such place in this program.
    """
    owner = _owner(sys.modules.get(module), name)
    last = name.rpartition(".")[2]
    try:
        if isinstance(owner, types.ModuleType) and type(owner) is types.ModuleType:
            owner.__dict__[last] = value
        else:
            setattr(owner, last, value)
    except Exception as error:
        raise CheckpointError(
            f"`{module}.{name}` can't be put back: {type(error).__name__}: {error}"
        ) from error


def library_attribute(chain: Chain, names: Mapping[str, Any], is_own: Callable[[str], bool]) -> str | None:
    """The root that setting an attribute changes, where its owner is a library's module or class.

    Args:
        chain: the names in the expression, the attribute last.
        names: what the first one may mean.
        is_own: whether a module's code belongs to the repository.
    """
    owner = names.get(chain[0])
    for part in chain[1:-1]:
        if isinstance(owner, types.ModuleType):
            inner = sys.modules.get(f"{owner.__name__}.{part}")
            owner = owner.__dict__.get(part) if inner is None else inner
        elif isinstance(owner, type):
            owner = vars(owner).get(part)
        else:
            return None
    if isinstance(owner, types.ModuleType):
        name = owner.__name__
        ours = is_own(name) or name.partition(".")[0] == "flor_dagster"
        return None if ours or (name == "sys" and chain[-1] in _WATCHED) else f"{name}:{chain[-1]}"
    if isinstance(owner, type) and not is_own(owner.__module__):
        return f"{owner.__module__}:{owner.__qualname__}.{chain[-1]}"
    return None


def imported(touches: Touches) -> dict[str, Any]:
    """The modules that code binds to names of its own, where they are loaded."""
    return {name: sys.modules[module] for name, module in touches.imports if module in sys.modules}


# What the recorder itself replaces to see a run's end.
_WATCHED = frozenset({"excepthook", "exit"})


def _owner(module: Any, name: str) -> Any:
    """What holds the last part of a name: the module, or a class in it."""
    owner = module
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part, None)
    return owner
