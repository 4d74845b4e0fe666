"""Which objects were there when a loop began, and where: what the loop replaced, a replay must not fill in place.

A survey notes the identities of all objects behind some roots. Between two of them an object is *fresh* where only the
second one saw it, and *displaced* where it stands at a place at which it did not stand before. A fresh object is made anew
by a replay, so that whoever still holds the old one keeps it as it was; a displaced one is looked for where it stood when
the loop began. What nobody else holds may get the identity of something that is gone; then it makes no difference.
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from flor_dagster.recording.listing import OF_ARRAY, OF_TENSOR, TENSORS, UNORDERED, Lister, Step, lister_of
from flor_dagster.recording.shape import MISSING

MOST = 400_000
SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented)})
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


def survey(roots: Mapping[str, Any], is_own: Callable[[str], bool], known: Container[int] = ()) -> Survey:
    """Note the identities of what is behind some roots.

    Args:
        roots: by name.
        is_own: whether a module's name belongs to the program.
        known: identities of objects that are noted elsewhere.

    Raises:
        TooManyError: there are too many.
    """
    found = Survey({name: id(value) for name, value in roots.items()})
    children, marks = found.children, found.marks
    stack = list(roots.values())
    add, kinds, referred = stack.append, dict[type, Lister | None](), set[type]()
    scalars = SCALARS
    while stack:
        value = stack.pop()
        number = id(value)
        kind: type = type(value)
        if number in children or kind in scalars or number in known:
            continue
        if kind not in kinds:
            kinds[kind] = lister_of(kind, is_own)
            if takes_references(kind):
                referred.add(kind)
        lister = kinds[kind]
        if lister is None:
            continue
        inner: dict[Step, int] = {}
        for step, item in lister(value):
            if type(item) not in scalars:
                inner[step] = id(item)
                add(item)
        if kind in TENSORS:
            _note_storage(value, inner, children, known)
        children[number] = inner
        marks[number] = weakref.ref(value) if kind in referred else kind
        if len(children) > MOST:
            raise TooManyError
    return found


def takes_references(kind: type) -> bool:
    """Whether objects of a type are told apart by weak references.

    An array of numpy refuses to be resized in place as long as anything refers to it weakly.
    """
    return kind.__weakrefoffset__ != 0 and not is_array(kind)


def is_array(kind: type) -> bool:
    """Whether it is a type of numpy's arrays."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and issubclass(kind, numpy.ndarray)


def _note_storage(
    value: Any, inner: dict[Step, int], children: dict[int, dict[Step, int]], known: Container[int]
) -> None:
    """A storage has no object of its own that lives as long: it is known by its number, as the capture knows it."""
    if value.layout is sys.modules["torch"].strided:
        number = -value.untyped_storage()._cdata  # noqa: SLF001 - see above
        inner[OF_TENSOR] = number
        if number not in known:
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
    return Changes(frozenset(fresh), ways(before, {number for number in displaced if number > 0}))


def _is_same(number: int, before: Survey, after: Survey) -> bool:
    """Whether an identity means the same object twice, and not another one where the first one had been."""
    # What an array is a part of never changes, so that another base is another array.
    if number not in before.children or before.children[number].get(OF_ARRAY) != after.children[number].get(
        OF_ARRAY
    ):
        return False
    mark = before.marks.get(number)
    return mark() is not None if type(mark) is weakref.ref else mark is after.marks.get(number)


def _staying(before: Survey, after: Survey) -> set[int]:
    """Storages that a tensor still has which had them before: another one that shares them moves nothing."""
    return {
        inner[OF_TENSOR]
        for number, inner in after.children.items()
        if OF_TENSOR in inner and before.children.get(number, {}).get(OF_TENSOR) == inner[OF_TENSOR]
    }


def ways(before: Survey, wanted: set[int]) -> dict[int, Way]:
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
        if value is MISSING or (isinstance(step, list) and step[0] == UNORDERED):
            return MISSING
        lister = lister_of(type(value), _everything)
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
