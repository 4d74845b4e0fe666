"""Capture: walk live objects into a `State`.

Functions of the repository count as state through their closures, their defaults and the globals that they name; a
global is a root of its own, `module:name`. Objects of libraries that only carry output (loggers, progress bars, writers)
are `opaque`: the live one stays. Everything else is captured by value, or named as what can't be.
"""

from __future__ import annotations

import enum
import functools
import io
import pickle
import random
import struct
import sys
import threading
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flor_dagster.recording import shape
from flor_dagster.recording.memory import LEAST_BYTES, Copy, KnownMemory
from flor_dagster.recording.source import DYNAMIC_NAMES
from flor_dagster.recording.state import Ref, State, digest_bytes

MAX_NODES = 400_000
SMALL_BASE_BYTES = 1 << 20

# Libraries whose objects only carry output: putting a training back does not put them back.
SINKS = (
    "logging", "tqdm", "rich", "tensorboard", "tensorboardX", "torch.utils.tensorboard", "wandb", "mlflow",
    "flor_dagster", "structlog", "loguru", "dagster",
)  # fmt: skip

# Immutable values that pickle holds exactly.
CONSTANTS = frozenset({"datetime", "decimal", "fractions", "uuid", "re", "zoneinfo", "ipaddress", "_decimal"})

# Python classes whose own pickling knows more of them than their attributes do.
PICKLED = frozenset({"pandas"})

_LOCKS = frozenset({"_thread.lock", "_thread.RLock", "threading._RLock"})
_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
_UNCOPIED: Any = object()


class Uncapturable(Exception):  # noqa: N818 - a signal inside this module's walk, not an error for anyone
    """A value that can't be captured: what it is, and the way to it, gathered on the way back up the walk."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self._what = what
        self._way: list[str] = []

    def under(self, step: str) -> Uncapturable:
        """The same problem, seen from one level above."""
        self._way.append(step)
        return self

    def sentence(self, root: str) -> str:
        """What can't be captured, by its name."""
        kind, _, name = root.partition(":")
        shown = name if kind in ("name", "object", "random") or name else kind
        return f"`{shown}{''.join(reversed(self._way))}` {self._what}"


@dataclass(slots=True)
class Buffer:
    """Memory that a node refers to; copied once the walk is over."""

    node: list[Any]
    slot: int
    size: int
    read: Callable[[], bytes]
    address: int | None = None
    data: Any = _UNCOPIED
    copy: Copy | None = None


class Capturer:
    """Walks objects into a `State`.

    Args:
        is_own: whether a module's name belongs to the code that is versioned (its functions and globals are state).
        root_path: the repository's path; it is replaced in strings, so that a replay elsewhere compares equal.
        known: the copies of the captures before this one.
    """

    def __init__(
        self, is_own: Callable[[str], bool], root_path: str = "", known: KnownMemory | None = None
    ) -> None:
        self.state = State()
        self._known = known
        self._is_own = is_own
        self._root_path = root_path
        self._memo: dict[int, int] = {}
        self._log: list[int] = []
        self._rewritten: list[tuple[list[Any], list[Any], Buffer]] = []
        self._keep: list[Any] = []
        self._pending: list[Buffer] = []
        self._memory: list[tuple[int, int, list[Any]]] = []
        self._parts: dict[int, list[tuple[Any, list[Any], Buffer]]] = {}
        self._functions: list[types.FunctionType] = []
        self._globals: dict[str, None] = {}

    def add(self, name: str, value: Any) -> None:
        """Capture one root. What can't be captured is noted in `unavailable`."""
        marks = len(self.state.nodes), len(self._pending), len(self._log), len(self._rewritten)
        try:
            self.state.roots[name] = self._ref(value)
        except Uncapturable as problem:
            self._undo(name, problem.sentence(name), marks)
        except RecursionError:
            self._undo(name, Uncapturable("is nested too deeply").sentence(name), marks)
        except Exception as error:  # noqa: BLE001 - an object's own code (properties, pickling) may run here
            words = f"can't be captured ({type(error).__name__}: {error})"
            self._undo(name, Uncapturable(words).sentence(name), marks)

    def _undo(self, name: str, reason: str, marks: tuple[int, int, int, int]) -> None:
        nodes, pending, log, rewritten = marks
        self.state.unavailable[name] = reason
        del self.state.nodes[nodes:]
        for key in self._log[log:]:
            self._memo.pop(key, None)
        del self._log[log:]
        for node, before, buffer in self._rewritten[rewritten:]:
            node[:] = before
            self._pending.insert(0, buffer)
            pending += 1
        del self._rewritten[rewritten:]
        del self._pending[pending:]

    def note_code(self, code: types.CodeType, namespace: Mapping[str, Any]) -> None:
        """Make the globals that a code object names roots: whatever it runs may change them."""
        for name in shape.code_names(code):
            if name in namespace:
                self.note_global(namespace, name)
            elif name in DYNAMIC_NAMES:
                module = namespace.get("__name__", "?")
                self.state.unavailable[f"{module}:{name}"] = (
                    f"`{code.co_qualname}` calls `{name}`, so what it changes can't be known"
                )
        package = namespace.get("__package__") or ""
        for name in shape.code_imports(code):
            for full in (name, f"{package}.{name}" if name else package):
                module = sys.modules.get(full)
                if module is not None and self._is_own(full):
                    self._module(module)

    def note_global(self, namespace: Mapping[str, Any], name: str) -> None:
        """Make one global of one of the repository's modules a root."""
        module = namespace.get("__name__")
        if (
            isinstance(module, str)
            and not (name.startswith("__") and name.endswith("__"))
            and self._is_own(module)
        ):
            self._globals.setdefault(f"{module}:{name}")

    def follow(self) -> None:
        """Capture every noted global, and what the functions found on the way name in turn."""
        done: set[str] = set()
        while True:
            while self._functions:
                function = self._functions.pop()
                self.note_code(function.__code__, function.__globals__)
            open_names = [key for key in self._globals if key not in done]
            if not open_names:
                return
            for key in open_names:
                done.add(key)
                module, _, name = key.partition(":")
                namespace = getattr(sys.modules.get(module), "__dict__", {})
                if name in namespace and key not in self.state.roots:
                    self.add(key, namespace[name])

    def copy(self) -> None:
        """Copy the memory of arrays and tensors: from here on the training may go on."""
        for buffer in self._pending:
            if buffer.data is _UNCOPIED:
                self._copy_buffer(buffer)
        self._find_shared()

    def _copy_buffer(self, buffer: Buffer) -> None:
        known, address = self._known, buffer.address
        if known is None or address is None or buffer.size < LEAST_BYTES:
            buffer.data = buffer.read()
            return
        buffer.copy = known.same(address, buffer.size)
        if buffer.copy is None:
            buffer.copy = Copy(buffer.read())
            known.keep(address, buffer.size, buffer.copy)
        buffer.data = buffer.copy.data

    def _find_shared(self) -> None:
        """Memory that belongs to something else only matters where something else in the graph leads to it."""
        if any(node[-1] is True for _, _, node in self._memory):
            spans = sorted(self._memory, key=lambda span: span[:2])
            shared: set[int] = set()
            reach, holder = -1, -1
            for start, end, node in spans:
                if start < reach:
                    shared |= {id(node), holder}
                if end > reach:
                    reach, holder = end, id(node)
            for _, _, node in spans:
                if node[0] in ("array", "storage"):
                    node[-1] = node[-1] and id(node) in shared
        self._memory.clear()

    def finish(self) -> State:
        """Digest the copied buffers and return the state."""
        self.copy()
        for buffer in self._pending:
            digest = (buffer.copy.digest if buffer.copy is not None else None) or digest_bytes(buffer.data)
            if buffer.copy is not None:
                buffer.copy.digest = digest
            buffer.node[buffer.slot] = digest
            self.state.buffers.setdefault(digest, buffer.data)
        self._pending.clear()
        self._keep.clear()
        self._memo.clear()
        self._parts.clear()
        return self.state

    @property
    def pending_bytes(self) -> int:
        """The bytes that are copied, or to be copied."""
        return sum(buffer.size for buffer in self._pending)

    # The walk ---------------------------------------------------------------------------------------------------

    def _ref(self, value: Any) -> Ref:
        scalar = _SCALARS.get(type(value))
        if scalar is not None:
            return self._text(value) if scalar is _text else scalar(value)
        known = self._memo.get(id(value))
        if known is not None:
            return known
        index = self._new_node(id(value), value)
        node = self.state.nodes[index]
        node += self._describe(value, node)
        return index

    def _new_node(self, key: int, keep: Any) -> int:
        index = len(self.state.nodes)
        if index >= MAX_NODES:
            raise Uncapturable(f"is too large to capture (over {MAX_NODES:,} objects)")
        self.state.nodes.append([])
        self._memo[key] = index
        self._log.append(key)
        self._keep.append(keep)  # an id is only unique while the object lives
        return index

    def _text(self, value: str) -> Ref:
        if self._root_path and self._root_path in value and "\0" not in value:
            return ["p", value.replace(self._root_path, "\0")]
        return ["s", value]

    def _describe(self, value: Any, node: list[Any]) -> list[Any]:
        kind: type = type(value)
        handler = _HANDLERS.get(kind)
        if handler is not None:
            return getattr(self, handler)(value)
        for library in (self._random, self._numpy, self._torch):
            described = library(value, kind, node)
            if described is not None:
                return described
        if issubclass(kind, type):
            return self._class(value)
        if issubclass(kind, enum.Enum):
            return ["enum", self._ref(kind), self._ref(value._value_)]
        return self._instance(value, kind)

    def _refs(self, values: Iterable[Any]) -> list[Ref]:
        refs: list[Ref] = []
        value: Any = None
        try:
            for value in values:
                refs += (self._ref(value),)  # one by one: their number says where it fails
        except Uncapturable as problem:
            raise problem.under(f"[{len(refs)}]") from None
        return refs

    def _pairs(self, pairs: Iterable[tuple[Any, Any]]) -> list[list[Ref]]:
        result: list[list[Ref]] = []
        key: Any = None
        try:
            for key, item in list(pairs):
                result.append([self._ref(key), self._ref(item)])
        except Uncapturable as problem:
            raise problem.under(f"[{key!r}]" if type(key) in (str, int) else "[…]") from None
        return result

    def _named(self, items: Mapping[str, Any]) -> dict[str, Ref]:
        result: dict[str, Ref] = {}
        name = ""
        try:
            for name, item in list(items.items()):
                result[name] = self._ref(item)
        except Uncapturable as problem:
            raise problem.under(f".{name}") from None
        return result

    def _list(self, value: list[Any]) -> list[Any]:
        return ["list", self._refs(value)]

    def _tuple(self, value: tuple[Any, ...]) -> list[Any]:
        return ["tuple", self._refs(value)]

    def _dict(self, value: dict[Any, Any]) -> list[Any]:
        return ["dict", self._pairs(value.items())]

    def _set(self, value: Any) -> list[Any]:
        return [type(value).__name__, self._refs(value)]

    def _range(self, value: range) -> list[Any]:
        return ["const", repr(value)]

    def _slice(self, value: Any) -> list[Any]:
        return ["slice", self._refs((value.start, value.stop, value.step))]

    def _bytearray(self, value: bytearray) -> list[Any]:
        return ["bytearray", value.hex()]

    # Code -------------------------------------------------------------------------------------------------------

    def _class(self, value: type) -> list[Any]:
        name = shape.type_name(value)
        if not self._is_own(value.__module__):
            return ["find", name] if shape.find(name) is value else ["opaque", opaque_text(value)]
        attributes = {k: v for k, v in list(vars(value).items()) if not shape.is_machinery(k, v)}
        bases = [base for base in (*value.__bases__, type(value)) if self._is_own(base.__module__)]
        return ["class", name, self._named(attributes), self._refs(bases)]

    def _holder(self, value: Any) -> list[Any]:
        return ["holder", type(value).__name__, self._refs(shape.functions_in(value))]

    def _function(self, value: types.FunctionType) -> list[Any]:
        own = self._is_own(str(value.__globals__.get("__name__", "")))
        name = shape.function_name(value)
        if own:
            self._functions.append(value)
        elif value.__closure__ is None and shape.find(name) is value:
            return ["find", name]
        cells: list[Ref | None] = []
        for free, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                cells.append(self._ref(cell.cell_contents))
            except ValueError:
                cells.append(None)
            except Uncapturable as problem:
                raise problem.under(f".<{free}>") from None
        # A library's defaults are its own business; what its closures hold may be the program's.
        defaults = self._refs(value.__defaults__ or ()) if own else []
        keywords = self._pairs((value.__kwdefaults__ or {}).items()) if own else []
        return ["function", name, cells, defaults, keywords, self._pairs(vars(value).items())]

    def _bound(self, value: types.MethodType) -> list[Any]:
        try:
            return ["bound", self._ref(value.__func__), self._ref(value.__self__)]
        except Uncapturable as problem:
            raise problem.under(".__self__") from None

    def _builtin(self, value: Any) -> list[Any]:
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType | type):
            return ["method", self._ref(owner), value.__name__]
        return self._reduced(value, type(value))

    def _module(self, value: types.ModuleType) -> list[Any]:
        # Its globals become roots of their own.
        if self._is_own(value.__name__):
            for name, item in list(vars(value).items()):
                self.note_global(vars(value), name)
                if isinstance(item, types.ModuleType) and self._is_own(item.__name__):
                    self._ref(item)
        return ["find", f"module {value.__name__}"]

    # Libraries --------------------------------------------------------------------------------------------------

    def _random(self, value: Any, kind: type, node: list[Any]) -> list[Any] | None:
        del node
        if not issubclass(kind, random.Random):
            return None
        if issubclass(kind, random.SystemRandom):
            return ["opaque", opaque_text(value)]
        version, internal, gauss = random.Random.getstate(value)
        attributes = {k: v for k, v in shape.attributes_of(value).items() if k != "gauss_next"}
        return [
            "rng.python",
            [version, list(internal), gauss],
            shape.type_name(kind),
            self._named(attributes),
        ]

    def _numpy(self, value: Any, kind: type, node: list[Any]) -> list[Any] | None:
        numpy = sys.modules.get("numpy")
        if numpy is None or not hasattr(numpy, "ndarray"):
            return None
        if issubclass(kind, numpy.ndarray):
            return self._array(value, kind, node, numpy)
        if issubclass(kind, numpy.generic):
            return (
                None
                if value.dtype.hasobject
                else ["npscalar", _dtype_text(value.dtype), value.tobytes().hex()]
            )
        if issubclass(kind, numpy.dtype):
            return ["npdtype", _dtype_text(value)]
        # Never by `numpy.random` itself, whose first use would load it, and seed it, for the training.
        generators = sys.modules.get("numpy.random")
        if generators is None or not hasattr(generators, "Generator"):
            return None
        if issubclass(kind, generators.RandomState):
            return ["rng.numpy", shape.type_name(kind), _jsonable_rng(value.get_state(legacy=False)), None]
        if issubclass(kind, generators.BitGenerator):
            return ["rng.numpy", shape.type_name(kind), _jsonable_rng(value.state), _seeds(value)]
        if kind is generators.Generator:
            return ["rng.generator", self._ref(value.bit_generator)]
        return None

    def _array(self, value: Any, kind: type, node: list[Any], numpy: Any) -> list[Any]:
        if value.dtype.hasobject:
            if value.dtype.char != "O" or kind is not numpy.ndarray:
                raise Uncapturable(f"is an array of {value.dtype}, which can't be captured")
            return ["oarray", list(value.shape), self._refs(value.ravel().tolist())]
        owner, foreign = _owner(value, numpy)
        if kind is numpy.memmap and not owner.flags.writeable:
            return [
                "memmap",
                self._ref(str(value.filename)),
                int(value.offset),
                list(value.shape),
                _dtype_text(value.dtype),
            ]
        if isinstance(owner, numpy.memmap) and owner.flags.writeable:
            raise Uncapturable("is mapped to a file that it writes to")
        if kind is not numpy.ndarray:
            raise Uncapturable(f"is a {shape.type_name(kind)}, a subclass of numpy.ndarray")
        if owner is not value and type(owner) is numpy.ndarray and _flat(owner):
            overlaps = any(
                numpy.may_share_memory(value, part) for part, _, _ in self._parts.get(id(owner), ())
            )
            if id(owner) in self._memo or overlaps or owner.nbytes <= max(2 * value.nbytes, SMALL_BASE_BYTES):
                return self._view(value, self._ref(owner), owner)
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        node += ["array", _dtype_text(value.dtype), list(value.shape), order, "", foreign]
        self._memory.append((*_bounds(value), node))
        buffer = self._buffer(node, 4, value.nbytes, lambda: value.tobytes(order=order))
        if value.flags.c_contiguous or value.flags.f_contiguous:
            buffer.address = value.__array_interface__["data"][0]
        if owner is value:
            self._join_parts(value)
        elif type(owner) is numpy.ndarray:
            # A small part of a large array: the whole is only captured where something else leads to it.
            self._keep.append(owner)
            self._parts.setdefault(id(owner), []).append((value, node, buffer))
        return []

    def _join_parts(self, owner: Any) -> None:
        """Parts of an array that were met before it become views of it."""
        for part, node, buffer in self._parts.pop(id(owner), []):
            if buffer in self._pending and _flat(owner):
                self._rewritten.append((node, list(node), buffer))
                self._pending.remove(buffer)
                node[:] = self._view(part, self._memo[id(owner)], owner)

    def _view(self, value: Any, base: Ref, owner: Any) -> list[Any]:
        offset = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        return ["view", base, offset, list(value.shape), list(value.strides), _dtype_text(value.dtype)]

    def _torch(self, value: Any, kind: type, node: list[Any]) -> list[Any] | None:
        del node
        torch = sys.modules.get("torch")
        if torch is None or not hasattr(torch, "Tensor"):
            return None
        if issubclass(kind, torch.Tensor):
            return self._tensor(value, kind, torch)
        if issubclass(kind, torch.Generator):
            return ["rng.torch", str(value.device), value.get_state().numpy().tobytes().hex()]
        if issubclass(kind, torch.device | torch.dtype | torch.layout | torch.memory_format):
            return ["torch", kind.__name__, str(value)]
        return ["torch", "Size", list(value)] if issubclass(kind, torch.Size) else None

    def _tensor(self, value: Any, kind: type, torch: Any) -> list[Any]:
        if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
            raise Uncapturable(f"is a {value.layout} tensor on {value.device}")
        plain = value.detach()
        storage = plain.untyped_storage()
        key = -storage._cdata  # noqa: SLF001 - the one identity of a storage that outlives its Python wrapper
        index = self._memo.get(key)
        if index is None:
            index = self._new_node(key, storage)
            node = self.state.nodes[index]
            foreign = value.device.type == "cpu" and not storage.resizable()
            node += ["storage", str(value.device), storage.nbytes(), "", foreign]
            if value.device.type == "cpu":
                self._memory.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes(), node))
            buffer = self._buffer(
                node, 3, storage.nbytes(), functools.partial(_storage_bytes, storage, torch)
            )
            if value.device.type == "cpu":
                buffer.address = storage.data_ptr()
        graph = value.grad_fn is not None or getattr(value, "_flor_without_graph", False)
        gradient = None if graph or value.grad is None else self._ref(value.grad)
        attributes = {k: v for k, v in shape.own_dict(value).items() if k != "_flor_without_graph"}
        return [
            "tensor", shape.type_name(kind), index, str(value.dtype).removeprefix("torch."), list(value.shape),
            list(value.stride()), value.storage_offset(), bool(value.requires_grad) and not graph, graph, gradient,
            self._named(attributes),
        ]  # fmt: skip

    def _buffer(self, node: list[Any], slot: int, size: int, read: Callable[[], bytes]) -> Buffer:
        buffer = Buffer(node, slot, size, read)
        self._pending.append(buffer)
        return buffer

    # Instances --------------------------------------------------------------------------------------------------

    def _weakref(self, value: Any) -> list[Any]:
        target = value()
        return ["weakref", None if target is None else self._ref(target)]

    def _instance(self, value: Any, kind: type) -> list[Any]:
        module = kind.__module__ or ""
        if _is_sink(module) or shape.type_name(kind) in _LOCKS or module == "typing":
            return ["opaque", opaque_text(value)]
        top = module.partition(".")[0]
        if top in CONSTANTS:
            return ["pickle", shape.type_name(kind), pickle.dumps(value, 5).hex()]
        if top == "pathlib":
            return ["path", shape.type_name(kind), self._ref(str(value))]
        refusal = _refusal(value, kind)
        if refusal:
            raise Uncapturable(refusal)
        if module == "_io" or kind is _CACHE:
            return self._file(value, kind) if module == "_io" else self._cache(value)
        if isinstance(value, threading.Thread):
            return ["opaque", opaque_text(value)]
        if kind in _WEAK:
            pairs = [(v, None) for v in value] if kind is weakref.WeakSet else list(value.items())
            return ["weak", shape.type_name(kind), self._pairs(pairs)]
        if issubclass(kind, functools.partial):
            parts = [self._ref(value.func), self._refs(value.args), self._pairs(value.keywords.items())]
            return ["partial", shape.type_name(kind), *parts, self._named(shape.own_dict(value))]
        if top in PICKLED or not shape.is_plain(kind):
            return self._reduced(value, kind)
        return self._object(value, kind)

    def _object(self, value: Any, kind: type) -> list[Any]:
        class_ref = self._ref(kind) if self._is_own(kind.__module__) else None
        extra = self._container_part(value, kind)
        return ["object", shape.type_name(kind), class_ref, self._named(shape.attributes_of(value)), extra]

    def _container_part(self, value: Any, kind: type) -> list[Any] | None:
        # By the built-in types' own methods: a subclass may say something else of its content.
        if issubclass(kind, defaultdict):
            return ["defaultdict", self._pairs(dict.items(value)), self._ref(value.default_factory)]
        if issubclass(kind, dict):
            items = OrderedDict.items(value) if issubclass(kind, OrderedDict) else dict.items(value)
            return ["dict", self._pairs(items)]
        if issubclass(kind, list):
            return ["list", self._refs(list.__iter__(value))]
        if issubclass(kind, deque):
            return ["deque", self._refs(deque.__iter__(value)), value.maxlen]
        if issubclass(kind, tuple):
            return ["tuple", self._refs(tuple.__iter__(value))]
        if issubclass(kind, set | frozenset):
            return ["set", self._refs(kind.__iter__(value))]
        return None

    def _deque(self, value: Any) -> list[Any]:
        return ["object", "collections.deque", None, {}, self._container_part(value, deque)]

    def _file(self, value: Any, kind: type) -> list[Any]:
        if not getattr(value, "closed", False):
            try:
                readable = value.readable()
            except ValueError:
                readable = False
            if readable:
                raise Uncapturable("is an open file that is read from")
        return ["opaque", opaque_text(value)]

    def _cache(self, value: Any) -> list[Any]:
        wrapped = getattr(value, "__wrapped__", None)
        if isinstance(wrapped, types.FunctionType) and self._is_own(
            str(wrapped.__globals__.get("__name__", ""))
        ):
            self._functions.append(wrapped)
            if value.cache_info().currsize:
                raise Uncapturable("is a function whose cache of results can't be captured")
        return ["opaque", opaque_text(value)]

    def _reduced(self, value: Any, kind: type) -> list[Any]:
        """What only pickle understands: its own part as a pickle, everything that it refers to as nodes of the graph."""
        file = io.BytesIO()
        pickler = _Pickler(file, value, self._ref, self._is_own)
        try:
            pickler.dump(value)
        except Uncapturable as problem:
            raise problem.under(".…") from None
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - any object's own pickling code may run here
            raise Uncapturable(f"is a {shape.type_name(kind)}, which can't be captured ({error})") from None
        return ["reduced", shape.type_name(kind), file.getvalue().hex(), pickler.refs]


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


def opaque_text(value: Any) -> str:
    """What an opaque node says of its object, and what a live one must say to stand for it."""
    if isinstance(value, type):
        return f"class {shape.type_name(value)}"
    if type(value).__module__ == "typing":
        return f"typing {value!r}"
    if isinstance(value, _CACHE):
        return f"cache {value.__module__}.{value.__qualname__}"
    return shape.type_name(type(value))


def _is_sink(module: str) -> bool:
    return any(module == sink or module.startswith(sink + ".") for sink in SINKS)


def _refusal(value: Any, kind: type) -> str:
    """Why an object of this type is not looked into at all."""
    if kind in (weakref.ProxyType, weakref.CallableProxyType):
        return "is a weak proxy"
    if (
        hasattr(kind, "__next__")
        and hasattr(kind, "__iter__")
        and not shape.is_plain(kind)
        and kind.__module__ != "_io"
    ):
        return f"is a {shape.type_name(kind)}: an iterator's position can't be captured"
    if issubclass(kind, threading.Thread) and value.is_alive():
        return "is a thread that runs on by itself"
    return ""


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
    return (owner.flags.c_contiguous or owner.flags.f_contiguous) and not owner.dtype.hasobject


def _dtype_text(dtype: Any) -> str:
    """A dtype as text: its short name where that says all."""
    return (
        dtype.str
        if dtype.names is None and dtype.subdtype is None
        else "pickle:" + pickle.dumps(dtype, 5).hex()
    )


def dtype_from_text(text: str, numpy: Any) -> Any:
    """The dtype of such a text."""
    kind, _, data = text.partition(":")
    return pickle.loads(bytes.fromhex(data)) if kind == "pickle" else numpy.dtype(text)


def same_dtype(dtype: Any, text: str) -> bool:
    """Whether a live dtype is the one of a text."""
    return _dtype_text(dtype) == text


def _storage_bytes(storage: Any, torch: Any) -> bytes:
    data = storage.cpu() if storage.device.type != "cpu" else storage
    return torch.empty(0, dtype=torch.uint8).set_(data).numpy().tobytes()


def _seeds(bits: Any) -> Any:
    """Where a bit generator's children come from: `spawn` counts them."""
    seeds = getattr(bits, "seed_seq", None)
    if seeds is None or not hasattr(seeds, "n_children_spawned"):
        return None
    entropy = seeds.entropy.tolist() if hasattr(seeds.entropy, "tolist") else seeds.entropy
    key = [int(k) for k in seeds.spawn_key]
    return [_plain_ints(entropy), key, int(seeds.pool_size), int(seeds.n_children_spawned)]


def _plain_ints(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [int(v) for v in value]
    return None if value is None else int(value)


def _jsonable_rng(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _jsonable_rng(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        return {"$array": value.tolist(), "dtype": value.dtype.str} if value.ndim else value.item()
    return value


def _text(value: str) -> Ref:
    return ["s", value]


def _value(value: Any) -> Ref:
    return ["v", value]


def _int(value: int) -> Ref:
    return ["v", value] if -(2**63) < value < 2**63 else ["i", hex(value)]


def _float(value: float) -> Ref:
    return ["f", struct.pack(">d", value).hex()]


def _complex(value: complex) -> Ref:
    return ["z", struct.pack(">dd", value.real, value.imag).hex()]


def _bytes(value: bytes) -> Ref:
    return ["b", value.hex()]


def _named_constant(value: Any) -> Ref:
    return ["e", repr(value)]


_SCALARS: dict[Any, Callable[[Any], Ref]] = {
    type(None): _value, bool: _value, int: _int, float: _float, str: _text, complex: _complex, bytes: _bytes,
    type(Ellipsis): _named_constant, type(NotImplemented): _named_constant,
}  # fmt: skip

_CACHE: Any = type(functools.lru_cache(_text))

_HANDLERS: dict[Any, str] = {
    list: "_list", tuple: "_tuple", dict: "_dict", set: "_set", frozenset: "_set", deque: "_deque",
    types.FunctionType: "_function", types.MethodType: "_bound", types.ModuleType: "_module",
    types.BuiltinFunctionType: "_builtin", types.MethodWrapperType: "_builtin",
    property: "_holder", staticmethod: "_holder", classmethod: "_holder", functools.cached_property: "_holder",
    weakref.ref: "_weakref", range: "_range", slice: "_slice", bytearray: "_bytearray",
}  # fmt: skip
