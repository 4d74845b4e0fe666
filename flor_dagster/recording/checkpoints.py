"""The checkpoint store: content-addressed buffers, and manifests that make them a checkpoint.

A checkpoint exists when its manifest does: buffers are written first, then the manifest, each to a temporary file that
is renamed. A manifest's first line carries the digest of the rest, a buffer's name is the digest of its content; both
are checked when they are read, so that a torn or flipped one is never restored.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flor_dagster.errors import CheckpointError, DamagedCheckpointError
from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.memory import Copy
from flor_dagster.recording.state import digest_bytes

FORMAT = 2
OBJECT_VERSION = b"\x01"
INLINE_BYTES = 2048
MAX_QUEUED_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Manifest:
    """One checkpoint as it lies on disk.

    Args:
        run: the training run's id.
        name: unique in the run: `<loop id>` for a loop execution's end, `<loop id>.<index>` for an iteration's.
        nodes: the captured graph.
        roots: root name → reference into it.
        digests: root name → digest of the state behind it.
        unavailable: names that nothing reads later and that could not be captured, with the reason.
        tainted: roots that hold clock or process values; they are not compared.
        inline: content digest → base64 of small buffers.
        moved: root name → the places under it that got another object since the loop began.
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


class CheckpointStore:
    """Buffers and manifests in a folder.

    Args:
        folder: made when something is first written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def manifest_path(self, run: str, name: str) -> Path:
        """Where a manifest lies."""
        return self.folder / "manifests" / run / f"{name}.json"

    def object_path(self, digest: str) -> Path:
        """Where a buffer lies."""
        return self.folder / "objects" / digest[:2] / digest[2:]

    def write(self, manifest: Manifest, buffers: Mapping[str, Copy]) -> int:
        """Write what is not there yet, then the manifest; the bytes that were written."""
        written = 0
        for digest, copy in buffers.items():
            path = self.object_path(digest)
            if digest not in manifest.inline and not path.exists():
                _write_whole(path, OBJECT_VERSION, copy.data)
                written += len(copy)
        body = json.dumps(
            {
                "run": manifest.run, "name": manifest.name, "nodes": manifest.nodes, "roots": manifest.roots,
                "digests": manifest.digests, "unavailable": manifest.unavailable,
                "tainted": list(manifest.tainted), "inline": manifest.inline,
                "moved": manifest.moved,
            },
            separators=(",", ":"),
        ).encode()  # fmt: skip
        head = json.dumps({"flor-checkpoint": FORMAT, "digest": digest_bytes(body)}).encode() + b"\n"
        _write_whole(self.manifest_path(manifest.run, manifest.name), head, body)
        return written + len(body)

    def read(self, run: str, name: str) -> Manifest:
        """The manifest of a checkpoint.

        Raises:
            CheckpointError: when it is missing, torn, altered or of a later format.
        """
        path = self.manifest_path(run, name)
        try:
            head, _, body = path.read_bytes().partition(b"\n")
            header = json.loads(head)
            version, digest = header["flor-checkpoint"], header["digest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpointError(
                f"checkpoint {name} of training run {run} can't be read at {path}: {error}"
            ) from error
        if version != FORMAT:
            raise CheckpointError(
                f"checkpoint {name} of training run {run} has format {version}; this release reads {FORMAT}"
            )
        if digest_bytes(body) != digest:
            raise DamagedCheckpointError(
                f"checkpoint {name} of training run {run} was altered on disk: {path}"
            )
        fields = json.loads(body)
        if "moved" not in fields:
            raise CheckpointError(
                f"checkpoint {name} of training run {run} lacks what a restore needs: {path}"
            )
        return Manifest(
            fields["run"], fields["name"], fields["nodes"], fields["roots"], fields["digests"],
            fields["unavailable"], tuple(fields["tainted"]), fields["inline"],
            fields["moved"],
        )  # fmt: skip

    def buffer(self, manifest: Manifest, digest: str) -> bytes:
        """One buffer of a checkpoint.

        Raises:
            CheckpointError: when it is missing or its content is not what its name says.
        """
        inline = manifest.inline.get(digest)
        path = self.object_path(digest)
        try:
            data = (
                base64.b64decode(inline) if inline is not None else path.read_bytes()[len(OBJECT_VERSION) :]
            )
        except OSError as error:
            raise DamagedCheckpointError(
                f"checkpoint {manifest.name} of training run {manifest.run} lacks a part: {error}"
            ) from error
        if digest_bytes(data) != digest:
            raise DamagedCheckpointError(
                f"checkpoint {manifest.name} of training run {manifest.run} was altered on disk: {path}"
            )
        return data


def _write_whole(path: Path, *parts: bytes | bytearray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.{threading.get_ident()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(fd, view) :]
        os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(fd)
    temporary.replace(path)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A capture on its way to the disk: everything in it is a copy."""

    name: str
    capturer: Capturer
    unavailable: dict[str, str]
    tainted: tuple[str, ...]
    moved: dict[str, list[str]]
    done: Callable[[Manifest, int], None]


def finish_snapshot(snapshot: Snapshot, run: str) -> tuple[Manifest, dict[str, Copy]]:
    """Digest a snapshot's buffers and roots."""
    state = snapshot.capturer.finish()
    inline = {
        digest: base64.b64encode(copy.data).decode("ascii")
        for digest, copy in state.buffers.items()
        if len(copy) <= INLINE_BYTES
    }
    manifest = Manifest(
        run, snapshot.name, state.nodes, state.roots, state.digests(), snapshot.unavailable, snapshot.tainted, inline,
        snapshot.moved,
    )  # fmt: skip
    return manifest, state.buffers


class CheckpointWriter:
    """Digests and writes snapshots behind the training, one after the other.

    Args:
        store: where they go.
        run: the training run's id.
        trouble: told once about an error of the disk; the training goes on.
    """

    def __init__(self, store: CheckpointStore, run: str, trouble: Callable[[str], None]) -> None:
        self._store = store
        self._run = run
        self._trouble = trouble
        self._queue: queue.Queue[Snapshot | None] = queue.Queue()
        self._queued = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.broken = False

    @property
    def idle(self) -> bool:
        """Whether it can take another snapshot without the memory growing."""
        return not self.broken and self._queued < MAX_QUEUED_BYTES

    def put(self, snapshot: Snapshot) -> None:
        """Hand a snapshot over."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="flor-checkpoints", daemon=True)
            self._thread.start()
        with self._lock:
            self._queued += snapshot.capturer.pending_bytes
        self._queue.put(snapshot)

    def close(self, timeout: float = 300.0) -> None:
        """Write what is queued, at most for `timeout` seconds."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout)
            self._thread = None

    def _work(self) -> None:
        while True:
            snapshot = self._queue.get()
            if snapshot is None:
                return
            size = snapshot.capturer.pending_bytes
            try:
                if not self.broken:
                    manifest, buffers = finish_snapshot(snapshot, self._run)
                    snapshot.done(manifest, self._store.write(manifest, buffers))
            except Exception as error:  # noqa: BLE001 - a disk or an object's own code must not stop the training
                self.broken = True
                self._trouble(f"checkpoints stopped: {type(error).__name__}: {error}")
            finally:
                with self._lock:
                    self._queued -= size
