"""Objects that a loop lets go of while something that none of its names leads to still holds them.

`first = weights` before a loop that adds to `weights` in place and later binds another array to the name: what the loop did to
the old array is to be seen through `first`, though no name of the loop leads there at its end. Such an object is captured, too,
by where it stood when the loop began. Who holds what is counted by CPython itself.
"""

from __future__ import annotations

import json
import sys
import types
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from flor_dagster.recording.listing import TENSORS, lister_of
from flor_dagster.recording.shape import frame_locals
from flor_dagster.recording.surveying import SCALARS, Way, follow, takes_references

KIND = "gone"
"""Of the roots that mean such an object."""

# What nothing can be changed in but through what it holds, and what is no data.
_UNCHANGING = (tuple, frozenset, type, types.ModuleType, types.BuiltinFunctionType, types.MethodType)


def root_of(way: Way) -> str:
    """The name of the root that means what stood at a place when the loop began."""
    return f"{KIND}:{json.dumps(way)}"


def live_at(name: str, root: Callable[[str], Any]) -> Any:
    """The live object that such a root means, or MISSING.

    Args:
        name: of the root, without its kind.
        root: the live object of a root that a way begins at, as a loop begins.
    """
    way = json.loads(name)
    return follow(way, {way[0]: root(way[0])})


def held_elsewhere(roots: Mapping[str, Any], names: Collection[str]) -> list[tuple[Any, int]]:
    """Objects behind some roots that more than these roots hold, and how many references those are.

    Only of objects that can't be found again by a weak reference.

    Args:
        roots: root name → object, in a dict that holds each once for every name.
        names: of the roots that are looked at.
    """
    # The dict, and the variable that the name stands for. No variable here may hold one of them.
    times = Counter(map(id, roots.values()))
    times.update(map(id, [roots[name] for name in roots if not name.startswith("object:")]))
    objects = list({id(roots[n]): roots[n] for n in names if is_lost(type(roots[n]))}.values())
    more = [count - 1 - times[id(value)] for value, count in zip(objects, _counts(objects), strict=True)]
    return [(value, number) for value, number in zip(objects, more, strict=True) if number > 0]


def named_elsewhere(
    frame: types.FrameType | None, roots: Mapping[str, Any], is_own: Callable[[str], bool]
) -> dict[int, Any]:
    """Objects that other names than some roots stand for, in the functions that are open and their modules.

    Only objects that can't be found again by a weak reference.

    Args:
        frame: the innermost of these functions.
        roots: root name → object.
        is_own: whether a module's name belongs to the program.
    """
    found: dict[int, Any] = {}
    spaces: dict[int, dict[str, Any]] = {}
    while frame is not None:
        if is_own(str(frame.f_globals.get("__name__"))):
            spaces[id(frame.f_globals)] = frame.f_globals
            if frame.f_code.co_name != "<module>":
                spaces[id(frame)] = frame_locals(frame)
        frame = frame.f_back
    for space in spaces.values():
        found.update((id(value), value) for value in list(space.values()) if is_lost(type(value)))
    for value in roots.values():
        found.pop(id(value), None)
    return found


def memory_of(roots: Mapping[str, Any], names: Collection[str]) -> dict[int, tuple[str, int]]:
    """The storages of the tensors behind some roots that not these tensors alone use: number → a root, and how many use it.

    Args:
        roots: root name → object.
        names: of the roots that are looked at.
    """
    torch = sys.modules.get("torch")
    users = getattr(getattr(torch, "_C", None), "_storage_Use_Count", None)
    tensors = [name for name in names if type(roots[name]) in TENSORS]
    if users is None or not tensors:
        return {}
    probe = torch.empty(1)  # pyright: ignore[reportOptionalMemberAccess]
    alone = users(probe.untyped_storage()._cdata)  # noqa: SLF001 - as surveys know storages
    found: dict[int, tuple[str, int]] = {}
    for name in tensors:
        if roots[name].layout is torch.strided:  # pyright: ignore[reportOptionalMemberAccess]
            number: int = roots[name].untyped_storage()._cdata  # noqa: SLF001
            found[-number] = name, users(number) - alone + 1
    return {number: (name, using) for number, (name, using) in found.items() if using > 1}


def still_held(
    objects: Sequence[Any], is_own: Callable[[str], bool], own: Mapping[int, int] | None = None
) -> list[Any]:
    """Those of some objects that anything but they themselves holds.

    Args:
        objects: each once; nothing but the caller's sequence holds them for the caller.
        is_own: whether a module's name belongs to the program.
        own: identity → how many more references of the caller's there are.
    """
    own = own or {}
    inside = _edges(objects, is_own)
    counts = _counts(objects)
    return [
        value
        for value, count in zip(objects, counts, strict=True)
        if count - 1 - own.get(id(value), 0) > inside[id(value)]
    ]


def is_changing(value: Any) -> bool:
    """Whether anything can be changed in an object itself."""
    return type(value) not in SCALARS and not isinstance(value, _UNCHANGING)


def reach(roots: Iterable[Any], is_own: Callable[[str], bool]) -> dict[int, Any]:
    """The objects behind some roots that something can be changed in, by identity."""
    found: dict[int, Any] = {}
    seen: dict[int, Any] = {}
    stack = list(roots)
    while stack:
        value = stack.pop()
        if id(value) in seen or type(value) in SCALARS:
            continue
        lister = lister_of(type(value), is_own)
        if lister is None:
            continue
        seen[id(value)] = value
        if is_changing(value):
            found[id(value)] = value
        stack.extend(item for _, item in lister(value))
    return found


def is_lost(kind: type) -> bool:
    """Whether an object that is let go of can't be found again."""
    return kind not in SCALARS and not issubclass(kind, _UNCHANGING) and not takes_references(kind)


def _edges(objects: Iterable[Any], is_own: Callable[[str], bool]) -> Counter[int]:
    found: Counter[int] = Counter()
    for value in objects:
        lister = lister_of(type(value), is_own)
        found.update(id(item) for _, item in (lister(value) if lister is not None else ()))
    return found


def _counts(objects: Sequence[Any]) -> list[int]:
    """How many references there are to each, but for those of this module."""
    probe: list[Any] = []
    looked_at = [*objects, probe]
    counts = list(map(sys.getrefcount, looked_at))
    idle = counts.pop() - 1  # the name `probe`
    return [count - idle for count in counts]
