"""Taking checkpoints of a training run: when, of what, and why not."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from flor_dagster.recording import listening, outside, switches
from flor_dagster.recording.checkpoints import Manifest
from flor_dagster.recording.entries import Entry
from flor_dagster.recording.lacking import lacks_of
from flor_dagster.recording.memory import has_room
from flor_dagster.recording.obstacles import why_unskippable
from flor_dagster.recording.policy import choose_policy
from flor_dagster.recording.surveying import Survey, TooManyError
from flor_dagster.recording.walking import Walker, sort_unavailable, tainted_roots
from flor_dagster.recording.writing import CheckpointWriter, Snapshot

if TYPE_CHECKING:
    from flor_dagster.recording.checkpoints import CheckpointStore
    from flor_dagster.recording.journal import JournalWriter
    from flor_dagster.recording.loops import LoopExecution
    from flor_dagster.recording.policy import Allowance
    from flor_dagster.recording.settings import CheckpointSettings
    from flor_dagster.recording.trouble import Troubles

# A low guess of how fast memory is copied, for the first checkpoint of a place.
BYTES_PER_SECOND = 1e9
# And of how fast the writer digests and writes.
WRITTEN_PER_SECOND = 3e8
# A copy must never push the training out of memory.
SHARE_OF_AVAILABLE = 0.5
TOO_MANY = "it uses more objects than can be watched"
# To ask how much there is takes a good part of a small copy's time.
LITTLE_BYTES = 32 * 1024 * 1024


class Capturing:
    """Takes the checkpoints of one run.

    Args:
        store: where they go.
        run: the training run's id.
        journal: says which exist, and why others do not.
        troubles: told when the disk fails.
        walker: finds what belongs to an end state.
        rank: whose they are; each rank of a run numbers its loops by itself.
        settings: how much they may cost.
    """

    def __init__(
        self,
        store: CheckpointStore,
        run: str,
        journal: JournalWriter,
        troubles: Troubles,
        walker: Walker,
        rank: int = 0,
        settings: CheckpointSettings | None = None,
    ) -> None:
        settings = settings or CheckpointSettings()
        self._prefix = f"r{rank}-" if rank else ""
        self.policy = choose_policy(settings)
        self._journal = journal
        self._troubles = troubles
        self._walker = walker
        self._writer = CheckpointWriter(store, run, troubles.tell, settings.run_bytes, self.policy.may_write)
        self.policy.background = lambda: self._writer.cpu_seconds
        self._inner = ""
        self._taken_of: dict[str, int] = {}
        self._global_roots: dict[tuple[str, int, int], tuple[str, ...]] = {}
        self._outside: dict[tuple[str, int, int], set[outside.Place]] = {}

    def close(self) -> None:
        """Write what is queued."""
        self._writer.close()

    def loop_begins(self, execution: LoopExecution) -> None:
        """Note which objects the loop finds under the names that it uses: a replay must know what was replaced."""
        source, frame = execution.source, execution.frame
        if source is None or source.reason or frame is None:
            return
        place = f"{execution.place(None)} begins"
        if self.policy.may(place):
            with self.policy.paying(place):
                self._look(execution)

    def _look(self, execution: LoopExecution) -> None:
        try:
            site = execution.site
            if site not in self._global_roots:
                # Once per place: which globals its code may reach, and what a checkpoint of it should cost.
                begin = time.perf_counter()
                capturer = self._walker.walk(execution)
                roots = tuple(
                    r
                    for r in capturer.state.roots
                    if r.partition(":")[0] not in ("random", "object", "name", listening.KIND)
                )
                self._global_roots[site] = roots
                self._outside[site] = capturer.outside
                size = capturer.pending_bytes
                walked = time.perf_counter() - begin
                self.policy.expect(
                    walked + size / BYTES_PER_SECOND,
                    execution.place(None),
                    walked + size / WRITTEN_PER_SECOND,
                )
                if not self._global_roots.keys() - {site} and not sort_unavailable(execution, capturer)[0]:
                    self._prepare(capturer.sizes)
                del capturer  # holds what it captured; who holds what is counted below
            execution.outside = outside.readings(self._outside[site], sys.modules)
            execution.entry = self._walker.enter(execution, self._global_roots[site])
            execution.switches = switches.read_all()
        except TooManyError:
            self._note_uncaptured(execution, None, [TOO_MANY])
        except Exception as error:  # noqa: BLE001 - a checkpoint must never stop a training
            self._note_uncaptured(execution, None, [f"{type(error).__name__}: {error}"])

    def reached(self, execution: LoopExecution, index: int | None) -> None:
        """The end of an iteration, or of the execution (index None): a place for a checkpoint."""
        try:
            reason = why_unskippable(execution, self._walker.is_own)
            if reason:
                self._note_uncaptured(execution, index, [reason])
                return
            work = (
                (time.time_ns() - execution.opened)
                / 1e9
                / (max(execution.count, 1) if index is not None else 1)
            )
            place = execution.place(index)
            if index is None and not execution.outermost:
                self._inner = place
            # The ends of nested loops come first: what an outer statement needs of every iteration.
            spare = self._inner if index is not None else ""
            if (
                execution.entry is None
                or execution.switches is None
                or not self._writer.idle
                or not self.policy.allows(work, place, spare=spare)
            ):
                return
            with self.policy.paying(place) as allowance:
                self._take(execution, index, allowance)
        except Exception as error:  # noqa: BLE001 - a checkpoint must never stop a training
            self._note_uncaptured(execution, index, [f"{type(error).__name__}: {error}"])

    def _prepare(self, sizes: list[int]) -> None:
        """Have memory ready behind the training, so that the first checkpoint costs no more than the others."""
        if self.policy.takes and has_room(sum(sizes), SHARE_OF_AVAILABLE):
            self._writer.do(lambda: self._walker.known.prepare(sizes))

    def _take(self, execution: LoopExecution, index: int | None, allowance: Allowance) -> None:
        capturer = self._walker.retrace(execution)
        allowance.check()
        size = capturer.pending_bytes
        if size > LITTLE_BYTES and not has_room(size, SHARE_OF_AVAILABLE):
            megabytes = size // 1_000_000
            self._note_uncaptured(execution, index, [f"memory was short for a copy of {megabytes} MB"])
            return
        settings, unsettable = (
            ({}, []) if execution.switches is None else self._walker.turned(execution.switches)
        )
        for name, value in settings.items():
            capturer.add(f"{switches.KIND}:{name}", value)
        entry = execution.entry or Entry(Survey())
        known_roots = self._global_roots.get(execution.site, ())
        changed, gone = self._walker.changes(execution, known_roots, entry, capturer)
        capturer.copy(allowance.check)
        reasons, dead = sort_unavailable(execution, capturer)
        reasons += unsettable
        # A replay can't unbind names.
        reasons += [f"`{root.partition(':')[2]}` is deleted in the loop" for root in gone]
        reasons += outside.changes(execution.outside, outside.readings(execution.outside, sys.modules))
        if reasons:
            self._note_uncaptured(execution, index, reasons)
            return
        name = self._prefix + (str(execution.id) if index is None else f"{execution.id}.{index}")
        loop, when = execution.id, time.time_ns()

        def done(manifest: Manifest, written: int, digest: str) -> None:
            self._journal.entry(
                "k",
                {
                    "name": name,
                    "loop": loop,
                    "index": index,
                    "bytes": written,
                    "digest": digest,
                    "t": when,
                    "roots": len(manifest.roots),
                    "lacks": lacks_of(manifest),
                },
            )

        # The ends of one execution's iterations, or the ends of all executions of one loop statement.
        series = (
            self._prefix + str(execution.id)
            if index is not None
            else f"{self._prefix}{execution.name} at {execution.site[1:]}"
        )
        number = self._taken_of.get(series, 0) if index is None else index
        self._taken_of[series] = number + 1
        tainted = tainted_roots(execution)
        tainted += tuple(f"{switches.KIND}:{n}" for n in switches.not_compared(settings))
        paid = self.policy.hand_over(execution.place(index))
        self._writer.put(Snapshot(name, capturer, dead, tainted, changed, done, series, number, paid))

    def _note_uncaptured(self, execution: LoopExecution, index: int | None, reasons: list[str]) -> None:
        key = f"{execution.path.rpartition('/')[2]} {reasons}"
        if self._troubles.first(key) or index is None:
            self._journal.entry("u", execution.id, index, reasons)
