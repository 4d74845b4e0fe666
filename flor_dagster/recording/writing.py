"""Writing checkpoints behind the training: digest, de-duplicate, write.

What is done here holds the interpreter's lock only for short pieces: the digests and the writes of large buffers run
without it, and the captured graph is written in parts.
"""

from __future__ import annotations

import base64
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.checkpoints import CheckpointStore, Manifest
from flor_dagster.recording.collecting import lease, thin_run
from flor_dagster.recording.memory import Copy

INLINE_BYTES = 2048
MAX_QUEUED_BYTES = 512 * 1024 * 1024
PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A capture on its way to the disk: everything in it is a copy.

    Args:
        name: the checkpoint's.
        capturer: what was captured.
        unavailable: names that could not be captured and that nothing reads.
        tainted: roots that are not compared.
        changed: see `Manifest`.
        done: told when it lies there, with the bytes that were written and the manifest's digest.
        series: what it is one of, for retention.
        number: its place in the series.
        paid: told the CPU seconds that the writer took for it.
    """

    name: str
    capturer: Capturer
    unavailable: dict[str, str]
    tainted: tuple[str, ...]
    changed: dict[str, Any]
    done: Callable[[Manifest, int, str], None]
    series: str = ""
    number: int = 0
    paid: Callable[[float], object] = float


def finish_snapshot(
    snapshot: Snapshot, run: str, pace: Callable[[], None] = lambda: None
) -> tuple[Manifest, dict[str, Copy]]:
    """Digest a snapshot's buffers; `pace` is called between them."""
    state = snapshot.capturer.finish(pace)
    inline = {
        digest: base64.b64encode(copy.data).decode("ascii")
        for digest, copy in state.buffers.items()
        if len(copy) <= INLINE_BYTES
    }
    manifest = Manifest(
        run, snapshot.name, state.nodes, state.roots, state.digests(), snapshot.unavailable, snapshot.tainted, inline,
        {}, snapshot.changed,
    )  # fmt: skip
    return manifest, state.buffers


class CheckpointWriter:
    """Digests and writes snapshots behind the training, one after the other.

    Args:
        store: where they go.
        run: the training run's id.
        trouble: told once about an error of the disk; the training goes on.
        most: the bytes that the run's checkpoints may take; beyond, they are thinned.
        may_go_on: whether the training can spare what it does; it waits otherwise.
    """

    def __init__(
        self,
        store: CheckpointStore,
        run: str,
        trouble: Callable[[str, bool], None],
        most: int = 20 * 10**9,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        self._most = most
        self._may_go_on = may_go_on
        self._closing = threading.Event()
        self._taken = 0
        self._lease = contextlib.ExitStack()
        self._store = store
        self._run = run
        self._trouble = trouble
        self._queue: queue.Queue[Snapshot | Callable[[], None] | None] = queue.Queue()
        self._queued = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._counted = 0.0
        self.broken = False
        self.cpu_seconds = 0.0

    @property
    def idle(self) -> bool:
        """Whether it can take another snapshot without the memory growing."""
        return not self.broken and self._queued < MAX_QUEUED_BYTES

    def put(self, snapshot: Snapshot) -> None:
        """Hand a snapshot over."""
        self._start()
        with self._lock:
            self._queued += snapshot.capturer.pending_bytes
        self._queue.put(snapshot)

    def close(self, timeout: float = 300.0) -> None:
        """Write what is queued, at most for `timeout` seconds."""
        self._closing.set()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout)
            self._thread = None
            self._lease.close()

    def do(self, task: Callable[[], None]) -> None:
        """Do something else behind the training, in its turn."""
        self._start()
        self._queue.put(task)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="flor-checkpoints", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        self._lease.enter_context(lease(self._store, self._run))
        while True:
            item = self._queue.get()
            if item is None:
                return
            begin = self._counted = time.thread_time()
            try:
                if isinstance(item, Snapshot):
                    self._write(item)
                else:
                    item()
            except Exception as error:  # noqa: BLE001 - a disk or an object's own code must not stop the training
                self.broken = True
                self._trouble(
                    f"checkpoints stopped: {type(error).__name__}: {error}", isinstance(error, OSError)
                )
            finally:
                now = time.thread_time()
                self.cpu_seconds += now - self._counted
                if isinstance(item, Snapshot):
                    item.paid(now - begin)
                item = None  # and with it the copies: their memory is used again

    def _pace(self) -> None:
        """Wait while the training can't spare it; not once the training is over."""
        while not self._closing.is_set() and not self._may_go_on():
            self.cpu_seconds += (now := time.thread_time()) - self._counted
            self._counted = now
            self._closing.wait(PAUSE_SECONDS)

    def _write(self, snapshot: Snapshot) -> None:
        size = snapshot.capturer.pending_bytes
        try:
            if not self.broken:
                manifest, buffers = finish_snapshot(snapshot, self._run, self._pace)
                self._pace()
                written, digest = self._store.write(manifest, buffers, snapshot.series, snapshot.number)
                snapshot.done(manifest, written, digest)
                self._taken += written
                if self._taken > self._most:
                    self._taken = thin_run(self._store, self._run, self._most)
        finally:
            with self._lock:
                self._queued -= size
