"""Instances of Python classes: attributes, slots, and the built-in container that they extend."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording import shape
from flor_dagster.recording.adapters.containers import container_part, fill_dict, fill_list, fill_set
from flor_dagster.recording.adapters.registry import Describe, Ref, puts_back
from flor_dagster.recording.shape import MISSING, find, type_name

if TYPE_CHECKING:
    from flor_dagster.recording.capture import Capturer
    from flor_dagster.recording.graft import Grafter


def recognise(kind: type) -> Describe | None:
    """Objects that hold nothing but what Python shows of them."""
    return describe_object if shape.is_plain(kind) else None


def describe_object(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """An object, by its attributes."""
    del node
    kind: type = type(value)
    class_ref = walk.ref(kind) if walk.is_own(kind.__module__) else None
    extra = container_part(walk, value, kind)
    return ["object", shape.type_name(kind), class_ref, walk.named(shape.attributes_of(value)), extra]


@puts_back("object")
def put_object(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live object, or a new one made without its `__init__`, with the recorded attributes."""
    name, class_ref, attributes, extra = node[1:]
    template = graft.template(ref)
    kind: Any = type(live) if live is not MISSING else MISSING if template is MISSING else type(template)
    if class_ref is not None:
        kind = graft.value(class_ref, kind)
    kind = find(name) if kind is MISSING else kind
    if not isinstance(kind, type):
        raise CheckpointError(f"the class {name} does not exist in this program")
    if ref in graft.memo:
        return graft.memo[ref]
    target = _instance(graft, ref, kind, extra, live)
    if ref in graft.memo:
        return graft.memo[ref]
    graft.memo[ref] = target
    fill_attributes(graft, target, attributes)
    if extra:
        _fill_extra(graft, target, extra)
    return target


def _instance(graft: Grafter, ref: int, kind: Any, extra: list[Any] | None, live: Any) -> Any:
    if extra is None or extra[0] not in ("tuple", "set") or (extra[0] == "set" and issubclass(kind, set)):
        if live is not MISSING:
            return live
        return (
            deque(maxlen=extra[2]) if extra and extra[0] == "deque" and kind is deque else kind.__new__(kind)
        )
    old: Any = () if live is MISSING or extra[0] == "set" else tuple(tuple.__iter__(live))
    items = graft.values(extra[1], old)
    if ref in graft.memo:
        return graft.memo[ref]
    if (
        live is not MISSING
        and len(items) == len(old)
        and all(a is b for a, b in zip(items, old, strict=True))
    ):
        return live
    builtin: Any = tuple if extra[0] == "tuple" else frozenset
    return builtin.__new__(kind, items)


def fill_attributes(graft: Grafter, target: Any, attributes: dict[str, Ref]) -> None:
    """Give an object exactly the recorded attributes."""
    current = shape.attributes_of(target)
    for name, ref in attributes.items():
        old = current.get(name, MISSING)
        new = graft.value(ref, old)
        if new is not old:
            set_attribute(target, name, new)
    for name in current:
        if name not in attributes:
            if name in shape.own_dict(target):
                del shape.own_dict(target)[name]
            else:
                object.__delattr__(target, name)


def _fill_extra(graft: Grafter, target: Any, extra: list[Any]) -> None:
    match extra[0]:
        case "defaultdict" if isinstance(target, defaultdict):
            fill_dict(graft, target, extra[1])
            target.default_factory = graft.value(extra[2], target.default_factory)
        case "dict":
            fill_dict(graft, target, extra[1])
        case "list":
            fill_list(graft, target, extra[1])
        case "deque":
            old = list(deque.__iter__(target))
            new = graft.values(extra[1], old)
            if extra[2] != target.maxlen:
                raise CheckpointError("a deque has another length in this program")
            deque.clear(target)
            deque.extend(target, new)
        case "set" if isinstance(target, set):
            fill_set(graft, target, extra[1])
        case _:
            pass


def set_attribute(target: Any, name: str, value: Any) -> None:
    """Set an attribute past the class's own `__setattr__`."""
    if isinstance(target, BaseException) and name == "args":
        target.args = value
    elif shape.is_slot(type(target), name):
        object.__setattr__(target, name, value)
    elif shape.has_dict(target):
        shape.own_dict(target)[name] = value
    else:
        raise CheckpointError(f"a {type_name(type(target))} has no place for the attribute `{name}`")
