"""One training run as its process sees it: identity, journal, loops, checkpoints, end."""

from __future__ import annotations

import atexit
import base64
import contextlib
import fcntl
import functools
import hashlib
import json
import opcode
import os
import platform
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeVar

from flor_dagster.recording import layout
from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.checkpoints import CheckpointStore, CheckpointWriter, Manifest, Snapshot
from flor_dagster.recording.context import Iteration, current
from flor_dagster.recording.journal import FORMAT, JournalWriter
from flor_dagster.recording.loops import LoopExecution, find_source, plain_items
from flor_dagster.recording.memory import KnownMemory
from flor_dagster.recording.policy import choose_policy
from flor_dagster.recording.shape import child_items, frame_locals
from flor_dagster.recording.values import encode

T = TypeVar("T")

# A low guess of how fast memory is copied, for the first checkpoint of a place.
BYTES_PER_SECOND = 1e9
# Of how many attributes or items of a name's object it is noted whether they are replaced.
MAX_PLACES = 256
IMMUTABLE = frozenset({type(None), bool, int, float, complex, str, bytes})

SNAPSHOT_WAIT_SECONDS = 60.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

CHANGED_BLOB = "0" * 40
"""Stands for the content of a module that changed while it was in use: no file of a version is equal to it."""

active: Session | None = None
factory: Callable[[], Session] | None = None
"""What a replay's child begins at the first flor call, where a training run begins its recording."""

_starting = threading.Lock()


def new_run_id() -> str:
    """16 random base32 characters, in lower case."""
    return base64.b32encode(secrets.token_bytes(10)).decode("ascii").lower()


def warn(message: str) -> None:
    """Tell the person once, on standard error; recording never prints otherwise."""
    with contextlib.suppress(Exception):
        sys.stderr.write(f"flor_dagster: {message}\n")


class Session:
    """Records one training run.

    Args:
        place: the repository, or the folder of a run without one.
        entrypoint: the script, relative to the repository, or `file.py:function`.
        tags: free texts kept with the run.
        origin: script, dagster or notebook.
        args: arguments given from outside; they win over the defaults in the code.
        versioned: whether the place is a git repository.
        run_id: the run's id where somebody else gave it out.
        module: the name that an entry point's module was imported by.
    """

    mode = "record"

    def __init__(
        self,
        place: layout.Place,
        entrypoint: str,
        *,
        tags: Mapping[str, str],
        origin: str,
        args: Mapping[str, Any],
        versioned: bool,
        run_id: str = "",
        module: str = "",
    ) -> None:
        self.place = place
        self.entrypoint = entrypoint
        self.run_id = run_id or new_run_id()
        self.module = module
        self.given = dict(args)
        self.root = Iteration(None, 0, None)
        self.registered: dict[str, tuple[Any, tuple[str, ...]]] = {}
        self.calls: dict[tuple[int, int, str], int] = {}
        self.args: dict[str, str] = {}
        self._codes: list[Any] = []
        self._loops = 0
        self._contexts = 0
        self._global_roots: dict[tuple[str, int, int], tuple[str, ...]] = {}
        self._lock = threading.RLock()
        self._warned: set[str] = set()
        self._tags = dict(tags)
        self._origin = origin
        self._own_modules: dict[str, bool] = {}
        self._snapshot: subprocess.Popen[bytes] | None = None
        self._lock_fd = -1
        self._environment_noted = False
        self._met: set[str] = set()
        self._known = KnownMemory()
        self._versioned = versioned
        # The interpreter takes it away before the process's exit hooks run.
        self._main_file = getattr(sys.modules.get("__main__"), "__file__", None)
        self.ended = False
        self.journal = self._open_journal()
        self._modules: dict[str, str] = {}
        self._note_modules()
        self.meet_generators()

    # Life -----------------------------------------------------------------------------------------------------------

    def _open_journal(self) -> JournalWriter:
        layout.ensure_home(self.place.home)
        folder = layout.run_folder(self.place.home, self.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        self._hold_lock(folder / "lock")
        journal = JournalWriter(folder / "journal.0.jsonl")
        journal.entry("flor", FORMAT, self.header())
        if self._versioned:
            self._start_snapshot(folder / "version.json")
        else:
            (folder / "version.json").write_text(
                json.dumps({"error": "the training ran outside any git repository"}), encoding="utf-8"
            )
        self._checkpoints = CheckpointStore(layout.checkpoints_folder(self.place.home))
        self._writer = CheckpointWriter(self._checkpoints, self.run_id, self._trouble)
        self.policy = choose_policy()
        return journal

    def header(self) -> dict[str, Any]:
        """What the journal says of the run and its process at the start."""
        return {
            "run": self.run_id, "rank": 0, "mode": self.mode, "started": time.time_ns(), "pid": os.getpid(),
            "host": socket.gethostname(), "argv": list(sys.argv), "entrypoint": self.entrypoint,
            "module": self.module,
            "root": str(self.place.root) if self._versioned else None, "cwd": str(Path.cwd()),
            "python": platform.python_version(), "executable": sys.executable, "platform": platform.platform(),
            "hashseed": os.environ.get("PYTHONHASHSEED"), "origin": self._origin, "tags": self._tags,
            "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
            "cores": os.cpu_count(), "given": _jsonable(self.given),
        }  # fmt: skip

    def _hold_lock(self, path: Path) -> None:
        """A POSIX record lock says that the run lives; forked children do not inherit it."""
        with contextlib.suppress(OSError):
            self._lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _start_snapshot(self, out: Path) -> None:
        """A child keeps the code as a version: git is slow to import and none of the training's business."""
        package_parent = str(Path(__file__).resolve().parents[2])
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        environment["PYTHONPATH"] = os.pathsep.join(
            p for p in (package_parent, os.environ.get("PYTHONPATH", "")) if p
        )
        command = [
            sys.executable, "-P", "-m", "flor_dagster.versions.snapshot", "--root", str(self.place.root), "--out", str(out),
        ]  # fmt: skip
        try:
            self._snapshot = subprocess.Popen(
                command, cwd=self.place.root, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            out.write_text(
                json.dumps({"error": f"the snapshot could not be started: {error}"}), encoding="utf-8"
            )

    def finish(self, status: str, reason: str = "") -> None:
        """Close the run: what is queued is written, the version awaited, the end noted."""
        if self.ended:
            return
        self.ended = True
        self._writer.close()
        if self._snapshot is not None:
            try:
                self._snapshot.wait(SNAPSHOT_WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                self._trouble("the code snapshot did not end in time; this run may have no version")
        self._note_modules()
        if self.journal.lost:
            self.journal.entry("w", "lost", f"{self.journal.lost} journal lines could not be written")
        self.journal.entry("z", status, reason[:2000], time.time_ns())
        self.journal.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _note_modules(self) -> None:
        """What was loaded, at the start and at the end; a file that changed in between has no content of its own."""
        now = self._loaded_modules()
        for file, blob in self._modules.items():
            if now.get(file, blob) != blob:
                now[file] = CHANGED_BLOB
        self._modules = now
        self.journal.entry("m", now)

    def _loaded_modules(self) -> dict[str, str]:
        """The repository's modules that were loaded: file → git blob id of what lies there now."""
        blobs: dict[str, str] = {}
        for module in list(sys.modules.values()):
            main = getattr(module, "__name__", "") == "__main__"
            file = self._main_file if main else getattr(module, "__file__", None)
            if not isinstance(file, str) or not file.endswith(".py"):
                continue
            relative = layout.relative_file(file, self.place.root)
            if not Path(relative).is_absolute() and self.is_own(getattr(module, "__name__", "")):
                with contextlib.suppress(OSError):
                    data = (self.place.root / relative).read_bytes()
                    blobs[relative] = hashlib.sha1(
                        b"blob %d\0" % len(data) + data, usedforsecurity=False
                    ).hexdigest()
        return blobs

    def disown(self) -> None:
        """In a forked child: nothing here belongs to it."""
        self.ended = True
        self.journal.close()

    def _trouble(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warn(message)
            self.journal.entry("w", "trouble", message)

    def meet_generators(self) -> dict[str, Any]:
        """Keep the state that a shared random generator is first seen in: a replay of an unseeded run begins there."""
        found = global_generators()
        for root in found.keys() - self._met:
            self._met.add(root)
            self.generator_met(root, found[root])
        return found

    def generator_met(self, root: str, generator: Any) -> None:
        """A shared random generator is in use from here on."""
        capturer = Capturer(lambda _: False)
        capturer.add(root, generator)
        state = capturer.finish()
        self.journal.entry("g", root, {"nodes": state.nodes, "ref": state.roots[root]})

    # Records --------------------------------------------------------------------------------------------------------

    def intern_call(self, name: str, frame: FrameType) -> int:
        """The number of a call site of `flor.log`."""
        code = frame.f_code
        line = frame.f_lineno or 0
        with self._lock:
            number = len(self.calls) + 1
            self._codes.append(code)  # its id stays its own
            self.calls[id(code), frame.f_lasti, name] = number
            self.journal.entry(
                "n",
                number,
                str(name),
                layout.relative_file(code.co_filename, self.place.root),
                code.co_qualname,
                line,
                0,
            )
        return number

    def context_id(self, iteration: Iteration) -> int:
        """The number of a loop context, written when it is first needed."""
        if iteration.id is None:
            with self._lock:
                self.journal.write(self._new_contexts(iteration))
        return iteration.id or 0

    def _new_contexts(self, iteration: Iteration) -> str:
        """Number a loop context and those around it that have no number yet; the lines that say so."""
        lines: list[str] = []
        for here in reversed(list(iteration.chain())):
            if here.id is None and here.execution is not None:
                self._contexts += 1
                here.id = self._contexts
                value = encode(here.value) if type(here.value) in (str, int, float, bool) else "null"
                if value == str(here.index):
                    value = "null"
                lines.append(f'["c",{here.id},{here.execution.id},{here.index},{value}]\n')
        return "".join(lines)

    def record(self, name: str, value: Any, frame: FrameType) -> None:
        """One record, on disk when this returns."""
        call = self.calls.get((id(frame.f_code), frame.f_lasti, name)) or self.intern_call(name, frame)
        # A finite float's repr is its JSON and round-trips; the subtraction is 0.0 for nothing else.
        text = repr(value) if type(value) is float and value - value == 0.0 else encode(value)
        iteration = current.get()
        if iteration is None:
            kept = self.journal.write(f"[{call},0,{text}]\n")
        elif iteration.id is not None:
            kept = self.journal.write(f"[{call},{iteration.id},{text}]\n")
        else:
            # One write for the context and the record; no other thread may use its number before it is on disk.
            with self._lock:
                lines = self._new_contexts(iteration)
                kept = self.journal.write(f"{lines}[{call},{iteration.id},{text}]\n")
        if not kept and not self.ended:
            self._trouble(
                f"records can't be written to {self.journal.path}: {self.journal.error}; the training goes on"
            )

    def lose(self, name: object, error: BaseException) -> None:
        """A record could not be made: said once per name, counted always."""
        self.journal.lost += 1
        shown = name if isinstance(name, str) else type(name).__name__
        self._trouble(f"records of {shown!r} are lost: {type(error).__name__}: {error}"[:500])

    def argument(self, name: str, default: T) -> T:
        """The value of an argument: given from outside, or the default in the code."""
        value, source = default, "default"
        if name in self.given:
            value, source = convert(name, self.given[name], default), "given"
        self._note_argument(name, value, default, source)
        return value

    def _note_argument(self, name: str, value: Any, default: Any, source: str) -> None:
        line = f'["a",{json.dumps(str(name))},{encode(value)},{encode(default)},"{source}"]\n'
        if self.args.get(name) != line:
            self.args[name] = line
            self.journal.write(line)

    # Loops ----------------------------------------------------------------------------------------------------------

    def open_loop(self, name: str, frame: FrameType, line: int, column: int) -> LoopExecution:
        """A loop execution begins."""
        name = str(name)
        parent = current.get() or self.root
        with self._lock:
            self._loops += 1
            number = self._loops
        source = find_source(frame, line, column)
        site = (frame.f_code.co_filename, line, column)
        execution = LoopExecution(number, parent, name, parent.next_ordinal(name), frame, source, site)
        if parent.execution is None:
            self._note_environment()
        context = self.context_id(parent) if parent.execution is not None else 0
        file = layout.relative_file(frame.f_code.co_filename, self.place.root)
        self.journal.entry(
            "l",
            number,
            context,
            name,
            execution.ordinal,
            file,
            frame.f_code.co_qualname,
            line,
            column,
            execution.opened,
        )
        self.note_entry(execution)
        return execution

    def items(self, execution: LoopExecution, iterable: Iterable[T]) -> Iterator[tuple[int, T]]:
        """What the loop yields: index and value."""
        del execution
        return plain_items(iterable)

    def watches(self, execution: LoopExecution) -> bool:
        """Whether the ends of an execution's iterations are of interest."""
        return execution.outermost

    def iteration_over(self, execution: LoopExecution) -> None:
        """An iteration's body ended and the next one has not been pulled: a place for a restore point."""
        if not self.ended:
            self._capture(execution, execution.count - 1)

    def close_loop(self, execution: LoopExecution, how: str) -> None:
        """A loop execution is over."""
        if self.ended:
            return
        if how in ("exhausted", "break"):
            self._capture(execution, None)
        self.journal.entry("e", execution.id, how, execution.count, time.time_ns())

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def why_unskippable(self, execution: LoopExecution) -> str:
        """Why an execution's end state can't stand for it, empty where it can."""
        if execution.source is None:
            return "its `for` statement can't be seen"
        if execution.source.reason:
            return execution.source.reason
        if threading.current_thread() is not threading.main_thread():
            return "it runs in a thread of its own"
        frame = execution.frame
        if frame is None:
            return "its frame is gone"
        for around in execution.parent.chain():
            other = around.execution
            opened = None if other is None else other.frame
            if opened is not None and opened.f_code is frame.f_code and opened is not frame:
                return "its function is open already (recursion)"
        return ""

    def note_entry(self, execution: LoopExecution) -> None:
        """Note which objects the loop finds under the names that it uses: a replay must know what was replaced."""
        source, frame = execution.source, execution.frame
        if source is None or source.reason or frame is None:
            return
        begin = time.perf_counter()
        try:
            site = execution.site
            if site not in self._global_roots:
                # Once per place: which globals its code may reach, and what a checkpoint of it should cost.
                capturer = self.walk(execution)
                roots = tuple(
                    r for r in capturer.state.roots if r.partition(":")[0] not in ("random", "object", "name")
                )
                self._global_roots[site] = roots
                copying = capturer.pending_bytes / BYTES_PER_SECOND
                self.policy.expect(time.perf_counter() - begin + copying, execution.place(None))
            execution.entry = self._identities(execution)
        except Exception as error:  # noqa: BLE001 - a checkpoint must never stop a training
            execution.entry = None
            self._note_uncaptured(execution, None, [f"{type(error).__name__}: {error}"])
        self.policy.spend(time.perf_counter() - begin)

    def _identities(self, execution: LoopExecution) -> dict[str, dict[str, int]]:
        """Root name → place under it → identity of the object there; the empty place is the root itself."""
        frame, source = execution.frame, execution.source
        found: dict[str, dict[str, int]] = {}
        if frame is None or source is None:
            return found
        values = frame_locals(frame)
        roots = {f"object:{name}": self.registered_now(name, values) for name in self.registered}
        if frame.f_code.co_name != "<module>":
            roots |= {
                f"name:{name}": values[name] for name in source.stored | source.loaded if name in values
            }
        for root in self._global_roots.get(execution.site, ()):
            module, _, name = root.partition(":")
            namespace = getattr(sys.modules.get(module), "__dict__", {})
            if name in namespace:
                roots[root] = namespace[name]
        for root, value in roots.items():
            places = {"": id(value)}
            for count, (place, item) in enumerate(child_items(value)):
                if count >= MAX_PLACES:
                    break
                if type(item) not in IMMUTABLE:
                    places[place] = id(item)
            found[root] = places
        return found

    def _moved(self, execution: LoopExecution) -> dict[str, list[str]]:
        """What the loop found elsewhere when it began, by root: the places that have another object now."""
        entry = execution.entry or {}
        moved: dict[str, list[str]] = {}
        for root, places in self._identities(execution).items():
            before = entry.get(root)
            if before is None or before[""] != places[""]:
                moved[root] = [""]
                continue
            other = [place for place, number in places.items() if before.get(place, number) != number]
            if other:
                moved[root] = other
        return moved

    def _gone(self, execution: LoopExecution) -> list[str]:
        """Names that the loop found bound and left unbound: a replay can't unbind them."""
        now = self._identities(execution)
        gone = [root for root in execution.entry or {} if root not in now]
        return [f"`{root.partition(':')[2]}` is deleted in the loop" for root in sorted(gone)]

    def registered_now(self, name: str, values: Mapping[str, Any]) -> Any:
        """A registered object: the one that its name has now, so that a model made anew is followed."""
        registered, aliases = self.registered[name]
        alias = next((a for a in aliases if a in values), None)
        return registered if alias is None else values[alias]

    def _capture(self, execution: LoopExecution, index: int | None) -> None:
        try:
            reason = self.why_unskippable(execution)
            if reason:
                self._note_uncaptured(execution, index, [reason])
                return
            work = (
                (time.time_ns() - execution.opened)
                / 1e9
                / (max(execution.count, 1) if index is not None else 1)
            )
            place = execution.place(index)
            if execution.entry is None or not self._writer.idle or not self.policy.allows(work, place):
                return
            begin = time.perf_counter()
            self._take(execution, index)
            self.policy.charge(time.perf_counter() - begin, place)
        except Exception as error:  # noqa: BLE001 - a checkpoint must never stop a training
            self._note_uncaptured(execution, index, [f"{type(error).__name__}: {error}"])

    def _note_uncaptured(self, execution: LoopExecution, index: int | None, reasons: list[str]) -> None:
        key = f"{execution.path.rpartition('/')[2]} {reasons}"
        if index is None or key not in self._warned:
            self._warned.add(key)
            self.journal.entry("u", execution.id, index, reasons)

    def _take(self, execution: LoopExecution, index: int | None) -> None:
        capturer = self.walk(execution)
        capturer.copy()
        reasons, dead = self.sort_unavailable(execution, capturer)
        reasons += self._gone(execution)
        if reasons:
            self._note_uncaptured(execution, index, reasons)
            return
        name = str(execution.id) if index is None else f"{execution.id}.{index}"
        loop, when = execution.id, time.time_ns()

        def done(manifest: Manifest, written: int) -> None:
            self.journal.entry(
                "k",
                {
                    "name": name,
                    "loop": loop,
                    "index": index,
                    "bytes": written,
                    "t": when,
                    "roots": len(manifest.roots),
                },
            )

        self._writer.put(
            Snapshot(name, capturer, dead, self.tainted_roots(execution), self._moved(execution), done)
        )

    def walk(self, execution: LoopExecution) -> Capturer:
        """Capture what an execution's code may have changed, as copies."""
        capturer = Capturer(self.is_own, str(self.place.root), self._known)
        for name, generator in self.meet_generators().items():
            capturer.add(name, generator)
        frame = execution.frame
        source = execution.source
        if frame is None or source is None:
            return capturer
        values = frame_locals(frame)
        for name in self.registered:
            capturer.add(f"object:{name}", self.registered_now(name, values))
        at_module_level = frame.f_code.co_name == "<module>"
        for name in sorted(source.stored | source.loaded):
            if not at_module_level and name in values:
                capturer.add(f"name:{name}", values[name])
            elif name in frame.f_globals:
                capturer.note_global(frame.f_globals, name)
        capturer.follow()
        return capturer

    def sort_unavailable(
        self, execution: LoopExecution, capturer: Capturer
    ) -> tuple[list[str], dict[str, str]]:
        """What could not be captured: reasons that make the execution unskippable, and names that nothing reads."""
        source = execution.source
        reasons: list[str] = []
        dead: dict[str, str] = {}
        for root, reason in capturer.state.unavailable.items():
            kind, _, name = root.partition(":")
            if (
                source is not None
                and kind == "name"
                and name not in source.read_outside
                and name in source.first_stored
            ):
                dead[name] = reason
            else:
                reasons.append(reason)
        return reasons, dead

    def tainted_roots(self, execution: LoopExecution) -> tuple[str, ...]:
        """Roots that hold clock or process values."""
        source, frame = execution.source, execution.frame
        if source is None or frame is None:
            return ()
        module = frame.f_globals.get("__name__", "?")
        return tuple(r for name in sorted(source.tainted) for r in (f"name:{name}", f"{module}:{name}"))

    def is_own(self, module: str) -> bool:
        """Whether a module's code belongs to the repository."""
        known = self._own_modules.get(module)
        if known is None:
            known = self._looks_own(module)
            if module in sys.modules:
                self._own_modules[module] = known
        return known

    def _looks_own(self, module: str) -> bool:
        if module == "__main__":
            return True
        file = getattr(sys.modules.get(module), "__file__", None)
        if not isinstance(file, str):
            return False
        relative = layout.relative_file(file, self.place.root)
        parts = Path(relative).parts
        ours = module == "flor_dagster" or module.startswith("flor_dagster.")
        return (
            not Path(relative).is_absolute()
            and "site-packages" not in parts
            and "dist-packages" not in parts
            and not ours
        )

    def _note_environment(self) -> None:
        """What is known of the libraries once the training loop begins."""
        if self._environment_noted:
            return
        self._environment_noted = True
        self.meet_generators()
        facts: dict[str, Any] = {}
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "get_num_threads"):
            facts["torch_threads"] = torch.get_num_threads()
            facts["cuda"] = bool(torch.cuda.is_available())
        facts["versions"] = {
            name: str(getattr(sys.modules[name], "__version__", ""))
            for name in ("numpy", "torch", "sklearn", "scipy", "pandas")
            if name in sys.modules
        }
        self.journal.entry("i", facts)


def global_generators() -> dict[str, Any]:
    """The random generators that libraries share: root name → the object that holds the state."""
    found: dict[str, Any] = {}
    random = sys.modules.get("random")
    if random is not None:
        found["random:python"] = random._inst  # noqa: SLF001 - the module's functions are this object's methods
    mtrand = sys.modules.get("numpy.random.mtrand")
    if mtrand is not None:
        found["random:numpy"] = mtrand._rand  # noqa: SLF001 - likewise for numpy.random's
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "default_generator"):
        found["random:torch"] = torch.default_generator
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            for number, generator in enumerate(torch.cuda.default_generators):
                found[f"random:cuda{number}"] = generator
    return found


def convert(name: str, given: Any, default: Any) -> Any:
    """A value from outside, in the type of the default in the code.

    Raises:
        ValueError: when the text does not read as that type.
    """
    if not isinstance(given, str) or isinstance(default, str):
        if isinstance(default, float) and isinstance(given, int) and not isinstance(given, bool):
            return float(given)
        return given
    text = given.strip()
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                text.lower()
            ]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            return float(text)
        if default is not None:
            return json.loads(text)
    except (KeyError, ValueError):
        kind = type(default).__name__
        raise ValueError(
            f"argument {name}={given!r} does not read as {kind}, the type of its default {default!r}"
        ) from None
    return given


def _jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: json.loads(encode(v)) for k, v in values.items()}


# --------------------------------------------------------------------------------------------------------------------
# The process's session
# --------------------------------------------------------------------------------------------------------------------


def start() -> Session | None:
    """The session of this process, begun at the first flor call; None where nothing is recorded."""
    global active
    with _starting:
        if active is not None:
            return active
        if factory is not None:
            active = factory()
            return active
        if _off():
            return None
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        begin = Path(script).parent if script else Path.cwd()
        place = layout.find_place(begin) or layout.find_place(Path.cwd())
        versioned = place is not None
        if place is None:
            place = layout.place_without_git(Path.cwd())
            warn(
                f"no git repository around {begin}: this run is recorded in {place.home}, but can't be replayed"
            )
        entrypoint = layout.relative_file(script, place.root) if script else "<notebook>"
        # Taken out of the environment: a process that the script starts is another training run.
        origin = os.environ.pop("FLOR_ORIGIN", "") or ("script" if script else "notebook")
        try:
            active = Session(
                place, entrypoint, tags=_environment_object("FLOR_TAGS"), origin=origin,
                args=_environment_object("FLOR_ARGS"), versioned=versioned, run_id=os.environ.pop("FLOR_RUN_ID", ""),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - recording must never break the training
            warn(f"this run is not recorded: {type(error).__name__}: {error}")
            _disable()
            return None
        _install_exit_hooks(active)
    return active


_disabled = False


def _disable() -> None:
    global _disabled
    _disabled = True


def _off() -> bool:
    return _disabled or os.environ.get("FLOR_OFF", "") not in ("", "0")


def _environment_object(name: str) -> dict[str, Any]:
    text = os.environ.pop(name, "")
    if not text:
        return {}
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError(f"{name} must hold a JSON object, it holds {text[:100]!r}")
    return value


def _install_exit_hooks(session: Session) -> None:
    outcome = ["finished", ""]
    previous = sys.excepthook

    def note(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        outcome[0] = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        outcome[1] = f"{kind.__name__}: {error}"
        previous(kind, error, trace)

    sys.excepthook = note
    pid = os.getpid()
    main = _main_frame()
    leave = sys.exit
    left: list[Any] = []

    # No hook of Python's is called for SystemExit, and nothing keeps its code: the call is where it can be seen.
    @functools.wraps(leave)
    def exit_noted(status: Any = None, /) -> NoReturn:
        if threading.current_thread() is threading.main_thread():
            left[:] = [status]
        leave(status)

    sys.exit = exit_noted

    def end() -> None:
        if os.getpid() != pid:
            return
        # A SystemExit that was caught has not ended the script: it came to its last instruction.
        if outcome[0] == "finished" and left and left[0] not in (None, 0) and _left_by_an_exception(main):
            outcome[:] = ["failed", f"SystemExit: {left[0]}"]
        session.finish(*outcome)

    atexit.register(end)


def _main_frame() -> FrameType | None:
    """The frame of the script itself, where it is on this thread's stack."""
    namespace = getattr(sys.modules.get("__main__"), "__dict__", None)
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame is not None and not (frame.f_globals is namespace and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    return frame


def _left_by_an_exception(frame: FrameType | None) -> bool:
    """Whether a frame that is over did not come to a `return`; True where that can't be known."""
    if frame is None:
        return True
    return not opcode.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")


def _disown_child() -> None:
    global active
    if active is not None:
        active.disown()
        active = None
    _disable()


os.register_at_fork(after_in_child=_disown_child)


@contextlib.contextmanager
def recorded_run(
    entrypoint: str,
    *,
    root: Path,
    origin: str = "script",
    tags: Mapping[str, str] | None = None,
    args: Mapping[str, Any] | None = None,
    module: str = "",
) -> Generator[Session]:
    """Record a block of this process as one training run.

    Args:
        entrypoint: what a replay calls: `file.py:function`, relative to the repository.
        root: a folder in the repository.
        origin: who started it.
        tags: free texts kept with the run.
        args: arguments given from outside.
        module: the name that the entry point's module was imported by; a replay imports it by the same one.

    Yields:
        The session; its `run_id` is the training run's.
    """
    global active
    if active is not None and not active.ended:
        raise RuntimeError(
            f"training run {active.run_id} is being recorded in this process; a second one can't begin before it ends"
        )
    place = layout.find_place(root)
    session = Session(
        place or layout.place_without_git(root), entrypoint, tags=tags or {}, origin=origin, args=args or {},
        versioned=place is not None, module=module,
    )  # fmt: skip
    active = session
    token = current.set(None)
    try:
        yield session
    except KeyboardInterrupt:
        session.finish("interrupted", "KeyboardInterrupt")
        raise
    except BaseException as error:
        session.finish("failed", f"{type(error).__name__}: {error}")
        raise
    else:
        session.finish("finished")
    finally:
        current.reset(token)
        active = None
