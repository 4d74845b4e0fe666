"""What hangs at what: how the children of an object are listed that a survey follows, each with the step that leads to it."""

from __future__ import annotations

import functools
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flor_dagster.recording import shape
from flor_dagster.recording.adapters import (
    arrays,
    code,
    containers,
    generators,
    instances,
    pickled,
    registry,
    tensors,
)
from flor_dagster.recording.adapters.registry import Uncapturable
from flor_dagster.recording.shape import MISSING

Step = Any
"""How a child hangs at its parent: a dictionary's key or a list's index, or a pair of a mark and a name or number."""

Lister = Callable[[Any], Iterable[tuple[Step, Any]]]

UNORDERED = "set"
OF_TENSOR = ("t", "storage")
OF_ARRAY = ("n", "base")
TENSORS: set[type] = set()
"""The types of tensors that were met."""

_KEYS = frozenset({str, int, bool, type(None)})


def lister_of(kind: type, is_own: Callable[[str], bool]) -> Lister | None:
    """How the children of objects of a type are listed; None for what has no identity that matters to a survey."""
    try:
        describe = registry.describer(kind)
    except Uncapturable:
        return None
    if describe is code.describe_class:
        return functools.partial(_of_class, is_own)
    if describe is instances.describe_object:
        if kind is OrderedDict:
            return _of_ordered
        return _of_slotted if shape.all_slots(kind) or issubclass(kind, shape.CONTAINERS) else _of_object
    if describe is tensors.describe_tensor:
        TENSORS.add(kind)
    return _LISTERS.get(describe)


def _of_dict(value: dict[Any, Any]) -> Iterator[tuple[Step, Any]]:
    for position, (key, item) in enumerate(list(dict.items(value))):
        if type(key) in _KEYS:
            yield key, item
        else:
            yield ("key", position), key
            yield ("#", position), item


def _of_set(value: Any) -> Iterator[tuple[Step, Any]]:
    for position, item in enumerate(value):
        yield (UNORDERED, position), item


def _of_items(value: Iterable[Any]) -> Iterator[tuple[Step, Any]]:
    return enumerate(value)


def _of_object(value: Any) -> Iterable[tuple[Step, Any]]:
    return shape.own_dict(value).items()


def _of_ordered(value: OrderedDict[Any, Any]) -> Iterable[tuple[Step, Any]]:
    """The most frequent objects of all: every module of torch has a dozen, and they hold nothing."""
    return _of_slotted(value) if value or object.__getattribute__(value, "__dict__") else ()


def _of_slotted(value: Any) -> Iterator[tuple[Step, Any]]:
    for name, item in shape.attributes_of(value).items():
        yield ("a", name), item
    if isinstance(value, dict):
        yield from _of_dict(value)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, list):
        yield from enumerate(list.__iter__(value))  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, tuple):
        yield from enumerate(tuple.__iter__(value))  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, deque):
        yield from enumerate(deque.__iter__(value))  # pyright: ignore[reportUnknownArgumentType]


def _of_function(value: types.FunctionType) -> Iterator[tuple[Step, Any]]:
    for position, cell in enumerate(value.__closure__ or ()):
        try:
            yield ("c", position), cell.cell_contents
        except ValueError:
            continue
    for position, item in enumerate(value.__defaults__ or ()):
        yield ("d", position), item
    for name, item in (value.__kwdefaults__ or {}).items():
        yield ("k", name), item
    yield from vars(value).items()


def _of_bound(value: types.MethodType) -> Iterator[tuple[Step, Any]]:
    yield ("m", "self"), value.__self__
    yield ("m", "func"), value.__func__


def _of_builtin(value: Any) -> Iterator[tuple[Step, Any]]:
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType | type):
        yield ("m", "self"), owner


def _of_partial(value: functools.partial[Any]) -> Iterator[tuple[Step, Any]]:
    yield ("p", "func"), value.func
    for position, item in enumerate(value.args):
        yield ("p", position), item
    for name, item in value.keywords.items():
        yield ("p", name), item


def _of_class(is_own: Callable[[str], bool], value: type) -> Iterator[tuple[Step, Any]]:
    if is_own(value.__module__):
        for name, item in list(vars(value).items()):
            if not shape.is_machinery(name, item):
                yield name, item
        for position, base in enumerate(value.__bases__):
            yield ("b", position), base


def _of_tensor(value: Any) -> Iterator[tuple[Step, Any]]:
    if value.is_leaf and value.requires_grad and value.grad is not None:
        yield ("t", "grad"), value.grad
    yield from shape.own_dict(value).items()


def _of_array(value: Any) -> Iterator[tuple[Step, Any]]:
    if value.dtype.char == "O":
        for position, item in enumerate(value.ravel(order="K").tolist()):
            yield ("o", position), item
    base = value.base
    if base is not None and type(base) is type(value):
        yield OF_ARRAY, base


def _of_generator(value: Any) -> Iterator[tuple[Step, Any]]:
    yield ("g", "bits"), value.bit_generator


def _of_wrapper(value: Any) -> Iterator[tuple[Step, Any]]:
    inner = shape.wrapped_by(value)
    if inner is not MISSING:
        yield ("w", "module"), inner


def nothing(value: Any) -> Iterable[tuple[Step, Any]]:
    """What lists the children of objects that have none."""
    del value
    return ()


_LEAVES = (
    containers.describe_bytearray, pickled.describe_reduced,
    pickled.describe_memory_file, generators.describe_python,
    generators.describe_random_state, generators.describe_bits, generators.describe_seeds, generators.describe_torch,
)  # fmt: skip
_LISTERS: dict[Any, Lister] = {
    containers.describe_dict: _of_dict, containers.describe_list: _of_items, containers.describe_tuple: _of_items,
    code.describe_function: _of_function, code.describe_bound: _of_bound, code.describe_builtin: _of_builtin,
    code.describe_partial: _of_partial, containers.describe_deque: _of_items, containers.describe_set: _of_set,
    generators.describe_generator: _of_generator, tensors.describe_tensor: _of_tensor, tensors.describe_wrapper: _of_wrapper,
    arrays.describe_array: _of_array,
    **dict.fromkeys(_LEAVES, nothing),
}  # fmt: skip
