"""Local worker processes: one that starts cold children, and warm ones, each for one interpreter, environment and set of libraries.

The processes belong to the one that made them: they see the end of their connection when it is gone, also by `kill -9`,
and take everything that they started with them.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flor_dagster.errors import ReplayError
from flor_dagster.replay.units import Ended, Unit

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from flor_dagster.replay.server import main; "
    "sys.path[0] = ''; sys.exit(main(int(sys.argv[2]), sys.argv[3], sys.argv[1]))"
)
START_SECONDS = 120.0
END_SECONDS = 10.0
PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])

Key = tuple[str, tuple[str, ...], tuple[tuple[str, str], ...], tuple[str, ...]]
"""Interpreter, its options, environment, libraries."""


class WorkerLostError(ReplayError):
    """A worker process is gone, and what it was doing with it."""


class Worker:
    """The connection to one worker process.

    Args:
        interpreter: the Python that it runs.
        environment: all of its environment.
        libraries: what it imports beforehand; none makes it a starter of cold children.
        options: the interpreter's.
    """

    def __init__(
        self,
        interpreter: str,
        environment: dict[str, str],
        libraries: tuple[str, ...] = (),
        options: tuple[str, ...] = (),
    ) -> None:
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[Ended]] = {}
        self._first: Future[dict[str, Any]] = Future()
        self._stopped: set[str] = set()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        ours, theirs = socket.socketpair()
        self._sock = ours
        with theirs:
            self._process = subprocess.Popen(
                [interpreter, *options, "-P", "-c", _BOOT, PACKAGE_PARENT, str(theirs.fileno()), ",".join(libraries)],
                env={**environment, "FLOR_OFF": "1"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors,
                pass_fds=[theirs.fileno()], start_new_session=True, cwd="/",
            )  # fmt: skip
        threading.Thread(target=self._listen, name="flor-worker", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def gone(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def ready(self) -> str:
        """Wait until it has imported its libraries; why it can't be used, empty where it can."""
        try:
            said = self._first.result(START_SECONDS)
        except TimeoutError:
            return f"it did not start within {START_SECONDS:.0f} s"
        except WorkerLostError as error:
            return str(error)
        return str(said.get("unsafe", ""))

    def run(self, unit: Unit) -> Ended:
        """Carry out a unit.

        Raises:
            WorkerLostError: the worker can't be reached.
        """
        number = str(next(self._ids))
        future: Future[Ended] = Future()
        with self._lock:
            if self._process.poll() is not None:
                raise WorkerLostError(self._why_gone())
            self._waiting[number] = future
            try:
                self._sock.sendall(json.dumps({**asdict(unit), "id": number}).encode() + b"\n")
            except OSError as error:
                self._waiting.pop(number, None)
                raise WorkerLostError(self._why_gone()) from error
        try:
            return future.result()
        except BaseException:
            # This process is asked to end: first the unit does, whose folder is about to be taken away.
            self._stop(number)
            with contextlib.suppress(TimeoutError):
                future.result(END_SECONDS)
            raise

    def stop(self) -> None:
        """End every unit that it is at."""
        with self._lock:
            numbers = list(self._waiting)
        for number in numbers:
            self._stop(number)

    def _stop(self, number: str) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._sock.sendall(json.dumps({"stop": number}).encode() + b"\n")

    def close(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._sock.close()
        self._errors.close()

    def _listen(self) -> None:
        received = b""
        while True:
            try:
                data = self._sock.recv(65_536)
            except OSError:
                data = b""
            if not data:
                break
            *lines, received = (received + data).split(b"\n")
            for line in lines:
                self._heard(json.loads(line))
        self._lost()

    def _heard(self, said: dict[str, Any]) -> None:
        if "id" not in said:
            self._first.set_result(said)
            return
        with self._lock:
            future = self._waiting.pop(said["id"], None)
        if future is not None:
            future.set_result(
                Ended(
                    said["status"], said["seconds"], said["why"], said["warm"], said.get("cpu_seconds", 0.0),
                    said.get("peak_bytes", 0),
                )
            )  # fmt: skip

    def _lost(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with self._lock:
            waiting = list(self._waiting.values())
            self._waiting.clear()
        for future in waiting:
            future.set_result(Ended(-9, 0.0, "worker"))
        if not self._first.done():
            self._first.set_exception(WorkerLostError(self._why_gone()))

    def _why_gone(self) -> str:
        said = ""
        with contextlib.suppress(OSError, ValueError):
            size = os.fstat(self._errors.fileno()).st_size
            said = os.pread(self._errors.fileno(), 4000, max(0, size - 4000)).decode(errors="replace").strip()
        return f"the worker process is gone (exit status {self._process.returncode}){': ' + said if said else ''}"


class Slots:
    """Lets so many units run at once; of those that wait, the one that takes longest comes first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._order = itertools.count()
        self._waiting: list[tuple[float, int]] = []
        self._changed = threading.Condition()

    def acquire(self, seconds: float, processes: int = 1) -> int:
        """Wait for slots, as many as there are processes, or all of them; how many that are."""
        with self._changed:
            mine = (-seconds, next(self._order))
            heapq.heappush(self._waiting, mine)
            while not (self._waiting[0] == mine and self._free >= min(processes, max(self.count, 1))):
                self._changed.wait()
            heapq.heappop(self._waiting)
            taken = min(processes, max(self.count, 1))
            self._free -= taken
            self._changed.notify_all()
            return taken

    def resize(self, count: int) -> None:
        """Have another number of slots; those in use stay in use."""
        with self._changed:
            self._free += count - self.count
            self.count = count
            self._changed.notify_all()

    def release(self, slots: int = 1) -> None:
        """Give some back."""
        with self._changed:
            self._free += slots
            self._changed.notify_all()


class LocalBackend:
    """Units in child processes of this machine.

    Args:
        slots: how many at once.
        warm: whether libraries are imported once for many units; a unit that does not allow it gets a cold child always.
    """

    def __init__(self, slots: int, *, warm: bool = True) -> None:
        self._slots = Slots(slots)
        self._warm = warm
        self._lock = threading.Lock()
        self._workers: dict[Key, Future[Worker | None]] = {}
        self._expected: dict[Key, int] = {}
        self._stopped = False
        self.unsafe: dict[tuple[str, ...], str] = {}

    @property
    def slots(self) -> int:
        """How many units run at once."""
        return self._slots.count

    @property
    def stopped(self) -> bool:
        """Whether everything was ended."""
        return self._stopped

    def resize(self, slots: int) -> None:
        """Let another number of units run at once, from the next one on."""
        self._slots.resize(slots)

    def expect(self, unit: Unit, times: int = 1) -> None:
        """Units like this one will come: a warm worker pays from the second on."""
        if unit.libraries:
            with self._lock:
                self._expected[_key(unit)] = self._expected.get(_key(unit), 0) + times

    def run(self, unit: Unit) -> Ended:
        """Carry out one unit; see `units.Backend`."""
        taken = self._slots.acquire(unit.seconds, unit.processes)
        try:
            if self._stopped:
                return Ended(-15, 0.0, "stopped")
            ended = self._carry_out(unit)
            return Ended(-15, 0.0, "stopped") if ended.why == "worker" and self._stopped else ended
        finally:
            self._slots.release(taken)

    def _carry_out(self, unit: Unit) -> Ended:
        """In a worker that lives: one that was lost before the unit was given to it costs no attempt."""
        for _ in range(2):
            worker = self._worker_for(unit)
            try:
                ended = worker.run(unit)
            except WorkerLostError:
                self._forget(worker)
                continue
            if ended.why == "worker" and worker.gone:
                self._forget(worker)
            return ended
        return Ended(-9, 0.0, "worker")

    def _worker_for(self, unit: Unit) -> Worker:
        if self._warm and unit.libraries:
            key = _key(unit)
            with self._lock:
                worth_it = key in self._workers or self._expected.get(key, 0) > 1
            if worth_it:
                worker = self._get(key, dict(unit.environment))
                if worker is not None:
                    return worker
        # Cold children are started by this interpreter; they execute their own.
        worker = self._get((sys.executable, (), (), ()), dict(os.environ))
        if worker is None:
            raise ReplayError(f"no child process can be started: {self.unsafe.get((), '')}")
        return worker

    def _get(self, key: Key, environment: dict[str, str]) -> Worker | None:
        with self._lock:
            future = self._workers.get(key)
            mine = future is None
            if future is None:
                future = self._workers[key] = Future()
        if mine:
            try:
                future.set_result(self._start(key, environment))
            except BaseException as error:
                with self._lock:
                    self._workers.pop(key, None)
                future.set_exception(error)
                raise
        return future.result()

    def _start(self, key: Key, environment: dict[str, str]) -> Worker | None:
        interpreter, options, _, libraries = key
        worker = Worker(interpreter, environment, libraries, options)
        trouble = worker.ready()
        if trouble:
            self.unsafe[libraries] = trouble
            worker.close()
            return None
        return worker

    def _forget(self, worker: Worker) -> None:
        with self._lock:
            for key, future in list(self._workers.items()):
                if future.done() and future.exception() is None and future.result() is worker:
                    del self._workers[key]
        worker.close()

    def _all(self) -> list[Worker]:
        with self._lock:
            done = [f for f in self._workers.values() if f.done() and f.exception() is None]
        return [worker for future in done if (worker := future.result()) is not None]

    def stop(self) -> None:
        """End everything that runs, now."""
        self._stopped = True
        for worker in self._all():
            worker.stop()

    def close(self) -> None:
        """End the worker processes."""
        self._stopped = True
        for worker in self._all():
            worker.close()
        with self._lock:
            self._workers.clear()


def _key(unit: Unit) -> Key:
    return unit.interpreter, unit.options, tuple(sorted(unit.environment.items())), unit.libraries or ()
