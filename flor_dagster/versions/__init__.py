"""git: the code of a training run as a version, and work trees of old versions. The only room that touches git.

The parts are loaded when they are named, so that `python -m flor_dagster.versions.snapshot`, the child that the
recorder starts, imports nothing but itself. `flor_dagster.versions.snapshot` is always the module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flor_dagster.versions.clone import Checkout, Clone
    from flor_dagster.versions.repository import Repository
    from flor_dagster.versions.snapshot import Version
    from flor_dagster.versions.untracked import link_untracked

__all__ = ["Checkout", "Clone", "Repository", "Version", "link_untracked"]

_HOMES = {
    "Checkout": "clone",
    "Clone": "clone",
    "Repository": "repository",
    "Version": "snapshot",
    "link_untracked": "untracked",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
