"""Which live object stands for which node of a captured graph, found before anything is changed.

A live object stands for a node where the same path leads to both and they are of one kind. It stands for one node only,
and not where the record knows that the path led to another object when the loop began: then the program put a new object
there, and who still holds the old one must find it unchanged. The nearest path to a root decides.
"""

from __future__ import annotations

import enum
import functools
import sys
import types
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from flor_dagster.recording import shape
from flor_dagster.recording.dtypes import same_dtype
from flor_dagster.recording.shape import MISSING, opaque_text
from flor_dagster.recording.state import WATCHED, Ref

Pair = tuple[Ref, Any, str]

# Kinds that hold other values and have no identity that anyone could rely on.
_VALUES = frozenset(
    {"tuple", "frozenset", "const", "slice", "pickle", "path", "npscalar", "npdtype", "torch", "enum", "find"}
)


class Matching:
    """Live objects for nodes.

    `live` maps a node's index to the object that is brought to its state, `template` to one of the same kind that only
    shows what a new one is made from.

    Args:
        nodes: the captured graph.
        roots: root name → (reference, live value or MISSING).
        moved: root name → the places under it (see `shape.child_items`) that got another object since the loop began;
            an empty text is the root itself.
        fresh: the nodes of objects that were made since then, None where that is not known.
        displaced: node of an object that stood elsewhere then → the live one, MISSING where it can't be found.

    `unfit` maps the nodes whose live object was there before and has another structure now; `lost` are nodes of objects
    that were there before and can't be found. `replaced` are live objects at places where a captured one is new, or none.
    """

    def __init__(
        self,
        nodes: list[Any],
        roots: Mapping[str, tuple[Ref, Any]],
        moved: Mapping[str, list[str]],
        fresh: frozenset[int] | None = None,
        displaced: Mapping[int, Any] | None = None,
    ) -> None:
        self._nodes = nodes
        self._fresh: frozenset[int] = fresh or frozenset()
        self._known = fresh is not None
        self._displaced = displaced or {}
        self.unfit: dict[int, Any] = {}
        self.lost: list[int] = []
        self.live: dict[int, Any] = {}
        self.template: dict[int, Any] = {}
        self._claimed: dict[int, int] = {}
        self._dropped: list[Any] = []
        self._models: list[tuple[Ref, Any]] = []
        held: list[tuple[Ref, Any]] = []
        bases: list[tuple[Ref, Any]] = []
        queue: deque[tuple[Ref, Any, list[str]]] = deque()
        for ref, found in self._displaced.items():
            if found is MISSING:
                self.lost.append(ref)
            queue.append((ref, found, []))
        for name, (ref, live) in roots.items():
            places = moved.get(name, [])
            if "" in places or self._is_fresh(ref):
                held.append((ref, live))
            else:
                queue.append((ref, live, places))
        code = (
            deque(index for index, node in enumerate(nodes) if node[0] in ("class", "function"))
            if roots
            else deque()
        )
        while queue or bases or code:
            # Code is known by its name, an array by a path of its own; only then by a view of it.
            if not queue:
                ref, live = self._by_own_name(code.popleft()) if code else bases.pop(0)
                queue.append((ref, live, []))
                continue
            ref, live, places = queue.popleft()
            if self._claim(ref, live):
                for child, value, place in self._children(self._nodes[ref], live):
                    if place in places or self._is_fresh(child):
                        held.append((child, value))
                    elif place == "base":
                        bases.append((child, value))
                    else:
                        queue.append((child, value, []))
        self.replaced = [*(live for _, live in held if live is not MISSING), *self._dropped]
        self._make_templates([*held, *self._models])
        self.unfit = {ref: live for ref, live in self.unfit.items() if ref not in self.live}

    def _is_fresh(self, ref: Ref) -> bool:
        return isinstance(ref, int) and ref in self._fresh

    def _by_own_name(self, ref: int) -> tuple[Ref, Any]:
        return ref, MISSING if ref in self.live else shape.find(self._nodes[ref][1].partition("@")[0])

    def _claim(self, ref: Ref, live: Any) -> bool:
        if not isinstance(ref, int) or ref in self.live or live is MISSING:
            return False
        if self._displaced.get(ref, live) is not live:
            return False  # what stands here was another object when the loop began, whatever its form
        if not fits(self._nodes[ref], live):
            if self._known and self._nodes[ref][0] in WATCHED:
                self.unfit.setdefault(ref, live)
            return False
        if self._nodes[ref][0] not in _VALUES and self._claimed.setdefault(id(live), ref) != ref:
            return False
        self.live[ref] = live
        return True

    def _make_templates(self, pairs: list[tuple[Ref, Any]]) -> None:
        queue = deque(pairs)
        while queue:
            ref, live = queue.popleft()
            known = not isinstance(ref, int) or ref in self.live or ref in self.template
            if known or live is MISSING or not fits(self._nodes[ref], live):
                continue
            self.template[ref] = live
            queue.extend((child, value) for child, value, _ in self._children(self._nodes[ref], live))

    # Children -------------------------------------------------------------------------------------------------------

    def _children(self, node: list[Any], live: Any) -> Iterator[Pair]:
        match node[0]:
            case "list" | "tuple":
                yield from _by_index(node[1], live)
                self._dropped += live[len(node[1]) :]
            case "slice":
                yield from _by_index(node[1], (live.start, live.stop, live.step))
            case "dict":
                yield from self._by_key(node[1], live)
            case "object":
                yield from self._of_object(node, live)
            case "class":
                yield from _by_name(node[2], dict(vars(live)))
                bases = {shape.type_name(base): base for base in (*live.__mro__, type(live))}
                for ref in node[3]:
                    yield ref, bases.get(self._nodes[ref][1], MISSING), ""
            case "function":
                yield from self._of_function(node, live)
            case _:
                yield from self._of_library(node, live)

    def _of_object(self, node: list[Any], live: Any) -> Iterator[Pair]:
        if node[2] is not None:
            yield node[2], type(live), ""
        yield from _by_name(node[3], shape.attributes_of(live))
        extra = node[4]
        if extra is None:
            return
        if extra[0] in ("dict", "defaultdict"):
            yield from self._by_key(extra[1], live)
        elif extra[0] != "set":
            yield from _by_index(extra[1], _items(live))
        if extra[0] == "defaultdict":
            yield extra[2], live.default_factory, ""

    def _of_function(self, node: list[Any], live: Any) -> Iterator[Pair]:
        for ref, cell in zip(node[2], live.__closure__ or (), strict=False):
            if ref is not None:
                try:
                    yield ref, cell.cell_contents, ""
                except ValueError:
                    continue
        yield from _by_index(node[3], live.__defaults__ or ())
        yield from self._by_key(node[4], live.__kwdefaults__ or {})
        yield from self._by_key(node[5], vars(live))

    def _of_library(self, node: list[Any], live: Any) -> Iterator[Pair]:
        match node[0]:
            case "bound":
                yield node[1], live.__func__, ""
                yield node[2], live.__self__, ""
            case "method":
                yield node[1], live.__self__, ""
            case "enum":
                yield node[1], type(live), ""
                yield from _by_name(node[3] if len(node) > 3 else {}, shape.own_dict(live))
            case "holder":
                yield from _by_index(node[2], shape.functions_in(live))
            case "partial":
                yield node[2], live.func, ""
                yield from _by_index(node[3], live.args)
                yield from self._by_key(node[4], live.keywords)
                yield from _by_name(node[5], shape.own_dict(live))
            case "proxy":
                yield node[1], shape.behind_proxy(live), ""
            case "weakref":
                target = live()
                if node[1] is not None and target is not None:
                    yield node[1], target, ""
            case "wrapper":
                yield node[2], shape.wrapped_by(live), ""
                yield from _by_name(node[3], shape.own_dict(live))
            case "view" | "oarray" | "tensor" | "rng.python" | "rng.generator":
                yield from self._of_numbers(node, live)
            case "weak":
                pairs = [(v, None) for v in live] if isinstance(live, weakref.WeakSet) else list(live.items())
                for (key, value), (live_key, live_value) in zip(node[2], pairs, strict=False):
                    yield key, live_key, ""
                    yield value, live_value, ""
            case _:
                return

    def _of_numbers(self, node: list[Any], live: Any) -> Iterator[Pair]:
        match node[0]:
            case "view":
                owner = live
                while owner.base is not None and type(owner.base) is type(live):
                    owner = owner.base
                yield node[1], owner, "base"
            case "oarray":
                yield from _by_index(node[2], live.ravel(order="K").tolist())
            case "tensor":
                if node[9] is not None and live.grad is not None:
                    yield node[9], live.grad, ""
                yield from _by_name(node[10], shape.tensor_dict(live))
            case "rng.python":
                yield from _by_name(node[3] if len(node) > 3 else {}, shape.attributes_of(live))
            case "rng.generator":
                yield node[1], live.bit_generator, ""
            case _:
                return

    def _by_key(self, pairs: list[list[Ref]], live: Any) -> Iterator[Pair]:
        items = list(dict.items(live))
        if len(items) > len(pairs):
            kept = {key[1] for key, _ in pairs if not isinstance(key, int) and key[0] in ("s", "v")}
            self._dropped += [value for key, value in items if not _is_plain(key) or key not in kept]
        by_key: dict[Any, Any] = {k: v for k, v in items if _is_plain(k)}
        for position, (key, value) in enumerate(pairs):
            if isinstance(key, int):
                # A key that is an object: by its position, if at all.
                live_key, live_value = items[position] if position < len(items) else (MISSING, MISSING)
                yield key, live_key, ""
                yield value, live_value, ""
            elif key[0] in ("s", "v"):
                found = by_key.get(key[1], MISSING)
                if found is MISSING and isinstance(value, int) and position < len(items):
                    self._models.append((value, items[position][1]))
                yield value, found, f"[{key[1]!r}]"


def _is_plain(key: Any) -> bool:
    return type(key) in (str, int, bool, float, bytes, type(None))


def _by_index(refs: list[Ref], live: Any) -> Iterator[Pair]:
    for index, (ref, value) in enumerate(zip(refs, live, strict=False)):
        yield ref, value, f"[{index}]"


def _by_name(refs: Mapping[str, Ref], live: Mapping[str, Any]) -> Iterator[Pair]:
    for name, ref in refs.items():
        yield ref, live.get(name, MISSING), f".{name}"


def _items(live: Any) -> list[Any]:
    if isinstance(live, list):
        return list(list.__iter__(live))
    if isinstance(live, deque):
        return list(deque.__iter__(live))
    return list(tuple.__iter__(live))


# Kinds ----------------------------------------------------------------------------------------------------------------

_EXACT: dict[str, type] = {
    "list": list, "dict": dict, "set": set, "frozenset": frozenset, "bytearray": bytearray, "slice": slice,
    "bound": types.MethodType, "weakref": weakref.ref, "const": range, "proxy": types.MappingProxyType,
}  # fmt: skip


def fits(node: list[Any], live: Any) -> bool:
    """Whether a live object is of a node's kind, so that it can be brought to the node's state or already has it."""
    kind = node[0]
    exact = _EXACT.get(kind)
    if exact is not None:
        return type(live) is exact
    name = shape.type_name(type(live))
    match kind:
        case "tuple":
            return type(live) is tuple and len(live) == len(node[1])
        case "object":
            return name == node[1] and _container_fits(node[4], live)
        case "class":
            return isinstance(live, type) and shape.type_name(live) == node[1]
        case "function":
            return isinstance(live, types.FunctionType) and shape.function_name(live) == node[1]
        case "method":
            return getattr(live, "__name__", None) == node[2] and hasattr(live, "__self__")
        case "holder":
            return type(live).__name__ == node[1]
        case "enum":
            return isinstance(live, enum.Enum)
        case "opaque":
            return opaque_text(live) == node[1]
        case "partial":
            return isinstance(live, functools.partial) and name == node[1]
        case "reduced" | "pickle" | "path" | "weak" | "memfile":
            return name == node[1]
        case _:
            return _library_fits(node, live, name)


def _container_fits(extra: list[Any] | None, live: Any) -> bool:
    if extra is None:
        return True
    if extra[0] == "tuple":
        return tuple.__len__(live) == len(extra[1])
    return extra[0] != "deque" or live.maxlen == extra[2]


def _library_fits(node: list[Any], live: Any, name: str) -> bool:
    match node[0]:
        case "array" | "view" | "oarray" | "npscalar" | "npdtype" | "memmap":
            numpy = sys.modules.get("numpy")
            return numpy is not None and _numpy_fits(node, live, numpy)
        case "torch":
            text = list(live) if name == "torch.Size" else str(live)
            return name == f"torch.{node[1]}" and text == node[2]
        case "tensor":
            torch = sys.modules.get("torch")
            return (
                torch is not None and isinstance(live, torch.Tensor) and name == node[1]
                and tensor_fits(node, live)
            )  # fmt: skip
        case "wrapper":
            return shape.wrapped_by(live) is not MISSING
        case "rng.python":
            return name == (node[2] if len(node) > 2 else "random.Random")
        case "rng.numpy":
            return name == node[1]
        case "rng.generator":
            return hasattr(live, "bit_generator")
        case "rng.seeds":
            return name.endswith("SeedSequence")
        case "rng.torch":
            return name == "torch._C.Generator" and str(live.device) == node[1]
        case _:
            return False  # a sparse tensor, too, is made anew: its parts have no place of their own


def _numpy_fits(node: list[Any], live: Any, numpy: Any) -> bool:
    is_array = type(live) is numpy.ndarray
    match node[0]:
        case "array":
            return (
                is_array and same_dtype(live.dtype, node[1]) and list(live.shape) == node[2] and _order(live) == node[3]
                and (bool(live.flags.writeable) or (live.flags.owndata and not node[5]))
            )  # fmt: skip
        case "view":
            return (
                is_array and live.base is not None and same_dtype(live.dtype, node[5])
                and list(live.shape) == node[3] and list(live.strides) == node[4]
            )  # fmt: skip
        case "oarray":
            whole = is_array and (live.flags.c_contiguous or live.flags.f_contiguous)
            return (
                whole and live.dtype.char == "O" and list(live.shape) == node[1] and _order(live) == node[3]
            )
        case "npscalar":
            return isinstance(live, numpy.generic) and same_dtype(live.dtype, node[1])
        case "npdtype":
            return isinstance(live, numpy.dtype) and same_dtype(live, node[1])
        case _:
            return isinstance(live, numpy.memmap) and live.offset == node[2] and list(live.shape) == node[3]


def _order(live: Any) -> str:
    return "F" if live.flags.f_contiguous and not live.flags.c_contiguous else "C"


def tensor_fits(node: list[Any], live: Any) -> bool:
    """Whether the values of a tensor node can be copied into a live tensor."""
    graph = node[8]
    return (
        not graph and live.grad_fn is None and str(live.dtype) == f"torch.{node[3]}" and list(live.shape) == node[4]
        and list(live.stride()) == node[5]
    )  # fmt: skip
