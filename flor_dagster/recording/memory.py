"""Copies of memory: recycled, and not made again where nothing changed since the last checkpoint.

A training reads large arrays that it never writes: its data. Comparing one with the copy of the last checkpoint costs a
read of both, less than a copy and a small part of a digest, and it proves what no analysis of the code could. What did
change is copied into memory that an earlier copy has given back: its pages are there already, so that the copy costs
what the memory's bandwidth costs, and nothing more.

Both go through the C library, which runs without the interpreter's lock; one thread copies, since a parallel region
waits for the slowest core of a busy machine.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

LEAST_BYTES = 16 * 1024
LARGE_BYTES = 1024 * 1024
MOST_BYTES = 1024 * 1024 * 1024
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
        with self._lock:
            free = self._free.get(size)
            if free:
                self._held -= size
                return free.pop()
        return Block(size)

    def give(self, block: Block) -> None:
        """Take a block back."""
        size = len(block)
        with self._lock:
            if self._held + size <= self._most:
                self._free[size].append(block)
                self._held += size

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
        self.data: bytes | bytearray | mmap.mmap = data.memory if isinstance(data, Block) else data
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


class KnownMemory:
    """The last copies of pieces of memory, by address and size.

    Args:
        most: bytes that are kept at most; beyond, the longest kept ones go.
    """

    def __init__(self, most: int | None = None) -> None:
        self._copies: dict[tuple[int, int], Copy] = {}
        self._most = most_bytes() if most is None else most
        self._held = 0
        self._pool = Pool(self._most)
        self._changed: dict[tuple[int, int], int] = {}

    def copy(self, address: int, size: int) -> Copy:
        """The content of a piece of memory: the last copy where it is still the same, bit for bit, else a new one."""
        if size < LEAST_BYTES:
            return Copy(_read(address, size))
        known = self._same(address, size)
        if known is not None:
            return known
        self._forget(address, size)  # first, so that its memory may be used again at once
        block = self._pool.take(size)
        library().memmove(block.address, address, size)
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

    def prepare(self, sizes: list[int]) -> None:
        """Have memory ready for the first copies of pieces of these sizes."""
        self._pool.prepare(sizes)

    def _same(self, address: int, size: int) -> Copy | None:
        known = self._copies.get((address, size))
        if known is None:
            return None
        other, compare = known.address, library().memcmp
        probe = self._changed.get((address, size))
        if probe is not None and compare(address + probe, other + probe, min(PROBE_BYTES, size - probe)):
            return None
        if compare(address, other, size) == 0:
            return known
        self._changed[address, size] = _first_difference(address, other, size)
        return None

    def _forget(self, address: int, size: int) -> None:
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

        found = ctypes.CDLL(None)
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        found.memcmp.argtypes = (pointer, pointer, size)
        found.memmove.argtypes = (pointer, pointer, size)
        found.memmove.restype = pointer
        found.memset.argtypes = (pointer, ctypes.c_int, size)
        found.memset.restype = pointer
        _library = found
    return _library
