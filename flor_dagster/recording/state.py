"""End states as graphs: what a loop execution left behind, by value, with every alias.

A `State` is what `capture` saw behind a set of root names: nodes for every mutable object, scalars in place, buffers for
arrays and tensors. `State.graft` puts one back *in place*: into the live objects that re-executed code made, so that an
optimizer goes on updating its model and a closure keeps its cell. What can't be captured is named, never guessed; what
can't be put back raises. Nothing is unpickled but leaves that only pickle understands.

Functions of the repository count as state through their closures, their defaults and the globals that they name; a
global is a root of its own, `module:name`. Objects of libraries that only carry output (loggers, progress bars, writers)
and all functions, classes and modules of libraries are `opaque`: the live one stays.
"""

from __future__ import annotations

import enum
import hashlib
import json
import pickle
import struct
import sys
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording.source import DYNAMIC_NAMES

MAX_NODES = 400_000

# Libraries whose objects only carry output: putting a training back does not put them back.
SINKS = (
    "logging", "tqdm", "rich", "tensorboard", "tensorboardX", "torch.utils.tensorboard", "wandb", "mlflow",
    "threading", "_thread", "flor_dagster", "structlog", "loguru", "dagster",
)  # fmt: skip

# Immutable values that pickle holds exactly.
CONSTANTS = (
    "pathlib", "datetime", "decimal", "fractions", "uuid", "re", "zoneinfo", "ipaddress", "_decimal",
)  # fmt: skip

_MISSING: Any = object()
_HEAP = 1 << 9


class _Plain:
    """Its size is that of an instance without C state."""


_PLAIN_SIZE = _Plain.__basicsize__

Ref = Any  # an int (node), or a list ["v", …] (scalar)


@dataclass(slots=True)
class State:
    """A captured graph.

    Args:
        nodes: JSON-able descriptions; references between them are indices.
        roots: root name → reference.
        buffers: content digest → bytes of arrays and storages.
        unavailable: root name → why it could not be captured.
    """

    nodes: list[Any] = field(default_factory=list[Any])
    roots: dict[str, Ref] = field(default_factory=dict[str, Ref])
    buffers: dict[str, Any] = field(default_factory=dict[str, Any])
    unavailable: dict[str, str] = field(default_factory=dict[str, str])

    def digests(self) -> dict[str, str]:
        """Per root, a digest that is equal for equal states, aliases within the root included."""
        return {name: _digest(self.nodes, ref) for name, ref in sorted(self.roots.items())}


class Uncapturable(Exception):  # noqa: N818 - a signal inside this module's walk, not an error for anyone
    """A value that can't be captured; the message says what it is and where."""


def digest_bytes(data: Any) -> str:
    """The content digest of a buffer: BLAKE2b, 160 bits, hex."""
    return hashlib.blake2b(data, digest_size=20).hexdigest()


# --------------------------------------------------------------------------------------------------------------------
# Capture
# --------------------------------------------------------------------------------------------------------------------


class Capturer:
    """Walks objects into a `State`.

    Args:
        is_own: whether a module's name belongs to the code that is versioned (its functions and globals are state).
        root_path: the repository's path; it is replaced in strings, so that a replay elsewhere compares equal.
        hash_now: digest buffers at once; otherwise they are copied and digested by `finish`.
    """

    def __init__(self, is_own: Callable[[str], bool], root_path: str = "") -> None:
        self.state = State()
        self._is_own = is_own
        self._root_path = root_path
        self._memo: dict[int, int] = {}
        self._keep: list[Any] = []
        self._pending: list[tuple[list[Any], int, Any]] = []
        self._functions: list[types.FunctionType] = []
        self._globals: dict[str, None] = {}

    def add(self, name: str, value: Any) -> None:
        """Capture one root. What can't be captured is noted in `unavailable`."""
        marks = len(self.state.nodes), len(self._pending)
        memo = set(self._memo)
        try:
            self.state.roots[name] = self._ref(value, name)
        except Uncapturable as problem:
            self._undo(name, str(problem), marks, memo)
        except RecursionError:
            self._undo(name, f"`{name}` is nested too deeply", marks, memo)

    def _undo(self, name: str, reason: str, marks: tuple[int, int], memo: set[int]) -> None:
        self.state.unavailable[name] = reason
        del self.state.nodes[marks[0] :]
        del self._pending[marks[1] :]
        for key in [k for k in self._memo if k not in memo]:
            del self._memo[key]

    def note_code(self, code: types.CodeType, namespace: Mapping[str, Any]) -> None:
        """Make the globals that a code object names roots: whatever it runs may change them."""
        for name in code_names(code):
            if name in DYNAMIC_NAMES and name not in namespace:
                module = namespace.get("__name__", "?")
                self.state.unavailable[f"{module}:{name}"] = (
                    f"`{code.co_qualname}` calls `{name}`, so what it changes can't be known"
                )
            if name in namespace:
                self.note_global(namespace, name)

    def note_global(self, namespace: Mapping[str, Any], name: str) -> None:
        """Make one global of one of the repository's modules a root."""
        module = namespace.get("__name__")
        if isinstance(module, str) and self._is_own(module) and not name.startswith("__"):
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

    def finish(self) -> State:
        """Digest the copied buffers and return the state."""
        for node, slot, data in self._pending:
            digest = digest_bytes(data)
            node[slot] = digest
            self.state.buffers.setdefault(digest, data)
        self._pending.clear()
        self._keep.clear()
        self._memo.clear()
        return self.state

    @property
    def pending_bytes(self) -> int:
        """The bytes that were copied."""
        return sum(len(data) for _, _, data in self._pending)

    # The walk ---------------------------------------------------------------------------------------------------

    def _ref(self, value: Any, path: str) -> Ref:
        scalar = self._scalar(value)
        if scalar is not None:
            return scalar
        known = self._memo.get(id(value))
        if known is not None:
            return known
        if len(self.state.nodes) >= MAX_NODES:
            raise Uncapturable(f"`{path}` is too large to capture (over {MAX_NODES:,} objects)")
        index = len(self.state.nodes)
        node: list[Any] = []
        self.state.nodes.append(node)
        self._memo[id(value)] = index
        self._keep.append(value)  # an id is only unique while the object lives
        described = self._describe(value, path)
        node.extend(described)
        if self._pending and self._pending[-1][0] is described:
            self._pending[-1] = (node, *self._pending[-1][1:])
        return index

    def _scalar(self, value: Any) -> Ref | None:
        kind = type(value)
        if value is None or kind is bool:
            return ["v", value]
        if kind is int:
            return ["v", value] if -(2**63) < value < 2**63 else ["i", hex(value)]
        if kind is float:
            return ["f", struct.pack(">d", value).hex()]
        if kind is str:
            if self._root_path and self._root_path in value:
                return ["p", value.replace(self._root_path, "\0")]
            return ["s", value]
        if kind is complex:
            return ["z", struct.pack(">dd", value.real, value.imag).hex()]
        if kind is bytes:
            return ["b", value.hex()]
        if value is Ellipsis or value is NotImplemented:
            return ["e", repr(value)]
        return None

    def _describe(self, value: Any, path: str) -> list[Any]:
        kind = type(value)
        if kind is list:
            return ["list", self._refs(value, path)]
        if kind is tuple:
            return ["tuple", self._refs(value, path)]
        if kind is dict:
            return ["dict", self._pairs(value, path)]
        if kind in (set, frozenset):
            return [kind.__name__, self._refs(value, path)]
        handler = self._extern(value, path)
        if handler is not None:
            return handler
        if isinstance(value, type):
            return self._class(value, path)
        if isinstance(value, types.FunctionType):
            return self._function(value, path)
        if isinstance(value, types.MethodType):
            return ["method", self._ref(value.__self__, f"{path}.__self__"), value.__func__.__name__]
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, enum.Enum):
            return ["opaque", f"{_name(kind)}.{value.name}"]
        return self._instance(value, path)

    def _refs(self, values: Iterable[Any], path: str) -> list[Ref]:
        return [self._ref(v, f"{path}[{i}]") for i, v in enumerate(values)]

    def _pairs(self, value: Mapping[Any, Any], path: str) -> list[list[Ref]]:
        return [
            [self._ref(k, f"{path} key"), self._ref(v, f"{path}[{k!r}]" if isinstance(k, str | int) else f"{path}[…]")]
            for k, v in list(value.items())
        ]

    def _class(self, value: type, path: str) -> list[Any]:
        name = _name(value)
        if not self._is_own(value.__module__):
            return ["opaque", name]
        attributes: dict[str, Ref] = {}
        for base in value.__mro__:
            if not self._is_own(base.__module__):
                continue
            for key, item in list(vars(base).items()):
                function = _underlying(item)
                if function is not None:
                    self._functions.append(function)
                elif base is value and not _is_machinery(key, item):
                    attributes[key] = self._ref(item, f"{path}.{key}")
        return ["class", name, attributes]

    def _function(self, value: types.FunctionType, path: str) -> list[Any]:
        name = f"{value.__module__}.{value.__qualname__}"
        if not self._is_own(value.__module__ or ""):
            # A library's wrapper (functools.wraps, torch.no_grad) may close over one of our functions.
            wrapped = getattr(value, "__wrapped__", None)
            if isinstance(wrapped, types.FunctionType) and self._is_own(wrapped.__module__ or ""):
                self._functions.append(wrapped)
            return ["opaque", name]
        self._functions.append(value)
        cells: list[Ref | None] = []
        for free, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                cells.append(None)
                continue
            cells.append(self._ref(content, f"{path}.<{free}>"))
        defaults = self._refs(value.__defaults__ or (), f"{path}.__defaults__")
        keywords = self._pairs(value.__kwdefaults__ or {}, f"{path}.__kwdefaults__")
        attributes = self._pairs({k: v for k, v in vars(value).items() if k != "__wrapped__"}, path)
        wrapped = vars(value).get("__wrapped__")
        if isinstance(wrapped, types.FunctionType):
            self._functions.append(wrapped)
        return ["function", name, cells, defaults, keywords, attributes]

    def _module(self, value: types.ModuleType) -> list[Any]:
        # Its globals become roots as code names them: see `note_code`.
        if self._is_own(value.__name__):
            for name, item in list(vars(value).items()):
                if not isinstance(item, types.ModuleType):
                    self.note_global(vars(value), name)
        return ["opaque", f"module {value.__name__}"]

    def _extern(self, value: Any, path: str) -> list[Any] | None:
        """numpy, torch and the standard library's random generators."""
        kind = type(value)
        module = kind.__module__ or ""
        if module == "random" and hasattr(value, "getstate"):
            version, internal, gauss = value.getstate()
            return ["rng.python", [version, list(internal), gauss]]
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            if isinstance(value, numpy.ndarray):
                return self._array(value, path, numpy)
            if isinstance(value, numpy.generic):
                return ["npscalar", value.dtype.str, value.tobytes().hex()] if not value.dtype.hasobject else None
            if isinstance(value, numpy.dtype):
                return ["opaque", f"dtype {value.str}"]
            # `numpy.random` is loaded when it is first named; naming it here would load it into the training.
            if "numpy.random" in sys.modules:
                if isinstance(value, numpy.random.RandomState):
                    return ["rng.numpy", _name(kind), _jsonable_rng(value.get_state(legacy=False))]
                if isinstance(value, numpy.random.BitGenerator):
                    return ["rng.numpy", _name(kind), _jsonable_rng(value.state)]
                if isinstance(value, numpy.random.Generator):
                    return ["rng.generator", self._ref(value.bit_generator, f"{path}.bit_generator")]
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "Tensor"):
            if isinstance(value, torch.Tensor):
                return self._tensor(value, path, torch)
            if isinstance(value, torch.Generator):
                return ["rng.torch", str(value.device), value.get_state().numpy().tobytes().hex()]
            if isinstance(value, torch.device | torch.dtype | torch.Size | torch.layout | torch.memory_format):
                return ["opaque", f"{kind.__name__} {value!r}"]
        if kind in (range, slice):
            return ["const", repr(value)]
        if isinstance(value, weakref.ref):
            target = value()
            return ["weakref", self._ref(target, path)]
        return None

    def _array(self, value: Any, path: str, numpy: Any) -> list[Any]:
        if value.dtype.hasobject:
            return ["oarray", list(value.shape), self._refs(value.ravel().tolist(), path)]
        base = value.base
        if isinstance(base, numpy.ndarray) and type(base) is numpy.ndarray and not base.dtype.hasobject:
            offset = value.__array_interface__["data"][0] - base.__array_interface__["data"][0]
            flat = base.flags.c_contiguous and 0 <= offset <= base.nbytes
            if flat and id(base) in self._memo:
                return ["view", self._memo[id(base)], offset, list(value.shape), list(value.strides), value.dtype.str]
        if type(value) is not numpy.ndarray and not isinstance(value, numpy.memmap):
            raise Uncapturable(f"`{path}` is a {_name(type(value))}, a subclass of numpy.ndarray")
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        node: list[Any] = ["array", value.dtype.str, list(value.shape), order, ""]
        return self._buffer(node, 4, value.tobytes(order=order))

    def _tensor(self, value: Any, path: str, torch: Any) -> list[Any]:
        if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
            raise Uncapturable(f"`{path}` is a {value.layout} tensor on {value.device}")
        plain = value.detach()
        storage = plain.untyped_storage()
        key = storage._cdata  # noqa: SLF001 - the one identity of a storage that outlives its Python wrapper
        index = self._memo.get(-key)
        if index is None:
            index = len(self.state.nodes)
            node: list[Any] = ["storage", str(value.device), storage.nbytes(), ""]
            self.state.nodes.append(node)
            self._memo[-key] = index
            self._keep.append(storage)
            data = storage.cpu() if value.device.type != "cpu" else storage
            view = torch.empty(0, dtype=torch.uint8).set_(data)
            self._buffer(node, 3, view.numpy().tobytes())
        graph = value.grad_fn is not None or getattr(value, "_flor_without_graph", False)
        gradient = None if graph or value.grad is None else self._ref(value.grad, f"{path}.grad")
        return [
            "tensor", _name(type(value)), index, str(value.dtype).removeprefix("torch."), list(value.shape),
            list(value.stride()), value.storage_offset(), bool(value.requires_grad) and not graph, graph, gradient,
        ]  # fmt: skip

    def _buffer(self, node: list[Any], slot: int, data: bytes) -> list[Any]:
        self._pending.append((node, slot, data))
        return node

    def _instance(self, value: Any, path: str) -> list[Any]:
        kind = type(value)
        name = _name(kind)
        module = kind.__module__ or ""
        if module.startswith(SINKS) and module.partition(".")[0] in {s.partition(".")[0] for s in SINKS}:
            return ["opaque", name]
        if module.partition(".")[0] in CONSTANTS:
            return ["pickle", name, pickle.dumps(value, 5).hex()]
        if isinstance(value, types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType):
            owner = getattr(value, "__self__", None)
            if owner is not None and not isinstance(owner, types.ModuleType | type):
                return ["method", self._ref(owner, f"{path}.__self__"), value.__name__]
            return ["opaque", f"{getattr(value, '__module__', '')}.{value.__qualname__}"]
        if hasattr(kind, "__next__") and hasattr(kind, "__iter__"):
            raise Uncapturable(f"`{path}` is a {name}: an iterator's position can't be captured")
        if module == "_io":
            return self._file(value, path, name)
        if isinstance(value, property | staticmethod | classmethod | types.GetSetDescriptorType):
            return ["opaque", name]
        if self._is_own(module):
            self._class_functions(kind)
        extra = self._container_part(value, path)
        if is_plain(kind):
            attributes = {k: self._ref(v, f"{path}.{k}") for k, v in _attributes(value).items()}
            return ["object", name, attributes, extra]
        return self._pickled(value, path, name)

    def _class_functions(self, kind: type) -> None:
        if id(kind) not in self._memo:
            self._ref(kind, kind.__qualname__)

    def _container_part(self, value: Any, path: str) -> Any:
        if isinstance(value, defaultdict):
            return ["defaultdict", self._pairs(value, path), self._ref(value.default_factory, f"{path}.default_factory")]
        if isinstance(value, dict):
            return ["dict", self._pairs(value, path)]
        if isinstance(value, list):
            return ["list", self._refs(value, path)]
        if isinstance(value, deque):
            return ["deque", self._refs(value, path), value.maxlen]
        if isinstance(value, tuple):
            return ["tuple", self._refs(value, path)]
        if isinstance(value, set | frozenset):
            return ["set", self._refs(value, path)]
        return None

    def _file(self, value: Any, path: str, name: str) -> list[Any]:
        if getattr(value, "closed", False):
            return ["opaque", name]
        try:
            readable = value.readable()
        except ValueError:
            readable = False
        if readable:
            raise Uncapturable(f"`{path}` is an open file that is read from")
        return ["opaque", name]

    def _pickled(self, value: Any, path: str, name: str) -> list[Any]:
        try:
            data = pickle.dumps(value, 5)
        except Exception as error:  # noqa: BLE001 - any object's own pickling code may run here
            raise Uncapturable(f"`{path}` is a {name}, which can't be captured ({error})") from None
        if len(data) < 4096:
            return ["pickle", name, data.hex()]
        return self._buffer(["pickled", name, ""], 2, data)


def code_names(code: types.CodeType) -> set[str]:
    """Every name that a code object, or one nested in it, reads or writes outside its own locals."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= code_names(constant)
    return names


def is_plain(kind: type) -> bool:
    """Whether instances hold nothing but attributes, slots and a built-in container: no state hidden in C."""
    containers = (dict, list, set, frozenset, tuple, deque, defaultdict, OrderedDict, object)
    base_size = _PLAIN_SIZE
    for base in kind.__mro__:
        if base in containers or base is Exception or base is BaseException:
            if base is not object:
                base_size = max(base_size, base.__basicsize__ + _PLAIN_SIZE - object.__basicsize__)
        elif not base.__flags__ & _HEAP:
            return False
    slots = sum(len(_slots(base)) for base in kind.__mro__)
    pointer = struct.calcsize("P")
    has_attributes = kind.__dictoffset__ != 0 or slots > 0 or any(b in containers[:-1] for b in kind.__mro__)
    return has_attributes and kind.__basicsize__ <= base_size + pointer * (slots + 1)


def _slots(base: type) -> list[str]:
    slots = vars(base).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    mangled = base.__name__.lstrip("_")
    return [
        f"_{mangled}{n}" if n.startswith("__") and not n.endswith("__") else n
        for n in names
        if n not in ("__dict__", "__weakref__")
    ]


def _attributes(value: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for base in type(value).__mro__:
        for name in _slots(base):
            try:
                attributes[name] = object.__getattribute__(value, name)
            except AttributeError:
                continue
    attributes.update(getattr(value, "__dict__", {}))
    return attributes


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _underlying(item: Any) -> types.FunctionType | None:
    if isinstance(item, staticmethod | classmethod):
        item = item.__func__
    if isinstance(item, property):
        item = item.fget
    item = getattr(item, "func", item) if type(item).__name__ == "cached_property" else item
    return item if isinstance(item, types.FunctionType) else None


def _is_machinery(key: str, item: Any) -> bool:
    return (key.startswith("__") and key.endswith("__")) or isinstance(
        item, types.GetSetDescriptorType | types.MemberDescriptorType | property | type(type.__dict__["__doc__"])
    ) or key in ("_abc_impl",)


def _jsonable_rng(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _jsonable_rng(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        return {"$array": value.tolist(), "dtype": value.dtype.str} if value.ndim else value.item()
    return value


def _rng_value(value: Any) -> Any:
    if isinstance(value, dict):
        if "$array" in value:
            numpy = sys.modules["numpy"]
            return numpy.array(value["$array"], dtype=value["dtype"])
        return {k: _rng_value(v) for k, v in value.items()}
    return value


# --------------------------------------------------------------------------------------------------------------------
# Digest
# --------------------------------------------------------------------------------------------------------------------


def _digest(nodes: list[Any], root: Ref) -> str:
    """A digest of what is reachable from a reference; nodes are numbered by their first visit."""
    hasher = hashlib.blake2b(digest_size=16)
    numbers: dict[int, int] = {}
    stack: list[Any] = [root]
    while stack:
        part = stack.pop()
        if isinstance(part, _Text):
            hasher.update(part.text)
        elif isinstance(part, int):
            seen = numbers.get(part)
            hasher.update(b"#%d;" % (len(numbers) if seen is None else seen))
            if seen is None:
                numbers[part] = len(numbers)
                stack.extend(reversed(_digest_parts(nodes[part])))
        else:
            hasher.update(json.dumps(part, separators=(",", ":")).encode())
    return hasher.hexdigest()


@dataclass(frozen=True, slots=True)
class _Text:
    text: bytes


def _digest_parts(node: list[Any]) -> list[Any]:
    """What a node contributes: text, and references to go on with."""
    kind = node[0]
    if kind in ("list", "tuple"):
        return [_Text(f"{kind}{len(node[1])}(".encode()), *node[1]]
    if kind in ("set", "frozenset"):
        scalars = sorted(json.dumps(r) for r in node[1] if not isinstance(r, int))
        return [_Text(f"{kind}{len(node[1])}{scalars}(".encode()), *(r for r in node[1] if isinstance(r, int))]
    if kind == "dict":
        return [_Text(f"dict{len(node[1])}(".encode()), *(ref for pair in node[1] for ref in pair)]
    if kind == "object":
        parts: list[Any] = [_Text(f"object {node[1]} {len(node[2])}(".encode())]
        for name, ref in sorted(node[2].items()):
            parts += [_Text(f".{name}=".encode()), ref]
        return parts + (_digest_parts(_as_node(node[3])) if node[3] else [])
    if kind == "class":
        parts = [_Text(f"class {node[1]}(".encode())]
        for name, ref in sorted(node[2].items()):
            parts += [_Text(f".{name}=".encode()), ref]
        return parts
    if kind == "function":
        refs = [r if r is not None else ["v", None] for r in node[2]]
        pairs = [ref for pair in [*node[4], *node[5]] for ref in pair]
        return [_Text(f"function {node[1]}(".encode()), *refs, *node[3], *pairs]
    if kind == "method":
        return [_Text(f"method {node[2]}(".encode()), node[1]]
    if kind in ("weakref", "rng.generator"):
        return [_Text(f"{kind}(".encode()), node[1]]
    if kind == "oarray":
        return [_Text(f"oarray{node[1]}(".encode()), *node[2]]
    if kind == "view":
        return [_Text(f"view{node[2:]}(".encode()), node[1]]
    if kind == "tensor":
        # Whether a value still hangs on its autograd graph is not part of it: the graph is not captured.
        grad = node[9] if node[9] is not None else ["v", None]
        return [_Text(f"tensor{[node[1], *node[3:8]]}(".encode()), node[2], grad]
    return [_Text(json.dumps(node, separators=(",", ":")).encode())]


def _as_node(extra: list[Any]) -> list[Any]:
    if extra[0] == "defaultdict":
        return ["dict", extra[1]]
    return ["list", extra[1]] if extra[0] == "deque" else extra[:2]


# --------------------------------------------------------------------------------------------------------------------
# Graft
# --------------------------------------------------------------------------------------------------------------------


class Grafter:
    """Puts a state back into live objects.

    Args:
        nodes: as captured.
        buffer: content digest → bytes.
        root_path: this program's repository path, put where the recorded one stood.
    """

    def __init__(self, nodes: list[Any], buffer: Callable[[str], bytes], root_path: str = "") -> None:
        self._nodes = nodes
        self._buffer = buffer
        self._root_path = root_path
        self._memo: dict[int, Any] = {}
        self._later: list[Callable[[], None]] = []

    def graft(self, ref: Ref, live: Any, path: str) -> Any:
        """The value to use for `ref`: `live` brought to the captured state where it has the same structure.

        Raises:
            CheckpointError: when a part can neither be put into a live object nor be made anew.
        """
        value = self._graft(ref, live, path)
        while self._later:
            self._later.pop(0)()
        return value

    def _graft(self, ref: Ref, live: Any, path: str) -> Any:
        if not isinstance(ref, int):
            return self._scalar(ref, live)
        if ref in self._memo:
            return self._memo[ref]
        node = self._nodes[ref]
        handler = getattr(self, "_" + node[0].replace(".", "_"))
        return handler(ref, node, live, path)

    def _scalar(self, ref: list[Any], live: Any) -> Any:
        tag, value = ref
        match tag:
            case "v" | "s":
                result = value
            case "i":
                result = int(value, 16)
            case "f":
                result = struct.unpack(">d", bytes.fromhex(value))[0]
            case "p":
                result = value.replace("\0", self._root_path)
            case "z":
                result = complex(*struct.unpack(">dd", bytes.fromhex(value)))
            case "b":
                result = bytes.fromhex(value)
            case _:
                result = Ellipsis if value == "Ellipsis" else NotImplemented
        same = type(live) is type(result) and (
            live == result if tag != "f" else struct.pack(">d", live) == struct.pack(">d", result)
        )
        return live if same else result

    def _list(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        target: list[Any] = live if type(live) is list else []
        self._memo[ref] = target
        self._fill_list(target, node[1], path)
        return target

    def _fill_list(self, target: Any, refs: list[Ref], path: str) -> None:
        old = list(target)
        new = [
            self._graft(r, old[i] if i < len(old) else _MISSING, f"{path}[{i}]") for i, r in enumerate(refs)
        ]
        if len(new) != len(old) or any(a is not b for a, b in zip(new, old, strict=True)):
            target[:] = new

    def _tuple(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        old = live if isinstance(live, tuple) else ()
        new = tuple(
            self._graft(r, old[i] if i < len(old) else _MISSING, f"{path}[{i}]") for i, r in enumerate(node[1])
        )
        same = type(old) is tuple and len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))
        self._memo[ref] = old if same else new
        return self._memo[ref]

    def _dict(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        target: dict[Any, Any] = live if type(live) is dict else {}
        self._memo[ref] = target
        self._fill_dict(target, node[1], path)
        return target

    def _fill_dict(self, target: Any, pairs: list[list[Ref]], path: str) -> None:
        if any(isinstance(k, int) and k not in self._memo for k, _ in pairs):
            # Keys that are objects (an optimizer's parameters) are found elsewhere in the graph first.
            self._later.append(lambda: self._fill_dict_now(target, pairs, path))
        else:
            self._fill_dict_now(target, pairs, path)

    def _fill_dict_now(self, target: Any, pairs: list[list[Ref]], path: str) -> None:
        old_keys = list(target)
        new: list[tuple[Any, Any]] = []
        for position, (key_ref, value_ref) in enumerate(pairs):
            old_key = old_keys[position] if position < len(old_keys) else _MISSING
            key = self._graft(key_ref, old_key, f"{path} key")
            old = dict.get(target, key, _MISSING)
            new.append((key, self._graft(value_ref, old, f"{path}[{key!r}]" if isinstance(key, str) else path)))
        current = list(dict.items(target))
        same = len(current) == len(new) and all(
            a is c and b is d for (a, b), (c, d) in zip(current, new, strict=True)
        )
        if not same:
            dict.clear(target)
            for key, value in new:
                dict.__setitem__(target, key, value)
                if isinstance(target, OrderedDict):
                    OrderedDict.__setitem__(target, key, value)

    def _set(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        target: set[Any] = live if type(live) is set else set()
        self._memo[ref] = target
        self._fill_set(target, node[1], path)
        return target

    def _fill_set(self, target: set[Any], refs: list[Ref], path: str) -> None:
        new = [self._graft(r, _MISSING, path) for r in refs]
        if list(target) != new:
            target.clear()
            for item in new:
                target.add(item)

    def _frozenset(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        new = frozenset(self._graft(r, _MISSING, path) for r in node[1])
        self._memo[ref] = live if type(live) is frozenset and live == new else new
        return self._memo[ref]

    def _opaque(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        if live is _MISSING:
            live = _find(node[1])
            if live is _MISSING:
                raise CheckpointError(f"`{path}` ({node[1]}) does not exist in this program and can't be made anew")
        self._memo[ref] = live
        return live

    def _class(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        target = live if isinstance(live, type) and _name(live) == node[1] else _find(node[1])
        if not isinstance(target, type):
            raise CheckpointError(f"the class {node[1]} of `{path}` does not exist in this program")
        self._memo[ref] = target
        for name, attribute in node[2].items():
            old = vars(target).get(name, _MISSING)
            new = self._graft(attribute, old, f"{path}.{name}")
            if new is not old:
                setattr(target, name, new)
        return target

    def _function(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        if not isinstance(live, types.FunctionType) or f"{live.__module__}.{live.__qualname__}" != node[1]:
            live = _find(node[1])
        if not isinstance(live, types.FunctionType):
            raise CheckpointError(f"the function {node[1]} (`{path}`) does not exist in this program")
        self._memo[ref] = live
        cells = live.__closure__ or ()
        if len(cells) != len(node[2]):
            raise CheckpointError(f"the function {node[1]} (`{path}`) has another closure in this program")
        for cell, content in zip(cells, node[2], strict=True):
            try:
                old = cell.cell_contents
            except ValueError:
                old = _MISSING
            if content is None:
                if old is not _MISSING:
                    del cell.cell_contents
                continue
            new = self._graft(content, old, path)
            if new is not old:
                cell.cell_contents = new
        defaults = live.__defaults__ or ()
        for index, default in enumerate(node[3]):
            self._graft(default, defaults[index] if index < len(defaults) else _MISSING, path)
        for key_ref, value_ref in node[4]:
            key = self._graft(key_ref, _MISSING, path)
            self._graft(value_ref, (live.__kwdefaults__ or {}).get(key, _MISSING), path)
        for key_ref, value_ref in node[5]:
            key = self._graft(key_ref, _MISSING, path)
            vars(live)[key] = self._graft(value_ref, vars(live).get(key, _MISSING), f"{path}.{key}")
        return live

    def _method(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        owner = self._graft(node[1], getattr(live, "__self__", _MISSING), f"{path}.__self__")
        same = getattr(live, "__self__", _MISSING) is owner and getattr(live, "__name__", "") == node[2]
        self._memo[ref] = live if same else getattr(owner, node[2])
        return self._memo[ref]

    def _weakref(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        old = live() if isinstance(live, weakref.ref) else _MISSING
        target = self._graft(node[1], old, path)
        self._memo[ref] = live if old is target else weakref.ref(target)
        return self._memo[ref]

    def _object(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        name, attributes, extra = node[1:]
        target: Any = live
        kind: Any
        if live is _MISSING or _name(type(live)) != name:
            kind = _find(name)
            if not isinstance(kind, type):
                raise CheckpointError(f"the class {name} of `{path}` does not exist in this program")
            if extra and extra[0] in ("tuple", "set") and issubclass(kind, tuple | frozenset):
                items = [self._graft(r, _MISSING, path) for r in extra[1]]
                target = kind.__new__(kind, *items) if hasattr(kind, "_fields") else kind.__new__(kind, items)
            else:
                target = kind.__new__(kind)
        elif extra and extra[0] == "tuple":
            items = [self._graft(r, v, path) for r, v in zip(extra[1], live, strict=False)]
            if len(extra[1]) != len(live) or any(a is not b for a, b in zip(items, live, strict=True)):
                kind = type(live)
                items += [self._graft(r, _MISSING, path) for r in extra[1][len(items) :]]
                target = kind.__new__(kind, *items) if hasattr(kind, "_fields") else kind.__new__(kind, items)
        self._memo[ref] = target
        self._fill_attributes(target, attributes, path)
        if extra:
            self._fill_extra(target, extra, path)
        return target

    def _fill_attributes(self, target: Any, attributes: dict[str, Ref], path: str) -> None:
        current = _attributes(target)
        for name, ref in attributes.items():
            old = current.get(name, _MISSING)
            new = self._graft(ref, old, f"{path}.{name}")
            if new is not old:
                if name in getattr(target, "__dict__", {}) or not _is_slot(type(target), name):
                    target.__dict__[name] = new
                else:
                    object.__setattr__(target, name, new)
        for name in current:
            if name not in attributes:
                if name in getattr(target, "__dict__", {}):
                    del target.__dict__[name]
                else:
                    object.__delattr__(target, name)

    def _fill_extra(self, target: Any, extra: list[Any], path: str) -> None:
        match extra[0]:
            case "defaultdict":
                self._fill_dict(target, extra[1], path)
                target.default_factory = self._graft(extra[2], target.default_factory, path)
            case "dict":
                self._fill_dict(target, extra[1], path)
            case "list":
                self._fill_list(target, extra[1], path)
            case "deque":
                old = list(target)
                new = [self._graft(r, old[i] if i < len(old) else _MISSING, path) for i, r in enumerate(extra[1])]
                if extra[2] != target.maxlen:
                    raise CheckpointError(f"`{path}` is a deque of another length in this program")
                target.clear()
                target.extend(new)
            case "set" if isinstance(target, set):
                self._fill_set(target, extra[1], path)
            case _:
                pass

    def _const(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        del path
        if live is _MISSING or repr(live) != node[1]:
            name, _, rest = node[1].partition("(")
            numbers: list[Any] = [None if p.strip() == "None" else int(p) for p in rest.rstrip(")").split(",")]
            kinds: dict[str, Any] = {"range": range, "slice": slice}
            live = kinds[name](*numbers)
        self._memo[ref] = live
        return live

    def _pickle(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        return self._unpickle(ref, node[1], bytes.fromhex(node[2]), live, path)

    def _pickled(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        return self._unpickle(ref, node[1], self._buffer(node[2]), live, path)

    def _unpickle(self, ref: int, name: str, data: bytes, live: Any, path: str) -> Any:
        if live is not _MISSING and _name(type(live)) == name:
            try:
                if pickle.dumps(live, 5) == data:
                    self._memo[ref] = live
                    return live
            except Exception:  # noqa: BLE001 - then it is made anew
                pass
        try:
            value = pickle.loads(data)  # from the project's own store: who may write it may run code
        except Exception as error:
            raise CheckpointError(f"`{path}` ({name}) could not be made anew: {error}") from error
        self._memo[ref] = value
        return value

    # numpy and torch ----------------------------------------------------------------------------------------------

    def _npscalar(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        del path
        numpy = sys.modules["numpy"]
        data = bytes.fromhex(node[2])
        same = isinstance(live, numpy.generic) and live.dtype.str == node[1] and live.tobytes() == data
        self._memo[ref] = live if same else numpy.frombuffer(data, dtype=numpy.dtype(node[1]))[0]
        return self._memo[ref]

    def _array(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        del path
        numpy = sys.modules["numpy"]
        _, dtype, shape, order, digest = node
        saved = numpy.frombuffer(self._buffer(digest), dtype=numpy.dtype(dtype)).reshape(shape, order=order)
        fits = (
            type(live) is numpy.ndarray and live.dtype.str == dtype and list(live.shape) == shape
            and (live.flags.writeable or numpy.array_equal(live, saved))
        )  # fmt: skip
        if fits:
            if live.flags.writeable:
                numpy.copyto(live, saved)
            result = live
        else:
            result = saved.copy(order=order)
        self._memo[ref] = result
        return result

    def _view(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        numpy = sys.modules["numpy"]
        _, base_ref, offset, shape, strides, dtype = node
        base = self._graft(base_ref, getattr(live, "base", _MISSING), f"{path}.base")
        if getattr(live, "base", None) is base and list(live.shape) == shape and list(live.strides) == strides:
            result = live
        else:
            result = numpy.ndarray(shape, numpy.dtype(dtype), base, offset, strides)
        self._memo[ref] = result
        return result

    def _oarray(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        numpy = sys.modules["numpy"]
        fits = isinstance(live, numpy.ndarray) and live.dtype.hasobject and list(live.shape) == node[1]
        target = live if fits else numpy.empty(node[1], dtype=object)
        self._memo[ref] = target
        for index, item in enumerate(node[2]):
            target.flat[index] = self._graft(item, target.flat[index] if fits else _MISSING, path)
        return target

    def _storage(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        raise CheckpointError(f"`{path}` is a storage without its tensor")

    def _tensor(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        torch = sys.modules["torch"]
        _, kind, storage_ref, dtype_name, shape, stride, offset, requires_grad, graph, grad_ref = node
        storage = self._nodes[storage_ref]
        dtype = getattr(torch, dtype_name)
        device = torch.device(storage[1])
        fits = (
            isinstance(live, torch.Tensor) and _name(type(live)) == kind and live.dtype == dtype and not graph
            and list(live.shape) == shape and live.device == device and live.grad_fn is None
        )  # fmt: skip
        shared = self._memo.get(-1 - storage_ref)
        if fits:
            result = live
            if shared is None or shared.untyped_storage().data_ptr() != live.untyped_storage().data_ptr():
                with torch.no_grad():
                    result.detach().copy_(self._saved_tensor(torch, storage, dtype, shape, stride, offset))
            self._memo.setdefault(-1 - storage_ref, result.detach())
        else:
            result = self._new_tensor(torch, kind, storage_ref, dtype, shape, stride, offset, device)
        if graph:
            result = self._graph_value(torch, result, path)
        elif result.is_leaf and result.requires_grad != requires_grad:
            result.requires_grad_(requires_grad)
        self._memo[ref] = result
        if not graph:
            old = result.grad if result.grad is not None else _MISSING
            result.grad = None if grad_ref is None else self._graft(grad_ref, old, f"{path}.grad")
        return result

    def _saved_tensor(self, torch: Any, storage: list[Any], dtype: Any, shape: Any, stride: Any, offset: int) -> Any:
        data = bytearray(self._buffer(storage[3]))
        flat = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        return torch.empty(0, dtype=dtype).set_(flat.untyped_storage(), offset, shape, stride)

    def _new_tensor(
        self, torch: Any, kind: str, storage_ref: int, dtype: Any, shape: Any, stride: Any, offset: int, device: Any
    ) -> Any:
        owner = self._memo.get(-1 - storage_ref)
        if owner is None:
            owner = self._saved_tensor(torch, self._nodes[storage_ref], dtype, shape, stride, offset).to(device)
            self._memo[-1 - storage_ref] = owner
        result = torch.empty(0, dtype=dtype, device=device).set_(owner.untyped_storage(), offset, shape, stride)
        if kind == "torch.nn.parameter.Parameter":
            return torch.nn.Parameter(result, requires_grad=False)
        if kind != "torch.Tensor":
            raise CheckpointError(f"a tensor of class {kind} can't be made anew")
        return result

    def _graph_value(self, torch: Any, result: Any, path: str) -> Any:
        """A value whose autograd graph is gone: usable as a number, an error in a backward pass."""
        if not result.is_floating_point():
            return result
        result = result.detach().requires_grad_()
        result._flor_without_graph = True  # noqa: SLF001 - so that a later capture knows it for what it is

        def refuse(_: Any) -> None:
            raise CheckpointError(
                f"a backward pass goes through `{path}`, whose graph belongs to a loop that was skipped"
            )

        result.register_hook(refuse)
        return result

    def _rng_python(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        del path
        import random

        target = live if hasattr(live, "setstate") else random.Random()
        version, internal, gauss = node[1]
        target.setstate((version, tuple(internal), gauss))
        self._memo[ref] = target
        return target

    def _rng_numpy(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        target = live if _name(type(live)) == node[1] else None
        if target is None:
            kind = _find(node[1])
            if not isinstance(kind, type):
                raise CheckpointError(f"the random generator {node[1]} (`{path}`) does not exist in this program")
            target = kind()
        value = _rng_value(node[2])
        if hasattr(target, "set_state"):
            target.set_state(value)
        else:
            target.state = value
        self._memo[ref] = target
        return target

    def _rng_generator(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        numpy = sys.modules["numpy"]
        old = getattr(live, "bit_generator", _MISSING)
        bits = self._graft(node[1], old, f"{path}.bit_generator")
        self._memo[ref] = live if old is bits else numpy.random.Generator(bits)
        return self._memo[ref]

    def _rng_torch(self, ref: int, node: list[Any], live: Any, path: str) -> Any:
        del path
        torch = sys.modules["torch"]
        target = live if isinstance(live, torch.Generator) else torch.Generator(device=node[1])
        target.set_state(torch.frombuffer(bytearray.fromhex(node[2]), dtype=torch.uint8))
        self._memo[ref] = target
        return target


def _is_slot(kind: type, name: str) -> bool:
    return any(name in _slots(base) for base in kind.__mro__)


def _find(name: str) -> Any:
    """The module attribute that a qualified name means, or `_MISSING`."""
    if name.startswith("module "):
        return sys.modules.get(name.removeprefix("module "), _MISSING)
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:cut]))
        if module is None:
            continue
        value: Any = module
        for part in parts[cut:]:
            value = getattr(value, part, _MISSING)
            if value is _MISSING:
                break
        else:
            return value
    return _MISSING
