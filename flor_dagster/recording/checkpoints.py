"""The checkpoint store: content-addressed buffers, and manifests that make them a checkpoint.

A checkpoint exists when its manifest does: buffers are written first, then the manifest, each to a temporary file that
is renamed. A manifest has three lines: the format and the digest of the rest; the buffers that it refers to, with their
sizes; the captured graph. A buffer's name is the digest of its content. All of them are checked when they are read, so
that a torn or flipped one is never restored.

Runs share buffers. Who writes a checkpoint holds the store's lock together with other writers, from its first look at
what is there already until the manifest lies there; who deletes holds it alone (see `collecting`).
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import mmap
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flor_dagster.errors import ODD, CheckpointError, DamagedCheckpointError, odd_content
from flor_dagster.recording.descriptors import close_own, identity, open_apart, reading_apart
from flor_dagster.recording.layout import name_in
from flor_dagster.recording.memory import LEAST_BYTES, Block, Copy, KnownMemory
from flor_dagster.recording.retention import Stored
from flor_dagster.recording.state import digest_bytes

FORMAT = 2
OBJECT_VERSION = b"\x01"
NODES_AT_ONCE = 200
YIELD_SECONDS = 0.0001


@dataclass(frozen=True, slots=True)
class Manifest:
    """One checkpoint as it lies on disk.

    Args:
        run: the training run's id.
        name: unique in the run: `<loop id>` for a loop execution's end, `<loop id>.<index>` for an iteration's.
        nodes: the captured graph.
        roots: root name → reference into it.
        digests: root name → digest of the state behind it, as it was captured.
        unavailable: names that nothing reads later and that could not be captured, with the reason.
        tainted: roots that hold clock or process values; they are not compared.
        inline: content digest → base64 of small buffers.
        moved: root name → the places under it that got another object since the loop began; of older checkpoints.
        changed: which objects were made, and which moved, since the loop began (see `surveying.by_node`); empty in older ones.
    """

    run: str
    name: str
    nodes: list[Any]
    roots: dict[str, Any]
    digests: dict[str, str]
    unavailable: dict[str, str]
    tainted: tuple[str, ...]
    inline: dict[str, str]
    moved: dict[str, list[str]]
    changed: dict[str, Any] = field(default_factory=dict[str, Any])


class CheckpointStore:
    """Buffers and manifests in a folder.

    Args:
        folder: made when something is first written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pinned: dict[str, Mapping[str, str]] = {}

    def pin(self, run: str, digests: Mapping[str, str]) -> None:
        """Say which manifests are a run's: name → digest, as its journal has them."""
        self._pinned[run] = digests

    def manifest_path(self, run: str, name: str) -> Path:
        """Where a manifest lies."""
        return name_in(
            name_in(self.folder / "manifests", run, "a training run"), f"{name}.json", "a checkpoint"
        )

    def object_path(self, digest: str) -> Path:
        """Where a buffer lies."""
        return self.folder / "objects" / digest[:2] / digest[2:]

    def write(
        self, manifest: Manifest, buffers: Mapping[str, Copy], series: str = "", number: int = 0
    ) -> tuple[int, str]:
        """Write what is not there yet, then the manifest.

        Args:
            manifest: the checkpoint.
            buffers: content digest → what its nodes refer to.
            series: what it is one of, for retention.
            number: its place in the series.

        Returns:
            The bytes that were written, and the manifest's digest.
        """
        objects = {digest: len(copy) for digest, copy in buffers.items() if digest not in manifest.inline}
        body = b"".join((_json(objects), b"\n", *_body(manifest)))
        digest_of_body = digest_bytes(body)
        facts = {"flor-checkpoint": FORMAT, "digest": digest_of_body, "series": series, "number": number}
        head = _json(facts) + b"\n"
        written = len(head) + len(body)
        with self.lock(shared=True):
            for digest, size in objects.items():
                path = self.object_path(digest)
                if not path.exists():
                    _write_whole(path, OBJECT_VERSION, buffers[digest].data)
                    written += size
            _write_whole(self.manifest_path(manifest.run, manifest.name), head, body)
        return written, digest_of_body

    @contextlib.contextmanager
    def lock(self, *, shared: bool, wait: bool = True) -> Generator[bool]:
        """Hold the store's lock: together with other writers, or alone.

        Args:
            shared: together with others.
            wait: until it is free.

        Yields:
            Whether it is held; a file system without locks holds none.
        """
        with file_lock(self.folder / "lock", shared=shared, wait=wait) as held:
            yield held

    def read(self, run: str, name: str) -> Manifest:
        """The manifest of a checkpoint.

        Raises:
            CheckpointError: when it is missing, torn, altered, another one or of a later format.
        """
        path = self.manifest_path(run, name)
        try:
            head, _, rest = path.read_bytes().partition(b"\n")
            header = json.loads(head)
            version, digest = header["flor-checkpoint"], header["digest"]
        except FileNotFoundError as error:
            # Collected since it was planned with: that is no damage, and another plan does without it.
            raise CheckpointError(
                f"checkpoint {name} of training run {run} is not there any more: {path}"
            ) from error
        except (OSError, *ODD) as error:
            raise DamagedCheckpointError(
                f"checkpoint {name} of training run {run} can't be read at {path}: {error}"
            ) from error
        if version != FORMAT:
            raise CheckpointError(
                f"checkpoint {name} of training run {run} has format {version}; this release reads {FORMAT}"
            )
        pinned = self._pinned.get(run, {}).get(name)
        if pinned is not None and digest != pinned:
            raise DamagedCheckpointError(
                f"checkpoint {name} of training run {run} is another one than its journal says: {path} was replaced"
            )
        if digest_bytes(rest) != digest:
            raise DamagedCheckpointError(
                f"checkpoint {name} of training run {run} was altered on disk: {path}"
            )
        with odd_content(f"checkpoint {name} of training run {run} at {path}", DamagedCheckpointError):
            return self._manifest(run, name, rest, pinned)

    def _manifest(self, run: str, name: str, rest: bytes, pinned: str | None) -> Manifest:
        path = self.manifest_path(run, name)
        fields = json.loads(rest.partition(b"\n")[2])
        if pinned is None and (fields["run"], fields["name"]) != (run, name):
            # A resumed run shares the manifests of the one that it goes on from: its journal says which.
            raise DamagedCheckpointError(
                f"checkpoint {name} of training run {run} is the checkpoint {fields['name']} of training run "
                f"{fields['run']}: {path} was replaced"
            )
        return Manifest(
            fields["run"], fields["name"], fields["nodes"], fields["roots"], fields["digests"], fields["unavailable"],
            tuple(fields["tainted"]), fields["inline"], fields["moved"], fields.get("changed", {}),
        )  # fmt: skip

    def summary(self, run: str, name: str) -> Stored:
        """What retention needs to know of a checkpoint.

        Raises:
            CheckpointError: when its manifest can't be read.
        """
        path = self.manifest_path(run, name)
        try:
            with reading_apart(path) as file:
                header, objects = json.loads(file.readline()), json.loads(file.readline())
            if header["flor-checkpoint"] == FORMAT and isinstance(objects, dict):
                sizes = {str(digest): int(size) for digest, size in objects.items()}
                return Stored(run, name, header["series"], header["number"], sizes, path.stat().st_size)
        except (OSError, *ODD) as error:
            raise DamagedCheckpointError(
                f"checkpoint {name} of training run {run} can't be read at {path}: {error}"
            ) from error
        raise CheckpointError(f"checkpoint {name} of training run {run} has another format: {path}")

    def names(self, run: str) -> list[str]:
        """The checkpoints of a run, by name."""
        return sorted(path.stem for path in (self.folder / "manifests" / run).glob("*.json"))

    def buffer(self, manifest: Manifest, digest: str) -> bytes:
        """One buffer of a checkpoint.

        Raises:
            CheckpointError: when it is missing or its content is not what its name says.
        """
        return bytes(self.copy_of(manifest, digest, KnownMemory(most=0)).data)

    def copy_of(self, manifest: Manifest, digest: str, memory: KnownMemory) -> Copy:
        """One buffer of a checkpoint, as a copy whose digest is known because it was looked at.

        Args:
            manifest: the checkpoint.
            digest: the buffer's name.
            memory: where large ones are read into.

        Raises:
            CheckpointError: when it is missing or its content is not what its name says.
        """
        inline = manifest.inline.get(digest)
        path = self.object_path(digest)
        try:
            read = base64.b64decode(inline) if inline is not None else _read_whole(path, memory)
        except OSError as error:
            raise DamagedCheckpointError(
                f"checkpoint {manifest.name} of training run {manifest.run} lacks a part: {error}"
            ) from error
        if digest_bytes(read.memory if isinstance(read, Block) else read) != digest:
            raise DamagedCheckpointError(
                f"checkpoint {manifest.name} of training run {manifest.run} was altered on disk: {path}"
            )
        if isinstance(read, Block):
            return memory.adopt(read, digest)
        copy = Copy(read)
        copy.digest = digest
        return copy


_encode = json.JSONEncoder(separators=(",", ":")).encode


def _json(value: Any) -> bytes:
    return _encode(value).encode()


def _body(manifest: Manifest) -> Iterator[bytes]:
    """A manifest's last line in pieces: between them the training may have the interpreter."""
    fields = {
        "run": manifest.run, "name": manifest.name, "roots": manifest.roots, "digests": manifest.digests,
        "unavailable": manifest.unavailable,
        "tainted": list(manifest.tainted), "inline": manifest.inline, "moved": manifest.moved,
        "changed": manifest.changed,
    }  # fmt: skip
    yield _json(fields)[:-1] + b',"nodes":['
    for start in range(0, len(manifest.nodes), NODES_AT_ONCE):
        piece = _json(manifest.nodes[start : start + NODES_AT_ONCE])[1:-1]
        yield b"," + piece if start else piece
        time.sleep(YIELD_SECONDS)
    yield b"]}"


@contextlib.contextmanager
def file_lock(path: Path, *, shared: bool, wait: bool = True) -> Generator[bool]:
    """Hold a file's lock. It is gone with the process.

    Args:
        path: made where it is missing.
        shared: together with others that hold it shared.
        wait: until it is free.

    Yields:
        Whether it is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = open_apart(path, os.O_RDWR | os.O_CREAT)
    own = identity(fd)
    try:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
        else:
            yield True
    finally:
        close_own(fd, own)


def _read_whole(path: Path, memory: KnownMemory) -> bytes | Block:
    """A buffer's content: a large one in a block, so that no memory is made for it anew each time."""
    skipped = len(OBJECT_VERSION)
    with path.open("rb", buffering=0) as file:
        size = max(os.fstat(file.fileno()).st_size - skipped, 0)
        if size < LEAST_BYTES:
            return file.read()[skipped:]
        block = memory.blank(size)
        view, got = memoryview(block.memory), 0
        while got < size:
            more = os.preadv(file.fileno(), [view[got:]], skipped + got)
            if not more:
                raise OSError(f"{path} ends after {got} of {size} bytes")
            got += more
        return block


def _write_whole(path: Path, *parts: bytes | bytearray | mmap.mmap | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.{threading.get_ident()}"
    try:
        try:
            kept = _write_once(temporary, parts)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            kept = False
        # The training may close every descriptor of its process, those that are at work behind it, too.
        kept = kept or _write_once(temporary, parts)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if not kept:
        raise OSError(errno.EBADF, "the program closed it while it was written", str(path))
    temporary.replace(path)


def _write_once(path: Path, parts: tuple[bytes | bytearray | mmap.mmap | memoryview, ...]) -> bool:
    """Write a file; whether its descriptor was ours until it was safe."""
    fd = open_apart(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    own = identity(fd)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(fd, view) :]
        os.fsync(fd)
        return identity(fd) == own
    finally:
        close_own(fd, own)
