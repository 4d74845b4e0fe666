"""The recorder inside a replay: the same API, driven by a plan.

A loop execution that the plan skips does not run: its end state is put back and its iterable is never touched. One that
is entered at iteration k has the end of iteration k-1 put back. Everything that is executed emits its records again, into
a journal of the replay's own; at every executed end that the record has a checkpoint of, the digests are compared.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn, TypeVar

from flor_dagster.errors import CheckpointError, DamagedCheckpointError, ReplayError
from flor_dagster.recording import layout, switches, variable_reads
from flor_dagster.recording import process as sessions
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.recording.collecting import lease
from flor_dagster.recording.context import Iteration, current
from flor_dagster.recording.differing import Recogniser
from flor_dagster.recording.exits import EXIT_DAMAGED, EXIT_EFFECT, EXIT_RESTORE
from flor_dagster.recording.generators import put_state
from flor_dagster.recording.guarding import Guard, doubts
from flor_dagster.recording.identity import Topology
from flor_dagster.recording.journal import FORMAT, JournalWriter
from flor_dagster.recording.loops import LoopExecution
from flor_dagster.recording.masking import known_secrets, masked_names
from flor_dagster.recording.restoring import Restorer
from flor_dagster.recording.session import Session
from flor_dagster.recording.values import decode
from flor_dagster.recording.variable_reads import Read
from flor_dagster.recording.variables import is_numeric

T = TypeVar("T")

on_restore: list[Callable[[], None]] = []
"""Called when an end state was put back."""

_folders: dict[str, str] = {}
"""Folders that were looked up, without links."""
before_end: list[Callable[[], None]] = []
"""Called before a replay's own end is noted."""


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
        self._skipped: set[int] = set()
        self._unchecked: tuple[LoopExecution, str] | None = None
        self._recogniser = Recogniser(plan.get("clock") or {}, unseeded=bool(plan.get("unseeded")))
        self.restored_at = 0
        place = layout.Place(Path(plan["root"]), Path(plan["home"]))
        super().__init__(
            place, plan["entrypoint"], topology=_topology(plan), tags={}, origin="replay",
            args={k: decode(v) for k, v in plan["args"].items()}, versioned=True,
        )  # fmt: skip
        if plan.get("recorded_root"):
            self.records.moved = json.dumps(plan["root"])[1:-1], json.dumps(plan["recorded_root"])[1:-1]

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
        self._checkpoints.pin(self.run_id, self.plan["pinned"])
        self._lease = contextlib.ExitStack()
        with contextlib.suppress(OSError):  # a store that can't be written to is not collected either
            self._lease.enter_context(lease(self._checkpoints, self.run_id))
        self.restorer = self._restorer_of(self.run_id)
        self.guard = Guard(self.walker, str(self.plan["root"]), self._end_changed)
        self.journal.entry("m", self.modules.loaded())
        self.generators.held = True
        variable_reads.listeners.append(self._variable_read)

    def reached(self) -> None:
        """The script came to the recorded run's first flor call: what runs before it has the generators' states of then."""
        self.generators.held = False
        self.generators.meet()

    def _variable_read(self, read: Read) -> None:
        """A new statement reads an environment variable that the recorded run did not: what it was then, nobody knows."""
        if read.by != "library" and not is_numeric(read.name) and self._in_statement():
            known = self.plan.get("known_variables", ())
            if read.name not in known:
                doubts[f"variable {read.name}"] = (
                    f"the statement reads the environment variable {read.name}, which the recorded run did not", False
                )  # fmt: skip

    def _in_statement(self) -> bool:
        """Whether a new statement is being evaluated by this thread: one that is guarded, or one that stands in a frame's line."""
        if threading.get_ident() in self.guard.wrote:
            return True
        places: dict[str, dict[str, Any]] = self.plan["statements"]
        root = Path(self.plan["root"]).resolve()
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        while frame is not None:
            file = layout.relative_file(frame.f_code.co_filename, root, _folders)
            if str(frame.f_lineno) in places.get(file, ()):
                return True
            frame = frame.f_back
        return False

    def withdraw(self) -> None:
        """What was logged until now came before the recorded run began."""
        self.ended = True
        self.records.end()
        self.journal.close()
        self.journal.path.unlink(missing_ok=True)

    def finish(self, status: str, reason: str = "") -> None:
        """Note the end; what is in the journal counts once the parent has verified it."""
        if self.ended:
            return
        for told in before_end if status == "finished" else ():
            told()
        self.ended = True
        self.records.end()
        if self._variable_read in variable_reads.listeners:
            variable_reads.listeners.remove(self._variable_read)
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
        self.journal.entry("z", status, known_secrets.mask(reason)[:2000], time.time_ns())
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
        # What is there earlier than it was stands where it did when its library was imported, and goes on from there.
        if not recorded or root in self.plan.get("preloaded", ()):
            return
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
            kept = self.plan["args"].get(name)
            if masked_names(kept).keys() - known_secrets.values.keys():
                # A likely secret that stands in the code itself: nobody was asked for it.
                value = default
                if json.loads(self._argument_text(name, default)) != kept:
                    words = (
                        f"the default of the argument {name!r}, a likely secret, is another one than it was"
                    )
                    self.journal.entry("x", "argument", words)
            self.note_argument(name, value, default, "history")
            return value
        self._beyond("argument", f"the recorded run never read the argument {name!r}")
        return default

    def _beyond(self, what: str, words: str) -> None:
        """The script does what is not in the record. A run that was killed may have been about to: there its replay ends, too.

        What was recorded and did not come until here counts against the replay all the same.
        """
        if self.plan["ended_badly"]:
            self.stop()
        self.journal.entry("x", what, words)

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
            self._beyond("loop", f"the recorded run has no loop execution {execution.path}")
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
            self._beyond("loop", f"the recorded run has no loop execution {execution.path}")
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
            with self._ending():
                rest = _from(iterable, start, execution.path)
            items = zip(itertools.count(start), rest, strict=False)
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
            self._check_skipped()
        elif spec is not None:
            # A record that ends within a loop does not know how that would have ended.
            if spec["count"] != execution.count or spec["how"] not in (how, "open"):
                self.journal.entry(
                    "x", "loop",
                    f"{execution.path} ended by {how} after {execution.count} iterations, "
                    f"the recorded run's by {spec['how']} after {spec['count']}",
                )  # fmt: skip
            if spec["checkpoint"] and how in ("exhausted", "break"):
                self._compare(execution, None, spec["checkpoint"])
        self.journal.entry("e", execution.id, how, execution.count, time.time_ns())

    # State ----------------------------------------------------------------------------------------------------------

    def _restorer_of(self, run_id: str) -> Restorer:
        """What puts back the checkpoints of a run."""
        return Restorer(self._checkpoints, run_id, str(self.place.root), self.walker, self.generators)

    def _put_back(self, execution: LoopExecution, name: str, index: int | None) -> None:
        """Put a checkpoint back; where that can't be done the process ends here.

        Args:
            execution: the loop that is skipped or entered.
            name: the checkpoint's.
            index: of the iteration at whose end it was taken; None at the end of the loop.
        """
        with self._ending():
            self.restorer.put_back(execution, name, entered=index is not None)
            self.journal.entry("s", execution.id, index, name)
            self.restored_at = time.time_ns()
            for told in on_restore:
                told()
            self.restorer.rebound()
        if index is None and execution.parent.execution is None:
            self._unchecked = execution, name

    def _check_skipped(self) -> None:
        """A skipped loop that stands in no other one: what follows begins with its end state, which is compared once all is bound.

        What stands behind it need not log anything that would tell.
        """
        if self._unchecked is not None and self.restorer.all_bound:
            execution, name = self._unchecked
            self._unchecked = None
            self._compare(execution, None, name)

    def _compare(self, execution: LoopExecution, index: int | None, name: str) -> None:
        try:
            found = self.restorer.compare(execution, name, self._recogniser)
        except CheckpointError as error:  # nothing was put back from it: there is less to compare with
            self.journal.entry("w", "damaged", str(error))
            return
        said = [
            [[place, known_secrets.mask(words)] for place, words in told[:20]]
            for told in (found.first, found.left_out)
        ]
        more = said if any(said) else ()
        self.journal.entry("d", execution.id, index, found.compared, found.unequal[:50], *more)

    def _check_rebound(self) -> None:
        with self._ending():
            self.restorer.check_rebound()

    @contextlib.contextmanager
    def _ending(self) -> Generator[None]:
        """End the process where a checkpoint does not fit."""
        try:
            yield
        except DamagedCheckpointError as error:
            self.abandon(str(error), EXIT_DAMAGED)
        except CheckpointError as error:
            self.abandon(str(error), EXIT_RESTORE)

    # What the patched source calls, by the name `__flor__` ---------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the loop that was just skipped or entered left a value for a local name."""
        return self.restorer.has(name)

    def take(self, name: str) -> Any:
        """That value."""
        return self.restorer.take(name)

    def rebound(self) -> None:
        """All names are bound again."""
        with self._ending():
            self.restorer.rebound()
        self._check_skipped()

    def begin(self, keys: tuple[str, ...], unknown: bool, frame: FrameType) -> None:
        """Before a hindsight expression or a block of them in a frame, which may call code of which nothing is known."""
        with self._nothing_met():
            self.guard.begin(keys, frame, unknown=unknown)

    def end(self, keys: tuple[str, ...], frame: FrameType) -> None:
        """After it: all that the program can see must be what it was."""
        with self._nothing_met():
            self.guard.end(keys, frame)

    @contextlib.contextmanager
    def _nothing_met(self) -> Generator[None]:
        """A hindsight statement is no place at which the recorded run saw a generator first."""
        held, self.generators.held = self.generators.held, True
        try:
            yield
        finally:
            self.generators.held = held

    def _end_changed(self, keys: tuple[str, ...], names: list[str]) -> NoReturn:
        """A hindsight expression changed something: nothing that follows could be trusted."""
        self.journal.entry("x", "effect", list(keys), names)
        self.abandon(f"evaluating {', '.join(map(repr, keys))} changed {', '.join(names[:5])}", EXIT_EFFECT)

    def failed(
        self, logged: tuple[tuple[str, int], ...], file: str, line: int, old_line: int, code: CodeType
    ) -> None:
        """A hindsight expression raised: the error is its value in this loop context.

        Args:
            logged: what is logged there, each with its last line; what stands before the error was logged.
            file: where.
            line: of the statement in the file as it is executed.
            old_line: the same in the file before it was patched.
            code: that it stands in.
        """
        error = sys.exc_info()[1]
        if error is not None and len(logged) > 1:
            at = [n for frame, n in traceback.walk_tb(error.__traceback__) if frame.f_code is code]
            logged = tuple(one for one in logged if not at or one[1] >= at[0]) or logged
        for name, _ in logged:
            self._failed(name, file, line, old_line)

    def _failed(self, name: str, file: str, line: int, old_line: int) -> None:
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
        failure = {
            "$": "error",
            "type": type(error).__name__,
            "message": known_secrets.mask(str(error))[:1000],
            "line": old_line,
        }
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


def _from(iterable: Iterable[T], start: int, path: str) -> Iterator[T]:
    """The values from an index on, without touching the ones before."""
    if isinstance(iterable, range | list | tuple):
        rest: Any = iterable[start:]
        return iter(rest)
    raise CheckpointError(
        f"{path} goes over a {type(iterable).__name__}, which can't be entered at iteration {start}"
    )
