"""The recorder inside a replay: the same API, driven by a plan.

A loop execution that the plan skips does not run: its end state is put back and its iterable is never touched. One that
is entered at iteration k has the end of iteration k-1 put back. Everything that is executed emits its records again, into
a journal of the replay's own; at every executed end that the record has a checkpoint of, the digests are compared.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from flor_dagster.errors import CheckpointError, DamagedCheckpointError, ReplayError
from flor_dagster.recording import layout, listening, switches
from flor_dagster.recording import process as sessions
from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.checkpoints import CheckpointStore, Manifest
from flor_dagster.recording.collecting import lease
from flor_dagster.recording.comparing import unequal_roots
from flor_dagster.recording.context import Iteration, current
from flor_dagster.recording.exits import EXIT_DAMAGED, EXIT_EFFECT, EXIT_RESTORE
from flor_dagster.recording.generators import put_state, readings
from flor_dagster.recording.globals import live_global, put_global
from flor_dagster.recording.graft import Bytes, Grafter
from flor_dagster.recording.identity import Topology
from flor_dagster.recording.journal import FORMAT, JournalWriter
from flor_dagster.recording.kept import KeptBuffers
from flor_dagster.recording.loops import LoopExecution
from flor_dagster.recording.memory import Copy
from flor_dagster.recording.obstacles import thread_beside
from flor_dagster.recording.seeing import Pace, Sight, changed, changes, sight
from flor_dagster.recording.session import Session
from flor_dagster.recording.shape import MISSING, frame_locals
from flor_dagster.recording.values import decode

T = TypeVar("T")

doubts: dict[str, tuple[str, bool]] = {}
"""Data files that were read and are not what the recorded run had: name → in words, whether that is certain."""

on_restore: list[Callable[[], None]] = []
"""Called when an end state was put back."""


def plain_flor_asset(*positional: Any, **keywords: Any) -> Any:
    """In a replay `@flor_asset` leaves the function as it is."""
    del keywords
    if len(positional) == 1 and callable(positional[0]):
        return positional[0]

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        return function

    return decorate


class ReplaySession(Session):
    """Replays one training run by a plan.

    Args:
        plan: what `flor_dagster.replay.plan` wrote; its fields are described there.
    """

    mode = "replay"

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self._pending: dict[str, Any] | None = None
        self._pending_for = ""
        self._replaced: list[weakref.ref[Any]] = []
        self._manifests: dict[str, Manifest] = {}
        self._buffers: KeptBuffers | None = None
        self._skipped: set[int] = set()
        self._pace = Pace()
        self._looks: dict[
            int, tuple[Sight | dict[str, Any], switches.Readings | None, bool]
        ] = {}  # by thread
        self.wrote: dict[int, list[str]] = {}
        """Thread that evaluates a hindsight expression now → the files of the checkout that it opened for writing meanwhile."""
        self.restored_at = 0
        place = layout.Place(Path(plan["root"]), Path(plan["home"]))
        super().__init__(
            place, plan["entrypoint"], topology=_topology(plan), tags={}, origin="replay",
            args={k: decode(v) for k, v in plan["args"].items()}, versioned=True,
        )  # fmt: skip

    def _open_journal(self) -> JournalWriter:
        journal = JournalWriter(Path(self.plan["journal"]))
        header = self.header() | {
            "replay": self.plan["replay"], "statements": self.plan["statements"],
            "plan": {"loops": self.plan["loops"]},
        }  # fmt: skip
        journal.entry("flor", FORMAT, header)
        return journal

    def open_loop(self, name: str, frame: FrameType, line: int, column: int) -> LoopExecution:
        """A loop execution begins, skipped or not."""
        self._check_rebound()
        if self._loops == 0:
            pin_torch_threads(self.plan)
        return super().open_loop(name, frame, line, column)

    def _begin(self) -> None:
        self._checkpoints = CheckpointStore(layout.checkpoints_folder(self.place.home))
        self._lease = contextlib.ExitStack()
        with contextlib.suppress(OSError):  # a store that can't be written to is not collected either
            self._lease.enter_context(lease(self._checkpoints, self.run_id))
        self.journal.entry("m", self.modules.loaded())
        self.generators.meet()

    def finish(self, status: str, reason: str = "") -> None:
        """Note the end; what is in the journal counts once the parent has verified it."""
        if self.ended:
            return
        self.ended = True
        self.records.end()
        elsewhere = self.modules.below(self.plan["user_root"])
        if elsewhere:
            said = f"{elsewhere} was loaded from the work tree, where the version's own was to be loaded"
            self.journal.entry("x", "module", said)
        for sentence, certain in doubts.values():
            self.journal.entry("x", "data" if certain else "doubt", sentence)
        if self.journal.lost and status == "finished":
            status, reason = (
                "failed",
                f"{self.journal.lost} lines of the replay's journal could not be written",
            )
        self.journal.entry("z", status, reason[:2000], time.time_ns())
        self.journal.close()
        if self.topology.world_size > 1 and status == "finished":
            self._over(self.topology.rank).touch()

    def abandon(self, reason: str, status: int) -> NoReturn:
        """End the process here: no `except` of the old code may turn a state that is not the recorded one into a value.

        Args:
            reason: in words.
            status: the exit status.
        """
        sys.stderr.write(f"flor_dagster: {reason}\n")
        # A rank that the script made has no exit status of its own: it is told by the journal.
        told = f"CheckpointError: {reason}" if sessions.ranks_follow and status == EXIT_RESTORE else reason
        self.finish("failed", told)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def _over(self, rank: int) -> Path:
        """What a rank leaves when it is over."""
        return Path(self.plan["journal"]).with_name(f"over.{self.plan['part']}.r{rank}")

    def _await_others(self) -> None:
        """The other ranks may still be in a collective that this one has left: its process must not be gone yet.

        One that fails, or never comes, is the launcher's business.
        """
        while not all(
            self._over(rank).exists()
            for rank in range(self.topology.world_size)
            if self.topology.world_size > 1
        ):
            time.sleep(0.005)

    def generator_met(self, root: str, generator: Any) -> None:
        """Put a shared random generator where the recorded run's was when it was first seen."""
        recorded = self.plan.get("generators", {}).get(root)
        if recorded:
            put_state(root, recorded, generator)

    def stop(self) -> NoReturn:
        """The plan's end: nothing of the script runs after it, not even its `finally` blocks."""
        self.finish("finished", "the plan's end")
        self._await_others()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    def argument(self, name: str, default: T) -> T:
        """The value that the recorded run had."""
        if name in self.given:
            value = self.given[name]
            self.note_argument(name, value, default, "history")
            return value
        self.journal.entry("x", "argument", f"the recorded run never read the argument {name!r}")
        return default

    # Loops ----------------------------------------------------------------------------------------------------------

    def loop_begins(self, execution: LoopExecution) -> None:
        """Note the process's settings; a replay takes no checkpoints."""
        execution.switches = switches.read_all()

    def watches(self, execution: LoopExecution) -> bool:
        """Every iteration's end may be compared."""
        return True

    def open_told(
        self, name: str, parent: Iteration, frame: FrameType, line: int, column: int
    ) -> LoopExecution:
        """An execution of a told loop begins; there is nothing to skip in it."""
        self._check_rebound()
        execution = super().open_told(name, parent, frame, line, column)
        spec = self._spec(execution)
        if spec is None:
            self.journal.entry("x", "loop", f"the recorded run has no loop execution {execution.path}")
        elif spec["action"] == "stop":
            self.stop()
        return execution

    def told_iteration(self, execution: LoopExecution, index: int) -> None:
        """End where the plan or the record ends: the script itself goes on to the next iteration."""
        spec = self._spec(execution)
        last = None if spec is None else _last_of(spec)
        if last is not None and index > last:
            self.stop()

    def add_tags(self, tags: Mapping[str, object]) -> None:
        """Nothing: a replay is no training run of its own."""

    def keep_output(self, t: int, channel: str, source: str, text: str) -> None:
        """Nothing: what a replay prints is not what the training printed."""

    def _spec(self, execution: LoopExecution) -> dict[str, Any] | None:
        return self.plan["loops"].get(execution.path)

    def items(self, execution: LoopExecution, iterable: Iterable[T]) -> Iterator[tuple[int, T]]:
        """What the loop yields: nothing where it is skipped, the wanted part where it is entered."""
        spec = self._spec(execution)
        if spec is None:
            self.journal.entry("x", "loop", f"the recorded run has no loop execution {execution.path}")
            return enumerate(iterable)
        if spec["action"] == "stop":
            self.stop()
        if spec["action"] == "skip":
            self._put_back(execution, spec["checkpoint"], None)
            self._skipped.add(execution.id)
            return iter(())
        start = spec.get("start", 0)
        if start:
            self._put_back(execution, spec["points"][str(start - 1)], start - 1)
            items = zip(itertools.count(start), _from(iterable, start, execution.path), strict=False)
        else:
            items = enumerate(iterable)
        return self._bounded(items, spec)

    def _bounded(self, items: Iterator[tuple[int, T]], spec: dict[str, Any]) -> Iterator[tuple[int, T]]:
        """End where the plan or the record ends."""
        last = _last_of(spec)
        if last is not None and spec["count"] == 0:
            self.stop()
        for index, value in items:
            yield index, value
            if last is not None and index >= last:
                self.stop()

    def iteration_over(self, execution: LoopExecution) -> None:
        """An executed iteration ended: compare its state with the recorded one."""
        self._check_rebound()
        spec = self._spec(execution)
        index = execution.count - 1
        if spec is not None and str(index) in spec["points"] and index >= spec.get("start", 0):
            self._compare(execution, index, spec["points"][str(index)])

    def close_loop(self, execution: LoopExecution, how: str) -> None:
        """An execution is over: compare its state where it was executed."""
        if self.ended:
            return
        spec = self._spec(execution)
        if execution.id in self._skipped and spec is not None:
            how, execution.count = spec["how"], spec["count"]
        elif spec is not None:
            if (spec["count"], spec["how"]) != (execution.count, how):
                self.journal.entry(
                    "x", "loop",
                    f"{execution.path} ended by {how} after {execution.count} iterations, "
                    f"the recorded run's by {spec['how']} after {spec['count']}",
                )  # fmt: skip
            if spec["checkpoint"] and how in ("exhausted", "break"):
                self._compare(execution, None, spec["checkpoint"])
        self.journal.entry("e", execution.id, how, execution.count, time.time_ns())

    # State ----------------------------------------------------------------------------------------------------------

    def _manifest(self, name: str) -> Manifest:
        if name not in self._manifests:
            self._manifests = {
                name: self._checkpoints.read(self.run_id, name)
            }  # one at a time: they can be large
        return self._manifests[name]

    def _put_back(self, execution: LoopExecution, name: str, index: int | None) -> None:
        """Put a checkpoint back; where that can't be done the process ends here.

        Args:
            execution: the loop that is skipped or entered.
            name: the checkpoint's.
            index: of the iteration at whose end it was taken; None at the end of the loop.
        """
        try:
            self._restore(execution, name, index)
        except DamagedCheckpointError as error:
            self.abandon(str(error), EXIT_DAMAGED)
        except CheckpointError as error:
            self.abandon(str(error), EXIT_RESTORE)
        self.rebound()

    def _restore(self, execution: LoopExecution, name: str, index: int | None) -> None:
        frame = execution.frame
        if frame is None or execution.source is None:
            raise CheckpointError(f"the `for` statement of {execution.path} can't be seen")
        manifest = self._manifest(name)
        if self._buffers is None:
            self._buffers = KeptBuffers(self._checkpoints, self.walker.known)
        buffers = self._buffers
        buffers.next_checkpoint()
        reading: list[Copy] = []  # what was asked for last stays until the next

        def read(digest: str) -> Bytes:
            reading[:] = [buffers.read(manifest, digest)]
            return reading[0].data

        grafter = Grafter(
            manifest.nodes, read, str(self.place.root), moved=manifest.moved, changed=manifest.changed,
            is_own=self.modules.is_own, wrote=buffers.wrote,
        )  # fmt: skip
        values = frame_locals(frame)
        switches.load(_settings_of(manifest))
        unused = self._unused_generators(manifest)
        live = {root: self._live(root, values) for root in manifest.roots if root not in unused}
        listened = {
            root: list(map(id, found)) for root, found in live.items() if root.startswith(listening.KIND)
        }
        before = switches.read_all()
        restored = grafter.restore({root: (manifest.roots[root], now) for root, now in live.items()})
        # Making objects anew may turn something itself: torch counts the hooks of a model.
        by_us, _ = self.walker.turned(before)
        switches.put_back({name: before.values[name] for name in by_us if name in before.values})
        switches.put_back({name: restored.pop(f"{switches.KIND}:{name}") for name in _settings_of(manifest)})
        locals_now: dict[str, Any] = {}
        for root, new in restored.items():
            kind, _, rest = root.partition(":")
            if kind == listening.KIND and list(map(id, new)) != listened[root]:
                raise CheckpointError(f"the recorded run had something else in {rest} here")
            if new is live[root]:
                continue
            if kind == "random":
                raise CheckpointError(f"the random generator {rest} of the recorded run is another one here")
            if kind == "object":
                if not any(
                    value is new for other, value in restored.items() if not other.startswith("object:")
                ):
                    raise CheckpointError(f"the object registered as `{rest}` is another one here")
                continue  # another object under the name that it was registered by: put back there
            if kind == "name":
                locals_now[rest] = new
            else:
                put_global(kind, rest, new)
        self.journal.entry("s", execution.id, index, name)
        self.restored_at = time.time_ns()
        for told in on_restore:
            told()
        if index is not None:
            # The loop is entered: the `for` itself binds its targets.
            locals_now = {n: v for n, v in locals_now.items() if n not in execution.source.targets}
        if locals_now:
            self._pending = locals_now
            self._pending_for = execution.path
        self._replaced += grafter.replaced

    def _unused_generators(self, manifest: Manifest) -> set[str]:
        """Generators of libraries that only something else in the recorded process had loaded: nothing here draws from them.

        Should this program load one later, the next meeting puts it where the record first saw it, and the comparison
        that follows tells whether that was right.
        """
        here = self.generators.meet()
        return {root for root in manifest.roots if root.startswith("random:") and root not in here}

    def _live(self, root: str, values: Any) -> Any:
        """The object of this program that a root of the record means."""
        kind, _, name = root.partition(":")
        if kind == switches.KIND:
            return MISSING
        if kind == "random":
            return self.generators.meet()[root]
        if kind == listening.KIND:
            found = self.walker.listeners().get(root)
            if found is None:
                raise CheckpointError(f"the recorded run had something in {name} here")
            return found
        if kind == "object":
            if name not in self.walker.registered:
                raise CheckpointError(f"`checkpointing({name}=…)` of the recorded run is not in force here")
            return self.walker.registered_now(name, values)
        if kind == "name":
            return values.get(name, MISSING)
        return live_global(kind, name)

    def _compare(self, execution: LoopExecution, index: int | None, name: str) -> None:
        manifest = self._manifest(name)
        capturer: Capturer = self.walker.walk(execution)
        left_out = self._unused_generators(manifest) | set(manifest.tainted)
        for name in _settings_of(manifest):
            try:
                capturer.add(f"{switches.KIND}:{name}", switches.read_one(name))
            except KeyError:  # of a library that only something else in the recorded process had loaded
                left_out.add(f"{switches.KIND}:{name}")
        compared, unequal = unequal_roots(manifest, capturer.finish(), left_out)
        unequal += self._turned_only_here(execution, manifest)
        self.journal.entry("d", execution.id, index, compared, unequal[:50])

    def _turned_only_here(self, execution: LoopExecution, manifest: Manifest) -> list[str]:
        """Settings that the executed code changed and the recorded code did not."""
        before = execution.switches
        if before is None:
            return []
        here, _ = self.walker.turned(before)
        left_out = switches.not_compared(here)
        roots = [f"{switches.KIND}:{name}" for name in here if name in before.values and name not in left_out]
        return [root for root in roots if root not in manifest.roots]

    # What the patched source calls, by the name `__flor__` ---------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the loop that was just skipped or entered left a value for a local name."""
        return self._pending is not None and name in self._pending

    def take(self, name: str) -> Any:
        """That value."""
        if self._pending is None:
            raise ReplayError(f"no value was put back for `{name}`")
        value = self._pending.pop(name)
        if not self._pending:
            self._pending = None
        return value

    def rebound(self) -> None:
        """All names are bound again: an array in whose place another one was made must be gone, else somebody sees it."""
        if self._pending is not None or not self._replaced:
            return
        replaced, self._replaced = self._replaced, []
        if any(reference() is not None for reference in replaced):
            gc.collect()
        if any(reference() is not None for reference in replaced):
            words = "an array was changed in place in a way that can't be put back, and something that isn't captured holds it, too"
            self.abandon(words, EXIT_RESTORE)

    def _check_rebound(self) -> None:
        self.rebound()
        if self._pending:
            names = ", ".join(sorted(self._pending))
            self._pending = None
            words = f"the local names {names} of {self._pending_for} were not put back by the patched source"
            self.abandon(words, EXIT_RESTORE)

    def begin(self, key: str, unknown: bool) -> None:
        """Before a hindsight expression, which may call code of which nothing is known."""
        began = time.perf_counter()
        thread = threading.get_ident()
        self._looks.pop(thread, None)
        if self._pace.due(key, unknown=unknown):
            seen = self._look(key, sys._getframe(1))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            if seen is not None:
                self._looks[thread] = seen, switches.read_all(), unknown
        elif unknown:
            self._looks[thread] = readings(), None, unknown
        self.wrote[thread] = []
        self._pace.paid(time.perf_counter() - began)

    def end(self, key: str) -> None:
        """After it: all that the program can see must be what it was."""
        thread = threading.get_ident()
        looked = self._looks.pop(thread, None)
        wrote = self.wrote.pop(thread, ())
        if wrote:
            root = self.plan["root"]
            self._end_changed(
                key, [f"the file {os.path.relpath(path, root)}" for path in dict.fromkeys(wrote)]
            )
        if looked is None:
            return
        before, settings, unknown = looked
        began = time.perf_counter()
        if isinstance(before, Sight):
            now = self._look(key, sys._getframe(1))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            names = [] if now is None else changes(before, now)
            names += [f"the setting {name}" for name in self.walker.turned(settings)[0]] if settings else []
        else:
            names = changed(before, readings())
        self._pace.paid(time.perf_counter() - began)
        beside = thread_beside(self.walker.is_own) if names else ""
        if beside and unknown:
            # Who changed it can't be told.
            doubts[key] = f"{', '.join(names[:5])} changed while {key!r} was evaluated, and {beside}", False
        elif names and not beside:
            self._end_changed(key, names)

    def _end_changed(self, key: str, names: list[str]) -> NoReturn:
        """A hindsight expression changed something: nothing that follows could be trusted."""
        self.journal.entry("x", "effect", key, names)
        self.abandon(f"evaluating {key!r} changed {', '.join(names[:5])}", EXIT_EFFECT)

    def _look(self, key: str, frame: FrameType) -> Sight | None:
        """What the program can see; None, and a doubt, where an object's own code fails under the look."""
        try:
            return sight(frame, self.walker)
        except Exception as error:  # noqa: BLE001 - it must not become the old code's error
            words = f"whether {key!r} changes what it observes could not be seen ({type(error).__name__}: {error})"
            doubts[key] = words, False
            return None

    def failed(self, name: str, file: str, line: int, old_line: int) -> None:
        """A hindsight expression raised: the error is its value in this loop context."""
        error = sys.exc_info()[1]
        if isinstance(error, CheckpointError | ReplayError):
            raise error
        if isinstance(error, FileNotFoundError) and self.restored_at:
            raise CheckpointError(
                f"evaluating {name!r}: {error}: what was skipped may have written it"
            ) from error
        site = (-line, hash(file), name)
        number = self.records.calls.get(site) or self.records.new_call(site, name, file, "", line)
        iteration = current.get()
        context = (
            self.records.context_id(iteration)
            if iteration is not None and iteration.execution is not None
            else 0
        )
        failure = {"$": "error", "type": type(error).__name__, "message": str(error)[:1000], "line": old_line}
        self.journal.write(f"[{number},{context},{json.dumps(failure)}]\n".encode())


def _topology(plan: dict[str, Any]) -> Topology:
    rank = plan.get("rank", 0)
    return Topology(plan["run"], rank, plan.get("world_size", 1), plan.get("launcher", ""), leads=rank == 0)


def pin_torch_threads(plan: dict[str, Any]) -> None:
    """Give torch the number of threads that the recorded run had: sums differ between numbers of threads."""
    torch = sys.modules.get("torch")
    wanted = plan.get("torch_threads")
    if torch is not None and wanted and torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


def _last_of(spec: dict[str, Any]) -> int | None:
    """The last iteration that is to be executed, None where the loop's own end is; a run that died has no more than its record."""
    stop = spec.get("stop")
    return stop if stop is not None else (spec["count"] - 1 if spec["how"] == "open" else None)


def _settings_of(manifest: Manifest) -> list[str]:
    return [
        name for kind, _, name in (root.partition(":") for root in manifest.roots) if kind == switches.KIND
    ]


def _from(iterable: Iterable[T], start: int, path: str) -> Iterator[T]:
    """The values from an index on, without touching the ones before."""
    if isinstance(iterable, range | list | tuple):
        rest: Any = iterable[start:]
        return iter(rest)
    raise CheckpointError(
        f"{path} goes over a {type(iterable).__name__}, which can't be entered at iteration {start}"
    )
