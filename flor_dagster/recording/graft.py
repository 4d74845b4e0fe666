"""Graft: put a captured `State` back into live objects, in place."""

from __future__ import annotations

import functools
import mmap
import struct
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording.adapters import arrays
from flor_dagster.recording.adapters.registry import restorers
from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.hulls import Hull, storage_hulls
from flor_dagster.recording.letgo import reach
from flor_dagster.recording.masking import known_secrets
from flor_dagster.recording.matching import Matching
from flor_dagster.recording.shape import MISSING
from flor_dagster.recording.state import WATCHED, Ref, graph_digest
from flor_dagster.recording.surveying import follow

RECURSION_LIMIT = 100_000

Bytes = bytes | bytearray | mmap.mmap | memoryview


class Grafter:
    """Puts a state back into live objects.

    Args:
        nodes: as captured.
        buffer: content digest → bytes, which are only read, and only until the next one is asked for.
        root_path: this program's repository path, put where the recorded one stood.
        moved: root name → places that got another object since the loop began (see `matching`).
        changed: which captured objects were made or moved since then (see `surveying.by_node`); empty where that is not known.
        is_own: as the capturer had it; tells whether an object that only pickle understands is unchanged.
        wrote: told of each address on the host from which on a buffer's content was written, and of its digest.
    """

    def __init__(
        self,
        nodes: list[Any],
        buffer: Callable[[str], Bytes],
        root_path: str = "",
        *,
        moved: Mapping[str, list[str]] | None = None,
        changed: Mapping[str, Any] | None = None,
        is_own: Callable[[str], bool] | None = None,
        wrote: Callable[[int, str], None] | None = None,
    ) -> None:
        self.nodes = nodes
        self.buffer = buffer
        self.wrote = wrote or _nowhere
        self._root_path = root_path
        self._moved = moved or {}
        self.changed = changed or {}
        self._new = {*self.changed.get("fresh", ()), *self.changed.get("unseen", ())}
        self.made = frozenset(self.changed.get("fresh", ())) | {
            ref for ref, _ in self.changed.get("displaced", ())
        }
        self._is_own = is_own or _nobody
        self.memo: dict[int, Any] = {}
        self._open: set[int] = set()
        self.later: list[Callable[[], None]] = []
        self._matching = Matching(nodes, {}, {})
        self.unchanged: set[int] = set()
        self.replaced: list[weakref.ref[Any]] = []
        """Arrays in whose place others were made. That is right where they are gone as soon as every name is bound again."""
        self.storages: dict[int, Any] = {}
        self.storage_owner: dict[int, int] = {}

    @functools.cached_property
    def hulls(self) -> dict[int, Hull]:
        """Which bytes of each storage were kept."""
        return storage_hulls(self.nodes)

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
            fresh = frozenset(self.changed["fresh"]) if self.changed else None
            now = {root: live for root, (_, live) in roots.items()}
            displaced = {ref: follow(way, now) for ref, way in self.changed.get("displaced", ())}
            self._matching = Matching(self.nodes, roots, self._moved, fresh, displaced)
            self._find_unchanged()
            values: dict[str, Any] = {}
            for name, (ref, live) in roots.items():
                values[name] = self.value(ref, live)
            while self.later:
                self.later.pop(0)()
            return values
        except CheckpointError:
            raise
        except Exception as error:
            shown = name.partition(":")[2] or name
            raise CheckpointError(f"`{shown}` can't be put back: {type(error).__name__}: {error}") from error
        finally:
            sys.setrecursionlimit(limit)

    def let_go(self) -> list[Any]:
        """The live objects that are not put back anywhere: behind places where there is a new object now."""
        found = reach(self._matching.replaced, self._is_own)
        kept = {*map(id, self.memo.values()), *map(id, self._matching.live.values())}
        return [value for number, value in found.items() if number not in kept]

    def _find_unchanged(self) -> None:
        """Objects that only pickle understands, or that can't be filled: the ones that are in the captured state stay."""
        for ref, live in self._matching.live.items():
            if self.nodes[ref][0] == "reduced" and self.is_in_state(ref, live):
                self.unchanged.add(ref)
        for ref in self._matching.lost:
            raise CheckpointError(f"{self._words(ref)} can't be found where it was when the loop began")
        for ref, live in self._matching.unfit.items():
            leaf = self.nodes[ref][0] in ("array", "view", "tensor")
            if leaf and self.is_in_state(ref, live):
                self._matching.live[ref] = live
                self.unchanged.add(ref)
            elif self._may_be_replaced(ref, live):
                self.replaced.append(weakref.ref(live))
                self._new.add(ref)
            else:
                raise CheckpointError(
                    f"{self._words(ref)} was changed in place in a way that can't be put back"
                )

    def _may_be_replaced(self, ref: int, live: Any) -> bool:
        """Whether another array may be made in place of one that can't be filled, if nobody else holds that.

        Surveys don't tell an array from a later one at its address (see `surveying.takes_references`): it was resized, or it
        is gone. Where nobody but the restored names and objects holds the live one, both come to the same. A part of another
        array can't be resized: where the number of bytes differs it is gone, else it may have got another form in that memory.
        """
        numpy = sys.modules.get("numpy")
        node = self.nodes[ref]
        if numpy is None or type(live) is not numpy.ndarray or node[0] not in ("array", "view", "oarray"):
            return False
        return node[0] == "view" or live.base is None or arrays.size_of(node) != live.nbytes

    def _words(self, ref: int) -> str:
        node = self.nodes[ref]
        word = str(node[1]) if node[0] in ("object", "reduced", "tensor", "function") else str(node[0])
        return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"

    def is_in_state(self, ref: int, live: Any) -> bool:
        """Whether a live object is in the captured state."""
        capturer = Capturer(self._is_own, self._root_path)
        capturer.add("it", live)
        state = capturer.finish()
        return "it" in state.roots and state.digests()["it"] == graph_digest(self.nodes, ref)

    # What the adapters use ------------------------------------------------------------------------------------------

    def value(self, ref: Ref, old: Any = MISSING) -> Any:
        """The value of a reference; an equal scalar stays the `old` object."""
        if not isinstance(ref, int):
            return self._scalar(ref, old)
        if ref in self.memo:
            return self.memo[ref]
        if ref in self._open:
            raise CheckpointError(f"{self._words(ref)} refers to itself in a way that can't be made anew")
        if ref in self.unchanged:
            return self.memo.setdefault(ref, self._matching.live[ref])
        node = self.nodes[ref]
        put_back = restorers.get(node[0])
        if put_back is None:
            raise CheckpointError(f"this release knows no {node[0]!r}, which a later one captured")
        live = self._matching.live.get(ref, MISSING)
        if (
            live is MISSING
            and self.changed
            and node[0] in WATCHED
            and ref not in self._new
            and not self._is_number(node)
        ):
            raise CheckpointError(f"{self._words(ref)} can't be found where it was when the loop began")
        value = put_back(self, ref, node, live)
        return self.memo.setdefault(ref, value)

    @staticmethod
    def _is_number(node: list[Any]) -> bool:
        """A value with an autograd graph: whoever holds it, holds a number."""
        return node[0] == "tensor" and bool(node[8])

    @functools.cached_property
    def _holders(self) -> dict[int, Any]:
        """A live tensor on each storage that was there before."""
        live = self._matching.live
        return {self.nodes[ref][2]: value for ref, value in live.items() if self.nodes[ref][0] == "tensor"}

    def holder(self, storage: int) -> Any:
        """A live tensor whose memory is that of a storage, MISSING where the storage is new."""
        return MISSING if storage in self.made else self._holders.get(storage, MISSING)

    def values(self, refs: list[Ref], old: Any) -> list[Any]:
        """The values of references that stand in an order, beside the old ones."""
        return [self.value(r, old[i] if i < len(old) else MISSING) for i, r in enumerate(refs)]

    def template(self, ref: int) -> Any:
        """A live object of the same kind that only shows what a new one is made from, or MISSING."""
        return self._matching.template.get(ref, MISSING)

    def now(self, ref: int, build: Callable[[], Any]) -> Any:
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
            case "k" | "kb":
                try:
                    result = known_secrets.unnamed(value)
                except KeyError as error:
                    raise CheckpointError(
                        f"the state holds the value of {error.args[0]}, a likely secret, which this replay was not given"
                    ) from None
                result = result.encode("latin-1") if tag == "kb" else result
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


def _nowhere(address: int, digest: str) -> None:
    """Nobody asks what was written where."""
    del address, digest


def _nobody(module: str) -> bool:
    """No module's code is the program's own."""
    del module
    return False
