"""Weak references and weak collections."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from flor_dagster.recording import shape
from flor_dagster.recording.adapters.registry import Ref, Uncapturable, describes, puts_back
from flor_dagster.recording.shape import MISSING

if TYPE_CHECKING:
    from flor_dagster.recording.capture import Capturer
    from flor_dagster.recording.graft import Grafter


class _Gone:
    """Dies at once: what a dead weak reference referred to."""


@describes(weakref.ref)
def describe_reference(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A weak reference, by what it refers to."""
    del node
    target = value()
    return ["weakref", None if target is None else walk.ref(target)]


@describes(weakref.WeakKeyDictionary, weakref.WeakValueDictionary)
def describe_mapping(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A weak dictionary, by the pairs that are alive."""
    del node
    return ["weak", shape.type_name(type(value)), walk.pairs(list(value.items()))]


@describes(weakref.WeakSet)
def describe_set(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A weak set, by the members that are alive."""
    del node
    if len(value) > 1:
        raise Uncapturable("is a weak set, whose order depends on its members' places in memory")
    return ["weak", shape.type_name(type(value)), walk.pairs([(v, None) for v in value])]


@puts_back("weakref")
def put_reference(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live reference where it leads to the same object, else a new one."""
    target: Any = None if node[1] is None else graft.value(node[1])
    if ref in graft.memo:
        return graft.memo[ref]
    if live is not MISSING and live() is target:
        return live
    return weakref.ref(target if target is not None else _Gone())


@puts_back("weak")
def put_collection(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live collection, filled once everything that it may refer to is there."""
    target: Any = live
    if target is MISSING:
        target = getattr(weakref, node[1].rpartition(".")[2])()
    graft.memo[ref] = target

    def fill() -> None:
        pairs: list[tuple[Any, Ref]] = [(graft.value(k), graft.value(v)) for k, v in node[2]]
        target.clear()
        for key, value in pairs:
            if isinstance(target, weakref.WeakSet):
                target.add(key)
            else:
                target[key] = value

    graft.later.append(fill)
    return target
