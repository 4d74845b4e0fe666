"""End states as graphs: what a loop execution left behind, by value, with every alias.

A `State` is what a `Capturer` (see `capture`) saw behind a set of root names: nodes for every object, scalars in place,
buffers for arrays and tensors. A `Grafter` (see `graft`) puts one back *in place*: into the live objects that
re-executed code made, so that an optimizer goes on updating its model and a closure keeps its cell. What can't be
captured is named, never guessed; what can't be put back raises.

A node is a list, its first element the kind; references between nodes are indices, scalars are `[tag, value]`:

    ["list", refs]  ["tuple", refs]  ["dict", pairs]  ["set", refs]  ["frozenset", refs]  ["bytearray", hex]
    ["object", class name, class ref or null, {attribute: ref}, container part or null]
    ["class", name, {attribute: ref}, [own bases]]     ["holder", kind, [functions of a property or a static method]]
    ["function", name, cells, defaults, keyword defaults, attributes]    ["bound", function, self]
    ["method", self, name]   ["partial", class name, function, args, keywords, attributes]
    ["find", name]: the module attribute of that name
    ["opaque", class name]: an object that only carries output; the live one stays
    ["pickle", class name, hex]: a constant   ["reduced", class name, pickle as hex, refs]: what only pickle understands
    ["array", dtype, shape, order, digest, writeable, foreign]   ["oarray", shape, refs, order]
    ["view", base, offset, shape, strides, dtype, writeable]
    ["npscalar", dtype, hex]   ["npdtype", hex]   ["memmap", file, offset, shape, dtype]
    ["tensor", class, storage, dtype, shape, stride, offset, requires_grad, graph, grad, attributes]
    ["storage", device, bytes, digest, foreign]   ["torch", kind, text]
    ["sparse", layout, refs of its parts, shape, coalesced]   ["wrapper", class name, module, {attribute: ref}]
    ["rng.python", state, class name, attributes]   ["rng.numpy", class name, state, seeds]   ["rng.generator", bits]
    ["rng.seeds", entropy, key, pool size, children]   ["rng.torch", device, hex]
    ["memfile", class name, content, newline, position, {attribute: ref}]   ["enum", class ref, member value, {attribute: ref}?]
    ["weakref", ref or null]   ["weak", class name, pairs]   ["const", repr]   ["slice", refs]   ["proxy", ref]
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flor_dagster.recording.memory import Copy

WATCHED = frozenset(
    {
        "list",
        "dict",
        "set",
        "bytearray",
        "object",
        "function",
        "array",
        "view",
        "oarray",
        "tensor",
        "reduced",
        "memfile",
    }
)
"""Kinds of nodes whose objects a survey sees (see `surveying`)."""

Ref = Any  # an int (node), or a list ["v", …] (scalar)


@dataclass(slots=True)
class State:
    """A captured graph.

    Args:
        nodes: JSON-able descriptions; references between them are indices.
        roots: root name → reference, in the order of capture.
        buffers: content digest → copy of the memory of arrays and storages.
        unavailable: root name → why it could not be captured.
        digester: gives the digests of some roots faster; None for the others.
    """

    nodes: list[Any] = field(default_factory=list[Any])
    roots: dict[str, Ref] = field(default_factory=dict[str, Ref])
    buffers: dict[str, Copy] = field(default_factory=dict[str, Copy])
    unavailable: dict[str, str] = field(default_factory=dict[str, str])
    digester: Callable[[str], str | None] | None = None

    def digests(self) -> dict[str, str]:
        """Per root, a digest that is equal for equal states, aliases within the root included."""
        known = self.digester
        return {
            name: (known(name) if known else None) or graph_digest(self.nodes, ref)
            for name, ref in sorted(self.roots.items())
        }


def digest_bytes(data: Any) -> str:
    """The content digest of a buffer: BLAKE2b, 160 bits, hex."""
    return hashlib.blake2b(data, digest_size=20).hexdigest()


def graph_digest(nodes: list[Any], root: Ref) -> str:
    """A digest of what is reachable from a reference; nodes are numbered by their first visit."""
    texts: list[bytes] = []
    numbers: dict[int, int] = {}
    stack: list[Any] = [root]
    while stack:
        part = stack.pop()
        if isinstance(part, bytes):
            texts.append(part)
        elif isinstance(part, int):
            seen = numbers.get(part)
            texts.append(b"#%d;" % (len(numbers) if seen is None else seen))
            if seen is None:
                numbers[part] = len(numbers)
                stack.extend(reversed(parts_of(nodes[part])))
        else:
            texts.append(text_of(part))
    return hashlib.blake2b(b"".join(texts), digest_size=16).hexdigest()


_encode = json.JSONEncoder(separators=(",", ":")).encode


def text_of(value: Any) -> bytes:
    """What a scalar, or a node's own part, contributes to a digest."""
    if type(value) is list and len(value) == 2:
        tag, content = value
        if type(tag) is str and type(content) in _PLAIN:
            return _scalar_text(tag, content)
    return _encode(value).encode()


_PLAIN = (str, int, bool, type(None))


# The same few texts and numbers come again in every state; 1, 1.0 and True are told apart by their types.
@functools.lru_cache(4096, typed=True)
def _scalar_text(tag: str, content: str | int | None) -> bytes:
    return _encode([tag, content]).encode()


def _named(refs: dict[str, Ref]) -> list[Any]:
    parts: list[Any] = []
    for name in sorted(refs):
        parts += [_attribute_text(name), refs[name]]
    return parts


@functools.lru_cache(4096)
def _attribute_text(name: str) -> bytes:
    return f".{name}=".encode("utf-8", "surrogatepass")


def _flat(pairs: list[list[Ref]]) -> list[Ref]:
    return [ref for pair in pairs for ref in pair]


def _optional(ref: Ref | None) -> Ref:
    return ref if ref is not None else ["v", None]


def _head(*parts: Any) -> bytes:
    try:
        return _scalars_head(*parts)
    except TypeError:  # a list among them
        return text_of(parts) + b"("


# The nodes of a model's objects are the same ones in every state.
@functools.lru_cache(8192, typed=True)
def _scalars_head(*parts: str | float | None) -> bytes:
    return text_of(parts) + b"("


def parts_of(node: list[Any]) -> list[Any]:
    """What a node contributes: text, and references to go on with."""
    kind = node[0]
    match kind:
        case "list" | "tuple" | "slice":
            return [_head(kind, len(node[1])), *node[1]]
        case "dict":
            return [_head(kind, len(node[1])), *_flat(node[1])]
        case "set" | "frozenset":
            # The order of a set of texts hangs on the hash seed: compared by content.
            scalars = sorted(json.dumps(r) for r in node[1] if not isinstance(r, int))
            return [_head(kind, len(node[1]), scalars), *(r for r in node[1] if isinstance(r, int))]
        case "object":
            extra = parts_of(_as_node(node[4])) if node[4] else []
            return [_head(kind, node[1], len(node[3])), _optional(node[2]), *_named(node[3]), *extra]
        case "class":
            return [_head(kind, node[1]), *_named(node[2]), *node[3]]
        case "function":
            cells = [_optional(r) for r in node[2]]
            return [_head(kind, node[1], len(cells)), *cells, *node[3], *_flat(node[4]), *_flat(node[5])]
        case _:
            return _library_parts(kind, node)


def _library_parts(kind: str, node: list[Any]) -> list[Any]:
    match kind:
        case "bound":
            return [_head(kind), node[1], node[2]]
        case "method" | "enum":
            return [_head(kind, node[2]), node[1]]
        case "holder" | "oarray":
            return [_head(kind, node[1]), *node[2]]
        case "partial":
            return [_head(kind, node[1]), node[2], *node[3], *_flat(node[4]), *_named(node[5])]
        case "reduced":
            return [_head(kind, node[1], node[2]), *node[3]]
        case "weakref" | "rng.generator" | "proxy":
            return [_head(kind), _optional(node[1])]
        case "weak":
            return [_head(kind, node[1], len(node[2])), *_flat(node[2])]
        case "view":
            return [_head(kind, *node[2:]), node[1]]
        case "sparse":
            return [_head(kind, node[1], node[3], node[4]), *node[2]]
        case "wrapper":
            # Whether a module was compiled or distributed is no part of its state.
            return [_head(kind), node[2], *_named(node[3])]
        case "rng.python":
            return [_head(kind, *node[1:3]), *_named(node[3])]
        case "array" | "storage":
            return [_head(*node[:-1])]  # whose memory it is, is no part of the value
        case "tensor":
            # Whether a value still hangs on its autograd graph is not part of it: the graph is not captured.
            return [_head(kind, node[1], *node[3:8]), node[2], _optional(node[9]), *_named(node[10])]
        case _:
            return [text_of(node)]


def _as_node(extra: list[Any]) -> list[Any]:
    match extra[0]:
        case "defaultdict" | "dict":
            return ["dict", extra[1]]
        case "deque":
            return ["list", extra[1]]
        case _:
            return extra[:2]
