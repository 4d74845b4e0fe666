"""Carry one training run's replay through: what is tried next when a pass does not come to an exact answer.

A restore that does not fit leads to fewer restores, at last to the run from its beginning. A segment that fails is no
reason to give up before the run was tried whole. A divergence is repeated first: two replays that differ are code that is
not deterministic, and there is nothing to fall back to; two that agree mean that something was not put back, and the run
is executed from its beginning, as far as the asked cost allows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from flor_dagster.propagation import classify_effects
from flor_dagster.recording.exits import EXIT_DAMAGED, EXIT_EFFECT, EXIT_RESTORE
from flor_dagster.replay.attempting import Attempt, Failed, Passing
from flor_dagster.replay.cells import answered_cell, plain_cell
from flor_dagster.replay.coverage import Share
from flor_dagster.replay.diagnosing import data_changes, diagnose, same_replay
from flor_dagster.replay.executing import Job, Outcome
from flor_dagster.replay.firing import Firing
from flor_dagster.replay.keeping import begin_replay, finished
from flor_dagster.replay.placing import PlacedVersion
from flor_dagster.replay.planning import LoopPlan
from flor_dagster.replay.record import RunRecord, read_record, read_together
from flor_dagster.replay.run_lock import StoppedError
from flor_dagster.replay.segments import Bounds, segment_plans
from flor_dagster.replay.units import Unit
from flor_dagster.replay.unrepeatable import reads_of
from flor_dagster.store import LogStore
from flor_dagster.store.models import CellRow, ReplayRow, RunRow, StatementRow


class Replan(Protocol):
    """Places statements in the run's version and plans the replay anew."""

    def __call__(
        self, todo: Sequence[StatementRow], *, without: frozenset[str] = ..., jump: bool = ...
    ) -> tuple[PlacedVersion, LoopPlan]:
        """Plan without some checkpoints (`*`: all), without entering loops in the middle."""
        ...


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie: the project's `.flor/`, the user's repository, the cache of our clones."""

    home: Path
    root: Path
    cache: Path


@dataclass(frozen=True, slots=True)
class _Try:
    """What is tried: the statements, their places, the plan, its segments; `why` it is not the first thing tried.

    `apart` where others of the question are asked in passes of their own, because they may disturb one another; `damaged`
    says which checkpoint could not be put back, so that all is executed.
    """

    todo: list[StatementRow]
    placed: PlacedVersion
    loops: LoopPlan
    plans: list[LoopPlan]
    why: str = ""
    apart: bool = False
    damaged: str = ""


class Carrier:
    """Carries one run through.

    Args:
        store: takes replays and cells.
        write: held while a replay is committed.
        places: where things lie.
        passing: carries out passes.
        run: the training run.
        record: its journal.
        replan: plans again.
        tell: told of each cell.
        done: told of each replay that was committed.
        allows: whether so many seconds more stay within what was asked.
        timeout: seconds for one child.
        libraries: what a warm worker may have imported, None for cold children only.
        share: what of a statement's cell the answer settles, where it was put in so.
        approximate: why the version may not be what ran.
        branches: places of branches on a value of the clock, the process or the machine.
        sources: gives the texts of the version's files that the run loaded.
        firing: says how often a statement fired, and was to be expected to.
    """

    def __init__(
        self, store: LogStore, write: threading.Lock, places: Places, passing: Passing, run: RunRow, record: RunRecord, *,
        replan: Replan, tell: Callable[[StatementRow, CellRow], None], done: Callable[[ReplayRow], None],
        allows: Callable[[float], bool], timeout: float, libraries: tuple[str, ...] | None,
        share: Callable[[StatementRow, PlacedVersion], Share], approximate: str, branches: tuple[str, ...] = (),
        sources: Callable[[], Mapping[str, str]] = dict[str, str],
        firing: Callable[[StatementRow, PlacedVersion, LoopPlan, Attempt], Firing],
    ) -> None:  # fmt: skip
        self._store = store
        self._write = write
        self._places = places
        self._passing = passing
        self._run = run
        self._record = record
        self.replan = replan
        self._tell = tell
        self._done = done
        self._allows = allows
        self._timeout = timeout
        self._libraries = libraries
        self._share = share
        self._approximate = approximate
        self._branches = branches
        self._sources = sources
        self._firing = firing
        self._later: list[_Try] = []

    def example(self, placed: PlacedVersion, loops: LoopPlan) -> Unit:
        """A unit like the ones that will come, to see which worker they would share."""
        from flor_dagster.replay.executing import unit_of

        job = self._job("", [], placed, loops)
        return unit_of(job, self._places.home, self._places.home, self._places.home)

    def carry(
        self, todo: list[StatementRow], placed: PlacedVersion, loops: LoopPlan, bounds: Bounds | None
    ) -> None:
        """Answer the statements, whatever it takes of what was asked.

        Raises:
            StoppedError: it was stopped from outside; what was asked stays open.
            ReplayError: a child can't be started.
        """
        plans = segment_plans(self._record, loops, bounds) if bounds else [loops]
        current: _Try | None = _Try(todo, placed, loops, plans)
        # Every try leaves out something that the one before it met: a jump, all checkpoints, a statement.
        for _ in range(3 * len(todo) + 6):
            if current is None:
                return
            current = self._try(current)
            if current is None and self._later:
                current = self._later.pop(0)
        left = [current, *self._later] if current is not None else self._later
        for statement in (s for one in left for s in one.todo):
            self.fail(statement, "no plan came through", (), None)

    def _try(self, now: _Try) -> _Try | None:
        """One pass and what follows from it: another try, or None where all is said."""
        if now.why:
            self._say(now.why)
        replay = self._begin(now)
        job = self._job(replay.id, now.todo, now.placed, now.loops)
        try:
            result = self._passing.carry_out(job, now.plans, "")
            if isinstance(result, Failed):
                self._store.fail_replay(replay.id, result.reason)
                return self._after_failure(now, result, replay)
            result = self._doubted(now, result)
            if result.verdict.fidelity != "diverged":
                self._commit(now, result, replay)
                return None
            result = self._repeated(job, now, result)
            following = self._after_divergence(now, result)
        except BaseException:
            self._store.fail_replay(replay.id, "stopped before its end")
            raise
        if following is None:
            self._commit(now, result, replay)
        else:
            self._store.fail_replay(replay.id, result.verdict.sentence)
        return following

    def _doubted(self, now: _Try, result: Attempt) -> Attempt:
        """Nothing is exact that may have read a value which is the replay's own."""
        verdict = result.verdict
        if not verdict.kept or verdict.fidelity not in ("exact", "within tolerance"):
            return result
        sources = self._sources()
        for statement in now.todo:
            read = reads_of(statement.expression, verdict.kept, sources)
            if read:
                words = (
                    f"`{statement.expression}` may read {read[0].sentence}, which the replay can't give again"
                )
                return replace(result, verdict=replace(verdict, fidelity="unverified", difference=words))
        return result

    # After a failure -----------------------------------------------------------------------------------------------

    def _after_failure(self, now: _Try, failed: Failed, replay: ReplayRow) -> _Try | None:
        outcome = failed.outcome
        if outcome.status == EXIT_EFFECT:
            return self._without_disturber(now, outcome)
        jumped = now.loops.start is not None or failed.segments > 1
        hung = outcome.ended.why == "timeout"
        if outcome.status != EXIT_DAMAGED and not hung and jumped:
            return self._next(now.todo, f"{failed.reason}; not jumping into a loop", jump=False)
        if outcome.status == EXIT_DAMAGED and not now.damaged:
            whole = self._from_beginning(now, failed.reason, damaged=failed.reason)
            if whole is not None:
                return whole
        if outcome.status == EXIT_RESTORE and now.loops.skipped:
            words = f"{failed.reason}; executing it from the beginning"
            return self._next(now.todo, words, without=frozenset("*"), jump=False)
        if "FileNotFoundError" in failed.reason and now.loops.skipped:
            words = f"{failed.reason}: what was skipped may have written it; executing it from the beginning"
            return self._next(now.todo, words, without=frozenset("*"), jump=False)
        stuck = [s for s in now.todo if s.key == outcome.stuck]
        words = failed.reason
        if outcome.status == EXIT_DAMAGED:
            words += ". Ask again with --without-checkpoints to execute the run from its beginning"
        for statement in stuck or now.todo:
            self.fail(statement, words, outcome.tail, replay.id)
        others = [s for s in now.todo if s.key != outcome.stuck] if stuck else []
        return self._next(others, f"{words}; the other statements go on without it") if others else None

    def _from_beginning(self, now: _Try, why: str, damaged: str = "") -> _Try | None:
        """Execute the run without restoring anything, as far as the asked cost allows."""
        placed, loops = self.replan(now.todo, without=frozenset("*"), jump=False)
        if not self._allows(loops.estimated_seconds):
            self._say(
                f"{self._run.key}: executing it from the beginning is beyond the seconds that were asked"
            )
            return None
        words = f"{why}; executing it from the beginning"
        return _Try(now.todo, placed, loops, [loops], words, damaged=damaged)

    def _without_disturber(self, now: _Try, outcome: Outcome) -> _Try | None:
        """Refuse the statement that changed the random state; the others go on."""
        events = read_record(outcome.journal).events
        keys, names = next(((p[2], p[3]) for _, k, p in events if k == "x" and p[1] == "effect"), ([], []))
        for statement in now.todo:
            if statement.key in keys:
                random = all(name.startswith("the random state") for name in names)
                how = "draws random numbers" if random else f"changes {', '.join(names[:5])}"
                along = ", ".join(f"`{key}`" for key in keys if key != statement.key)
                what = f"`{statement.expression}`" + (f" in one block with {along}" if along else "")
                words = f"refused: evaluating {what} {how}, which would change the training that is replayed"
                cell = plain_cell(self._run, statement, "refused", words)
                self._store.save_cell(cell)
                self._tell(statement, cell)
        others = [s for s in now.todo if s.key not in keys]
        return self._next(others, "") if others else None

    def _next(
        self, todo: list[StatementRow], why: str, *, without: frozenset[str] = frozenset(), jump: bool = True
    ) -> _Try:
        placed, loops = self.replan(todo, without=without, jump=jump)
        return _Try(todo, placed, loops, [loops], why)

    def fail(self, statement: StatementRow, words: str, tail: Sequence[str], replay: str | None) -> None:
        """Mark a statement's cell as failed; asking again tries again."""
        cell = replace(
            plain_cell(self._run, statement, "failed", f"failed: {words}"), replay_id=replay,
            detail={"tail": list(tail), "commit": self._run.commit},
        )  # fmt: skip
        self._store.save_cell(cell)
        self._tell(statement, cell)

    # After a divergence --------------------------------------------------------------------------------------------

    def _repeated(self, job: Job, now: _Try, result: Attempt) -> Attempt:
        """Repeat what diverged, and say what may be behind it."""
        repeats: str | None = None
        for number in result.differs:
            self._say(f"{result.verdict.sentence}; repeating it")
            again = self._passing.repeat(job, now.plans[number], f"{number}.repeat")
            if again is None:
                repeats = "the repetition failed"
                break
            before = (
                result.replayed if len(now.plans) == 1 else read_together(result.outcomes[number].journals)
            )
            repeats = same_replay(before, again[1])
            if repeats:
                break
        seeded = "" if repeats != "" else self._under_another_seed(job, now, result)
        words = diagnose(
            self._record, result.replayed, now.loops, repeats=repeats, seeded=seeded, sources=self._sources(),
            home=self._places.home,
        )  # fmt: skip
        return replace(result, diagnosis=words) if not repeats else replace(
            result, diagnosis=words, differs=()
        )  # fmt: skip

    def _under_another_seed(self, job: Job, now: _Try, result: Attempt) -> str:
        """What differs under another hash seed, of a run that drew its own: shown, not supposed; empty where nothing does."""
        given = self._record.given
        unseeded = self._record.header.get("hashseed") in (None, "random")
        if not (unseeded and given and result.differs and self._allows(now.loops.estimated_seconds)):
            return ""
        number = result.differs[0]
        before = result.replayed if len(now.plans) == 1 else read_together(result.outcomes[number].journals)
        cold = self._passing.repeat(replace(job, libraries=None), now.plans[number], f"{number}.cold")
        if cold is None or same_replay(before, cold[1]):
            return ""  # something else than the seed makes a difference
        environment = {**given.environment, "PYTHONHASHSEED": "1"}
        record = replace(self._record, given=replace(given, environment=environment))
        again = self._passing.repeat(
            replace(job, record=record, libraries=None), now.plans[number], f"{number}.seed"
        )
        return "" if again is None else same_replay(before, again[1])

    def _after_divergence(self, now: _Try, result: Attempt) -> _Try | None:
        """Execute the run from its beginning where the code repeats itself and something had been restored."""
        restored = len(now.plans) > 1 or now.loops.start is not None or now.loops.skipped
        if not result.differs or any(data_changes(one) for one in result.replayed.ranks):
            return None
        if not restored:
            return self._apart(now, result)
        return self._from_beginning(now, result.verdict.sentence)

    def _apart(self, now: _Try, result: Attempt) -> _Try | None:
        """Ask what may disturb the training, or the other statements, in passes of its own; first what does not."""
        suspects = [s for s in now.todo if classify_effects(s.expression) not in ("pure", "clock")]
        others = [s for s in now.todo if s not in suspects]
        groups = [group for group in (others, *([s] for s in suspects)) if group]
        if now.apart or len(groups) < 2:
            return None
        words = f"{result.verdict.sentence}; asking {len(now.todo)} statements in {len(groups)} passes, because one may disturb another"
        tries: list[_Try] = []
        for group in groups:
            placed, loops = self.replan(group, without=frozenset("*"), jump=False)
            if not self._allows(loops.estimated_seconds):
                self._say(
                    f"{self._run.key}: asking them in passes of their own is beyond the seconds that were asked"
                )
                return None
            tries.append(_Try(group, placed, loops, [loops], words, apart=True))
            words = ""
        self._later += tries[1:]
        return tries[0]

    # Keeping -------------------------------------------------------------------------------------------------------

    def _begin(self, now: _Try) -> ReplayRow:
        # Estimates learn from replays of one piece.
        more = (
            {"cost": now.loops.cost} if len(now.plans) == 1 else {"segments": [p.sentence for p in now.plans]}
        )
        return begin_replay(self._store, self._run, now.loops, more)

    def _commit(self, now: _Try, result: Attempt, replay: ReplayRow) -> None:
        """Make the values and the cells visible, in one transaction."""
        cells = [
            answered_cell(
                self._run, statement, now.placed, result, replay.id,
                row=self._store.confirmed(now.placed.row(statement, self._run.commit or "")),
                share=self._share(statement, now.placed), approximate=self._approximate, branches=self._branches,
                firing=self._firing(statement, now.placed, now.loops, result),
                supplied=self._record.given.supplied if self._record.given is not None else (),
                world=self._record.given.world if self._record.given is not None else "",
                damaged=now.damaged,
            )
            for statement in now.todo
        ]  # fmt: skip
        done = finished(replay, result, result.verdict.sentence)
        with self._write:
            self._store.commit_replay(done, list(result.journals), cells)
        self._done(done)
        for statement, cell in zip(now.todo, cells, strict=True):
            self._tell(statement, cell)

    def _job(
        self, replay_id: str, todo: Sequence[StatementRow], placed: PlacedVersion, loops: LoopPlan
    ) -> Job:
        return Job(
            replay_id, self._run, self._record, placed, tuple(todo), loops, self._places.home, self._places.root,
            self._places.cache, self._timeout, libraries=self._libraries,
        )  # fmt: skip

    def _say(self, words: str) -> None:
        if self._passing.on_line is not None:
            self._passing.on_line(f"{self._run.key}: {words}")


__all__ = ["Carrier", "Places", "Replan", "StoppedError"]
