"""Graft: put a captured `State` back into live objects, in place."""

from __future__ import annotations

import functools
import io
import pickle
import random
import struct
import sys
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording import shape
from flor_dagster.recording.capture import Capturer, dtype_from_text
from flor_dagster.recording.matching import Matching, fits
from flor_dagster.recording.shape import MISSING, find, type_name
from flor_dagster.recording.state import Ref, graph_digest

RECURSION_LIMIT = 100_000


class _Unpickler(pickle.Unpickler):
    """Takes what a pickle only refers to from the graph that it belongs to."""

    def __init__(self, file: io.BytesIO, value: Callable[[int], Any]) -> None:
        super().__init__(file)
        self._graph_value = value

    def persistent_load(self, pid: Any) -> Any:
        return self._graph_value(pid)


class Grafter:
    """Puts a state back into live objects.

    Args:
        nodes: as captured.
        buffer: content digest → bytes.
        root_path: this program's repository path, put where the recorded one stood.
        moved: root name → places that got another object since the loop began (see `matching`).
        is_own: as the capturer had it; tells whether an object that only pickle understands is unchanged.
    """

    def __init__(
        self,
        nodes: list[Any],
        buffer: Callable[[str], bytes],
        root_path: str = "",
        *,
        moved: Mapping[str, list[str]] | None = None,
        is_own: Callable[[str], bool] | None = None,
    ) -> None:
        self._nodes = nodes
        self._buffer = buffer
        self._root_path = root_path
        self._moved = moved or {}
        self._is_own = is_own or _nobody
        self._memo: dict[int, Any] = {}
        self._open: set[int] = set()
        self._later: list[Callable[[], None]] = []
        self._matching = Matching(nodes, {}, {})
        self._unchanged: set[int] = set()
        self._storages: dict[int, Any] = {}
        self._storage_owner: dict[int, int] = {}

    def graft(self, ref: Ref, live: Any, path: str) -> Any:
        """The value to use for `ref`: `live` brought to the captured state where it has the same structure.

        Raises:
            CheckpointError: when a part can neither be put into a live object nor be made anew.
        """
        return self.restore({path: (ref, live)})[path]

    def restore(self, roots: Mapping[str, tuple[Ref, Any]]) -> dict[str, Any]:
        """Put several roots back at once, so that what they share stays shared.

        Args:
            roots: root name → (reference, live value or `shape.MISSING`).

        Returns:
            Root name → the value to use.

        Raises:
            CheckpointError: when a part can neither be put into a live object nor be made anew.
        """
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, RECURSION_LIMIT))
        name = ""
        try:
            self._matching = Matching(self._nodes, roots, self._moved)
            self._find_unchanged()
            values: dict[str, Any] = {}
            for name, (ref, live) in roots.items():
                values[name] = self._value(ref, live)
            while self._later:
                self._later.pop(0)()
            return values
        except CheckpointError:
            raise
        except Exception as error:
            shown = name.partition(":")[2] or name
            raise CheckpointError(f"`{shown}` can't be put back: {type(error).__name__}: {error}") from error
        finally:
            sys.setrecursionlimit(limit)

    def _find_unchanged(self) -> None:
        """Objects that only pickle understands: the ones that are in the captured state already stay."""
        for ref, live in self._matching.live.items():
            if self._nodes[ref][0] == "reduced":
                capturer = Capturer(self._is_own, self._root_path)
                capturer.add("it", live)
                state = capturer.finish()
                if "it" in state.roots and state.digests()["it"] == graph_digest(self._nodes, ref):
                    self._unchanged.add(ref)

    def _value(self, ref: Ref, old: Any = MISSING) -> Any:
        if not isinstance(ref, int):
            return self._scalar(ref, old)
        if ref in self._memo:
            return self._memo[ref]
        if ref in self._open:
            raise CheckpointError(
                f"a {self._nodes[ref][0]} refers to itself in a way that can't be made anew"
            )
        node = self._nodes[ref]
        handler = getattr(self, "_" + node[0].replace(".", "_"))
        value = handler(ref, node, self._matching.live.get(ref, MISSING))
        return self._memo.setdefault(ref, value)

    def _template(self, ref: int) -> Any:
        return self._matching.template.get(ref, MISSING)

    def _now(self, ref: int, build: Callable[[], Any]) -> Any:
        """Build a value that must be whole before anyone refers to it."""
        self._open.add(ref)
        try:
            return build()
        finally:
            self._open.discard(ref)

    def _scalar(self, ref: list[Any], old: Any) -> Any:
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
        # An equal text or number stays the same object; floats are compared by their bits.
        same = type(old) is type(result) and (
            repr(old) == repr(result) if tag in ("f", "z") else old == result
        )
        return old if same and old == old else result

    # Containers -----------------------------------------------------------------------------------------------------

    def _list(self, ref: int, node: list[Any], live: Any) -> Any:
        target: list[Any] = live if live is not MISSING else []
        self._memo[ref] = target
        self._fill_list(target, node[1])
        return target

    def _fill_list(self, target: Any, refs: list[Ref]) -> None:
        old = list(list.__iter__(target))
        new = self._values(refs, old)
        if len(new) != len(old) or any(a is not b for a, b in zip(new, old, strict=True)):
            list.__setitem__(target, slice(None), new)

    def _values(self, refs: list[Ref], old: Any) -> list[Any]:
        return [self._value(r, old[i] if i < len(old) else MISSING) for i, r in enumerate(refs)]

    def _tuple(self, ref: int, node: list[Any], live: Any) -> Any:
        old: tuple[Any, ...] = live if live is not MISSING else ()
        new = tuple(self._values(node[1], old))
        if ref in self._memo:  # reached through one of its own members
            return self._memo[ref]
        return old if len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True)) else new

    def _slice(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref
        old = () if live is MISSING else (live.start, live.stop, live.step)
        new = self._values(node[1], old)
        return live if old and all(a is b for a, b in zip(old, new, strict=True)) else slice(*new)

    def _bytearray(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref
        target = live if live is not MISSING else bytearray()
        data = bytes.fromhex(node[1])
        if target != data:
            target[:] = data
        return target

    def _dict(self, ref: int, node: list[Any], live: Any) -> Any:
        target: dict[Any, Any] = live if live is not MISSING else {}
        self._memo[ref] = target
        self._fill_dict(target, node[1])
        return target

    def _fill_dict(self, target: Any, pairs: list[list[Ref]]) -> None:
        if any(isinstance(k, int) and k not in self._memo for k, _ in pairs):
            # Keys that are objects (an optimizer's parameters) are put back elsewhere in the graph first.
            self._later.append(lambda: self._fill_dict_now(target, pairs))
        else:
            self._fill_dict_now(target, pairs)

    def _fill_dict_now(self, target: Any, pairs: list[list[Ref]]) -> None:
        ordered = isinstance(target, OrderedDict)
        current: list[tuple[Any, Any]] = list(OrderedDict.items(target) if ordered else dict.items(target))
        by_key = dict(current)
        new: list[tuple[Any, Any]] = []
        for position, (key_ref, value_ref) in enumerate(pairs):
            key = self._value(key_ref, current[position][0] if position < len(current) else MISSING)
            new.append((key, self._value(value_ref, by_key.get(key, MISSING))))
        if len(current) == len(new) and all(
            a is c and b is d for (a, b), (c, d) in zip(current, new, strict=True)
        ):
            return
        kind: Any = OrderedDict if ordered else dict
        kind.clear(target)
        for key, value in new:
            kind.__setitem__(target, key, value)

    def _set(self, ref: int, node: list[Any], live: Any) -> Any:
        target: set[Any] = live if live is not MISSING else set()
        self._memo[ref] = target
        self._fill_set(target, node[1])
        return target

    def _fill_set(self, target: set[Any], refs: list[Ref]) -> None:
        new = [self._value(r) for r in refs]
        if _same_order(target, new):
            return
        set.clear(target)
        for item in new:
            set.add(target, item)
        # Numbers have one order for one history; texts hang on the hash seed and are as the run has them.
        if any(type(item) not in (int, float, bool) for item in new) or _same_order(target, new):
            return
        raise CheckpointError("the order of a set can't be put back")

    def _frozenset(self, ref: int, node: list[Any], live: Any) -> Any:
        new = frozenset(self._now(ref, lambda: [self._value(r) for r in node[1]]))
        return live if live is not MISSING and live == new else new

    # Code -----------------------------------------------------------------------------------------------------------

    def _find(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref, live
        found = find(node[1])
        if found is MISSING:
            raise CheckpointError(f"{node[1]} does not exist in this program")
        return found

    def _opaque(self, ref: int, node: list[Any], live: Any) -> Any:
        if live is MISSING:
            live = self._template(ref)
        if live is MISSING:
            raise CheckpointError(f"a {node[1]} can't be made anew")
        return live

    def _class(self, ref: int, node: list[Any], live: Any) -> Any:
        target = live if live is not MISSING else self._template(ref)
        target = find(node[1]) if target is MISSING else target
        if not isinstance(target, type):
            raise CheckpointError(f"the class {node[1]} does not exist in this program")
        self._memo[ref] = target
        current = dict(vars(target))
        for name, attribute in node[2].items():
            old = current.get(name, MISSING)
            new = self._value(attribute, old)
            if new is not old:
                setattr(target, name, new)
        for name, old in current.items():
            if name not in node[2] and not shape.is_machinery(name, old):
                delattr(target, name)
        for base in node[3]:
            self._value(base)
        return target

    def _holder(self, ref: int, node: list[Any], live: Any) -> Any:
        live = live if live is not MISSING else self._template(ref)
        functions = [self._value(r) for r in node[2]]
        if live is MISSING or any(
            a is not b for a, b in zip(shape.functions_in(live), functions, strict=True)
        ):
            raise CheckpointError(f"a {node[1]} can't be made anew")
        return live

    def _function(self, ref: int, node: list[Any], live: Any) -> Any:
        if live is MISSING:
            live = self._new_function(ref, node)
        self._memo[ref] = live
        cells = live.__closure__ or ()
        if len(cells) != len(node[2]):
            raise CheckpointError(f"the function {node[1]} has another closure in this program")
        for cell, content in zip(cells, node[2], strict=True):
            try:
                old = cell.cell_contents
            except ValueError:
                old = MISSING
            if content is None:
                if old is not MISSING:
                    del cell.cell_contents
                continue
            new = self._value(content, old)
            if new is not old:
                cell.cell_contents = new
        if node[3] or node[4]:
            self._fill_defaults(node, live)
        self._fill_dict(vars(live), node[5])
        return live

    def _fill_defaults(self, node: list[Any], live: types.FunctionType) -> None:
        old = live.__defaults__ or ()
        defaults = tuple(self._values(node[3], old))
        if len(old) != len(defaults) or any(a is not b for a, b in zip(old, defaults, strict=True)):
            live.__defaults__ = defaults
        if node[4]:
            live.__kwdefaults__ = live.__kwdefaults__ or {}
            self._fill_dict(live.__kwdefaults__, node[4])

    def _new_function(self, ref: int, node: list[Any]) -> Any:
        found = find(node[1].partition("@")[0])
        if fits(node, found):
            return found
        # Made anew from the code of one of the same definition: cells of its own.
        model = self._template(ref)
        if model is MISSING:
            raise CheckpointError(
                f"the function {node[1].partition('@')[0]} does not exist in this program yet"
            )
        cells = tuple(types.CellType() for _ in model.__closure__ or ())
        function = types.FunctionType(
            model.__code__, model.__globals__, model.__name__, model.__defaults__, cells
        )
        function.__kwdefaults__ = None if model.__kwdefaults__ is None else dict(model.__kwdefaults__)
        function.__qualname__, function.__module__ = model.__qualname__, model.__module__
        return function

    def _bound(self, ref: int, node: list[Any], live: Any) -> Any:
        function, owner = self._now(ref, lambda: self._value(node[1])), self._value(node[2])
        if ref in self._memo:
            return self._memo[ref]
        if live is not MISSING and live.__func__ is function and live.__self__ is owner:
            return live
        return types.MethodType(function, owner)

    def _method(self, ref: int, node: list[Any], live: Any) -> Any:
        owner = self._value(node[1])
        if ref in self._memo:
            return self._memo[ref]
        return live if live is not MISSING and live.__self__ is owner else getattr(owner, node[2])

    def _partial(self, ref: int, node: list[Any], live: Any) -> Any:
        if live is MISSING:
            kind = find(node[1])
            if not (isinstance(kind, type) and issubclass(kind, functools.partial)):
                raise CheckpointError(f"the class {node[1]} does not exist in this program")
            live = kind.__new__(kind, _nothing)
        self._memo[ref] = live
        arguments = tuple(self._values(node[3], ()))
        keywords = {self._value(k): self._value(v) for k, v in node[4]}
        attributes = {name: self._value(r) for name, r in node[5].items()}
        live.__setstate__((self._value(node[2]), arguments, keywords, attributes or None))
        return live

    def _enum(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref
        kind: Any = self._value(node[1], MISSING if live is MISSING else type(live))
        return kind(self._value(node[2]))

    # Instances ------------------------------------------------------------------------------------------------------

    def _weakref(self, ref: int, node: list[Any], live: Any) -> Any:
        target = None if node[1] is None else self._value(node[1])
        if ref in self._memo:
            return self._memo[ref]
        if live is not MISSING and live() is target:
            return live
        return weakref.ref(target if target is not None else _Gone())

    def _weak(self, ref: int, node: list[Any], live: Any) -> Any:
        target: Any = live
        if target is MISSING:
            target = getattr(weakref, node[1].rpartition(".")[2])()
        self._memo[ref] = target

        def fill() -> None:
            pairs = [(self._value(k), self._value(v)) for k, v in node[2]]
            target.clear()
            for key, value in pairs:
                if isinstance(target, weakref.WeakSet):
                    target.add(key)
                else:
                    target[key] = value

        self._later.append(fill)
        return target

    def _object(self, ref: int, node: list[Any], live: Any) -> Any:
        name, class_ref, attributes, extra = node[1:]
        template = self._template(ref)
        kind: Any = type(live) if live is not MISSING else MISSING if template is MISSING else type(template)
        if class_ref is not None:
            kind = self._value(class_ref, kind)
        kind = find(name) if kind is MISSING else kind
        if not isinstance(kind, type):
            raise CheckpointError(f"the class {name} does not exist in this program")
        if ref in self._memo:
            return self._memo[ref]
        target = self._instance(ref, kind, extra, live)
        if ref in self._memo:
            return self._memo[ref]
        self._memo[ref] = target
        self._fill_attributes(target, attributes)
        if extra:
            self._fill_extra(target, extra)
        return target

    def _instance(self, ref: int, kind: Any, extra: list[Any] | None, live: Any) -> Any:
        if extra is None or extra[0] not in ("tuple", "set") or (extra[0] == "set" and issubclass(kind, set)):
            if live is not MISSING:
                return live
            return (
                deque(maxlen=extra[2])
                if extra and extra[0] == "deque" and kind is deque
                else kind.__new__(kind)
            )
        old: Any = () if live is MISSING or extra[0] == "set" else tuple(tuple.__iter__(live))
        items = self._values(extra[1], old)
        if ref in self._memo:
            return self._memo[ref]
        if (
            live is not MISSING
            and len(items) == len(old)
            and all(a is b for a, b in zip(items, old, strict=True))
        ):
            return live
        builtin: Any = tuple if extra[0] == "tuple" else frozenset
        return builtin.__new__(kind, items)

    def _fill_attributes(self, target: Any, attributes: dict[str, Ref]) -> None:
        current = shape.attributes_of(target)
        for name, ref in attributes.items():
            old = current.get(name, MISSING)
            new = self._value(ref, old)
            if new is not old:
                self._set_attribute(target, name, new)
        for name in current:
            if name not in attributes:
                if name in shape.own_dict(target):
                    del shape.own_dict(target)[name]
                else:
                    object.__delattr__(target, name)

    def _set_attribute(self, target: Any, name: str, value: Any) -> None:
        if isinstance(target, BaseException) and name == "args":
            target.args = value
        elif shape.is_slot(type(target), name):
            object.__setattr__(target, name, value)
        elif shape.has_dict(target):
            shape.own_dict(target)[name] = value
        else:
            raise CheckpointError(f"a {type_name(type(target))} has no place for the attribute `{name}`")

    def _fill_extra(self, target: Any, extra: list[Any]) -> None:
        match extra[0]:
            case "defaultdict" if isinstance(target, defaultdict):
                self._fill_dict(target, extra[1])
                target.default_factory = self._value(extra[2], target.default_factory)
            case "dict":
                self._fill_dict(target, extra[1])
            case "list":
                self._fill_list(target, extra[1])
            case "deque":
                old = list(deque.__iter__(target))
                new = self._values(extra[1], old)
                if extra[2] != target.maxlen:
                    raise CheckpointError("a deque has another length in this program")
                deque.clear(target)
                deque.extend(target, new)
            case "set" if isinstance(target, set):
                self._fill_set(target, extra[1])
            case _:
                pass

    def _const(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref
        if live is not MISSING and repr(live) == node[1]:
            return live
        return range(*(int(p) for p in node[1].partition("(")[2].rstrip(")").split(",")))

    def _path(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref
        text = self._value(node[2])
        if live is not MISSING and str(live) == text:
            return live
        kind: Any = find(node[1])
        return kind(text)

    def _pickle(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref
        data = bytes.fromhex(node[2])
        if live is not MISSING and pickle.dumps(live, 5) == data:
            return live
        return pickle.loads(data)  # from the project's own store: who may write it may run code

    def _reduced(self, ref: int, node: list[Any], live: Any) -> Any:
        if ref in self._unchanged:
            return live
        unpickler = _Unpickler(
            io.BytesIO(bytes.fromhex(node[2])), lambda number: self._value(node[3][number])
        )
        return self._now(ref, unpickler.load)

    # numpy ----------------------------------------------------------------------------------------------------------

    def _npscalar(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref
        numpy: Any = sys.modules["numpy"]
        data = bytes.fromhex(node[2])
        if live is not MISSING and live.tobytes() == data:
            return live
        return numpy.frombuffer(data, dtype=dtype_from_text(node[1], numpy))[0]

    def _npdtype(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref
        return live if live is not MISSING else dtype_from_text(node[1], sys.modules["numpy"])

    def _memmap(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref
        if live is MISSING or str(live.filename) != self._value(node[1]):
            raise CheckpointError("an array that is mapped to a file can't be mapped anew")
        return live

    def _array(self, ref: int, node: list[Any], live: Any) -> Any:
        numpy: Any = sys.modules["numpy"]
        _, dtype, form, order, digest, foreign = node
        data = self._buffer(digest)
        saved = numpy.frombuffer(data, dtype=dtype_from_text(dtype, numpy)).reshape(form, order=order)
        if live is not MISSING:
            numpy.copyto(live, saved)
            return live
        del ref
        if foreign:
            raise CheckpointError("an array that shares its memory with something else can't be made anew")
        return saved.copy(order=order)

    def _view(self, ref: int, node: list[Any], live: Any) -> Any:
        numpy: Any = sys.modules["numpy"]
        _, base_ref, offset, form, strides, dtype = node
        base = self._value(base_ref)
        if ref in self._memo:
            return self._memo[ref]
        new = numpy.ndarray(form, dtype_from_text(dtype, numpy), base, offset, strides)
        if live is not MISSING and live.__array_interface__["data"] == new.__array_interface__["data"]:
            return live
        return new

    def _oarray(self, ref: int, node: list[Any], live: Any) -> Any:
        numpy: Any = sys.modules["numpy"]
        target = live if live is not MISSING else numpy.empty(node[1], dtype=object)
        self._memo[ref] = target
        for index, item in enumerate(node[2]):
            old = target.flat[index] if live is not MISSING else MISSING
            new = self._value(item, old)
            if new is not old:
                target.flat[index] = new
        return target

    # torch ----------------------------------------------------------------------------------------------------------

    def _torch(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref
        torch: Any = sys.modules["torch"]
        if live is not MISSING:
            return live
        if node[1] == "device":
            return torch.device(node[2])
        return torch.Size(node[2]) if node[1] == "Size" else getattr(torch, node[2].removeprefix("torch."))

    def _tensor(self, ref: int, node: list[Any], live: Any) -> Any:
        torch: Any = sys.modules["torch"]
        _, kind, storage, dtype_name, form, stride, offset, requires_grad, graph, grad_ref, attributes = node
        if live is not MISSING and (
            str(live.device) != self._nodes[storage][1] or live.storage_offset() != offset
        ):
            live = MISSING
        values = self._storage_values(torch, storage, live)
        if live is not MISSING and live.untyped_storage().data_ptr() == values.untyped_storage().data_ptr():
            result = live
        else:
            dtype = getattr(torch, dtype_name)
            view = torch.empty(0, dtype=dtype, device=values.device).set_(
                values.untyped_storage(), offset, form, stride
            )
            result = self._wrapped(torch, kind, view, live)
        if graph:
            self._memo[ref] = self._graph_value(result)
            return self._memo[ref]
        self._memo[ref] = result
        if result.is_leaf and result.requires_grad != requires_grad:
            result.requires_grad_(requires_grad)
        grad = None if grad_ref is None else self._value(grad_ref, result.grad)
        if grad is not result.grad:
            result.grad = grad
        if attributes or shape.own_dict(result):
            self._fill_attributes(result, attributes)
        return result

    def _storage_values(self, torch: Any, storage_ref: int, live: Any) -> Any:
        """A tensor that holds the recorded memory: the live one, written once, or a new one."""
        known = self._storages.get(storage_ref)
        if known is not None:
            return known
        _, device, size, digest, foreign = self._nodes[storage_ref]
        data = bytearray(self._buffer(digest))
        saved = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        target: Any = None
        if live is not MISSING:
            memory = live.untyped_storage()
            free = self._storage_owner.setdefault(memory.data_ptr(), storage_ref) == storage_ref or not size
            if free and memory.nbytes() == size:
                target = torch.empty(0, dtype=torch.uint8, device=live.device).set_(memory)
                target.copy_(saved)
        if target is None:
            if foreign:
                raise CheckpointError(
                    "a tensor that shares its memory with something else can't be made anew"
                )
            target = saved.clone().to(torch.device(device))
        self._storages[storage_ref] = target
        return target

    def _wrapped(self, torch: Any, kind: str, view: Any, live: Any) -> Any:
        if live is not MISSING:
            live.data = view  # the same tensor on other memory: who holds it sees the recorded values
            return live
        if kind == "torch.nn.parameter.Parameter":
            return torch.nn.Parameter(view, requires_grad=False)
        if kind == "torch.nn.parameter.Buffer":
            return torch.nn.Buffer(view)
        if kind != "torch.Tensor":
            raise CheckpointError(f"a tensor of class {kind} can't be made anew")
        return view

    def _graph_value(self, result: Any) -> Any:
        """A value whose autograd graph is gone: usable as a number, an error in a backward pass."""
        if not result.is_floating_point():
            return result
        result = result.detach().requires_grad_()
        result._flor_without_graph = True  # noqa: SLF001 - so that a later capture knows it for what it is

        def refuse(_: Any) -> None:
            raise CheckpointError(
                "a backward pass goes through a value whose graph belongs to a loop that was skipped"
            )

        result.register_hook(refuse)
        return result

    # Random generators ----------------------------------------------------------------------------------------------

    def _rng_python(self, ref: int, node: list[Any], live: Any) -> Any:
        version, internal, gauss = node[1]
        name, attributes = node[2:] if len(node) > 2 else ("random.Random", {})
        if live is MISSING:
            kind: Any = find(name)
            if not isinstance(kind, type) or not issubclass(kind, random.Random):
                raise CheckpointError(f"the class {name} does not exist in this program")
            live = kind.__new__(kind)
        self._memo[ref] = live
        self._fill_attributes(live, {**attributes, "gauss_next": ["v", None]})
        random.Random.setstate(live, (version, tuple(internal), gauss))
        return live

    def _rng_numpy(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref
        numpy: Any = sys.modules["numpy"]
        name, state, *rest = node[1:]
        seeds = rest[0] if rest else None
        if live is MISSING:
            kind: Any = find(name)
            if not isinstance(kind, type):
                raise CheckpointError(f"the random generator {name} does not exist in this program")
            live = kind() if seeds is None else kind(_seed_sequence(numpy, seeds, seeds[3]))
        elif seeds is not None:
            _advance_children(live, seeds)
        value = _rng_value(state)
        if hasattr(live, "set_state"):
            live.set_state(value)
        else:
            live.state = value
        return live

    def _rng_generator(self, ref: int, node: list[Any], live: Any) -> Any:
        numpy: Any = sys.modules["numpy"]
        bits = self._value(node[1])
        if ref in self._memo:
            return self._memo[ref]
        return live if live is not MISSING and live.bit_generator is bits else numpy.random.Generator(bits)

    def _rng_torch(self, ref: int, node: list[Any], live: Any) -> Any:
        del ref
        torch: Any = sys.modules["torch"]
        target = live if live is not MISSING else torch.Generator(device=node[1])
        target.set_state(torch.frombuffer(bytearray.fromhex(node[2]), dtype=torch.uint8))
        return target


class _Gone:
    """Dies at once: what a dead weak reference referred to."""


def _nobody(module: str) -> bool:
    """No module's code is the program's own."""
    del module
    return False


def _nothing() -> None:
    """What a new partial calls until its state is set."""


def _same_order(target: set[Any], new: list[Any]) -> bool:
    now = list(target)
    return len(now) == len(new) and all(type(a) is type(b) and a == b for a, b in zip(now, new, strict=True))


def _seed_sequence(numpy: Any, seeds: list[Any], spawned: int) -> Any:
    entropy, key, pool, _ = seeds
    return numpy.random.SeedSequence(
        entropy, spawn_key=tuple(key), pool_size=pool, n_children_spawned=spawned
    )


def _advance_children(bits: Any, seeds: list[Any]) -> None:
    """Count the children of a bit generator's seeds up to the recorded number."""
    missing = seeds[3] - bits.seed_seq.n_children_spawned
    if missing < 0:
        raise CheckpointError("a random generator has spawned more children here than in the recorded run")
    if missing:
        bits.seed_seq.spawn(missing)


def _rng_value(value: Any) -> Any:
    if isinstance(value, dict):
        if "$array" in value:
            numpy: Any = sys.modules["numpy"]
            return numpy.array(value["$array"], dtype=value["dtype"])
        return {k: _rng_value(v) for k, v in value.items()}
    return value
