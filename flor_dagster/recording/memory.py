"""Copies of memory: recycled, and not made again where nothing changed since the last checkpoint.

A training reads large arrays that it never writes: its data. Comparing one with the copy of the last checkpoint costs a
read of both, less than a copy and a small part of a digest, and it proves what no analysis of the code could. What did
change is copied into memory that an earlier copy has given back: its pages are there already, so that the copy costs
what the memory's bandwidth costs, and nothing more.

Both go through the C library; one thread copies, since a parallel region waits for the slowest core of a busy machine.
What takes long runs without the interpreter's lock. What does not keeps it: whoever lets go of it may have to wait for
another thread's turn, which lasts longer than the copy.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

LEAST_BYTES = 16 * 1024
LARGE_BYTES = 1024 * 1024
MOST_BYTES = 1024 * 1024 * 1024
# Up to this size a copy keeps the interpreter's lock: it takes less than a millisecond or two.
QUICK_BYTES = 4 * 1024 * 1024
ALIGNMENT = 64
# Smaller pieces are copied into rooms of this size, one behind the other: large pages make the copy a quarter faster.
TOGETHER_BYTES = 8 * 1024 * 1024
ROOM_BYTES = 64 * 1024 * 1024
# After so many copied bytes it is asked whether the checkpoint may go on.
ASK_BYTES = 4 * 1024 * 1024
# So many captures a copy is kept whose memory they do not meet: several places of a program take turns.
AGE = 4
# Where the memory changed last time it most likely changes again: these bytes are looked at first.
PROBE_BYTES = 4096


class Block:
    """Memory of our own that stays where it is.

    Args:
        size: in bytes.
    """

    __slots__ = ("_view", "address", "memory")

    def __init__(self, size: int) -> None:
        import ctypes

        self.memory = _large(size) if size >= LARGE_BYTES else bytearray(size)
        self._view = (ctypes.c_char * size).from_buffer(self.memory)
        self.address = ctypes.addressof(self._view)

    def __len__(self) -> int:
        return len(self.memory)


def _large(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)  # fewer page tables to walk: a tenth of the copy's time
    return memory


class Pool:
    """Blocks that copies gave back, by size.

    Args:
        most: bytes that it keeps at most.
    """

    def __init__(self, most: int) -> None:
        self._free: defaultdict[int, list[Block]] = defaultdict(list)
        self._most = most
        self._held = 0
        self._lock = threading.RLock()  # a copy may die while another one takes

    def take(self, size: int) -> Block:
        """A block of a size, with any content."""
        with self._trying() as held:
            free = self._free.get(size) if held else None
            if free:
                self._held -= size
                return free.pop()
        return Block(size)

    def give(self, block: Block) -> None:
        """Take a block back."""
        size = len(block)
        with self._trying() as held:
            if held and self._held + size <= self._most:
                self._free[size].append(block)
                self._held += size

    @contextlib.contextmanager
    def _trying(self) -> Generator[bool]:
        """Hold the lock where it is free: nobody waits for it, least of all a forked child that it was copied to."""
        held = self._lock.acquire(blocking=False)
        try:
            yield held
        finally:
            if held:
                self._lock.release()

    def prepare(self, sizes: list[int]) -> None:
        """Have blocks of these sizes ready, their pages present: for another thread, before the first checkpoint."""
        for size in sizes:
            if size >= LEAST_BYTES and self._held + size <= self._most:
                block = Block(size)
                library().memset(block.address, 1, size)  # a page is only there once it is written
                self.give(block)

    @property
    def held(self) -> int:
        """Bytes that wait to be used."""
        return self._held


class Copy:
    """The content that a piece of memory had, and its digest once somebody needed it.

    Its block goes back to the pool when nobody holds the copy any more: hold the copy, never only its data.
    """

    __slots__ = ("_block", "_pool", "data", "digest")

    def __init__(self, data: bytes | Block, pool: Pool | None = None) -> None:
        self._block = data if isinstance(data, Block) else None
        self.data: bytes | bytearray | mmap.mmap | memoryview = (
            data.memory if isinstance(data, Block) else data
        )
        self.digest: str | None = None
        self._pool = pool

    @property
    def address(self) -> int:
        """Where it lies; 0 where that is not known."""
        return self._block.address if self._block is not None else 0

    def __len__(self) -> int:
        return len(self.data)

    def __del__(self) -> None:
        if self._pool is not None and self._block is not None:
            self._pool.give(self._block)


class Part(Copy):
    """A piece of a copy of several pieces of memory."""

    __slots__ = ("_at", "_whole")

    def __init__(self, whole: Copy, view: memoryview, at: int) -> None:
        super().__init__(b"")
        self.data = view
        self._whole = whole
        self._at = at

    @property
    def address(self) -> int:
        """Where it lies."""
        return self._whole.address + self._at


@functools.lru_cache(maxsize=32)
def _layout(sizes: tuple[int, ...]) -> tuple[list[tuple[int, int]], list[int]]:
    """Where pieces lie that are kept together: per piece (room, first byte), room -1 for one of its own; rooms' sizes."""
    places: list[tuple[int, int]] = []
    rooms: list[int] = []
    for size in sizes:
        room = (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        if size >= TOGETHER_BYTES:
            places.append((-1, 0))
            continue
        if not rooms or rooms[-1] + room > ROOM_BYTES:
            rooms.append(0)
        places.append((len(rooms) - 1, rooms[-1]))
        rooms[-1] += room
    return places, [max(room, LEAST_BYTES) for room in rooms]


class Bundle:
    """Copies of many pieces of memory. All but the largest lie together, in rooms that span large pages of memory.

    Args:
        known: the last copies of the large ones.
        addresses: where the pieces lie.
        sizes: in bytes.
        check: asked now and then whether to go on, with the bytes that are copied so far; it may raise.
    """

    def __init__(
        self,
        known: KnownMemory,
        addresses: Sequence[int],
        sizes: Sequence[int],
        check: Callable[[int], object],
    ) -> None:
        known.begin()
        self._sizes = tuple(sizes)
        self._large: dict[int, Copy] = {}
        self._places, rooms = _layout(self._sizes)
        self._rooms = [known.room(size) for size in rooms]
        bases = [room.address for room in self._rooms]
        move, done, asked = quick().memmove, 0, 0
        for number, (address, size, (room, at)) in enumerate(
            zip(addresses, sizes, self._places, strict=True)
        ):
            if room >= 0:
                move(bases[room] + at, address, size)
            else:
                self._large[number] = known.copy(address, size)
            done += size
            if done - asked >= ASK_BYTES:
                asked = done
                check(done)

    def copies(self) -> list[Copy]:
        """One of each piece."""
        found: list[Copy] = []
        views = [memoryview(room.data) for room in self._rooms]
        for number, (size, (room, at)) in enumerate(zip(self._sizes, self._places, strict=True)):
            if room >= 0:
                found.append(Part(self._rooms[room], views[room][at : at + size], at))
            else:
                found.append(self._large[number])
        return found


def digested(
    copies: Sequence[Copy], before: Sequence[Copy], digest: Callable[[Any], str], pace: Callable[[], None]
) -> Iterator[str]:
    """The content digests of copies.

    Args:
        copies: of pieces of memory.
        before: earlier ones of the same pieces; where a piece has the same content, it has the same digest.
        digest: makes one.
        pace: called before each.

    Yields:
        The digest of each, in their order.
    """
    compare = library().memcmp
    for number, copy in enumerate(copies):
        if copy.digest is None:
            other = before[number] if number < len(before) else None
            same = (
                other is not None and len(other) == len(copy) >= LEAST_BYTES and other.address and copy.address
                and compare(other.address, copy.address, len(copy)) == 0
            )  # fmt: skip
            if same and other is not None:
                copy.digest = other.digest
            if copy.digest is None:
                pace()
                copy.digest = digest(copy.data)
        yield copy.digest


class KnownMemory:
    """The last copies of pieces of memory, by address and size.

    Args:
        most: bytes that are kept at most; beyond, the longest kept ones go.
    """

    def __init__(self, most: int | None = None) -> None:
        self._copies: dict[tuple[int, int], Copy] = {}
        self._met: dict[tuple[int, int], int] = {}
        self._round = 0
        self._most = most_bytes() if most is None else most
        self._held = 0
        self._pool = Pool(self._most)
        self._changed: dict[tuple[int, int], int] = {}

    def begin(self) -> None:
        """Another capture begins: what was not met lately has moved, and its copy's memory may be used again."""
        self._round += 1
        for key in [key for key, met in self._met.items() if met < self._round - AGE]:
            self._forget(*key)
            self._changed.pop(key, None)

    def copy(self, address: int, size: int) -> Copy:
        """The content of a piece of memory: the last copy where it is still the same, bit for bit, else a new one."""
        if size < LEAST_BYTES:
            return Copy(_read(address, size))
        known = self._same(address, size)
        if known is not None:
            self._met[address, size] = self._round
            return known
        self._forget(address, size)  # first, so that its memory may be used again at once
        block = self._pool.take(size)
        _library_for(size).memmove(block.address, address, size)
        copy = Copy(block, self._pool)
        self._keep(address, size, copy)
        return copy

    @property
    def most(self) -> int:
        """The bytes that are kept at most."""
        return self._most

    def learn(self, address: int, copy: Copy) -> None:
        """A piece of memory was given the content of a copy: the next look at it begins with a comparison."""
        size = len(copy)
        if size < LEAST_BYTES or not copy.address:
            return
        self._forget(address, size)
        self._changed.pop((address, size), None)
        self._keep(address, size, copy)

    def blank(self, size: int) -> Block:
        """Memory for a copy that comes from elsewhere, with any content; `adopt` makes it one."""
        return self._pool.take(size)

    def adopt(self, block: Block, digest: str) -> Copy:
        """A filled block as a copy; its memory is used again when nobody holds the copy any more."""
        copy = Copy(block, self._pool)
        copy.digest = digest
        return copy

    def keeps(self, copies: Sequence[Copy]) -> bool:
        """Whether there is memory to keep the last copies of a state until the next ones are digested."""
        return sum(map(len, copies)) <= self._most // 2

    def room(self, size: int) -> Copy:
        """Memory for copies that somebody else makes."""
        return Copy(self._pool.take(max(size, LEAST_BYTES)), self._pool)

    def prepare(self, sizes: list[int]) -> None:
        """Have memory ready for the first copies of pieces of these sizes."""
        self._pool.prepare(sizes)

    def _same(self, address: int, size: int) -> Copy | None:
        known = self._copies.get((address, size))
        if known is None:
            return None
        other, compare = known.address, _library_for(size).memcmp
        probe = self._changed.get((address, size))
        if probe is not None and compare(address + probe, other + probe, min(PROBE_BYTES, size - probe)):
            return None
        if compare(address, other, size) == 0:
            return known
        self._changed[address, size] = _first_difference(address, other, size)
        return None

    def _forget(self, address: int, size: int) -> None:
        self._met.pop((address, size), None)
        if self._copies.pop((address, size), None) is not None:
            self._held -= size

    def _keep(self, address: int, size: int, copy: Copy) -> None:
        if size > self._most:
            return
        while self._held + size > self._most and self._copies:
            oldest = next(iter(self._copies))
            self._forget(*oldest)
            self._changed.pop(oldest, None)
        self._copies[address, size] = copy
        self._met[address, size] = self._round
        self._held += size


def most_bytes() -> int:
    """How much memory copies may take: an eighth of the machine's, at most 1 GiB; `FLOR_CHECKPOINT_MEMORY` says otherwise.

    Raises:
        ValueError: when the variable holds no number of bytes.
    """
    chosen = os.environ.get("FLOR_CHECKPOINT_MEMORY", "")
    if chosen:
        if not chosen.isdigit():
            raise ValueError(f"FLOR_CHECKPOINT_MEMORY is {chosen!r}; it must be a number of bytes")
        return int(chosen)
    try:
        return min(MOST_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
    except (OSError, ValueError):
        return MOST_BYTES


def has_room(size: int, share: float) -> bool:
    """Whether so many bytes are at most a share of the memory that the machine has to give; True where it does not say."""
    try:
        # Asked first, since it takes half a microsecond: what is free is available, but for a small reserve.
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        free = 0
    if size <= 0.9 * free * share:
        return True
    available = available_bytes()
    return available is None or size <= available * share


def available_bytes() -> int | None:
    """How much memory the machine has to give, None where it does not say."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _first_difference(one: int, other: int, size: int) -> int:
    """A place near the first byte in which two pieces of memory differ, found by halving."""
    compare = library().memcmp
    start = 0
    while size > PROBE_BYTES:
        half = size // 2
        if compare(one + start, other + start, half):
            size = half
        else:
            start, size = start + half, size - half
    return start


def _read(address: int, size: int) -> bytes:
    import ctypes

    return ctypes.string_at(address, size) if size else b""


_library: Any = None


def library() -> Any:
    """The C library's `memcmp`, `memmove` and `memset`; loaded when a first checkpoint needs them."""
    global _library
    if _library is None:
        import ctypes

        _library = _with_types(ctypes.CDLL(None))
    return _library


_quick: Any = None


def quick() -> Any:
    """The same functions, which keep the interpreter's lock."""
    global _quick
    if _quick is None:
        import ctypes

        _quick = _with_types(ctypes.PyDLL(None))
    return _quick


def _library_for(size: int) -> Any:
    return quick() if size <= QUICK_BYTES else library()


def _with_types(found: Any) -> Any:
    import ctypes

    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    found.memcmp.argtypes = (pointer, pointer, size)
    found.memmove.argtypes = (pointer, pointer, size)
    found.memmove.restype = pointer
    found.memset.argtypes = (pointer, ctypes.c_int, size)
    found.memset.restype = pointer
    return found
