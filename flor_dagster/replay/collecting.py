"""What a project keeps and nobody needs any more: found, told, and let go of.

Nothing goes that a run's version, a record's artifact or a journal that was not taken in yet needs. What other processes
may be about to refer to is either locked (a run's checkpoints by its lease, its replays by their lock, versions by the home's
lock) or young (artifacts and lists of packages, see `recording.sharing`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from flor_dagster.errors import CheckpointError, SnapshotError, StoreError
from flor_dagster.recording import collecting, layout
from flor_dagster.recording.artifacts import VALUE_SUFFIX
from flor_dagster.recording.checkpoints import CheckpointStore
from flor_dagster.recording.retention import Stored, steps_more
from flor_dagster.recording.sharing import YOUNG_SECONDS, is_old, take_away
from flor_dagster.replay.leftovers import Leftover, leftovers
from flor_dagster.versions.collecting import drop_versions

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace
    from flor_dagster.store.models import LoopRow, RunRow

_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{32,40}(?![0-9a-f])")
_ITERATIONS = re.compile(r"(?:r(\d+)-)?(\d+)")


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of thing that goes.

    Attributes:
        kind: `checkpoints`, `buffers`, `versions`, `artifacts`, `packages`, `replays` or `checkouts`.
        count: How many.
        bytes: What they take; of versions 0, since git frees their objects in its own time.
        names: Which.
    """

    kind: str
    count: int
    bytes: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Slower:
    """A training run whose replays become slower.

    Attributes:
        run: Its key.
        gone: How many of its checkpoints go.
        had: How many it had.
        seconds: About how much longer a replay takes that starts somewhere in the middle; None where that is not known.
        sentence: The same in words.
    """

    run: str
    gone: int
    had: int
    seconds: float | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Collection:
    """What was let go of, or would be.

    Attributes:
        planned: Whether it was only looked.
        parts: What goes, by kind; kinds of which nothing goes are left out.
        slower: The runs whose replays become slower.
        kept: What stays though it could be thought to go, and why, in words.
        refused: What could not be looked at or let go of, and why, in words.
        over: The bytes of checkpoints that stay beyond what was asked for.
    """

    planned: bool
    parts: tuple[Part, ...]
    slower: tuple[Slower, ...]
    kept: tuple[str, ...]
    refused: tuple[str, ...]
    over: int = 0

    @property
    def bytes(self) -> int:
        """What all of it takes."""
        return sum(part.bytes for part in self.parts)


def collect_project(
    workspace: Workspace, most: int, runs: Sequence[str] | None = None, *, plan: bool = False
) -> Collection:
    """Let go of what nobody needs; thin the checkpoints to a number of bytes.

    Args:
        workspace: the project.
        most: bytes that the checkpoints of all runs may take.
        runs: keys of the runs that may be thinned; None takes all that are over.
        plan: only say what would go.

    Raises:
        UnknownNameError: no such run.
    """
    unread = ""
    try:
        workspace.sync()
    except StoreError as error:
        unread = (
            f"what was recorded since could not be taken in first: {error}"  # a full disk is why one collects
        )
    named = None if runs is None else {workspace.store.run(key).id for key in runs}
    every = workspace.store.runs()
    work = _Collecting(workspace, plan, unread)
    with contextlib.ExitStack() as locks:
        busy = _lock_replays(workspace.home, every, locks, plan=plan)
        work.busy(every, busy)
        work.thin([r for r in every if named is None or r.id in named], busy, most)
        work.drop_versions()
        work.clear(leftovers(workspace, every, busy))
        work.sweep_shared(replaying=bool(busy))
    return work.collection()


def _lock_replays(
    home: Path, runs: Iterable[RunRow], locks: contextlib.ExitStack, *, plan: bool
) -> frozenset[str]:
    """Keep replays of every run from beginning as long as the stack is open; the ids of those that are going on."""
    busy: set[str] = set()
    for run in runs:
        path = home / "replays" / f"{run.id}.lock"
        if not path.parent.is_dir() or (plan and not path.exists()):
            continue
        try:
            locks.enter_context(FileLock(path, timeout=0))
        except Timeout:
            busy.add(run.id)
    return frozenset(busy)


class _Collecting:
    """What was found so far."""

    def __init__(self, workspace: Workspace, plan: bool, unread: str = "") -> None:
        self._workspace = workspace
        self._home = workspace.home
        self._plan = plan
        self._parts: list[Part] = []
        self._slower: list[Slower] = []
        self._kept: list[str] = []
        self._refused: list[str] = [unread] if unread else []
        self._over = 0

    def collection(self) -> Collection:
        parts = tuple(part for part in self._parts if part.count or part.bytes)
        problems = [f"{folder}: {why}" for folder, why in self._workspace.store.problems.items()]
        kept, refused = tuple(self._kept), tuple(self._refused + problems)
        return Collection(self._plan, parts, tuple(self._slower), kept, refused, self._over)

    def busy(self, runs: Iterable[RunRow], busy: frozenset[str]) -> None:
        """Say whose things stay because somebody is at them."""
        for run in runs:
            if run.status == "running":
                self._kept.append(f"{run.key} is being trained: everything of it stays")
            elif run.id in busy:
                self._kept.append(f"{run.key} is being replayed: everything of it stays")

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def thin(self, runs: Sequence[RunRow], busy: frozenset[str], most: int) -> None:
        """Thin the checkpoints of runs that are over."""
        store = CheckpointStore(layout.checkpoints_folder(self._home))
        if not store.folder.is_dir():
            return
        over = [r.id for r in runs if r.status != "running" and r.id not in busy]
        # Looked for before the folders: a run has its folder before its first checkpoint.
        having = collecting.runs_of(store)
        known = {run.id for run in self._workspace.store.runs()}
        gone = [r for r in having if r not in known and not layout.run_folder(self._home, r).exists()]
        before, _ = collecting.stored(store)
        try:
            done = collecting.collect(store, over, most, gone=gone, plan=self._plan)
        except CheckpointError as error:
            self._refused.append(str(error))
            return
        names = tuple(f"{c.run} {c.name}" for c in done.checkpoints)
        self._parts.append(Part("checkpoints", len(names), done.freed, names))
        for path, why in done.unreadable.items():
            self._refused.append(f"no buffer was deleted, since {path} can't be read: {why}")
        keys = {run.id: run.key for run in runs}
        for run in done.held:
            if run in keys and run not in busy:
                self._kept.append(f"{keys[run]} is in use by another process: its checkpoints stay")
        doomed = {(c.run, c.name) for c in done.checkpoints}
        left = sum(c.own_bytes for c in before if (c.run, c.name) not in doomed) + sum(
            {d: n for c in before if (c.run, c.name) not in doomed for d, n in c.objects.items()}.values()
        )
        self._over = max(0, left - most)
        if self._over:
            self._kept.append(
                f"checkpoints of {left} bytes stay, {self._over} more than asked for: of every loop the first and the last two, "
                "and all of runs that may not be thinned"
            )
        for run in runs:
            mine = [c for c in before if c.run == run.id]
            lost = [c for c in mine if (c.run, c.name) in doomed]
            if lost:
                self._slower.append(_slower(run, mine, lost, self._workspace.store.loops(run.id)))

    # Versions --------------------------------------------------------------------------------------------------------

    def drop_versions(self) -> None:
        """Let go of versions without a training run and without a statement that was written in them."""
        try:
            done = drop_versions(
                self._workspace.repository, self._home, self._needed_versions(), dry_run=self._plan
            )
        except (SnapshotError, OSError) as error:
            self._refused.append(str(error))
            return
        self._parts.append(Part("versions", len(done.dropped), 0, done.dropped))
        if done.refusal:
            self._refused.append(done.refusal)

    def _needed_versions(self) -> Iterator[str]:
        """Read only when the lock on versions is held: a question that is being asked holds it too."""
        store = self._workspace.store
        yield from (version.commit for version in store.versions())
        yield from (run.commit for run in store.runs() if run.commit is not None)
        yield from (statement.source for statement in store.statements())

    # Folders ---------------------------------------------------------------------------------------------------------

    def clear(self, found: Sequence[Leftover]) -> None:
        """Delete folders that replays and trainings left."""
        for kind in ("replays", "checkouts"):
            these = [one for one in found if one.kind == kind]
            going = [one for one in these if not one.kept]
            size = sum(_size(one.files()) for one in going)
            self._parts.append(Part(kind, len(going), size, tuple(str(one.path) for one in going)))
            self._kept += [f"{one.path}: {one.kept}" for one in these if one.kept]
            for one in going if not self._plan else ():
                one.remove()

    # Shared files ----------------------------------------------------------------------------------------------------

    def sweep_shared(self, *, replaying: bool) -> None:
        """Delete artifacts and lists of packages that nothing refers to.

        Args:
            replaying: a replay is going on: it can't make young what it finds, so nothing goes.
        """
        if replaying:
            self._kept.append("all artifacts and lists of packages stay while a replay is going on")
            return
        try:
            needed = self._digests()
        except OSError as error:
            self._refused.append(f"no artifact was deleted, since a journal can't be read: {error}")
            return
        artifacts = {p: p.parent.name + p.name.partition(".")[0] for p in self._home.glob("artifacts/*/*")}
        packages = {p: p.name.partition(".")[0] for p in self._home.glob("packages/*")}
        for kind, files in (("artifacts", artifacts), ("packages", packages)):
            free = [path for path, digest in files.items() if digest not in needed]
            going = [path for path in free if is_old(path)]
            young = len(free) - len(going)
            if young:
                self._kept.append(
                    f"{young} {kind} that nothing refers to stay: they were written or found in the last "
                    f"{YOUNG_SECONDS / 3600:.0f} hours, and a run may be about to refer to them"
                )
            sizes = {path: path.stat().st_size for path in going}
            gone = [path for path in going if self._plan or take_away(path)]
            names = tuple(str(path.relative_to(self._home)) for path in gone)
            self._parts.append(Part(kind, len(gone), sum(sizes[path] for path in gone), names))

    def _digests(self) -> set[str]:
        """All that may be the digest of an artifact or of a list of packages in what is kept: rather too much than too little."""
        found: set[str] = set()
        journals = [*self._home.glob("runs/*/*"), *self._home.glob("replays/**/*.jsonl")]
        for path in journals:
            if path.is_file():
                found.update(_digests_in(path))
        for text in self._workspace.store.artifact_texts():
            found.update(_DIGEST.findall(text))
        for run in self._workspace.store.runs():
            found.add(str(run.header.get("packages") or ""))
        # A long value may hold artifacts itself.
        values = {
            p.parent.name + p.name.partition(".")[0]: p
            for p in self._home.glob(f"artifacts/*/*.{VALUE_SUFFIX}")
        }
        new = found & values.keys()
        while new:
            inner = {digest for one in new for digest in _digests_in(values[one])}
            new = (inner - found) & values.keys()
            found |= inner
        return found


def _digests_in(path: Path) -> set[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            return {digest for line in lines for digest in _DIGEST.findall(line)}
    except FileNotFoundError:
        return set()


def _slower(run: RunRow, had: Sequence[Stored], lost: Sequence[Stored], loops: Sequence[LoopRow]) -> Slower:
    """What a run's replays lose by losing checkpoints."""
    gone = {c.name for c in lost}
    of_series: dict[str, list[Stored]] = {}
    for checkpoint in had:
        of_series.setdefault(checkpoint.series, []).append(checkpoint)
    more: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for series, members in of_series.items():
        if not any(c.name in gone for c in members):
            continue
        numbers = sorted(c.number for c in members)
        steps = steps_more(numbers, (c.number for c in members if c.name not in gone))
        what, each = _unit(series, loops)
        more[what] = max(more.get(what, 0.0), steps)
        if each is not None:
            seconds[what] = max(seconds.get(what, 0.0), steps * each)
    # Iterations of a loop hold what is nested in them: the longest way is what a replay goes.
    longest = max(seconds.values(), default=None)
    steps_text = " and ".join(f"{steps:.1f} more {what}" for what, steps in more.items() if steps)
    cost = f", about {longest:.2g} s longer" if longest is not None else ""
    begin = f"{len(lost)} of {len(had)} checkpoints go"
    verb = "executes" if steps_text else "is as fast as before"
    sentence = f"{run.key}: {begin}: a replay that starts in the middle {verb}" + (
        f" about {steps_text}{cost}" if steps_text else ""
    )
    return Slower(run.key, len(lost), len(had), longest, sentence)


def _unit(series: str, loops: Sequence[LoopRow]) -> tuple[str, float | None]:
    """What one step of a series is, and how many seconds it took."""
    match = _ITERATIONS.fullmatch(series)
    if match is not None:
        loop = next((row for row in loops if row.loop_id == int(match[2])), None)
        if loop is None:
            return "iterations", None
        each = None if loop.seconds is None or not loop.count else loop.seconds / loop.count
        return f"iterations of `{loop.name}`", each
    name = re.sub(r"^r\d+-", "", series.rpartition(" at ")[0])
    known = [row.seconds for row in loops if row.name == name and row.seconds is not None]
    return f"executions of `{name}`", sum(known) / len(known) if known else None


def _size(files: Iterable[Path]) -> int:
    """The bytes of files; links are not followed."""
    total = 0
    for path in files:
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total
