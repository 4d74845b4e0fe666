"""torch: tensors on their storages, parameters, sparse tensors, wrapped modules, torch's constants."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording import shape
from flor_dagster.recording.adapters.instances import fill_attributes
from flor_dagster.recording.adapters.registry import Describe, Ref, Uncapturable, puts_back
from flor_dagster.recording.shape import MISSING

if TYPE_CHECKING:
    from flor_dagster.recording.capture import Capturer
    from flor_dagster.recording.graft import Grafter

# Modules around a module, whose other state torch makes by itself: compiled code, communication.
_WRAPPERS = frozenset(
    {
        "torch._dynamo.eval_frame.OptimizedModule",
        "torch.nn.parallel.distributed.DistributedDataParallel",
    }
)
_KEPT_OF_WRAPPERS = ("training", "require_backward_grad_sync")

_COMPRESSED = {"torch.sparse_csr": ("crow", "col"), "torch.sparse_csc": ("ccol", "row")}

_names: dict[Any, str] = {}


def recognise(kind: type) -> Describe | None:
    """What torch makes, without importing it."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "Tensor"):
        return None
    if issubclass(kind, torch.Tensor):
        return describe_tensor
    if issubclass(kind, torch.device | torch.dtype | torch.layout | torch.memory_format):
        return describe_constant
    if issubclass(kind, torch.Size):
        return describe_size
    return describe_wrapper if any(shape.type_name(base) in _WRAPPERS for base in kind.__mro__) else None


def describe_constant(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A device, dtype, layout or memory format."""
    del walk, node
    return ["torch", type(value).__name__, str(value)]


def describe_size(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A shape."""
    del walk, node
    return ["torch", "Size", list(value)]


def describe_wrapper(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A compiled or distributed module: the module inside, and the flags of its own."""
    del node
    kept = {k: v for k, v in shape.own_dict(value).items() if k in _KEPT_OF_WRAPPERS}
    return ["wrapper", shape.type_name(type(value)), walk.ref(shape.wrapped_by(value)), walk.named(kept)]


def describe_tensor(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A tensor: a view of its storage, with its gradient, its attributes and the hooks of its backward pass."""
    del node
    torch: Any = sys.modules["torch"]
    device = value.device
    if value.layout is not torch.strided:
        return _describe_sparse(walk, value, torch)
    if value.is_quantized or device.type == "meta":
        raise Uncapturable(f"is a {'quantized' if value.is_quantized else 'meta'} tensor")
    plain = value.detach()
    if plain.is_conj() or plain.is_neg():
        raise Uncapturable("is a conjugate or negative view of a tensor")
    index = _storage_node(walk, plain.untyped_storage(), device, torch)
    graph = value.grad_fn is not None or getattr(value, "_flor_without_graph", False)
    gradient = None if graph or value.grad is None else walk.ref(value.grad)
    attributes = shape.own_dict(value) if graph else shape.tensor_dict(value)
    if graph:
        attributes = {k: v for k, v in attributes.items() if k != "_flor_without_graph"}
    dtype = value.dtype
    name = _names.get(dtype)
    if name is None:
        name = _names[dtype] = str(dtype).removeprefix("torch.")
    return [
        "tensor", shape.type_name(type(value)), index, name, list(value.shape), list(value.stride()),
        value.storage_offset(), bool(value.requires_grad) and not graph, graph, gradient,
        walk.named(attributes) if attributes else {},
    ]  # fmt: skip


def _storage_node(walk: Capturer, storage: Any, device: Any, torch: Any) -> int:
    key = -storage._cdata  # noqa: SLF001 - the one identity of a storage that outlives its Python wrapper
    known = walk.memo.get(key)
    if known is not None:
        return known
    index = walk.new_node(key, storage)
    node = walk.state.nodes[index]
    size = storage.nbytes()
    if device.type != "cpu":
        node += ["storage", str(device), size, "", False]
        walk.buffer(node, 3, size, functools.partial(_device_bytes, storage, torch))
        return index
    address = storage.data_ptr()
    node += ["storage", "cpu", size, "", not storage.resizable()]
    walk.spans.add(address, address + size, node)
    walk.buffer(node, 3, size, bytes, address)
    return index


def _device_bytes(storage: Any, torch: Any) -> bytes:
    """The bytes of a storage on a device; the copy waits for what the device is still computing."""
    return torch.empty(0, dtype=torch.uint8).set_(storage.cpu()).numpy().tobytes()


def _describe_sparse(walk: Capturer, value: Any, torch: Any) -> list[Any]:
    """A sparse tensor: its parts. Sparse gradients are ones."""
    if value.requires_grad or value.grad_fn is not None or type(value) is not torch.Tensor:
        raise Uncapturable(f"is a {value.layout} tensor that gradients flow through")
    layout = str(value.layout)
    if layout == "torch.sparse_coo":
        parts = [value._indices(), value._values()]  # noqa: SLF001 - the public ones need a coalesced tensor
        return ["sparse", layout, walk.refs(parts), list(value.shape), value.is_coalesced()]
    if layout in _COMPRESSED:
        parts = [getattr(value, f"{part}_indices")() for part in _COMPRESSED[layout]]
        return ["sparse", layout, walk.refs([*parts, value.values()]), list(value.shape), True]
    raise Uncapturable(f"is a {layout} tensor")


@puts_back("torch")
def put_constant(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """A constant of torch."""
    del ref
    torch: Any = sys.modules["torch"]
    if live is not MISSING:
        return live
    if node[1] == "device":
        return torch.device(node[2])
    return torch.Size(node[2]) if node[1] == "Size" else getattr(torch, node[2].removeprefix("torch."))


@puts_back("tensor")
def put_tensor(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The recorded values in the live tensor, or in one of its own; its storage is written once."""
    torch: Any = sys.modules["torch"]
    _, kind, storage, dtype_name, form, stride, offset, requires_grad, graph, grad_ref, attributes = node
    if live is not MISSING and (
        str(live.device) != graft.nodes[storage][1] or live.storage_offset() != offset
    ):
        live = MISSING
    values = _storage_values(graft, torch, storage, live)
    if live is not MISSING and live.untyped_storage().data_ptr() == values.untyped_storage().data_ptr():
        result = live
    else:
        dtype = getattr(torch, dtype_name)
        view = torch.empty(0, dtype=dtype, device=values.device).set_(
            values.untyped_storage(), offset, form, stride
        )
        result = _wrapped(graft, torch, kind, view, live)
    if graph:
        graft.memo[ref] = _graph_value(graft, result)
        return graft.memo[ref]
    graft.memo[ref] = result
    if result.is_leaf and result.requires_grad != requires_grad:
        result.requires_grad_(requires_grad)
    grad = None if grad_ref is None else graft.value(grad_ref, result.grad)
    if grad is not result.grad:
        result.grad = grad
    if attributes or shape.tensor_dict(result):
        _fill_tensor(graft, result, attributes)
    return result


def _graph_value(graft: Grafter, result: Any) -> Any:
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


def _storage_values(graft: Grafter, torch: Any, storage_ref: int, live: Any) -> Any:
    """A tensor that holds the recorded memory: the live one, written once, or a new one."""
    known = graft.storages.get(storage_ref)
    if known is not None:
        return known
    _, device, size, digest, foreign = graft.nodes[storage_ref]
    data = graft.buffer(digest)
    if isinstance(data, bytes):
        data = bytearray(data)  # torch warns of memory that can't be written to
    begin = graft.hulls.get(storage_ref, (0, 0))[0]
    saved = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    target: Any = None
    if live is MISSING:
        live = graft.holder(storage_ref)
    if live is not MISSING and storage_ref not in graft.made:
        memory = live.untyped_storage()
        free = graft.storage_owner.setdefault(memory.data_ptr(), storage_ref) == storage_ref or not size
        if free and memory.nbytes() == size:
            target = torch.empty(0, dtype=torch.uint8, device=live.device).set_(memory)
            target[begin : begin + len(data)].copy_(saved)
    if target is None:
        if foreign:
            raise CheckpointError("a tensor that shares its memory with something else can't be made anew")
        target = torch.zeros(size, dtype=torch.uint8, device=torch.device(device))
        target[begin : begin + len(data)].copy_(saved)
    if target.device.type == "cpu":
        graft.wrote(target.data_ptr() + begin, digest)
    graft.storages[storage_ref] = target
    return target


def _wrapped(graft: Grafter, torch: Any, kind: str, view: Any, live: Any) -> Any:
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


def _fill_tensor(graft: Grafter, result: Any, attributes: dict[str, Ref]) -> None:
    """The attributes of a tensor; its hooks are kept by torch itself."""
    current = shape.tensor_dict(result)
    for name in shape.HOOKS:
        if name in attributes or name in current:
            hooks = graft.value(attributes[name], current.get(name, MISSING)) if name in attributes else None
            if hooks is not current.get(name):
                setattr(result, name, hooks)
    fill_attributes(graft, result, {k: v for k, v in attributes.items() if k not in shape.HOOKS})


@puts_back("sparse")
def put_sparse(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """A sparse tensor of the recorded parts."""
    del ref, live
    torch: Any = sys.modules["torch"]
    _, layout, parts, form, coalesced = node
    values = [graft.value(part) for part in parts]
    if layout == "torch.sparse_coo":
        return torch.sparse_coo_tensor(*values, form, is_coalesced=coalesced, check_invariants=False)
    made = torch.sparse_csr_tensor if layout == "torch.sparse_csr" else torch.sparse_csc_tensor
    return made(*values, form)


@puts_back("wrapper")
def put_wrapper(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live wrapper, around the recorded module."""
    _, name, inner, kept = node
    if live is MISSING:
        raise CheckpointError(f"a {name} can't be made anew")
    graft.memo[ref] = live
    before = shape.wrapped_by(live)
    if graft.value(inner, before) is not before:
        raise CheckpointError(f"a {name} wraps another module here")
    own = shape.own_dict(live)
    for key, value in kept.items():
        own[key] = graft.value(value, own.get(key, MISSING))
    return live
