"""Memory that has not changed since the last checkpoint is neither copied nor digested again.

A training reads large arrays that it never writes: its data. Comparing one with the copy of the last checkpoint costs a
read of both, less than a copy and a small part of a digest, and it proves what no analysis of the code could.
"""

from __future__ import annotations

from typing import Any

LEAST_BYTES = 16 * 1024
MOST_BYTES = 1024 * 1024 * 1024


class Copy:
    """The content that a piece of memory had, and its digest once somebody needed it."""

    __slots__ = ("data", "digest")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.digest: str | None = None


class KnownMemory:
    """The last copies of pieces of memory, by address and size.

    Args:
        most: bytes that are kept at most; beyond, the longest kept ones go.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._copies: dict[tuple[int, int], Copy] = {}
        self._most = most
        self._held = 0
        self._compare: Any = None

    def same(self, address: int, size: int) -> Copy | None:
        """The copy of a piece of memory, if its content is still the same, bit for bit."""
        known = self._copies.get((address, size))
        if known is None:
            return None
        return known if self._memcmp()(address, known.data, size) == 0 else None

    def keep(self, address: int, size: int, copy: Copy) -> None:
        """Remember a copy in place of the last one."""
        if size > self._most:
            return
        if self._copies.pop((address, size), None) is not None:
            self._held -= size
        while self._held + size > self._most and self._copies:
            (_, gone), _ = next(iter(self._copies.items()))
            del self._copies[next(iter(self._copies))]
            self._held -= gone
        self._copies[address, size] = copy
        self._held += size

    def _memcmp(self) -> Any:
        if self._compare is None:
            import ctypes

            compare = ctypes.CDLL(None).memcmp
            compare.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
            self._compare = compare
        return self._compare
