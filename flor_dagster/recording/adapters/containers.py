"""Lists, tuples, dicts, sets, queues and ranges."""

from __future__ import annotations

import functools
import types
from collections import OrderedDict, defaultdict, deque
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording import shape
from flor_dagster.recording.adapters.registry import Ref, Uncapturable, describes, puts_back
from flor_dagster.recording.shape import MISSING

if TYPE_CHECKING:
    from flor_dagster.recording.capture import Capturer
    from flor_dagster.recording.graft import Grafter


@describes(list)
def describe_list(walk: Capturer, value: list[Any], node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    return ["list", walk.refs(value)]


@describes(tuple)
def describe_tuple(walk: Capturer, value: tuple[Any, ...], node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    return ["tuple", walk.refs(value)]


@describes(dict)
def describe_dict(walk: Capturer, value: dict[Any, Any], node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    return ["dict", walk.pairs(value.items())]


@describes(set, frozenset)
def describe_set(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    if len(value) > 1 and any(_hashed_by_place(type(item)) for item in value):
        raise Uncapturable("is a set of objects whose order depends on their places in memory")
    return [type(value).__name__, walk.refs(value)]


@functools.lru_cache(maxsize=1024)
def _hashed_by_place(kind: type) -> bool:
    """Whether objects of a type are told apart by where they lie; code and constants are found by their names."""
    by_name = issubclass(
        kind, type | types.FunctionType | types.ModuleType | types.BuiltinFunctionType | types.NoneType
    )
    tensor = kind.__module__.partition(".")[0] == "torch" and hasattr(kind, "untyped_storage")
    return tensor or (kind.__hash__ is object.__hash__ and not by_name)


@describes(types.MappingProxyType)
def describe_proxy(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A read-only view of a mapping: the mapping."""
    del node
    mapping = shape.behind_proxy(value)
    if mapping is MISSING or ("__module__" in mapping and "__doc__" in mapping):
        raise Uncapturable("is the namespace of a class")
    return ["proxy", walk.ref(mapping)]


@describes(range)
def describe_range(walk: Capturer, value: range, node: list[Any]) -> list[Any]:
    """A node for it."""
    del walk, node
    return ["const", repr(value)]


@describes(slice)
def describe_slice(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    return ["slice", walk.refs((value.start, value.stop, value.step))]


@describes(bytearray)
def describe_bytearray(walk: Capturer, value: bytearray, node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    data = walk.ref(bytes(value))  # as that of bytes, which are kept without likely secrets
    return ["bytearray", data[1] if data[0] == "b" else data]


@describes(deque)
def describe_deque(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    return ["object", "collections.deque", None, {}, container_part(walk, value, deque)]


def container_part(walk: Capturer, value: Any, kind: type) -> list[Any] | None:
    """What a subclass of a built-in container holds as such, None for others."""
    if not _is_container(kind):
        return None
    # By the built-in types' own methods: a subclass may say something else of its content.
    if issubclass(kind, defaultdict):
        return ["defaultdict", walk.pairs(dict.items(value)), walk.ref(value.default_factory)]
    if issubclass(kind, dict):
        items = OrderedDict.items(value) if issubclass(kind, OrderedDict) else dict.items(value)
        return ["dict", walk.pairs(items)]
    if issubclass(kind, list):
        return ["list", walk.refs(list.__iter__(value))]
    if issubclass(kind, deque):
        return ["deque", walk.refs(deque.__iter__(value)), value.maxlen]
    if issubclass(kind, tuple):
        return ["tuple", walk.refs(tuple.__iter__(value))]
    if issubclass(kind, set | frozenset):
        return ["set", walk.refs(kind.__iter__(value))]
    return None


@puts_back("proxy")
def put_proxy(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live view where it is one of the recorded mapping, else a new one."""
    del ref
    before = MISSING if live is MISSING else shape.behind_proxy(live)
    mapping = graft.value(node[1], before)
    return live if live is not MISSING and mapping is before else types.MappingProxyType(mapping)


@puts_back("list")
def put_list(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live list, filled."""
    target: list[Any] = live if live is not MISSING else []
    graft.memo[ref] = target
    fill_list(graft, target, node[1])
    return target


def fill_list(graft: Grafter, target: Any, refs: list[Ref]) -> None:
    """Give a list its recorded items; it is not touched where it has them."""
    old = list(list.__iter__(target))
    new = graft.values(refs, old)
    if len(new) != len(old) or any(a is not b for a, b in zip(new, old, strict=True)):
        list.__setitem__(target, slice(None), new)


@puts_back("tuple")
def put_tuple(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live tuple where its members are the same objects."""
    old: tuple[Any, ...] = live if live is not MISSING else ()
    new = tuple(graft.values(node[1], old))
    if ref in graft.memo:  # reached through one of its own members
        return graft.memo[ref]
    return old if len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True)) else new


@puts_back("slice")
def put_slice(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live slice where its parts are the same."""
    del ref
    old = () if live is MISSING else (live.start, live.stop, live.step)
    new = graft.values(node[1], old)
    return live if old and all(a is b for a, b in zip(old, new, strict=True)) else slice(*new)


@puts_back("bytearray")
def put_bytearray(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live bytearray, filled."""
    del ref
    target = live if live is not MISSING else bytearray()
    data = bytes.fromhex(node[1]) if isinstance(node[1], str) else graft.value(node[1], MISSING)
    if target != data:
        target[:] = data
    return target


@puts_back("dict")
def put_dict(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live dict, filled."""
    target: dict[Any, Any] = live if live is not MISSING else {}
    graft.memo[ref] = target
    fill_dict(graft, target, node[1])
    return target


def fill_dict(graft: Grafter, target: Any, pairs: list[list[Ref]]) -> None:
    """Give a dict its recorded pairs, in their order."""
    if any(isinstance(k, int) and k not in graft.memo for k, _ in pairs):
        # Keys that are objects (an optimizer's parameters) are put back elsewhere in the graph first.
        graft.later.append(lambda: fill_dict_now(graft, target, pairs))
    else:
        fill_dict_now(graft, target, pairs)


def fill_dict_now(graft: Grafter, target: Any, pairs: list[list[Ref]]) -> None:
    """Likewise, at once."""
    ordered = isinstance(target, OrderedDict)
    current: list[tuple[Any, Any]] = list(OrderedDict.items(target) if ordered else dict.items(target))
    by_key = dict(current)
    new: list[tuple[Any, Any]] = []
    for position, (key_ref, value_ref) in enumerate(pairs):
        key = graft.value(key_ref, current[position][0] if position < len(current) else MISSING)
        new.append((key, graft.value(value_ref, by_key.get(key, MISSING))))
    if len(current) == len(new) and all(
        a is c and b is d for (a, b), (c, d) in zip(current, new, strict=True)
    ):
        return
    kind: Any = OrderedDict if ordered else dict
    kind.clear(target)
    for key, value in new:
        kind.__setitem__(target, key, value)


@puts_back("set")
def put_set(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live set, filled."""
    target: set[Any] = live if live is not MISSING else set()
    graft.memo[ref] = target
    fill_set(graft, target, node[1])
    return target


def fill_set(graft: Grafter, target: set[Any], refs: list[Ref]) -> None:
    """Give a set its recorded members, in the order that it showed them in."""
    new = [graft.value(r) for r in refs]
    if _same_order(target, new):
        return
    set.clear(target)
    for item in new:
        set.add(target, item)
    # Numbers have one order for one history; texts hang on the hash seed and are as the run has them.
    if any(type(item) not in (int, float, bool) for item in new) or _same_order(target, new):
        return
    raise CheckpointError("the order of a set can't be put back")


@puts_back("frozenset")
def put_frozenset(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live frozenset where it is equal."""
    new = frozenset(graft.now(ref, lambda: [graft.value(r) for r in node[1]]))
    return live if live is not MISSING and live == new else new


@puts_back("const")
def put_range(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """A range."""
    del ref
    if live is not MISSING and repr(live) == node[1]:
        return live
    return range(*(int(p) for p in node[1].partition("(")[2].rstrip(")").split(",")))


def _same_order(target: set[Any], new: list[Any]) -> bool:
    now = list(target)
    return len(now) == len(new) and all(type(a) is type(b) and a == b for a, b in zip(now, new, strict=True))


@functools.lru_cache(maxsize=4096)
def _is_container(kind: type) -> bool:
    return issubclass(kind, dict | list | deque | tuple | set | frozenset)
