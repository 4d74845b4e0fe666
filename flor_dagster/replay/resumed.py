"""The process of a training that goes on where another one died. Imports the recorder alone.

Its life has two parts. First it catches up: the script runs from its beginning, in the user's own tree; loops that the dead
run had finished are skipped by putting their end states back; whatever is logged is compared with what the dead run had
logged, and written nowhere. Behind the last restore point it is *live*: the dead run's journal up to there becomes the
beginning of this run's, with its numbers, and from here on this is a recording like any other.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import itertools
import json
import os
import shutil
import sys
import threading
import types
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from flor_dagster.recording import layout, process
from flor_dagster.recording.artifacts import ArtifactStore
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.recording.context import current
from flor_dagster.recording.endings import at_end
from flor_dagster.recording.environment import library_facts
from flor_dagster.recording.exits import EXIT_CHANGED, EXIT_RESTORE
from flor_dagster.recording.journal import Entry, JournalWriter, read_journal
from flor_dagster.recording.loops import LoopExecution, find_source
from flor_dagster.recording.masking import SECRETS, known_secrets, masked_names, unmasked_argv
from flor_dagster.recording.process_state import give_back_process_state
from flor_dagster.recording.records import CallSite, Records
from flor_dagster.recording.replaying import ReplaySession
from flor_dagster.recording.session import Session
from flor_dagster.recording.values import decode, encode
from flor_dagster.replay.main_module import new_main
from flor_dagster.replay.rebinding import NAME, compile_rebound
from flor_dagster.replay.record import RunRecord, read_record

T = TypeVar("T")


def main(plan_path: str) -> None:
    """Go on by the plan in a file."""
    plan = json.loads(Path(plan_path).read_text(encoding="utf-8"))
    script = Path(plan["root"]) / plan["entrypoint"]
    known_secrets.add(json.loads(os.environ.pop(SECRETS, "{}")))
    give_back_process_state(plan["process"])
    os.chdir(plan["cwd"])
    argv = list(plan["argv"]) or [str(script)]
    sys.argv = unmasked_argv(argv, {number: known_secrets.values[name] for number, name, _ in plan["masked"]})
    sys.path[0] = str(script.parent)
    namespace = new_main(script)
    sessions: list[ResumeSession] = []

    def begin() -> Session:
        session = ResumeSession(plan)
        sessions.append(session)
        builtins.__dict__[NAME] = session
        at_end(session.finish)
        return session

    process.factory = begin
    sites: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for file, line, column in plan["sites"]:
        sites[os.path.realpath(Path(plan["root"]) / file)].add((line, column))
    _patch_imports(sites)
    code = _compiled(str(script), sites) or compile(
        script.read_bytes(), str(script), "exec", dont_inherit=True
    )
    exec(code, namespace.__dict__)


def _compiled(path: str, sites: dict[str, set[tuple[int, int]]]) -> types.CodeType | None:
    loops = sites.get(os.path.realpath(path))
    return compile_rebound(Path(path).read_bytes(), path, loops) if loops else None


def _patch_imports(sites: dict[str, set[tuple[int, int]]]) -> None:
    """Modules with such loops are compiled here, from memory; no cache file is read or written for them."""
    loader: Any = importlib.machinery.SourceFileLoader
    plain = loader.get_code

    def get_code(self: Any, fullname: str) -> types.CodeType | None:
        return _compiled(self.get_filename(fullname), sites) or plain(self, fullname)

    loader.get_code = get_code


class ResumeSession(ReplaySession):
    """Catches up with a run that died, then records.

    Args:
        plan: what `flor_dagster.replay.resuming` wrote.
    """

    mode = "record"

    def __init__(self, plan: dict[str, Any]) -> None:
        self._recording = False
        self._dead_journal = Path(plan["dead_journal"])
        self._dead: RunRecord = read_record(self._dead_journal)
        self._values: dict[tuple[int, int], Any] = {}
        self._contexts_by_path: dict[str, int] = {}
        super().__init__(plan)
        self._read_contexts()
        self.records = _Compared(self.journal, self, plan)

    # Beginning ------------------------------------------------------------------------------------------------------

    def _open_journal(self) -> JournalWriter:
        self._origin, self._tags = "script", dict(self.plan["tags"])
        self.parent = str(self.plan["parent"])
        return Session._open_journal(self)  # noqa: SLF001 - the recording's own, not the replay's

    def _begin(self) -> None:
        self._checkpoints = CheckpointStore(layout.checkpoints_folder(self.place.home))
        self._checkpoints.pin(self.plan["parent"], self.plan["pinned"])
        self.restorer = self._restorer_of(self.plan["parent"])
        Session._begin(self)  # noqa: SLF001 - likewise

    def _read_contexts(self) -> None:
        for entry in read_journal(self._dead_journal):
            if entry.parts[0] == "c":
                _, number, loop, index, value = entry.parts
                self._values[loop, index] = index if value is None else value
                self._contexts_by_path[f"{self._dead.executions[loop].path}[{index}]"] = number

    def finish(self, status: str, reason: str = "") -> None:
        """The run's end; a process that never got to the restore point has failed."""
        if not self._recording and status == "finished":
            status, reason = (
                "failed",
                "the script ended before it came to the restore point of the run that it was to go on with",
            )
        Session.finish(self, status, reason)

    def generator_met(self, root: str, generator: Any) -> None:
        """Before the restore point the dead run's state, behind it this run's own."""
        (Session if self._recording else ReplaySession).generator_met(self, root, generator)

    def argument(self, name: str, default: T) -> T:
        """The value that the dead run had."""
        if self._recording:
            return Session.argument(self, name, default)
        if masked_names(self.plan["args"].get(name)).keys() - known_secrets.values.keys():
            return default
        return self.given.get(name, default)

    # Loops ----------------------------------------------------------------------------------------------------------

    def watches(self, execution: LoopExecution) -> bool:
        """As in any recording."""
        return Session.watches(self, execution)

    def open_loop(self, name: str, frame: FrameType, line: int, column: int) -> LoopExecution:
        """A loop execution begins; while catching up it has the number that it had in the dead run."""
        self._check_rebound()
        if self._recording:
            return Session.open_loop(self, name, frame, line, column)
        name = str(name)
        parent = current.get() or self.root
        source = find_source(frame, line, column)
        site = (frame.f_code.co_filename, line, column)
        execution = LoopExecution(0, parent, name, parent.next_ordinal(name), frame, source, site)
        dead = self._dead.by_path.get(execution.path)
        if dead is None or execution.path not in self.plan["loops"]:
            self.abandon(
                f"the script came to the loop {execution.path}, where the run that died had gone another way",
                EXIT_CHANGED,
            )
        execution.id = dead.id
        execution.noted = True
        if parent.execution is None:
            self._check_libraries()
            self.generators.meet()
        Session.loop_begins(self, execution)
        return execution

    def loop_begins(self, execution: LoopExecution) -> None:
        """As in any recording."""
        Session.loop_begins(self, execution)

    def items(self, execution: LoopExecution, iterable: Iterable[T]) -> Iterator[tuple[int, T]]:
        """What the loop yields: nothing where it is skipped, the rest where it is entered."""
        if self._recording:
            return Session.items(self, execution, iterable)
        spec = self.plan["loops"][execution.path]
        if spec["action"] == "skip":
            self._put_back(execution, spec["checkpoint"], None)
            self._skipped.add(execution.id)
            return iter(())
        start = spec.get("start", 0)
        if not start:
            return enumerate(iterable)
        rest = self._rest(execution, iterable, start)
        self._put_back(execution, spec["points"][str(start - 1)], start - 1)
        if [execution.path, start - 1] == self.plan["last"]:
            self._go_live(execution, start - 1)
        return zip(itertools.count(start), rest, strict=False)

    def _rest(self, execution: LoopExecution, iterable: Iterable[T], start: int) -> Iterator[T]:
        """The values from an iteration on, where those before it are the ones that the dead run had."""
        if not isinstance(iterable, range | list | tuple):
            words = f"{execution.path} goes over a {type(iterable).__name__}, which can't be entered at iteration {start}"
            self.abandon(words, EXIT_RESTORE)
        for index in range(min(start + 1, len(iterable))):
            known = self._values.get((execution.id, index))
            now = iterable[index]
            if (
                known is not None
                and type(now) in (int, str, float, bool)
                and encode(now) != encode(decode(known))
            ):
                self.abandon(
                    f"iteration {index} of {execution.path} is {now!r} here and was {known!r} in the run that died "
                    "(does the script resume by itself from a file of its own? Move that file away.)", EXIT_CHANGED,
                )  # fmt: skip
        rest: Any = iterable[start:]
        return iter(rest)

    def iteration_over(self, execution: LoopExecution) -> None:
        """A restore point, once this is live."""
        if self._recording:
            self._check_rebound()
            Session.iteration_over(self, execution)

    def close_loop(self, execution: LoopExecution, how: str) -> None:
        """An execution is over; the last one that was skipped is where the training goes on."""
        if self._recording:
            Session.close_loop(self, execution, how)
            return
        if execution.id in self._skipped:
            execution.count = self.plan["loops"][execution.path]["count"]
            if [execution.path, None] == self.plan["last"]:
                self._go_live(execution, None)

    # Going live -----------------------------------------------------------------------------------------------------

    def _check_libraries(self) -> None:
        recorded, here = self.plan["libraries"], library_facts()
        other = [
            f"{name} is {here['versions'].get(name)}, it was {version}"
            for name, version in recorded.get("versions", {}).items()
            if here["versions"].get(name, version) != version
        ]
        other += [
            f"{name} is {here[name]}, it was {recorded[name]}"
            for name in ("torch_threads", "cuda")
            if name in here and recorded.get(name, here[name]) != here[name]
        ]
        if other and not self.plan["allow_changed"]:
            self.abandon(
                f"the libraries differ from those of the run that died: {'; '.join(other)}", EXIT_CHANGED
            )

    def _go_live(self, execution: LoopExecution, index: int | None) -> None:
        records = self.records
        difference = records.difference if isinstance(records, _Compared) else ""
        changed = sorted(
            file for file, blob in self.modules.loaded().items() if self.plan["blobs"].get(file) != blob
        )
        if changed:
            difference = f"{', '.join(changed)} differ{'s' * (len(changed) == 1)} from the version of the run that died"
        if difference and not self.plan["allow_changed"]:
            self.abandon(difference, EXIT_CHANGED)
        calls = self._copy_journal(execution.id, index)
        live = Records(self.journal, self.place.root, self.troubles, ArtifactStore(self.place.home))
        live.go_on_behind(calls, max(self._contexts_by_path.values(), default=0))
        self.records = live
        self._loops = max(self._dead.executions, default=0)
        for here in execution.parent.chain():
            owner = here.execution
            if owner is not None:
                here.id = self._contexts_by_path.get(f"{owner.path}[{here.index}]")
        self._recording = True
        if difference:
            self.journal.entry("w", "resumed", f"went on although {difference}")
        self._note_environment()

    def _copy_journal(self, loop: int, index: int | None) -> int:
        """Begin this run's journal with the dead run's, up to the restore point; the greatest number of a call site."""
        lines = self._dead_journal.read_bytes()
        entries = list(read_journal(self._dead_journal))
        cut = _cut(entries, self._dead, loop, index)
        kept: list[bytes] = []
        calls = 0
        contexts: dict[str, int] = {}
        for position, entry in enumerate(entries):
            kind, parts = entry.parts[0], entry.parts
            # Checkpoints are written behind the training: their lines may come later than what they hold.
            late = kind == "k" and self._is_before(parts[1], cut, loop, index)
            if kind in ("flor", "z") or (position >= cut and not late):
                continue
            if kind == "k":
                self._adopt(parts[1]["name"])
            if kind == "c":
                path = f"{self._dead.executions[parts[2]].path}[{parts[3]}]"
                contexts[path] = parts[1]
            calls = max(calls, parts[1]) if kind == "n" else calls
            end = lines.index(b"\n", entry.offset) + 1
            kept.append(lines[entry.offset : end])
        self._contexts_by_path = contexts
        self._dead.executions = {n: e for n, e in self._dead.executions.items() if e.opened < cut}
        for first in range(0, len(kept), 1000):
            self.journal.write(b"".join(kept[first : first + 1000]))
        return calls

    def _is_before(self, fields: dict[str, Any], cut: int, loop: int, index: int | None) -> bool:
        execution = self._dead.executions[fields["loop"]]
        if execution.closed is not None and execution.closed < cut:
            return True
        point = fields["index"]
        return point is not None and execution.id == loop and index is not None and point <= index

    def _adopt(self, name: str) -> None:
        """A checkpoint of the dead run is one of this run too: its manifest, the buffers are shared by their content."""
        source = self._checkpoints.manifest_path(self.plan["parent"], name)
        target = self._checkpoints.manifest_path(self.run_id, name)
        # Together with other writers: who deletes holds the lock alone, and counts the references before it sweeps.
        with self._checkpoints.lock(shared=True):
            if source.exists() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(source, target)
                except OSError:
                    shutil.copyfile(source, target)


class _Compared(Records):
    """What is logged while catching up: compared with what the dead run logged there, and not written again."""

    def __init__(self, journal: JournalWriter, session: ResumeSession, plan: dict[str, Any]) -> None:
        super().__init__(journal, session.place.root, session.troubles, ArtifactStore(session.place.home))
        self.difference = ""
        self._left_out = frozenset(plan["tainted"])
        self._expected: dict[tuple[str, str], list[str]] = defaultdict(list)
        for record in read_record(Path(plan["dead_journal"])).records:
            self._expected[record.path, record.name].append(record.text)
        self._mutex = threading.Lock()

    def record(self, name: str, value: Any, frame: FrameType | CallSite) -> None:
        """Compare one record."""
        del frame
        iteration = current.get()
        path = (
            ""
            if iteration is None or iteration.execution is None
            else f"{iteration.execution.path}[{iteration.index}]"
        )
        with self._mutex:
            expected = self._expected[path, str(name)]
            wanted = json.loads(expected.pop(0)) if expected else None
            if name in self._left_out or self.difference:
                return
            text = encode(value, self.artifacts)
            if wanted is None or json.loads(text) != wanted:
                was = "was not logged" if wanted is None else f"was {decode(wanted)!r:.60}"
                at = path or "the top of the run"
                self.difference = f"`{name}` at {at} is {value!r:.60} here and {was} in the run that died"


def _cut(entries: list[Entry], dead: RunRecord, loop: int, index: int | None) -> int:
    """The number of the first entry of the dead run's journal that belongs to what came behind the restore point."""
    closed = dead.executions[loop].closed
    if index is None:
        return len(entries) if closed is None else closed + 1

    def beyond(parts: list[Any]) -> bool:
        match parts[0]:
            case "c":
                return parts[2] == loop and parts[3] > index
            case "e":
                return parts[1] == loop
            case "l":
                execution = dead.executions[parts[1]]
                return execution.parent == loop and (execution.parent_index or 0) > index
            case _:
                return False

    return next((number for number, entry in enumerate(entries) if beyond(entry.parts)), len(entries))
