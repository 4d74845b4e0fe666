"""Buffers of checkpoints that were read: checked once, kept while checkpoints near by refer to them.

A state that was just put back is compared with what it was put back from at the next end that the record has a checkpoint
of. Its digests need not be computed anew for that: each buffer was checked against its name when it was read, and memory
that is equal to the buffer, byte for byte, has the buffer's digest (see `memory.KnownMemory`).
"""

from __future__ import annotations

from flor_dagster.recording.checkpoints import CheckpointStore, Manifest
from flor_dagster.recording.memory import LEAST_BYTES, Copy, KnownMemory


class KeptBuffers:
    """Reads the buffers of one checkpoint after another.

    Args:
        store: where they lie.
        known: is told which memory holds which buffer; its blocks are used for reading.
    """

    def __init__(self, store: CheckpointStore, known: KnownMemory) -> None:
        self._store = store
        self._known = known
        self._copies: dict[str, tuple[int, Copy]] = {}
        self._checkpoints = 0
        self._bytes = 0

    def next_checkpoint(self) -> None:
        """Another checkpoint begins: what neither it nor the one before it asks for is let go of, here and at the next one."""
        self._checkpoints += 1
        for digest, (used, copy) in list(self._copies.items()):
            if used < self._checkpoints - 2:
                del self._copies[digest]
                self._bytes -= len(copy)

    def read(self, manifest: Manifest, digest: str) -> Copy:
        """A buffer of a checkpoint.

        Raises:
            DamagedCheckpointError: when it is missing or its content is not what its name says.
        """
        found = self._copies.get(digest)
        copy = found[1] if found is not None else self._store.copy_of(manifest, digest, self._known)
        if found is None and len(copy) >= LEAST_BYTES:
            self._bytes += len(copy)
            while self._bytes > self._known.most and self._copies:
                _, oldest = self._copies.pop(next(iter(self._copies)))
                self._bytes -= len(oldest)
        if found is not None or len(copy) >= LEAST_BYTES:
            self._copies.pop(digest, None)
            self._copies[digest] = (self._checkpoints, copy)
        return copy

    def wrote(self, address: int, digest: str) -> None:
        """Memory on the host was given the content of a buffer that was read."""
        found = self._copies.get(digest)
        if found is not None:
            self._known.learn(address, found[1])
