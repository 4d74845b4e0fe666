"""One training run as its process sees it: identity, journal, loops, checkpoints, end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from flor_dagster.recording import layout
from flor_dagster.recording.arguments import convert, jsonable
from flor_dagster.recording.artifacts import ArtifactStore
from flor_dagster.recording.capturing import Capturing
from flor_dagster.recording.channels import Channel
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.recording.context import Iteration, current
from flor_dagster.recording.datafiles import files, look_around
from flor_dagster.recording.endings import hurried
from flor_dagster.recording.environment import import_facts, keep_packages, library_facts, process_facts
from flor_dagster.recording.generators import Generators, generator_state, imported_state
from flor_dagster.recording.identity import Topology
from flor_dagster.recording.journal import FORMAT, JournalWriter, note_lost
from flor_dagster.recording.loops import LoopExecution, find_source, plain_items
from flor_dagster.recording.losses import Loss, Losses
from flor_dagster.recording.masking import (
    MASK,
    is_secret,
    keyed_digest,
    known_secrets,
    looks_like_credential,
    project_key,
    secret_arguments,
    secret_name,
    secrets_of,
)
from flor_dagster.recording.modules import Modules
from flor_dagster.recording.ranks import find_rank
from flor_dagster.recording.records import Records
from flor_dagster.recording.runlock import hold_lock, release_lock
from flor_dagster.recording.settings import CheckpointSettings, checkpoint_settings, keeps_values
from flor_dagster.recording.telling import ToldLoops
from flor_dagster.recording.trouble import Troubles, warn
from flor_dagster.recording.upkeep import Upkeep
from flor_dagster.recording.values import encode
from flor_dagster.recording.variable_notes import VariableNotes, note_for_parent, read_early
from flor_dagster.recording.variables import start_environment
from flor_dagster.recording.versioning import VersionChild
from flor_dagster.recording.walking import Walker

T = TypeVar("T")

PARENT_RUN = "FLOR_PARENT_RUN"
"""Tells the processes that a run starts which run they belong to."""


class Session:
    """Records one training run.

    Args:
        place: the repository, or the folder of a run without one.
        entrypoint: the script, relative to the repository, or `file.py:function`.
        topology: the run's id, and which of its ranks this process is.
        tags: free texts kept with the run.
        origin: script, dagster or notebook.
        args: arguments given from outside; they win over the defaults in the code.
        versioned: whether the place is a git repository.
        module: the name that an entry point's module was imported by.
        nth: which of the runs of its process this is, from 1.
        name: what `flor.run` calls it.
        begin: the states of shared random generators before the script drew from them (`generators.early_entries`).
        parent: the run that this one's process was started from; by default what the environment says.
        more: for the journal's header.
    """

    mode = "record"

    def __init__(
        self,
        place: layout.Place,
        entrypoint: str,
        *,
        topology: Topology,
        tags: Mapping[str, str],
        origin: str,
        args: Mapping[str, Any],
        versioned: bool,
        module: str = "",
        nth: int = 1,
        name: str = "",
        begin: Iterable[tuple[Any, ...]] = (),
        parent: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self.place = place
        self.entrypoint = entrypoint
        self.topology = topology
        self.module = module
        self.given = dict(args)
        self.args: dict[str, str] = {}
        self.ended = False
        self._tags = dict(tags)
        self._origin = origin
        self._versioned = versioned
        self._early = begin
        self._loops = 0
        self._lock = threading.Lock()
        self._environment_noted = False
        self._run_lock = -1
        self._version: VersionChild | None = None
        self.modules = Modules(place.root)
        self.generators = Generators(self.generator_met)
        self.walker = Walker(place.root, self.modules.is_own, self.generators)
        self.parent = topology.parent or (os.environ.get(PARENT_RUN, "") if parent is None else parent)
        self._more = dict(more or {})
        self._entered: set[int] = set()
        self._closing = False
        self.successor: Callable[[], Session | None] = lambda: None
        """The session that calls of now belong to, where this one is being ended."""
        self.embedded = False  # begun and ended by somebody else's block
        self.nth = nth
        self.name = name
        self._packages = ""
        self._variables: VariableNotes | None = None
        known_secrets.add(secrets_of(os.environ))
        known_secrets.add({one.name: one.value for one in secret_arguments(sys.argv)})
        self.journal = self._open_journal()
        self.troubles = Troubles(self.journal)
        self.records = Records(self.journal, place.root, self.troubles, ArtifactStore(place.home))
        self.upkeep = Upkeep(
            self._folder(), place.root, self.records, self.troubles, self._start_anew, self._regained
        )
        self.root = Iteration(self.journal, None, 0, None)
        self.told = ToldLoops(self)
        self.channels: list[Channel] = []
        self._begun = False
        self._begin()
        self._begun = True
        if topology.note:
            self.troubles.tell(topology.note)

    @property
    def run_id(self) -> str:
        """The training run's id."""
        return self.topology.run_id

    @property
    def entered(self) -> bool:
        """Whether any thread or task is in a named loop of this run."""
        return bool(self._entered)

    def enter(self, thing: object) -> bool:
        """An outermost loop, or a told iteration, begins; False where the run is being ended by somebody, and goes on as another."""
        with self._lock:
            if self._closing:
                return False
            self._entered.add(id(thing))
            return True

    def leave(self, thing: object) -> None:
        """It is over."""
        self._entered.discard(id(thing))

    def may_end(self) -> bool:
        """Whether nobody is in a named loop; if so, nobody enters one any more."""
        with self._lock:
            self._closing = not self._entered
            return self._closing

    @property
    def loops_begun(self) -> int:
        """How many loop executions have begun."""
        return self._loops

    # Life -----------------------------------------------------------------------------------------------------------

    def _open_journal(self) -> JournalWriter:
        layout.ensure_home(self.place.home)
        with contextlib.suppress(OSError):
            self._packages = keep_packages(self.place.home)
        folder = self._folder()
        folder.mkdir(parents=True, exist_ok=True)
        journal = JournalWriter(folder / f"journal.{self.topology.rank}.jsonl", fresh=True)
        try:
            self._hold_folder(journal)
            if not journal.entry("flor", FORMAT, self.header()):
                raise journal.error or OSError("its journal can't be written")
        except OSError:
            journal.close()
            release_lock(self._run_lock, self._lock_path())
            raise
        self._keep_version()
        return journal

    def _hold_folder(self, journal: JournalWriter) -> None:
        """Hold the lock that says that the run lives; have room for what its disk may refuse."""
        rank = self.topology.rank
        self._run_lock = hold_lock(self._lock_path())
        journal.losses = Losses(self._folder(), rank)

    def _lock_path(self) -> Path:
        rank = self.topology.rank
        return self._folder() / ("lock" if rank == 0 else f"lock.{rank}")

    def _regained(self) -> None:
        """The program closed our descriptors: the run is held again, lest it is taken for dead."""
        release_lock(self._run_lock, self._lock_path())
        self._run_lock = hold_lock(self._lock_path())

    def _folder(self) -> Path:
        return layout.run_folder(self.place.home, self.run_id)

    def _keep_version(self) -> None:
        if self.topology.leads:
            out = self._folder() / "version.json"
            self._version = VersionChild(
                self.place.root if self._versioned else None, out, self.modules.texts()
            )

    def _begin(self) -> None:
        """What is noted once the journal stands."""
        store = CheckpointStore(layout.checkpoints_folder(self.place.home))
        try:
            settings = checkpoint_settings(self.place.root)
        except ValueError as error:
            settings = CheckpointSettings()
            self.troubles.tell(f"{error}; checkpoints are taken as if nothing were set")
        self.capturing = Capturing(
            store, self.run_id, self.journal, self.troubles, self.walker, self.topology.rank, settings
        )
        self.journal.entry("m", self.modules.loaded())
        if self._versioned and self.nth == 1:
            read_early(self.place.root, start_environment())
        self._variables = VariableNotes(
            self.journal.entry, self.place.home, plain=keeps_values(self.place.root)
        )
        self._variables.begin()
        folder = layout.run_folder(self.place.home, self.run_id)
        files().begin(self.place.root, self.place.home, folder, first=self.nth == 1)
        for early in self._early:
            self.journal.entry("b", *early)
        self.generators.meet()

    def header(self) -> dict[str, Any]:
        """What the journal says of the run and its process at the start."""
        script = ":" not in self.entrypoint and not self.entrypoint.startswith("<")
        return self.topology.header() | process_facts(self.place.home, script=script) | import_facts(self.place.root) | {
            "mode": self.mode, "entrypoint": self.entrypoint, "module": self.module,
            "root": str(self.place.root) if self._versioned else None, "origin": self._origin, "tags": _masked_texts(self._tags),
            "given": self._given_masked(), "parent": self.parent, "packages": self._packages,
            "nth": self.nth, "name": self.name,
        } | self._more  # fmt: skip

    def _given_masked(self) -> dict[str, Any]:
        """The arguments given from outside, without likely secrets."""
        shown = {
            name: MASK
            if secret_name(name) or (isinstance(value, str) and looks_like_credential(value))
            else value
            for name, value in self.given.items()
        }
        return json.loads(known_secrets.mask(json.dumps(jsonable(shown))))

    def finish(self, status: str, reason: str = "") -> None:
        """Close the run: what is queued is written, the version awaited, the end noted."""
        if self.ended:
            return
        if status == "finished":
            self.told.end_all()
        for channel in self.channels:
            channel.stop()
        self.upkeep.look(now=True)
        self.ended = True
        if self._variables is not None:
            self._variables.end()
        over = time.time_ns()  # what follows is our own business, no part of the training's time
        self.records.end()
        files().end(self._folder())
        if not hurried(reason):  # else what is under way is written or is no checkpoint
            self.capturing.close()
        if self._version is not None and not hurried(reason):
            late = self._version.wait()
            if late:
                self.troubles.tell(late, disk=True)
        self.journal.entry("m", self.modules.loaded())
        if self.journal.lost:
            self.journal.entry("w", "lost", f"{self.journal.lost} journal lines could not be written")
        reason = known_secrets.mask(reason)
        self.journal.entry("z", status, reason[:2000], over)
        if self.journal.losses is not None:
            if self.journal.lost:
                self.journal.losses.note(Loss(self.journal.lost, status, reason, over))
            self.journal.losses.close()
        self.journal.close()
        release_lock(self._run_lock, self._lock_path())

    def missed(self, name: object) -> None:
        """A value was logged when the run had ended: by an exit hook that was registered first of all, or a daemon thread."""
        if self.mode != "record" or not self.journal.closed or self.journal.pid != os.getpid():
            return
        shown = known_secrets.mask(str(name)[:100])
        told = f"1 value of {shown!r} was logged after the run had ended: register exit hooks behind `import flor_dagster`"
        note_lost(self.journal.path, told)
        if self.troubles.first(told):
            warn(told)

    def _start_anew(self) -> None:
        """The folder was deleted, and holds the journal again: with it comes what else belongs there."""
        if self.mode != "record":
            return
        layout.ensure_home(self.place.home)
        release_lock(self._run_lock, self._lock_path())
        self._hold_folder(self.journal)
        self._keep_version()
        with contextlib.suppress(OSError):
            keep_packages(self.place.home)

    def sync(self) -> None:
        """Have what is recorded so far survive a loss of power, with the code's version."""
        if self._version is not None:
            late = self._version.wait()
            if late:
                self.troubles.tell(late)
        self.journal.sync()

    def stop(self) -> NoReturn:
        """A replay's end; a recording has none."""
        raise NotImplementedError

    def reached(self) -> None:
        """In a replay: the script came to the first flor call of the recorded run; a recording begins with it."""

    def withdraw(self) -> None:
        """In a replay: what was logged until now came before the recorded run began."""

    def disown(self) -> None:
        """In a forked child: nothing here belongs to it."""
        self.ended = True
        if self._variables is not None:
            self._variables.end()
            note_for_parent(self.place.home, self.run_id, plain=self._variables.plain)
        self.records.disown()
        self.journal.disown()

    def generator_met(self, root: str, generator: Any) -> None:
        """A shared random generator is in use from here on: a replay of an unseeded run begins with its state."""
        early = imported_state(root) if self._begun else None
        if early is not None:  # its library was imported since, by code that may have drawn from it already
            self.journal.entry("b", root, early)
        self.journal.entry("g", root, generator_state(root, generator))

    # Tags, output ---------------------------------------------------------------------------------------------------

    def add_tags(self, tags: Mapping[str, object]) -> None:
        """More free texts; a later one of the same name wins."""
        self.journal.entry("t", _masked_texts(tags))

    def keep_output(self, t: int, channel: str, source: str, text: str) -> None:
        """What the training printed or logged elsewhere, in the loop context where it did."""
        self.journal.entry(
            "o", self.records.context_id(self.here()), t, channel, source, known_secrets.mask(text)
        )

    # Arguments ------------------------------------------------------------------------------------------------------

    def argument(self, name: str, default: T) -> T:
        """The value of an argument: given from outside, or the default in the code."""
        value, source = default, "default"
        if name in self.given:
            value, source = convert(name, self.given[name], default), "given"
        self.note_argument(name, value, default, source)
        return value

    def note_argument(self, name: str, value: Any, default: Any, source: str) -> None:
        """Say in the journal what an argument was; once, while it stays the same."""
        name = str(name)
        line = f'["a",{json.dumps(name)},{self._argument_text(name, value)},{self._argument_text(name, default)},"{source}"]\n'
        if self.args.get(name) != line:
            self.args[name] = line
            self.journal.write(line.encode())

    def _argument_text(self, name: str, value: Any) -> str:
        """An argument's value as journal text; in the place of a likely secret stands its name."""
        if type(value) is str:
            return json.dumps(self._argument_part(name, value))
        if isinstance(value, dict | list | tuple):
            return json.dumps(self._argument_part(name, json.loads(encode(value))))
        return encode(value)

    def _argument_part(self, name: str, value: Any) -> Any:
        """A part of an argument, as JSON holds it: in the place of a likely secret stands its name."""
        if isinstance(value, list):
            return [self._argument_part(name, part) for part in value]
        if isinstance(value, dict):
            if value.get("$") != "masked":
                return {key: self._argument_part(key, part) for key, part in value.items()}
            named: str | None = value["v"]
        elif type(value) is not str or "\0" in value:
            return value
        elif is_secret(name, value):
            known_secrets.add({name: value})
            named = f"\0{name}\0"
        else:
            named = known_secrets.named(value) if known_secrets else None
        if named is None:
            return value
        key = project_key(self.place.home)
        names = {one.partition("\1")[0] for one in named.split("\0")[1::2]}
        digests = {one: keyed_digest(key, known_secrets.values[one]) for one in sorted(names)}
        return {"$": "masked", "v": named, "names": digests}

    # Loops ----------------------------------------------------------------------------------------------------------

    def open_loop(self, name: str, frame: FrameType, line: int, column: int) -> LoopExecution:
        """A loop execution begins."""
        name = str(name)
        parent = self.here()
        number, ordinal = self._new_loop(parent, name)
        source = find_source(frame, line, column)
        site = (frame.f_code.co_filename, line, column)
        execution = LoopExecution(number, parent, name, ordinal, frame, source, site)
        if parent.execution is None:
            self._note_environment()
        self.records.note_loop(execution)
        self._note_thread(execution)
        self.loop_begins(execution)
        return execution

    def here(self) -> Iteration:
        """The loop context that a call stands in; a context that another run has left behind is none."""
        iteration = current.get()
        return self.root if iteration is None or iteration.owner is not self.journal else iteration

    def _new_loop(self, parent: Iteration, name: str) -> tuple[int, int]:
        """The number of a loop execution, and which one of its name it is in its parent; threads may open some at once."""
        with self._lock:
            self._loops += 1
            return self._loops, parent.next_ordinal(name)

    def _note_thread(self, execution: LoopExecution) -> None:
        """Say that an outermost loop runs in a thread of its own: others may run beside it, in no order."""
        thread = threading.get_ident()
        if execution.outermost and thread != threading.main_thread().ident:
            self.journal.entry("p", execution.id, thread)

    def open_told(
        self, name: str, parent: Iteration, frame: FrameType, line: int, column: int
    ) -> LoopExecution:
        """An execution begins of a loop whose iterations are told."""
        site = (frame.f_code.co_filename, line, column)
        function = frame.f_code.co_qualname
        number, ordinal = self._new_loop(parent, name)
        execution = LoopExecution(number, parent, name, ordinal, None, None, site)
        execution.function = function
        if parent.execution is None:
            self._note_environment()
        self.records.note_loop(execution)
        self._note_thread(execution)
        return execution

    def told_iteration(self, execution: LoopExecution, index: int) -> None:
        """An iteration of a told loop is about to begin."""

    def loop_begins(self, execution: LoopExecution) -> None:
        """The journal knows of a loop execution; nothing was pulled yet."""
        self.capturing.loop_begins(execution)

    def items(self, execution: LoopExecution, iterable: Iterable[T]) -> Iterator[tuple[int, T]]:
        """What the loop yields: index and value."""
        del execution
        return plain_items(iterable)

    def watches(self, execution: LoopExecution) -> bool:
        """Whether the ends of an execution's iterations are of interest."""
        return execution.outermost

    def iteration_over(self, execution: LoopExecution) -> None:
        """An iteration's body ended and the next one has not been pulled: a place for a restore point."""
        self.upkeep.look()
        if not self.ended:
            self.capturing.reached(execution, execution.count - 1)

    def close_loop(self, execution: LoopExecution, how: str) -> None:
        """A loop execution is over."""
        if self.ended:
            return
        if how in ("exhausted", "break"):
            self.capturing.reached(execution, None)
        self.journal.entry("e", execution.id, how, execution.count, time.time_ns())

    def _note_environment(self) -> None:
        if not self._environment_noted:
            self._environment_noted = True
            look_around()
            self.generators.meet()
            self.journal.entry("i", library_facts() | self._late_rank())

    def _late_rank(self) -> dict[str, Any]:
        """What is to be said where this process became a rank after the run had begun."""
        rank = find_rank()
        if rank is None or rank.world_size == self.topology.world_size:
            return {}
        self.troubles.tell(
            f"this process became rank {rank.number} of {rank.world_size} after its first flor call, so it is recorded as "
            "a training run of its own, which can't be replayed: call torch.distributed.init_process_group before the first "
            "flor call, or start it with torchrun"
        )
        return {"rank": rank.number, "world_size": rank.world_size}


def _masked_texts(texts: Mapping[str, object]) -> dict[str, str]:
    """Tags, without likely secrets."""
    return {
        str(name): MASK if is_secret(str(name), str(value)) else known_secrets.mask(str(value))
        for name, value in texts.items()
    }
