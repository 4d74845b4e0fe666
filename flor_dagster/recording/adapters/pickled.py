"""What only pickle understands: its own part as a pickle, everything that it refers to as nodes of the graph.

One pickle for the whole state would keep its aliases too; but it could only be put back as a new object, not into the
live ones, it would have to be made on the training's thread, and two of equal states need not be equal.
"""

from __future__ import annotations

import array
import contextlib
import decimal
import io
import pickle
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording import shape
from flor_dagster.recording.adapters.registry import Describe, Ref, Uncapturable, puts_back
from flor_dagster.recording.shape import MISSING, find

if TYPE_CHECKING:
    from flor_dagster.recording.capture import Capturer
    from flor_dagster.recording.graft import Grafter

# Immutable values that pickle holds exactly.
CONSTANTS = frozenset({"datetime", "decimal", "fractions", "uuid", "re", "zoneinfo", "ipaddress", "_decimal"})

# Python classes whose own pickling knows more of them than their attributes do.
PICKLED = frozenset({"pandas"})


def recognise(kind: type) -> Describe | None:
    """Constants of the standard library, paths, and whatever hides a part of its state from Python."""
    if kind in (io.StringIO, io.BytesIO):
        return describe_memory_file
    if kind is decimal.Context:
        return describe_reduced
    top = (kind.__module__ or "").partition(".")[0]
    if top in CONSTANTS:
        return describe_constant
    if top == "pathlib":
        return describe_path
    return describe_reduced if top in PICKLED or not shape.is_plain(kind) else None


def describe_constant(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """An immutable value."""
    del walk, node
    return ["pickle", shape.type_name(type(value)), pickle.dumps(value, 5).hex()]


def describe_path(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A path, by its text."""
    del node
    return ["path", shape.type_name(type(value)), walk.ref(str(value))]


def describe_reduced(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """An object as its own pickling shows it."""
    del node
    file = io.BytesIO()
    pickler = _Pickler(file, value, walk.ref, walk.is_own)
    try:
        pickler.dump(value)
    except Uncapturable as problem:
        raise problem.under(".…") from None
    except RecursionError:
        raise
    except Exception as error:  # noqa: BLE001 - any object's own pickling code may run here
        name = shape.type_name(type(value))
        raise Uncapturable(f"is a {name}, which can't be captured ({error})") from None
    return ["reduced", shape.type_name(type(value)), file.getvalue().hex(), pickler.refs]


class _Pickler(pickle.Pickler):
    """Pickles one object's own part; what it refers to is referred to."""

    def __init__(
        self, file: Any, root: Any, ref: Callable[[Any], Ref], is_own: Callable[[str], bool]
    ) -> None:
        super().__init__(file, 5)
        self._root = root
        self._ref = ref
        self._is_own = is_own
        self.refs: list[Ref] = []

    def persistent_id(self, obj: Any) -> int | None:
        if obj is self._root or obj is None or type(obj) in (bool, int, float):
            return None
        code = isinstance(obj, type | types.FunctionType | types.BuiltinFunctionType)
        if code and not self._is_own(obj.__module__ or ""):
            return None
        self.refs.append(self._ref(obj))
        return len(self.refs) - 1


class _Unpickler(pickle.Unpickler):
    """Takes what a pickle only refers to from the graph that it belongs to."""

    def __init__(self, file: io.BytesIO, value: Callable[[int], Any]) -> None:
        super().__init__(file)
        self._graph_value = value

    def persistent_load(self, pid: Any) -> Any:
        return self._graph_value(pid)


@puts_back("path")
def put_path(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live path where it says the same."""
    del ref
    text = graft.value(node[2])
    if live is not MISSING and str(live) == text:
        return live
    kind: Any = find(node[1])
    return kind(text)


@puts_back("pickle")
def put_constant(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live value where it is equal."""
    del graft, ref
    data = bytes.fromhex(node[2])
    if live is not MISSING and pickle.dumps(live, 5) == data:
        return live
    return pickle.loads(data)  # from the project's own store: who may write it may run code


@puts_back("reduced")
def put_reduced(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """A new object, or the live one brought to its state where that one was changed in place."""
    unpickler = _Unpickler(io.BytesIO(bytes.fromhex(node[2])), lambda number: graft.value(node[3][number]))
    new = graft.now(ref, unpickler.load)
    if live is MISSING or not graft.changed:
        return new
    with contextlib.suppress(Exception):
        _bring(live, new)
    if not graft.is_in_state(ref, live):
        raise CheckpointError(f"a {node[1]} was changed in place, and can't be put back in place")
    return live


def _bring(live: Any, new: Any) -> None:
    """Give a live object the state of another one of its type, by the ways that its type offers."""
    if isinstance(live, array.array):
        live[:] = new
    elif hasattr(live, "_update_inplace"):  # pandas
        live._update_inplace(new)  # noqa: SLF001 - what `inplace=True` does there
        live.__dict__.update({k: v for k, v in new.__dict__.items() if k in ("_attrs", "_flags")})
    elif isinstance(live, decimal.Context):
        for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp"):
            setattr(live, name, getattr(new, name))
        live.traps.update(new.traps)
        live.flags.update(new.flags)
    elif hasattr(live, "__setstate__"):
        live.__setstate__(new.__getstate__() if hasattr(new, "__getstate__") else new.__reduce_ex__(2)[2])


def describe_memory_file(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A text or bytes in memory that is read and written like a file."""
    del node
    name = shape.type_name(type(value))
    if value.closed:
        return ["memfile", name, None, None, 0, {}]
    content, *newline, position, attributes = value.__getstate__()
    return [
        "memfile", name, walk.ref(content), walk.ref(newline[0] if newline else None), position,
        walk.named(attributes or {}),
    ]  # fmt: skip


@puts_back("memfile")
def put_memory_file(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live one, with the recorded content and position."""
    _, name, content, newline, position, attributes = node
    target = live if live is not MISSING else getattr(io, name.rpartition(".")[2])()
    graft.memo[ref] = target
    if content is None:
        target.close()
        return target
    if target.closed:
        raise CheckpointError("a closed file in memory can't be opened again")
    newlines = () if name.endswith("BytesIO") else (graft.value(newline),)
    more = {key: graft.value(item) for key, item in attributes.items()}
    target.__setstate__((graft.value(content), *newlines, position, more or None))
    return target
