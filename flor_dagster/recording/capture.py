"""Capture: walk live objects into a `State`.

Functions of the repository count as state through their closures, their defaults and the globals that they name; a
global is a root of its own, `module:name`. How each kind of object is captured is said by the `adapters`; what none of
them can capture is named.
"""

from __future__ import annotations

import struct
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flor_dagster.recording import adapters as _adapters  # noqa: F401  # pyright: ignore[reportUnusedImport] - they register themselves
from flor_dagster.recording import shape
from flor_dagster.recording.adapters import registry
from flor_dagster.recording.adapters.registry import Describe, Uncapturable
from flor_dagster.recording.globals import PYTHONS_OWN, find_global, imported, library_attribute
from flor_dagster.recording.hulls import storage_hulls
from flor_dagster.recording.masking import known_secrets
from flor_dagster.recording.memory import Copy, KnownMemory
from flor_dagster.recording.outside import Place, places_in
from flor_dagster.recording.shape import MISSING
from flor_dagster.recording.spans import MemorySpans
from flor_dagster.recording.state import Ref, State, digest_bytes
from flor_dagster.recording.touching import ANY, DYNAMIC_NAMES, NOTHING, Touches, touches_of_code

if TYPE_CHECKING:
    from flor_dagster.recording.following import Match

MAX_NODES = 400_000
PIECE_BYTES = 4 * 1024 * 1024
"""After so many copied bytes it is asked whether the checkpoint may go on."""

_Marks = tuple[int, int, int, int]


@dataclass(slots=True, eq=False)
class Buffer:
    """Memory that a node refers to; copied once the walk is over.

    Args:
        node: the node, whose element `slot` becomes the digest of the content.
        slot: see there.
        size: in bytes.
        read: a copy of the memory, where it has no address of its own.
        address: of contiguous memory on the host, else None.
        start: the first byte that counts, `size` of them do.
        copy: the copy, once it is made.
    """

    node: list[Any]
    slot: int
    size: int
    read: Callable[[], Any]
    address: int | None = None
    start: int = 0
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
        self.is_own = is_own
        self.memo: dict[int, int] = {}
        self.pending: list[Buffer] = []
        self.spans = MemorySpans()
        self.parts: dict[int, list[tuple[Any, list[Any], Buffer]]] = {}
        self._known = known
        self._root_path = root_path
        self._describers: dict[type, Describe] = {}
        self._log: list[int] = []
        self._rewritten: list[tuple[list[Any], list[Any], Buffer]] = []
        self._keep: list[Any] = []
        self.objects: list[Any] = []
        self.covered = 0  # so many nodes were not walked: a plan has them
        self.values: dict[str, Any] = {}
        self.dynamic: dict[str, str] = {}
        self.imported: dict[str, bool] = {}
        self.touched: list[tuple[Touches, Mapping[str, Any], str]] = []
        self.library: dict[str, None] = {}
        self.plannable = True
        self._functions: list[types.FunctionType] = []
        self._globals: dict[str, None] = {}
        self.outside: set[Place] = set()

    def add(self, name: str, value: Any) -> None:
        """Capture one root. What can't be captured is noted in `unavailable`."""
        marks = len(self.state.nodes), len(self.pending), len(self._log), len(self._rewritten)
        self.values[name] = value
        try:
            self.state.roots[name] = self.ref(value)
        except Uncapturable as problem:
            self._undo(name, problem.sentence(name), marks)
        except RecursionError:
            self._undo(name, Uncapturable("is nested too deeply").sentence(name), marks)
        except Exception as error:  # noqa: BLE001 - an object's own code (properties, pickling) may run here
            words = f"can't be captured ({type(error).__name__}: {error})"
            self._undo(name, Uncapturable(words).sentence(name), marks)

    def _undo(self, name: str, reason: str, marks: _Marks) -> None:
        nodes, pending, log, rewritten = marks
        self.state.unavailable[name] = reason
        del self.objects[len(self.objects) - (len(self.state.nodes) - nodes) :]
        del self.state.nodes[nodes:]
        for key in self._log[log:]:
            self.memo.pop(key, None)
        del self._log[log:]
        for node, before, buffer in self._rewritten[rewritten:]:
            node[:] = before
            self.pending.insert(0, buffer)
            pending += 1
        del self._rewritten[rewritten:]
        del self.pending[pending:]

    def note_code(self, code: types.CodeType, namespace: Mapping[str, Any]) -> None:
        """Make the globals that a code object names roots: whatever it runs may change them."""
        self.outside |= places_in(code, namespace, self.is_own)
        for name in shape.code_names(code):
            if name in namespace:
                self.note_global(namespace, name)
        for name in shape.called_by_name(code, DYNAMIC_NAMES) - namespace.keys():
            module = namespace.get("__name__", "?")
            reason = f"`{code.co_qualname}` calls `{name}`, so what it changes can't be known"
            self.state.unavailable[f"{module}:{name}"] = self.dynamic[f"{module}:{name}"] = reason
        touches = touches_of_code(code)
        if touches is not NOTHING:
            self.touched.append((touches, namespace, code.co_qualname))
            self.note_touches(touches, namespace, code.co_qualname)
        package = namespace.get("__package__") or ""
        for name in shape.code_imports(code):
            for full in (name, f"{package}.{name}" if name else package):
                module = sys.modules.get(full)
                self.imported[full] = module is not None
                if module is not None and self.is_own(full):
                    self.ref(module)

    def note_touches(self, touches: Touches, namespace: Mapping[str, Any], where: str) -> None:
        """Make what code reaches without naming it plainly roots too: attributes of libraries, modules by their names."""
        if touches is NOTHING:
            return
        if touches.frames:
            self.state.unavailable[f"{namespace.get('__name__', '?')}:{touches.frames}"] = (
                f"`{where}` uses `{touches.frames}`, so what it changes can't be known"
            )
        names = {**namespace, **imported(touches)}
        if touches.modules or any(names.get(chain[0]) is sys for chain in touches.by_name):
            self.plannable = False
            for name, module in list(sys.modules.items()):
                if self.is_own(name):
                    self.ref(module)
        for chain in touches.set_attributes:
            root = library_attribute(chain, names, self.is_own)
            if root is None:
                continue
            if root.endswith(ANY):
                self.state.unavailable[root] = (
                    f"`{where}` sets attributes of `{'.'.join(chain[:-1])}` by their names"
                )
            else:
                self._globals.setdefault(root)
                self.library[root] = None

    def note_global(self, namespace: Mapping[str, Any], name: str) -> None:
        """Make one global of one of the repository's modules a root."""
        module = namespace.get("__name__")
        if isinstance(module, str) and name not in PYTHONS_OWN and self.is_own(module):
            self._globals.setdefault(f"{module}:{name}")

    def meet_function(self, function: types.FunctionType) -> None:
        """Note a function of the repository: `follow` makes the globals that it names roots."""
        self._functions.append(function)

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
                if key not in self.state.roots:
                    value = find_global(*key.split(":", 1))
                    if value is not MISSING:
                        self.add(key, value)

    @property
    def noted(self) -> list[str]:
        """The globals that were noted, bound or not."""
        return list(self._globals)

    def note(self, names: Iterable[str]) -> None:
        """Note globals that another walk has noted."""
        self._globals.update(dict.fromkeys(names))

    def identities(self) -> dict[int, int]:
        """Identity of each captured object → its node."""
        return self.memo

    @property
    def match(self) -> Match | None:
        """The live objects that have the form of a plan, until they are copied."""
        return None

    def walked_identities(self) -> dict[int, int]:
        """The same, of those that no plan covers."""
        return self.memo

    def copy(self, check: Callable[[float], object] = float) -> None:
        """Copy the memory of arrays and tensors: from here on the training may go on.

        Args:
            check: told between the pieces which share of the bytes is copied; it may raise.
        """
        self._narrow()
        whole, done, unsaid = self.pending_bytes, 0, 0
        if self._known is not None and not self.covered:
            self._known.begin()
        for buffer in self.pending:
            if buffer.copy is None:
                buffer.copy = self._copy_of(buffer)
            done += buffer.size
            unsaid += buffer.size
            if unsaid >= PIECE_BYTES:
                unsaid = 0
                check(done / whole)
        # Nothing of the program is kept alive, or let go by another thread, once its memory is copied.
        self._keep.clear()
        self.objects.clear()
        self.values.clear()
        self.memo.clear()
        self.parts.clear()
        self._rewritten.clear()
        for buffer in self.pending:
            buffer.read = bytes

    def _narrow(self) -> None:
        """Leave out the bytes of storages that no captured tensor shows."""
        storages = {id(b.node): b for b in self.pending if b.copy is None and b.node[0] == "storage"}
        if not storages:
            return
        nodes = self.state.nodes[self.covered :]
        hulls = storage_hulls(nodes)
        for number, node in enumerate(nodes, self.covered):
            buffer = storages.get(id(node))
            if buffer is not None:
                begin, end = hulls.get(number, (0, 0))
                buffer.start, buffer.size = begin, end - begin

    def _copy_of(self, buffer: Buffer) -> Copy:
        if buffer.address is None:
            data = buffer.read()
            whole = len(data) == buffer.size
            return Copy(data if whole else data[buffer.start : buffer.start + buffer.size])
        known = self._known if self._known is not None else KnownMemory(most=0)
        return known.copy(buffer.address + buffer.start, buffer.size)

    def finish(self, pace: Callable[[], None] | None = None) -> State:
        """Digest the copied buffers and return the state; `pace` is called before each digest."""
        self.copy()
        self.spans.settle()
        for buffer in self.pending:
            copy = buffer.copy
            if copy is None:
                continue
            if copy.digest is None:
                if pace is not None:
                    pace()
                copy.digest = digest_bytes(copy.data)
            buffer.node[buffer.slot] = copy.digest
            self.state.buffers.setdefault(copy.digest, copy)
        self.pending.clear()
        return self.state

    @property
    def pending_bytes(self) -> int:
        """The bytes that are copied, or to be copied."""
        return sum(buffer.size for buffer in self.pending)

    @property
    def sizes(self) -> list[int]:
        """The sizes of the pieces of memory that are to be copied."""
        return [buffer.size for buffer in self.pending if buffer.address is not None]

    # What the adapters use ----------------------------------------------------------------------------------------

    def ref(self, value: Any) -> Ref:
        """A reference to a value, captured where it was not yet."""
        kind: type = type(value)
        scalar = _SCALARS.get(kind)
        if scalar is not None:
            return scalar(value)
        if kind is str:
            return self._text(value)
        number = id(value)
        known = self.memo.get(number)
        if known is not None:
            return known
        index = self.new_node(number, value)
        node = self.state.nodes[index]
        describe = self._describers.get(kind)
        if describe is None:
            describe = self._describers[kind] = self.describer(kind)
        node += describe(self, value, node)
        return index

    def describer(self, kind: type) -> Describe:
        """How objects of a type are captured."""
        return registry.describer(kind)

    def new_node(self, key: int, keep: Any) -> int:
        """The number of a new, empty node; `keep` lives as long as the walk, so that the key stays its own."""
        index = len(self.state.nodes)
        if index >= MAX_NODES:
            raise Uncapturable(f"is too large to capture (over {MAX_NODES:,} objects)")
        self.state.nodes.append([])
        self.memo[key] = index
        self._log.append(key)
        self.objects.append(keep)
        return index

    def keep(self, value: Any) -> None:
        """Keep something alive as long as the walk."""
        self._keep.append(value)

    def refs(self, values: Iterable[Any]) -> list[Ref]:
        """References to values by their order."""
        found: list[Ref] = []
        add, ref = found.append, self.ref
        try:
            for value in values:
                add(ref(value))
        except Uncapturable as problem:
            raise problem.under(f"[{len(found)}]") from None
        return found

    def pairs(self, pairs: Iterable[tuple[Any, Any]]) -> list[list[Ref]]:
        """References to keys and values."""
        found: list[list[Ref]] = []
        key: Any = None
        try:
            for key, item in list(pairs):
                found.append([self.ref(key), self.ref(item)])
        except Uncapturable as problem:
            raise problem.under(f"[{key!r}]" if type(key) in (str, int) else "[…]") from None
        return found

    def named(self, items: Mapping[str, Any]) -> dict[str, Ref]:
        """References to attributes."""
        found: dict[str, Ref] = {}
        name = ""
        try:
            for name, item in list(items.items()):
                found[name] = self.ref(item)
        except Uncapturable as problem:
            raise problem.under(f".{name}") from None
        return found

    def buffer(
        self, node: list[Any], slot: int, size: int, read: Callable[[], Any], address: int | None = None
    ) -> Buffer:
        """Memory to copy when the walk is over."""
        buffer = Buffer(node, slot, size, read, address)
        self.pending.append(buffer)
        return buffer

    def rewrite(self, node: list[Any], new: list[Any], buffer: Buffer) -> None:
        """Let a node that had memory of its own become another one that has none."""
        self._rewritten.append((node, list(node), buffer))
        self.pending.remove(buffer)
        node[:] = new

    def _text(self, value: str) -> Ref:
        if known_secrets and (named := known_secrets.named(value)) is not None:
            return ["k", named]
        if self._root_path and self._root_path in value and "\0" not in value:
            return ["p", value.replace(self._root_path, "\0")]
        return ["s", value]


def is_scalar(value: Any) -> bool:
    """Whether a value stands in its node itself: it needs no node of its own."""
    return type(value) in _SCALARS or type(value) is str


def _value(value: Any) -> Ref:
    return ["v", value]


def _int(value: int) -> Ref:
    return ["v", value] if -(2**63) < value < 2**63 else ["i", hex(value)]


def _float(value: float) -> Ref:
    return ["f", struct.pack(">d", value).hex()]


def _complex(value: complex) -> Ref:
    return ["z", struct.pack(">dd", value.real, value.imag).hex()]


def _bytes(value: bytes) -> Ref:
    if known_secrets and len(value) <= _SEARCHED:
        named = known_secrets.named(value.decode("latin-1"))
        if named is not None:
            return ["kb", named]
    return ["b", value.hex()]


_SEARCHED = 1_000_000
"""Longer bytes are data, and are not searched for secrets."""


def _named_constant(value: Any) -> Ref:
    return ["e", repr(value)]


_SCALARS: dict[Any, Callable[[Any], Ref]] = {
    type(None): _value, bool: _value, int: _int, float: _float, complex: _complex, bytes: _bytes,
    type(Ellipsis): _named_constant, type(NotImplemented): _named_constant,
}  # fmt: skip
