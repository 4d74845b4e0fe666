"""What a program can see at one of its lines, in a form that is cheap enough to be taken around a hindsight expression.

The objects behind every name of the open frames, of the globals that their code and what it calls names, and of what is registered
are walked as for a checkpoint. Memory is not copied: a tensor counts by its version counter and by samples of its memory (an
in-place change through `.data` or numpy moves no counter), an array by its memory, by samples where it is large.
"""

from __future__ import annotations

import ctypes
import functools
import marshal
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from flor_dagster.recording.adapters.registry import Describe, Uncapturable
from flor_dagster.recording.adapters.tensors import describe_tensor
from flor_dagster.recording.capture import Buffer, Capturer
from flor_dagster.recording.generators import global_generators
from flor_dagster.recording.outside import readings
from flor_dagster.recording.shape import frame_locals
from flor_dagster.recording.state import graph_digest

if TYPE_CHECKING:
    from flor_dagster.recording.walking import Walker

WHOLE_BYTES = 4_000_000
"""Memory up to this size is looked at whole, larger one by samples."""
SAMPLES = 256
SAMPLE_BYTES = 4096

FIRST_LOOKS = 4
SHARE = {True: 0.2, False: 0.05}
"""How much of the replay's time looking may take: where an expression calls unknown code, and where it seems harmless."""


class Pace:
    """When to look: at the first evaluations of an expression, then ever more rarely, as the time allows."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._spent = 0.0
        self._counts: dict[str, int] = {}

    def due(self, key: str, *, unknown: bool) -> bool:
        """Whether this evaluation is looked at."""
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count <= FIRST_LOOKS or count & (count - 1) == 0:
            return True
        return self._spent < SHARE[unknown] * (time.perf_counter() - self._began)

    def paid(self, seconds: float) -> None:
        """What a look took."""
        self._spent += seconds


@dataclass(frozen=True, slots=True)
class Sight:
    """What can be seen from a frame.

    Args:
        outside: containers of libraries: place → their content.
        roots: root name → reference.
        nodes: the graph, with checksums for memory.
        whole: all of that as bytes, which tell True from 1, as digests do; None where there are none of it.
        in_parts: whether it is seen from the rest of a function that a compiler cut in parts: each has its own names.
    """

    outside: dict[str, str]
    roots: dict[str, Any]
    nodes: list[Any]
    whole: bytes | None
    in_parts: bool = False

    def digests(self) -> dict[str, str]:
        """Root → digest of what is behind it."""
        return self.outside | {root: graph_digest(self.nodes, ref) for root, ref in self.roots.items()}


def sight(frame: FrameType, walker: Walker) -> Sight:
    """What can be seen from a frame.

    Args:
        frame: of the program.
        walker: knows the program's own code and registered objects.
    """
    look = _Look(walker.is_own)
    for root, generator in global_generators().items():
        look.add(root, generator)
    for name, (registered, _) in walker.registered.items():
        look.add(f"object:{name}", registered)
    here: FrameType | None = frame
    depth, in_parts = 0, False
    while here is not None:
        if walker.is_own(str(here.f_globals.get("__name__", ""))):
            if here.f_code.co_name != "<module>":
                for name, value in frame_locals(here).items():
                    look.add(f"name {depth}:{name}", value)
            look.note_code(here.f_code, here.f_globals)
            depth += 1
        if here.f_code.co_name.startswith(_REST):
            in_parts, here = True, _first_part(here)
        here = here.f_back
    look.follow()
    return replace(look.seen(), in_parts=in_parts)


_REST = "torch_dynamo_resume_in_"


def _first_part(frame: FrameType) -> FrameType:
    """The frame of the function that torch's compiler cut in parts, each of which calls the next one."""
    name = frame.f_code.co_name.removeprefix(_REST).rpartition("_at_")[0]
    while frame.f_back is not None and frame.f_code.co_name != name:
        if frame.f_back.f_code.co_filename != frame.f_code.co_filename and not _between(frame.f_back):
            break
        frame = frame.f_back
    return frame


def _between(frame: FrameType) -> bool:
    """Whether a frame is torch's own."""
    return str(frame.f_globals.get("__name__", "")).startswith("torch.")


def changes(before: Sight, after: Sight) -> list[str]:
    """The names behind which something was changed, appeared or went, as a person knows them."""
    if before.whole is not None and before.whole == after.whole:
        return []
    old, new = before.digests(), after.digests()
    if before.in_parts or after.in_parts:
        # A part has the names that it needs; what is seen from both must be what it was.
        both = old.keys() & new.keys()
        old, new = ({root: digest for root, digest in seen.items() if root in both} for seen in (old, new))
    return changed(old, new)


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The same of digests, or of other values that are equal where nothing was changed."""
    differ = [root for root in {**before, **after} if before.get(root) != after.get(root)]
    names = [
        f"the random state of {root.partition(':')[2]}"
        if root.startswith("random:")
        else f"`{root.rpartition(':')[2]}`"
        for root in sorted(differ)
    ]
    return list(dict.fromkeys(names))


class _Look(Capturer):
    """A walk that copies nothing, and that what can't be captured does not stop."""

    def __init__(self, is_own: Callable[[str], bool]) -> None:
        super().__init__(is_own)
        self._versions: dict[int, list[int]] = {}

    def ref(self, value: Any) -> Any:
        try:
            return super().ref(value)
        except Uncapturable:
            # What was seen of it before counts all the same: its parts are nodes of their own.
            number = self.memo.get(id(value))
            if number is None:
                return ["s", f"a {type(value).__name__}"]
            if not self.state.nodes[number]:
                self.state.nodes[number] += ["opaque", type(value).__name__]
            return number

    def describer(self, kind: type) -> Describe:
        describe = super().describer(kind)
        return functools.partial(self._versioned, describe) if describe is describe_tensor else describe

    def _versioned(self, describe: Describe, _: Capturer, value: Any, node: list[Any]) -> list[Any]:
        parts = describe(self, value, node)
        if parts[0] == "tensor" and isinstance(parts[2], int):
            try:
                version = int(value._version)  # noqa: SLF001 - torch's counter of changes in place
            except RuntimeError:
                version = -1  # a tensor of inference mode counts none
            self._versions.setdefault(parts[2], []).append(version)
        return parts

    def seen(self) -> Sight:
        outside = {f"{m}:{m}.{n}": str(v) for (m, n), v in readings(self.outside, sys.modules).items()}
        for buffer in self.pending:
            buffer.node[buffer.slot] = _sampled(buffer)
        for number, versions in self._versions.items():
            self.state.nodes[number][3] = f"{self.state.nodes[number][3]} {sorted(versions)}"
        roots, nodes = self.state.roots, self.state.nodes
        # It refers to itself: nothing of the program may live until that is collected.
        self._describers.clear()
        for held in (self.objects, self.values, self._keep, self.pending, self.parts, self.touched):
            held.clear()
        return Sight(outside, roots, nodes, _text_of([outside, roots, nodes]))


def _text_of(parts: list[Any]) -> bytes | None:
    try:
        # The second version of this format refers to nothing that it wrote before: what is equal is written in one way.
        return marshal.dumps(parts, 2)
    except ValueError:
        return None


def _sampled(buffer: Buffer) -> str:
    """A checksum of memory, or of samples of it; empty where it has no address and reading it would cost much."""
    if buffer.address is None:
        return (
            str(zlib.crc32(buffer.read()))
            if buffer.size <= WHOLE_BYTES and buffer.node[:1] != ["storage"]
            else ""
        )
    if buffer.size <= WHOLE_BYTES:
        return str(_checksum(buffer.address, buffer.size))
    stride = (buffer.size - SAMPLE_BYTES) // (SAMPLES - 1)
    found = 0
    for number in range(SAMPLES):
        found = _checksum(buffer.address + number * stride, SAMPLE_BYTES, found)
    return str(found)


def _checksum(address: int, size: int, before: int = 0) -> int:
    return zlib.crc32((ctypes.c_char * size).from_address(address), before) if size else before
