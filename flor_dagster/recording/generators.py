"""The random generators that libraries share: where they are, and what they held when they were first met."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from flor_dagster.recording.capture import Capturer


def global_generators() -> dict[str, Any]:
    """The random generators that libraries share: root name → the object that holds the state."""
    found: dict[str, Any] = {}
    random = sys.modules.get("random")
    if random is not None:
        found["random:python"] = random._inst  # noqa: SLF001 - the module's functions are this object's methods
    mtrand = sys.modules.get("numpy.random.mtrand")
    if mtrand is not None:
        found["random:numpy"] = mtrand._rand  # noqa: SLF001 - likewise for numpy.random's
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "default_generator"):
        found["random:torch"] = torch.default_generator
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            for number, generator in enumerate(torch.cuda.default_generators):
                found[f"random:cuda{number}"] = generator
    return found


def generator_state(root: str, generator: Any) -> dict[str, Any]:
    """One generator's state as a captured graph."""
    capturer = Capturer(lambda _: False)
    capturer.add(root, generator)
    state = capturer.finish()
    return {"nodes": state.nodes, "ref": state.roots[root]}


class Generators:
    """Notices the shared random generators that are in use from some moment on.

    Args:
        met: told of each one, with its root name, when it is seen first.
    """

    def __init__(self, met: Callable[[str, Any], None]) -> None:
        self._met = met
        self._known: set[str] = set()

    def meet(self) -> dict[str, Any]:
        """All that are there now."""
        found = global_generators()
        for root in found.keys() - self._known:
            self._known.add(root)
            self._met(root, found[root])
        return found
