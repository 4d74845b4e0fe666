"""numpy: arrays, views of arrays, memory maps, scalars, dtypes."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording import shape
from flor_dagster.recording.adapters.registry import Describe, Ref, Uncapturable, puts_back
from flor_dagster.recording.dtypes import dtype_from_text, dtype_text
from flor_dagster.recording.shape import MISSING

if TYPE_CHECKING:
    from flor_dagster.recording.capture import Buffer, Capturer
    from flor_dagster.recording.graft import Grafter

# So many parts of an array that nothing else leads to are captured each by itself; of one in more parts, the whole.
MOST_PARTS = 64
# How long it is tried to tell whether two parts of an array have bytes in common.
_OVERLAP_WORK = 1000


def recognise(kind: type) -> Describe | None:
    """What numpy makes, without importing it."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "ndarray"):
        return None
    if issubclass(kind, numpy.ndarray):
        return describe_array
    if issubclass(kind, numpy.generic) and not issubclass(kind, numpy.void):
        return describe_scalar
    if issubclass(kind, numpy.void):
        return describe_void
    return describe_dtype if issubclass(kind, numpy.dtype) else None


def describe_scalar(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A number, date or text of numpy."""
    del walk, node
    if value.dtype.hasobject:
        raise Uncapturable(f"is a {shape.type_name(type(value))} that holds objects")
    return ["npscalar", dtype_text(value.dtype), value.tobytes().hex()]


def describe_void(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A row of a structured array: a part of that array, unless it owns its memory."""
    if value.base is not None:
        raise Uncapturable("is a row of a structured array, which shares the array's memory")
    return describe_scalar(walk, value, node)


def describe_dtype(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A dtype."""
    del walk, node
    return ["npdtype", dtype_text(value)]


def describe_array(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """An array that owns its memory, or a view of one that does."""
    numpy: Any = sys.modules["numpy"]
    kind: type = type(value)
    owner, foreign = _owner(value, numpy)
    if kind is numpy.memmap and not owner.flags.writeable:
        place = [walk.ref(str(value.filename)), int(value.offset), list(value.shape), dtype_text(value.dtype)]
        return ["memmap", *place]
    if isinstance(owner, numpy.memmap) and owner.flags.writeable:
        raise Uncapturable("is mapped to a file that it writes to")
    if kind is not numpy.ndarray:
        raise Uncapturable(f"is a {shape.type_name(kind)}, a subclass of numpy.ndarray")
    if value.dtype.hasobject:
        return _describe_objects(walk, value, owner)
    if owner is not value and type(owner) is numpy.ndarray and _flat(owner):
        base = _base_of(walk, value, owner, numpy)
        if base is not None:
            return _describe_view(value, walk.ref(base), base)
    order = _order(value)
    node += [
        "array",
        dtype_text(value.dtype),
        list(value.shape),
        order,
        "",
        bool(value.flags.writeable),
        foreign,
    ]
    walk.spans.add(*_bounds(value), node)
    gaps = _has_gaps(value.dtype)
    address = value.__array_interface__["data"][0] if _contiguous(value) and not gaps else None
    read = (lambda: _without_gaps(value, numpy).tobytes(order=order)) if gaps else None
    buffer = walk.buffer(node, 4, value.nbytes, read or (lambda: value.tobytes(order=order)), address)
    if owner is value:
        _join_parts(walk, value, walk.parts.pop(id(value), []))
    elif type(owner) is numpy.ndarray:
        # What else the array holds may never have been written: it is only captured where something leads to it.
        walk.keep(owner)
        parts = walk.parts.setdefault(id(owner), [])
        _join_parts(walk, value, [part for part in parts if _within(part[0], value)])
        parts.append((value, node, buffer))
    return []


def _base_of(walk: Capturer, value: Any, owner: Any, numpy: Any) -> Any:
    """What a part of an array is captured as a view of: another part, the whole array, or None where by itself."""
    if id(owner) in walk.memo:
        return owner
    parts = walk.parts.get(id(owner), ())
    shared = [part for part, _, _ in parts if numpy.may_share_memory(value, part, max_work=_OVERLAP_WORK)]
    if not shared and len(parts) < MOST_PARTS:
        return None
    around = next((part for part in shared if _within(value, part) and id(part) in walk.memo), None)
    if around is not None or (len(parts) < MOST_PARTS and all(_within(part, value) for part in shared)):
        return around
    return owner


def _within(value: Any, around: Any) -> bool:
    """Whether an array's bytes all lie in another one that has no gaps."""
    (start, end), (begin, over) = _bounds(value), _bounds(around)
    return _contiguous(around) and begin <= start and end <= over


def _describe_objects(walk: Capturer, value: Any, owner: Any) -> list[Any]:
    if value.dtype.char != "O":
        raise Uncapturable(f"is an array of {value.dtype}, which can't be captured")
    if owner is not value:
        if type(owner) is not type(value) or owner.dtype.char != "O" or not _contiguous(owner):
            raise Uncapturable("is a view of objects that belong to something else")
        if _objects_at(owner, value.shape, value.strides, 0) is None:
            raise Uncapturable("is a view of objects with steps in several dimensions")
        return _describe_view(value, walk.ref(owner), owner)
    if not _contiguous(value):
        raise Uncapturable("is an array of objects with gaps")
    return ["oarray", list(value.shape), walk.refs(value.ravel(order="K").tolist()), _order(value)]


def _objects_at(base: Any, form: Any, strides: Any, offset: int) -> Any:
    """A view of an array of objects: numpy makes none from memory alone. None where it would need several steps."""
    size = 1
    for length in form:
        size *= length
    part = base.ravel(order="K")[offset // base.itemsize :]
    for order in ("C", "F"):
        if size <= len(part):
            new = part[:size].reshape(form, order=order)
            if tuple(new.strides) == tuple(strides):
                return new
    if len(form) == 1 and strides[0] % base.itemsize == 0 and strides[0] > 0:
        return part[:: strides[0] // base.itemsize][: form[0]]
    return None


def _join_parts(walk: Capturer, owner: Any, parts: list[tuple[Any, list[Any], Buffer]]) -> None:
    """Parts of an array that were met before it become views of it."""
    for part, node, buffer in parts:
        if buffer in walk.pending and _flat(owner):
            walk.rewrite(node, _describe_view(part, walk.memo[id(owner)], owner), buffer)


def _describe_view(value: Any, base: Ref, owner: Any) -> list[Any]:
    offset = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    writeable = bool(value.flags.writeable)
    return ["view", base, offset, list(value.shape), list(value.strides), dtype_text(value.dtype), writeable]


def _has_gaps(dtype: Any) -> bool:
    """Whether items have bytes that belong to no field: nobody writes them, so that they may hold anything."""
    if dtype.names is None:
        return dtype.subdtype is not None and _has_gaps(dtype.subdtype[0])
    fields = [dtype.fields[name][0] for name in dtype.names]
    return sum(field.itemsize for field in fields) < dtype.itemsize or any(map(_has_gaps, fields))


def _without_gaps(value: Any, numpy: Any) -> Any:
    clean = numpy.zeros(value.shape, value.dtype)
    _copy_fields(clean, value)
    return clean


def _copy_fields(target: Any, value: Any) -> None:
    for name in value.dtype.names:
        if value.dtype.fields[name][0].names is None:
            target[name] = value[name]
        else:
            _copy_fields(target[name], value[name])


def size_of(node: list[Any]) -> int:
    """The bytes of an array's items, of a node."""
    form, dtype = {"array": (2, 1), "view": (3, 5), "oarray": (1, None)}[node[0]]
    numpy: Any = sys.modules["numpy"]
    each = 8 if dtype is None else dtype_from_text(node[dtype], numpy).itemsize
    return math.prod(node[form]) * each


def _order(value: Any) -> str:
    return "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"


def _contiguous(value: Any) -> bool:
    return bool(value.flags.c_contiguous or value.flags.f_contiguous)


def _owner(array: Any, numpy: Any) -> tuple[Any, bool]:
    """The array at the end of the chain of bases, and whether its memory belongs to something that is no array."""
    while isinstance(array.base, numpy.ndarray):
        array = array.base
    return array, array.base is not None and type(array.base) is not bytes


def _bounds(array: Any) -> tuple[int, int]:
    """The memory that an array's items lie in: from the first byte to behind the last."""
    start = end = array.__array_interface__["data"][0]
    for size, stride in zip(array.shape, array.strides, strict=True):
        start += min(0, (size - 1) * stride)
        end += max(0, (size - 1) * stride)
    return (start, end + array.itemsize) if array.size else (start, start)


def _flat(owner: Any) -> bool:
    return _contiguous(owner) and not owner.dtype.hasobject


@puts_back("npscalar")
def put_scalar(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live scalar where it is equal, bit for bit."""
    del graft, ref
    numpy: Any = sys.modules["numpy"]
    data = bytes.fromhex(node[2])
    if live is not MISSING and live.tobytes() == data:
        return live
    return numpy.frombuffer(data, dtype=dtype_from_text(node[1], numpy))[0]


@puts_back("npdtype")
def put_dtype(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """A dtype."""
    del graft, ref
    return live if live is not MISSING else dtype_from_text(node[1], sys.modules["numpy"])


@puts_back("memmap")
def put_memmap(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live map of the same file."""
    del ref
    if live is MISSING or str(live.filename) != graft.value(node[1]):
        raise CheckpointError("an array that is mapped to a file can't be mapped anew")
    return live


@puts_back("array")
def put_array(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The recorded numbers in the live array's memory, or in an array of its own."""
    del ref
    numpy: Any = sys.modules["numpy"]
    _, dtype, form, order, digest, writeable, foreign = node
    data = graft.buffer(digest)
    saved = numpy.frombuffer(data, dtype=dtype_from_text(dtype, numpy)).reshape(form, order=order)
    if live is not MISSING:
        if not live.flags.writeable:
            live.flags.writeable = True
        numpy.copyto(live, saved)
        _tell(graft, live, digest)
        if not writeable:
            live.flags.writeable = False
        return live
    if foreign:
        raise CheckpointError("an array that shares its memory with something else can't be made anew")
    new = saved.copy(order=order)
    _tell(graft, new, digest)
    new.flags.writeable = writeable
    return new


def _tell(graft: Grafter, array: Any, digest: str) -> None:
    """Say where a buffer's content lies now; whoever looks there again compares before it believes that."""
    if _contiguous(array):
        graft.wrote(array.__array_interface__["data"][0], digest)


@puts_back("view")
def put_view(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live view where it lies in the same memory, else a new one of the base."""
    numpy: Any = sys.modules["numpy"]
    _, base_ref, offset, form, strides, dtype, writeable = node
    base = graft.value(base_ref)
    if ref in graft.memo:
        return graft.memo[ref]
    wanted = base.__array_interface__["data"][0] + offset
    if live is not MISSING and live.__array_interface__["data"][0] == wanted:
        if live.flags.writeable != writeable:
            live.flags.writeable = writeable
        return live
    if base.dtype.char == "O":
        new = _objects_at(base, form, strides, offset)
    else:
        new = numpy.ndarray(form, dtype_from_text(dtype, numpy), base, offset, strides)
    if new is None:
        raise CheckpointError("a view of an array of objects can't be made anew")
    if new.flags.writeable != writeable:
        new.flags.writeable = writeable
    return new


@puts_back("oarray")
def put_object_array(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The recorded objects in the live array, or in one of its own."""
    numpy: Any = sys.modules["numpy"]
    _, form, items, order = node
    target = live if live is not MISSING else numpy.empty(form, dtype=object, order=order)
    graft.memo[ref] = target
    flat = target.ravel(order="K")
    for index, item in enumerate(items):
        old = flat[index] if live is not MISSING else MISSING
        new = graft.value(item, old)
        if new is not old:
            flat[index] = new
    return target
