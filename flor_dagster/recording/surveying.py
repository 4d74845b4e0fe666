"""Which objects were there when a loop began, and where: what the loop replaced, a replay must not fill in place.

A survey notes the identities of all objects behind some roots. Between two of them an object is *fresh* where only the
second one saw it, and *displaced* where it stands at a place at which it did not stand before. A fresh object is made anew
by a replay, so that whoever still holds the old one keeps it as it was; a displaced one is looked for where it stood when
the loop began. What nobody else holds may get the identity of something that is gone; then it makes no difference.
"""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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

MOST = 400_000
SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented)})
_KEYS = frozenset({str, int, bool, type(None)})

_UNORDERED = "set"
_OF_TENSOR = ("t", "storage")

Step = Any
"""How a child hangs at its parent: a dictionary's key or a list's index, or a pair of a mark and a name or number."""

_Lister = Callable[[Any], Iterable[tuple[Step, Any]]]
_TENSORS: set[type] = set()

Way = list[Any]
"""Root name and the steps from it."""


class TooManyError(Exception):
    """More objects than can be watched."""


@dataclass(slots=True)
class Survey:
    """Identities at one moment.

    Args:
        roots: root name → identity.
        children: identity of each object → step → identity of the child.
        marks: identity → what tells an object from a later one in its place: a weak reference, or its type.
    """

    roots: dict[str, int] = field(default_factory=dict[str, int])
    children: dict[int, dict[Step, int]] = field(default_factory=dict[int, dict[Step, int]])
    marks: dict[int, Any] = field(default_factory=dict[int, Any])


@dataclass(frozen=True, slots=True)
class Changes:
    """What lies between two surveys.

    Args:
        fresh: identities of objects that the first one had not seen.
        displaced: identity → where the object stood at the first.
    """

    fresh: frozenset[int]
    displaced: Mapping[int, Way]


def survey(roots: Mapping[str, Any], is_own: Callable[[str], bool]) -> Survey:
    """Note the identities of what is behind some roots.

    Raises:
        TooManyError: there are too many.
    """
    found = Survey({name: id(value) for name, value in roots.items()})
    children, marks = found.children, found.marks
    stack = list(roots.values())
    add, kinds, referred = stack.append, dict[type, _Lister | None](), set[type]()
    scalars = SCALARS
    while stack:
        value = stack.pop()
        number = id(value)
        kind: type = type(value)
        if number in children or kind in scalars:
            continue
        if kind not in kinds:
            kinds[kind] = _lister(kind, is_own)
            if kind.__weakrefoffset__ and not _is_array(kind):
                referred.add(kind)
        lister = kinds[kind]
        if lister is None:
            continue
        inner: dict[Step, int] = {}
        for step, item in lister(value):
            if type(item) not in scalars:
                inner[step] = id(item)
                add(item)
        if kind in _TENSORS:
            _note_storage(value, inner, children)
        children[number] = inner
        marks[number] = weakref.ref(value) if kind in referred else kind
        if len(children) > MOST:
            raise TooManyError
    return found


def _is_array(kind: type) -> bool:
    """Whether it is an array of numpy: it refuses to be resized in place as long as anything refers to it weakly."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and issubclass(kind, numpy.ndarray)


def _note_storage(value: Any, inner: dict[Step, int], children: dict[int, dict[Step, int]]) -> None:
    """A storage has no object of its own that lives as long: it is known by its number, as the capture knows it."""
    if value.layout is sys.modules["torch"].strided:
        number = -value.untyped_storage()._cdata  # noqa: SLF001 - see above
        inner[_OF_TENSOR] = number
        children[number] = {}


def changes(before: Survey, after: Survey) -> Changes:
    """What was replaced and moved between two surveys."""
    fresh: set[int] = set()
    displaced: set[int] = set()
    known = {number for number in after.children if _is_same(number, before, after)}
    for root, number in after.roots.items():
        if number in known and before.roots.get(root) != number:
            displaced.add(number)
    for number, inner in after.children.items():
        if number not in known:
            fresh.add(number)
            displaced.update(child for child in inner.values() if child in known)
        elif before.children[number] != inner:
            old = before.children[number]
            displaced.update(
                child for step, child in inner.items() if old.get(step) != child and child in known
            )
    displaced -= _staying(before, after)
    # A storage that moved to another tensor is copied: nobody but tensors holds one.
    fresh |= {number for number in displaced if number < 0}
    ways = _ways(before, {number for number in displaced if number > 0})
    return Changes(frozenset(fresh), ways)


def _is_same(number: int, before: Survey, after: Survey) -> bool:
    """Whether an identity means the same object twice, and not another one where the first one had been."""
    if number not in before.children:
        return False
    mark = before.marks.get(number)
    return mark() is not None if type(mark) is weakref.ref else mark is after.marks.get(number)


def _staying(before: Survey, after: Survey) -> set[int]:
    """Storages that a tensor still has which had them before: another one that shares them moves nothing."""
    return {
        inner[_OF_TENSOR]
        for number, inner in after.children.items()
        if _OF_TENSOR in inner and before.children.get(number, {}).get(_OF_TENSOR) == inner[_OF_TENSOR]
    }


def _ways(before: Survey, wanted: set[int]) -> dict[int, Way]:
    """Where objects stood: the nearest root, and the steps from it."""
    parents: dict[int, tuple[int | None, Step]] = {}
    queue: deque[int] = deque()
    for root, number in before.roots.items():
        if number not in parents:
            parents[number] = None, root
            queue.append(number)
    left = len(wanted - parents.keys())
    while queue and left:
        number = queue.popleft()
        for step, child in before.children.get(number, {}).items():
            if child not in parents:
                parents[child] = number, step
                left -= child in wanted
                queue.append(child)
    found: dict[int, Way] = {}
    for number in wanted & parents.keys():
        steps: list[Step] = []
        here: int | None = number
        while here is not None:
            here, step = parents[here]
            steps.append(list(step) if isinstance(step, tuple) else step)  # as it is read back
        found[number] = steps[::-1]
    return found


def by_node(before: Survey, after: Survey, memo: Mapping[int, int]) -> dict[str, Any]:
    """What lies between two surveys as a checkpoint keeps it: by the numbers of captured nodes.

    Args:
        before: when the loop began.
        after: at the end that was captured.
        memo: identity → number of the node.

    Returns:
        `fresh` nodes, `displaced` ones with the way to where they stood, and `unseen` ones, which no survey sees: all
        others are of objects that were there before.
    """
    found = changes(before, after)
    return {
        "fresh": sorted(memo[number] for number in found.fresh if number in memo),
        "displaced": [[memo[number], way] for number, way in found.displaced.items() if number in memo],
        "unseen": sorted(node for number, node in memo.items() if number not in after.children),
    }


def follow(way: Way, roots: Mapping[str, Any]) -> Any:
    """The live object at a place, or MISSING."""
    value = roots.get(way[0], MISSING)
    for step in way[1:]:
        if value is MISSING or (isinstance(step, list) and step[0] == _UNORDERED):
            return MISSING
        lister = _lister(type(value), _everything)
        wanted = tuple(step) if isinstance(step, list) else step
        value = (
            next((item for key, item in lister(value) if _same(key, wanted)), MISSING) if lister else MISSING
        )
    return value


def _everything(module: str) -> bool:
    del module
    return True


def _same(key: Step, wanted: Step) -> bool:
    return type(key) is type(wanted) and key == wanted


# What hangs at what -----------------------------------------------------------------------------------------------------


def _lister(kind: type, is_own: Callable[[str], bool]) -> _Lister | None:
    """How the children of objects of a type are listed; None for what has no identity that matters here."""
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
        _TENSORS.add(kind)
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
        yield (_UNORDERED, position), item


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
        yield ("n", "base"), base


def _of_generator(value: Any) -> Iterator[tuple[Step, Any]]:
    yield ("g", "bits"), value.bit_generator


def _of_wrapper(value: Any) -> Iterator[tuple[Step, Any]]:
    inner = shape.wrapped_by(value)
    if inner is not MISSING:
        yield ("w", "module"), inner


def _nothing(value: Any) -> Iterable[tuple[Step, Any]]:
    del value
    return ()


_LEAVES = (
    containers.describe_bytearray, pickled.describe_reduced,
    pickled.describe_memory_file, generators.describe_python,
    generators.describe_random_state, generators.describe_bits, generators.describe_seeds, generators.describe_torch,
)  # fmt: skip
_LISTERS: dict[Any, _Lister] = {
    containers.describe_dict: _of_dict, containers.describe_list: _of_items, containers.describe_tuple: _of_items,
    code.describe_function: _of_function, code.describe_bound: _of_bound, code.describe_builtin: _of_builtin,
    code.describe_partial: _of_partial, containers.describe_deque: _of_items, containers.describe_set: _of_set,
    generators.describe_generator: _of_generator, tensors.describe_tensor: _of_tensor, tensors.describe_wrapper: _of_wrapper,
    arrays.describe_array: _of_array,
    **dict.fromkeys(_LEAVES, _nothing),
}  # fmt: skip
