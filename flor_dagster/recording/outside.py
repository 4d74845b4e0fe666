"""Containers of libraries that a program's code may fill: `library.REGISTRY["a"] = b`.

No checkpoint holds the state of libraries. Where the program's own code names a container of a foreign module, it is looked at when a
loop begins and when it ends; a loop in which one changed is executed, not skipped.
"""

from __future__ import annotations

import dis
import functools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, ModuleType
from typing import Any

Place = tuple[str, str]
"""A module's name and an attribute of it."""

MAX_ITEMS = 4096
_CONTAINERS = (dict, list, set, deque, OrderedDict, defaultdict, bytearray)
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# What other parts of the recorder look at: loaded modules, filters of warnings, the environment.
_KNOWN = frozenset({"sys", "os", "builtins", "warnings", "gc", "random", "decimal", "flor_dagster"})
_READS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_GLOBALS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"})
_BETWEEN = frozenset({"CACHE", "EXTENDED_ARG", "PUSH_NULL", "PRECALL", "NOP"})


@functools.lru_cache(maxsize=4096)
def attribute_chains(code: CodeType) -> frozenset[tuple[str, ...]]:
    """Every `name.attribute…` that a code object, or one nested in it, reads from a global."""
    found: set[tuple[str, ...]] = set()
    chain: tuple[str, ...] = ()
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name in _GLOBALS:
            chain = (str(instruction.argval),)
        elif name in _READS and chain:
            chain = (*chain, str(instruction.argval))
            found.add(chain)
        elif name not in _BETWEEN:
            chain = ()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= attribute_chains(constant)
    return frozenset(found)


def places_in(code: CodeType, namespace: Mapping[str, Any], is_own: Callable[[str], bool]) -> set[Place]:
    """The attributes of foreign modules that a code object names.

    Args:
        code: the program's.
        namespace: its globals.
        is_own: whether a module's name belongs to the program.
    """
    found: set[Place] = set()
    for chain in attribute_chains(code):
        owner = namespace.get(chain[0])
        for name in chain[1:]:
            if not isinstance(owner, ModuleType):
                break
            if owner.__name__.partition(".")[0] not in _KNOWN and not is_own(owner.__name__):
                found.add((owner.__name__, name))
            owner = vars(owner).get(name)
    return found


def readings(places: Iterable[Place], modules: Mapping[str, ModuleType]) -> dict[Place, Any]:
    """What the containers at the places hold now, so that a change shows.

    Args:
        places: where to look; where no container stands is left out.
        modules: the loaded ones.
    """
    found: dict[Place, Any] = {}
    for module, name in places:
        value: Any = getattr(modules.get(module), "__dict__", {}).get(name)
        if type(value) in _CONTAINERS:
            found[module, name] = (id(value), len(value), _items(value))
    return found


def changes(before: Mapping[Place, Any], now: Mapping[Place, Any]) -> list[str]:
    """Which containers are not as they were, in words."""
    differ = sorted(place for place in before if before[place] != now.get(place))
    return [
        f"`{module}.{name}`, which belongs to no code of the repository, is changed in it"
        for module, name in differ
    ]


def _items(value: Any) -> Any:
    if len(value) > MAX_ITEMS:
        return None
    if isinstance(value, dict):
        return tuple((id(k), _shown(v)) for k, v in list(value.items()))
    return tuple(_shown(item) for item in list(value))


def _shown(item: Any) -> Any:
    return repr(item) if type(item) in _PLAIN else id(item)
