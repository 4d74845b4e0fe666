"""The random generators that libraries share: where they are, and what they held before and when the run began.

A script that nobody seeded draws its first weights before it comes to its first flor call. So the states are kept as
early as they can be: when this package is imported, or behind the import of the library where that comes later.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.imports import when_imported

HOMES = {"random:python": "random", "random:numpy": "numpy.random.mtrand", "random:torch": "torch"}
"""Root name → the module behind whose import the generator is there."""

_WORDS = 624
"""Where a Mersenne twister stands that nobody has drawn from."""

_early: dict[str, Any] = {}
_drawn: dict[str, bool] = {}
"""Root name → whether something had drawn from it before this package was imported; of libraries that were imported before it."""


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
        if torch.cuda.is_initialized() and torch.cuda.is_available():
            for number, generator in enumerate(torch.cuda.default_generators):
                found[f"random:cuda{number}"] = generator
    return found


def generator_state(root: str, generator: Any) -> dict[str, Any]:
    """One generator's state as a captured graph."""
    capturer = Capturer(lambda _: False)
    capturer.add(root, generator)
    state = capturer.finish()
    return {"nodes": state.nodes, "ref": state.roots[root]}


def readings() -> dict[str, Any]:
    """The shared generators' states of now, to be compared: root name → a value that is equal where the state is.

    Around every evaluation of a hindsight expression they are read twice: a graph of each would take twenty times as long.
    """
    return {root: _reading(root, generator) for root, generator in global_generators().items()}


def _reading(root: str, generator: Any) -> Any:
    kind = type(generator)
    if kind is random.Random and generator.__dict__.keys() <= {"gauss_next"}:
        return generator.getstate()
    module = kind.__module__
    if module.startswith("numpy.random.") and kind.__name__ == "RandomState":
        name, *rest = generator.get_state(legacy=True)
        if name == "MT19937":
            return rest[0].tobytes(), *rest[1:]
    elif module.startswith("torch") and generator.device.type == "cpu":
        return generator.get_state().numpy().tobytes()
    capturer = Capturer(lambda _: False)
    capturer.add(root, generator)
    return capturer.finish().digests().get(root)


def _twin(generator: Any) -> Any:
    """Another generator of the same kind, in the same state; it takes less time than to capture the state as a graph."""
    kind = type(generator)
    if kind.__module__ == "random":
        twin = kind()
        twin.setstate(generator.getstate())
    elif kind.__module__.startswith("numpy"):
        twin = kind()
        twin.set_state(generator.get_state(legacy=False))
    else:
        twin = kind(generator.device)
        twin.set_state(generator.get_state())
    return twin


def keep_early() -> None:
    """Keep the states that nothing of the script has drawn from yet, as soon as there are any."""

    def keep(root: str) -> None:
        _early[root] = _twin(global_generators()[root])

    for root, home in HOMES.items():
        before = home in sys.modules
        when_imported(home, lambda root=root: keep(root))
        if before and root in _early:
            _drawn[root] = _is_drawn(_early[root])


def _is_drawn(generator: Any) -> bool:
    """Whether somebody drew from a generator since it was seeded, as far as its state says; torch's is seeded alike everywhere."""
    if type(generator) is random.Random:
        return generator.getstate()[1][-1] != _WORDS
    if type(generator).__module__.startswith("numpy"):
        state = generator.get_state(legacy=False)
        return state["bit_generator"] == "MT19937" and state["state"]["pos"] != _WORDS
    return False


def early_entries() -> list[tuple[Any, ...]]:
    """What `keep_early` kept, where it matters: root name and state.

    For a library that was there before this package, a third element says whether something had drawn from it by then.
    """
    found: list[tuple[Any, ...]] = []
    now = global_generators()
    for root, twin in _early.items():
        before = generator_state(root, twin)
        if root in _drawn and (_drawn[root] or before != generator_state(root, now[root])):
            found.append((root, before, _drawn[root]))
        elif before != generator_state(root, now[root]):
            found.append((root, before))
    return found


def imported_state(root: str) -> dict[str, Any] | None:
    """What a generator held behind the import of its library; None where that was not seen."""
    twin = _early.get(root)
    return None if twin is None else generator_state(root, twin)


def present_states() -> dict[str, dict[str, Any]]:
    """The states of now: root name → state."""
    return {root: generator_state(root, generator) for root, generator in global_generators().items()}


def put_state(root: str, recorded: Mapping[str, Any], generator: Any) -> None:
    """Put a generator into a recorded state."""
    from flor_dagster.recording.graft import Grafter

    Grafter(recorded["nodes"], lambda digest: digest.encode()).restore({root: (recorded["ref"], generator)})


def is_in(recorded: Mapping[str, Any], root: str, generator: Any) -> bool:
    """Whether a generator is in a state that a journal holds."""
    return json.dumps(generator_state(root, generator)) == json.dumps(recorded)


def begin_with(states: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the shared generators into recorded states: now, or behind the import of their libraries."""

    def put(root: str) -> None:
        put_state(root, states[root], global_generators()[root])

    for root in states.keys() & HOMES.keys():
        when_imported(HOMES[root], lambda root=root: put(root))


class Generators:
    """Notices the shared random generators that are in use from some moment on.

    `held` is set while one that is seen first is not to be told of.

    Args:
        met: told of each one, with its root name, when it is seen first.
    """

    held = False

    def __init__(self, met: Callable[[str, Any], None]) -> None:
        self._met = met
        self._known: set[str] = set()

    def meet(self) -> dict[str, Any]:
        """All that are there now."""
        found = global_generators()
        for root in () if self.held else found.keys() - self._known:
            self._known.add(root)
            self._met(root, found[root])
        return found
