"""The worker process: imports heavy libraries once, then forks for every unit of a replay.

It runs in the interpreter of the old code, imports the standard library and the recorder, and never a module of the
user's repository. It is safe to fork from only if nothing but imports has happened: no other thread lives, no CUDA
context exists, and no library has drawn from, or seeded, a random generator when it was imported. That is looked at
before the first unit: where a library has drawn, the process starts afresh with the modules that did not; a worker that
is not safe says so and is not used.

A worker without libraries starts cold children: fork and exec of a fresh interpreter.

It ends when the process that owns it closes the connection, or is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import weakref
from typing import Any, NoReturn

from flor_dagster.recording import modules
from flor_dagster.replay.guard import Request, guard
from flor_dagster.replay.preloading import UnsafeError, preload

BOOT = (
    "import os, sys; sys.path.insert(0, sys.argv[1]); from flor_dagster.replay.child import main; "
    "sys.path[0] = ''; os._exit(main(sys.argv[2]))"
)
GRACE_SECONDS = 5.0
# A module that was harmless may load one that is not, as soon as its first importer is left out.
ROUNDS = 5
_ROUND = "FLOR_WORKER_ROUND"


def main(connection: int, libraries: str, package_parent: str) -> int:
    """Serve until the owner closes the connection."""
    owner = os.getppid()
    os.environ.pop("FLOR_OFF", None)
    this_round = int(os.environ.pop(_ROUND, "1"))
    with socket.socket(fileno=connection) as sock:
        # Inherited by no program that a child executes.
        os.set_inheritable(sock.fileno(), False)
        names = [name for name in libraries.split(",") if name]
        try:
            facts = preload(names)
            if names:
                _get_ready()
        except UnsafeError as error:
            if error.harmless and this_round < ROUNDS:
                _start_afresh(sock, error.harmless, this_round + 1)
            _send(sock, {"unsafe": str(error)})
            return 0
        _send(sock, {"ready": facts})
        _Server(sock, owner, package_parent, warm=bool(names)).serve()
    return 0


def _get_ready() -> None:
    """What each child would do first, done once."""
    importlib.import_module("flor_dagster.replay.child")
    modules.note_libraries()


def _leave_finalizers() -> None:
    """Let a child end without tidying up what imports have made: that is its worker's, whose other children need it."""
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        finalizer.atexit = False


def _start_afresh(sock: socket.socket, libraries: tuple[str, ...], this_round: int) -> NoReturn:
    """Become a process that has imported nothing yet, with the same connection."""
    os.set_inheritable(sock.fileno(), True)
    environment = {**os.environ, "FLOR_OFF": "1", _ROUND: str(this_round)}
    os.execve(sys.executable, [*sys.orig_argv[:-1], ",".join(libraries)], environment)


def _send(sock: socket.socket, message: dict[str, Any]) -> None:
    sock.sendall(json.dumps(message).encode() + b"\n")


class _Server:
    """Forks a guard for every request and passes on what it says."""

    def __init__(self, sock: socket.socket, owner: int, package_parent: str, *, warm: bool) -> None:
        self._sock = sock
        self._owner = owner
        self._package_parent = package_parent
        self._warm = warm
        self._guards: dict[
            int, tuple[int, str, bytes]
        ] = {}  # pipe → process, id of the request, what it said so far
        self._received = b""

    def serve(self) -> None:
        """Until the owner is gone."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | select.POLLHUP)
        while True:
            for fd in self._guards:
                poll.register(fd, select.POLLIN)
            ready = [fd for fd, _ in poll.poll(1000)]
            for fd in ready:
                if fd in self._guards and self._said(fd):
                    poll.unregister(fd)
                    os.close(fd)
            if os.getppid() != self._owner or (self._sock.fileno() in ready and not self._listen()):
                self._end()
                return

    def _listen(self) -> bool:
        try:
            data = self._sock.recv(65_536)
        except OSError:
            return False
        if not data:
            return False
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "stop" in message:
                self._stop(message["stop"])
            else:
                self._begin(message)
        return True

    def _stop(self, request: str) -> None:
        for pid, known, _ in self._guards.values():
            if known == request:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGTERM)

    def _begin(self, request: Request) -> None:
        reading, writing = os.pipe()
        me = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                foreign = [self._sock.fileno(), reading, *self._guards]
                said = guard(request, me, self._child, foreign, writing)
            except BaseException as error:  # noqa: BLE001 - whatever happens, the worker is told
                said = {
                    "status": 1,
                    "seconds": 0.0,
                    "why": "worker",
                    "error": f"{type(error).__name__}: {error}",
                }
            with contextlib.suppress(OSError):
                os.write(writing, json.dumps(said).encode())
            os._exit(0)
        os.close(writing)
        self._guards[reading] = (pid, request["id"], b"")

    def _said(self, fd: int) -> bool:
        """Take what a guard says; True when it is over and the owner was told."""
        pid, request, said = self._guards[fd]
        data = os.read(fd, 65_536)
        if data:
            self._guards[fd] = (pid, request, said + data)
            return False
        os.waitpid(pid, 0)
        del self._guards[fd]
        result = (
            json.loads(said) if said else {"status": -int(signal.SIGKILL), "seconds": 0.0, "why": "worker"}
        )
        with contextlib.suppress(OSError):
            _send(self._sock, {"id": request, "warm": self._warm, **result})
        return True

    def _child(self, request: Request) -> int:
        if not self._warm:
            command = [
                request["interpreter"],
                *request["options"],
                "-P",
                "-c",
                BOOT,
                self._package_parent,
                request["plan"],
            ]
            os.execve(command[0], command, {**request["environment"], **request["late"]})
        os.environ.update(request["late"])
        _leave_finalizers()
        from flor_dagster.recording import layout
        from flor_dagster.replay.child import main as replay

        layout.began_in(request["folder"])
        return replay(request["plan"])

    def _end(self) -> None:
        """Nothing may outlive the owner."""
        for pid, *_ in self._guards.values():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        limit = time.monotonic() + GRACE_SECONDS
        while self._guards and time.monotonic() < limit:
            for fd, (pid, *_) in list(self._guards.items()):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    del self._guards[fd]
            time.sleep(0.01)
        for pid, *_ in self._guards.values():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
