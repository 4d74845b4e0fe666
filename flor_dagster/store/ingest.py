"""Journals into rows: idempotent, incremental, rows and watermark in one transaction."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, select, update

from flor_dagster.errors import ODD, JournalError
from flor_dagster.recording.journal import checked_header, read_journal
from flor_dagster.recording.layout import NO_COMMIT
from flor_dagster.recording.losses import Loss, read_losses
from flor_dagster.recording.runlock import is_pending
from flor_dagster.recording.values import decode
from flor_dagster.store.chunks import pack_journal
from flor_dagster.store.counting import next_number
from flor_dagster.store.database import insert_one, insert_rows
from flor_dagster.store.lines import Lines, read_lines
from flor_dagster.store.liveness import is_elsewhere, run_is_alive
from flor_dagster.store.loop_paths import child_path
from flor_dagster.store.packing import label, pack, to_json
from flor_dagster.store.schema import (
    args,
    checkpoints,
    contexts,
    journal_calls,
    journals,
    loops,
    outputs,
    records,
    run_warnings,
    runs,
    uncaptured,
    versions,
)
from flor_dagster.store.sites import site_id
from flor_dagster.store.unsettled import note_news

if TYPE_CHECKING:
    from pathlib import Path

#: How long a run that is over waits for the process that makes its version, in seconds, before it is taken without one.
VERSION_GRACE_SECONDS = 600.0
#: The same where that process is another machine's, whose lock can't be trusted to be seen from here.
ELSEWHERE_GRACE_SECONDS = 60.0
TERMINAL = ("finished", "failed", "interrupted", "lost")
# The gravest end of any rank is the end of the run.
_GRAVITY = ("failed", "interrupted", "lost", "finished")
_RECORDS = ("journal", "at", "ctx", "site", "kind", "num", "whole", "text")
_BATCH = 50_000
_BEGIN = b'["flor",'
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_NAMED_FILES = 5
_NAMED_RANKS = 64


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies in one run's folder: its journals by rank, the first header, the version file, and who still writes there."""

    path: Path
    ranks: dict[int, Path]
    header: dict[str, Any]
    version: dict[str, Any] | None
    written: float
    alive: bool
    pending: bool
    losses: dict[int, Loss]


@dataclass(slots=True)
class _Journal:
    """One journal's row while it is being taken in."""

    number: int
    run: int
    rank: int
    upto: int
    end: tuple[str | None, str, int | None]
    lost: int = 0
    name: str = ""


def look(run_dir: Path) -> Folder | None:
    """The run's folder as it is now; None while no journal in it has a header."""
    ranks: dict[int, Path] = {}
    for path in run_dir.glob("journal.*.jsonl"):
        rank = path.name.split(".")[1]
        if rank.isdecimal():
            ranks[int(rank)] = path
    for rank in sorted(ranks):
        first = next(iter(read_journal(ranks[rank])), None)
        if first is None:
            with ranks[rank].open("rb") as file:
                begin = file.read(len(_BEGIN))
            if not _BEGIN.startswith(begin):
                raise JournalError(
                    f"{ranks[rank]} does not start as a journal of flor_dagster; it was left as it is."
                )
            continue
        header = checked_header(first.parts[2])
        if header["run"] != run_dir.name:
            raise JournalError(
                f"{ranks[rank]} is a journal of training run {header['run']}, not of {run_dir.name}: it was copied or "
                "renamed. Put it back where it belongs."
            )
        if header.get("mode") == "replay":
            raise JournalError(
                f"{ranks[rank]} is a replay's journal; a replay is never a training run of its own."
            )
        written = max(path.stat().st_mtime for path in ranks.values())
        # In this order: whoever is seen gone here has written before what is read after.
        alive = run_is_alive(run_dir, header, written)
        pending = is_pending(run_dir / "version.json")
        return Folder(
            run_dir,
            dict(sorted(ranks.items())),
            header,
            _version(run_dir),
            written,
            alive,
            pending,
            read_losses(run_dir),
        )
    return None


def _version(run_dir: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((run_dir / "version.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    commit = found.get("commit") if isinstance(found, dict) else None
    if commit is not None and not (isinstance(commit, str) and _COMMIT.fullmatch(commit)):
        raise JournalError(f"{run_dir / 'version.json'} names no commit: {str(commit)[:100]!r}")
    return found if isinstance(found, dict) else None


@dataclass(frozen=True, slots=True)
class Forced:
    """What a run was given when it was taken in before: its key, and its number among those that are over."""

    key: str
    seq: int | None


def ingest(connection: Connection, folder: Folder, forced: Forced | None = None) -> Forced | None:
    """Take in all that is new of one run.

    Args:
        connection: the writing transaction.
        folder: the run's.
        forced: what it is given again.

    Returns:
        What it was given; None while its version is not known yet, and nothing was taken in.
    """
    run_id = folder.header["run"]
    row = connection.execute(select(runs.c.run, runs.c.commit_id).where(runs.c.id == run_id)).one_or_none()
    if row is None:
        if forced is None and not _version_is_known(folder):
            return None
        commit = _keep_version(connection, folder.version, folder.header["started"])
        run = _new_run(connection, folder, commit, forced)
    else:
        run, commit = row
    scope = commit or f"run/{run_id}"
    taken = [_ingest_journal(connection, run, scope, rank, path) for rank, path in folder.ranks.items()]
    _settle_status(connection, run, folder, taken, forced)
    return given(connection, run_id)


def given(connection: Connection, run_id: str) -> Forced | None:
    """What a run was given; None where it was not taken in."""
    r = runs.c
    row = connection.execute(select(r.key, r.ingested_seq).where(r.id == run_id)).one_or_none()
    return None if row is None else Forced(row[0], row[1])


def _version_is_known(folder: Folder) -> bool:
    if folder.version is not None or folder.header.get("root") is None:
        return True
    if any(loss.status for loss in folder.losses.values()):
        return True  # its process has waited for the version, which the disk did not take
    if folder.alive:
        return False
    silence = time.time() - folder.written
    if is_elsewhere(folder.header):
        return silence > ELSEWHERE_GRACE_SECONDS
    return not folder.pending or silence > VERSION_GRACE_SECONDS


def _keep_version(connection: Connection, version: dict[str, Any] | None, started: int) -> str | None:
    commit = (version or {}).get("commit")
    if version is None or not commit:
        return None
    here = versions.c.commit_id == commit
    if connection.execute(select(versions.c.commit_id).where(here)).scalar_one_or_none() is None:
        connection.execute(
            insert(versions).values(
                commit_id=commit,
                tree=version.get("tree") or "",
                dirty=int(bool(version.get("dirty"))),
                excluded=to_json(version.get("excluded") or []),
                created=started,
            )
        )
    return commit


def _approximate_reason(version: dict[str, Any]) -> str:
    pairs = [pair for pair in version.get("approximate") or [] if isinstance(pair, list) and len(pair) == 2]
    named = "; ".join(f"{path}: {reason}" for path, reason in pairs[:_NAMED_FILES])
    more = len(pairs) - _NAMED_FILES
    return f"{named}; and {more} more" if more > 0 else named


def _new_run(connection: Connection, folder: Folder, commit: str | None, forced: Forced | None) -> int:
    header = folder.header
    tags = {str(k): str(v) for k, v in (header.get("tags") or {}).items()}
    error = (folder.version or {}).get("error")
    if error:
        tags.setdefault("flor/version_error", str(error))
    return insert_one(
        connection,
        runs,
        id=header["run"],
        key=forced.key if forced else _free_key(connection, header["run"], header["started"], commit),
        status="running",
        reason="",
        entrypoint=label(str(header.get("entrypoint") or "")),
        commit_id=commit,
        started=header["started"],
        origin=label(str(header.get("origin") or "script")),
        tags=to_json(tags),
        header=to_json(header),
        modules="{}",
        approximate=label(_approximate_reason(folder.version or {})),
    )


def _free_key(connection: Connection, run_id: str, started: int, commit: str | None) -> str:
    second = dt.datetime.fromtimestamp(started // 1_000_000_000, dt.UTC)
    stem = f"{second:%Y-%m-%dT%H-%M-%S}-{(commit or NO_COMMIT)[:8]}-"
    key = stem + run_id[:4]
    # Two runs of one second and version whose ids begin alike: more of the id tells them apart.
    for length in range(5, len(run_id) + 1):
        if connection.execute(select(runs.c.run).where(runs.c.key == key)).one_or_none() is None:
            break
        key = stem + run_id[:length]
    return key


def _ingest_journal(connection: Connection, run: int, scope: str, rank: int, path: Path) -> _Journal:
    journal = _journal_row(connection, run, rank, path)
    if path.stat().st_size < journal.upto:
        raise JournalError(
            f"{path} is shorter than what was taken from it before ({journal.upto} bytes). "
            "A journal only grows; put the original file back. The store keeps what it has."
        )
    lines = read_lines(path, journal.upto)
    if lines.end == journal.upto:
        return journal
    known = _KnownJournal(connection, journal, scope)
    known.take_places(lines)
    known.take_records(lines)
    known.take_rest(lines)
    note_news(connection, run)
    journal.upto = lines.end
    journal.lost = lines.lost
    if lines.last is not None:
        journal.end = (str(lines.last[0]), str(lines.last[1] or ""), lines.last[2])
    connection.execute(
        update(journals)
        .where(journals.c.journal == journal.number)
        .values(
            upto=lines.end, end_status=journal.end[0], end_reason=label(journal.end[1]), ended=journal.end[2]
        )
    )
    return journal


def _journal_row(connection: Connection, run: int, rank: int, path: Path) -> _Journal:
    j = journals.c
    row = connection.execute(
        select(j.journal, j.upto, j.end_status, j.end_reason, j.ended).where(
            j.run == run, j.name == path.name
        )
    ).one_or_none()
    if row is not None:
        return _Journal(row[0], run, rank, row[1], (row[2], row[3], row[4]), name=path.name)
    number = insert_one(
        connection, journals, run=run, rank=rank, name=path.name, upto=0, chunked_upto=-1, end_reason=""
    )
    return _Journal(number, run, rank, 0, (None, "", None), name=path.name)


class _KnownJournal:
    """What a journal has interned so far, and the taking in of what is new."""

    def __init__(self, connection: Connection, journal: _Journal, scope: str) -> None:
        self.connection = connection
        self.journal = journal
        self.scope = scope
        calls = select(journal_calls.c.call, journal_calls.c.site).where(
            journal_calls.c.journal == journal.number
        )
        self.sites: dict[int, int] = (
            {row[0]: row[1] for row in connection.execute(calls)} if journal.upto else {}
        )
        self.paths: dict[int, str] = {0: ""}
        self.parents: dict[int, tuple[int, str, int]] = {}
        if journal.upto:
            self._load_paths()

    def _load_paths(self) -> None:
        run, rank = self.journal.run, self.journal.rank
        old = loops.c
        for row in self.connection.execute(
            select(old.loop, old.parent_ctx, old.name, old.ordinal).where(old.run == run, old.rank == rank)
        ):
            self.parents[row[0]] = (row[1], row[2], row[3])
        ctx = contexts.c
        for row in self.connection.execute(select(ctx.ctx, ctx.path).where(ctx.run == run, ctx.rank == rank)):
            self.paths[row[0]] = row[1][1:-1]

    def take_places(self, lines: Lines) -> None:
        """Call sites, loops and contexts."""
        connection, run, rank = self.connection, self.journal.run, self.journal.rank
        new_calls: list[tuple[int, int, int]] = []
        for call, (name, file, function, line, column) in lines.calls.items():
            if call not in self.sites:
                self.sites[call] = site_id(connection, self.scope, name, (file, function, line, column))
                new_calls.append((self.journal.number, call, self.sites[call]))
        insert_rows(connection, journal_calls, ("journal", "call", "site"), new_calls)
        new_loops: list[tuple[Any, ...]] = []
        for loop, (parent, name, ordinal, file, function, line, column, t) in lines.loops.items():
            if loop in self.parents:
                continue
            name = label(str(name))
            self.parents[loop] = (parent, name, ordinal)
            how, count, ended = lines.ends.get(loop, ("open", 0, None))
            new_loops.append(
                (
                    run,
                    rank,
                    loop,
                    parent,
                    name,
                    ordinal,
                    label(file),
                    label(function),
                    line,
                    column,
                    t,
                    how,
                    count,
                    ended,
                )
            )
        insert_rows(
            connection,
            loops,
            ("run", "rank", "loop", "parent_ctx", "name", "ordinal", "file", "function", "line", "col", "opened", "how",
             "iterations", "ended"),
            new_loops,
        )  # fmt: skip
        for loop, (how, count, ended) in lines.ends.items():
            if loop not in lines.loops:
                connection.execute(
                    update(loops)
                    .where(loops.c.run == run, loops.c.rank == rank, loops.c.loop == loop)
                    .values(how=how, iterations=count, ended=ended)
                )
        insert_rows(
            connection,
            contexts,
            ("run", "rank", "ctx", "loop", "idx", "value", "path"),
            self._new_contexts(lines),
        )

    def _new_contexts(self, lines: Lines) -> list[tuple[Any, ...]]:
        run, rank, paths = self.journal.run, self.journal.rank, self.paths
        rows: list[tuple[Any, ...]] = []
        for ctx, (loop, index, value) in lines.contexts.items():
            if ctx in paths or loop not in self.parents:
                continue
            parent, name, ordinal = self.parents[loop]
            paths[ctx] = path = child_path(paths.get(parent, ""), name, ordinal, index)
            same = type(value) is int and value == index
            rows.append((run, rank, ctx, loop, index, None if same else to_json(value), "{" + path + "}"))
        return rows

    def take_records(self, lines: Lines) -> None:
        """The records, in batches; one whose call site or context was torn away is counted, visibly."""
        number, sites, paths = self.journal.number, self.sites, self.paths
        rows: list[tuple[Any, ...]] = []
        homeless = 0
        for call, ctx, value, offset in lines.records:
            site = sites.get(call)
            if site is None or ctx not in paths:
                homeless += 1
                continue
            try:
                if type(value) is dict or type(value) is list:
                    decode(value)  # what can't be read again must not get into the view
                rows.append((number, offset, ctx, site, *pack(value)))
            except ODD:
                lines.odd.append(offset)
            if len(rows) >= _BATCH:
                insert_rows(self.connection, records, _RECORDS, rows)
                rows.clear()
        insert_rows(self.connection, records, _RECORDS, rows)
        if lines.odd:
            words = (
                f"{len(lines.odd)} line(s) of {self.journal.name} say something that no recorder writes, and were left out; "
                f"the first is at byte {min(lines.odd)}. Put the original file back, or leave it so"
            )
            lines.warnings.append((-(1 << 62) - lines.start, "odd", words))
        if homeless:
            lines.warnings.append(
                (
                    -1 - lines.start,
                    "torn",
                    f"{homeless} record(s) were left out: the line that says where they belong is torn.",
                )
            )

    def take_rest(self, lines: Lines) -> None:
        """Arguments, checkpoints, uncaptured states, warnings, output, tags, modules."""
        connection, number, run = self.connection, self.journal.number, self.journal.run
        insert_rows(
            connection,
            checkpoints,
            ("journal", "at", "entry"),
            [(number, at, to_json(entry)) for at, entry in lines.checkpoints],
        )
        insert_rows(
            connection,
            uncaptured,
            ("journal", "at", "loop", "idx", "reasons"),
            [(number, at, loop, index, to_json(reasons)) for at, (loop, index, reasons) in lines.uncaptured],
        )
        insert_rows(
            connection,
            run_warnings,
            ("journal", "at", "code", "message"),
            [(number, at, label(code), label(message)) for at, code, message in lines.warnings],
        )
        for name, (value, preset, source) in lines.args.items():
            self._take_arg(label(name), to_json(value), to_json(preset), str(source))
        insert_rows(
            connection,
            outputs,
            ("journal", "at", "ctx", "t", "channel", "source", "text"),
            [
                (number, at, context, t, label(channel), label(source), label(text))
                for at, context, t, channel, source, text in lines.outputs
            ],
        )
        if lines.tags and self.journal.rank == 0:
            known = connection.execute(select(runs.c.tags).where(runs.c.run == run)).scalar_one()
            merged = json.loads(known) | lines.tags
            connection.execute(update(runs).where(runs.c.run == run).values(tags=to_json(merged)))
        if lines.modules:
            known = connection.execute(select(runs.c.modules).where(runs.c.run == run)).scalar_one()
            merged = json.loads(known) | lines.modules
            connection.execute(update(runs).where(runs.c.run == run).values(modules=to_json(merged)))

    def _take_arg(self, name: str, value: str, preset: str, source: str) -> None:
        row = {"value": value, "preset": preset, "source": source}
        here = (args.c.run == self.journal.run) & (args.c.name == name)
        exists = self.connection.execute(select(args.c.name).where(here)).one_or_none()
        if exists is None:
            self.connection.execute(insert(args).values(run=self.journal.run, name=name, **row))
        elif self.journal.rank == 0:
            self.connection.execute(update(args).where(here).values(**row))


def _settle_status(
    connection: Connection, run: int, folder: Folder, taken: list[_Journal], forced: Forced | None
) -> None:
    status, reason, ended = _status(folder, taken)
    values: dict[str, Any] = {"status": status, "reason": label(reason), "ended": ended}
    old = connection.execute(
        select(runs.c.status, runs.c.ingested_seq, runs.c.lost).where(runs.c.run == run)
    ).one()
    noted = {rank: loss.lines for rank, loss in folder.losses.items()}
    lost = sum(max(journal.lost, noted.get(journal.rank, 0)) for journal in taken)
    values["lost"] = max(lost, old[2])
    if status in TERMINAL:
        if old[1] is None:
            again = forced.seq if forced is not None else None
            values["ingested_seq"] = next_number(connection, "ingested", again)
        for journal in taken:
            pack_journal(connection, journal.number)
    if status != old[0]:
        note_news(connection, run)
    connection.execute(update(runs).where(runs.c.run == run).values(**values))


def _status(folder: Folder, taken: list[_Journal]) -> tuple[str, str, int | None]:
    open_ranks = [journal.rank for journal in taken if journal.end[0] is None]
    if open_ranks and folder.alive:
        return "running", "", None
    lost = "its process is gone without an end in its journal"
    ends = {
        journal.rank: journal.end
        if journal.end[0]
        else _noted_end(folder.losses.get(journal.rank)) or ("lost", lost, int(folder.written * 1e9))
        for journal in taken
    }
    status = next((s for s in _GRAVITY if any(end[0] == s for end in ends.values())), "lost")
    ended = max((end[2] for end in ends.values() if end[2] is not None), default=None)
    size = folder.header.get("world_size") or len(ends)
    if size == 1:
        return status, next((end[1] for end in ends.values()), ""), ended
    return status, _reasons_of_ranks(ends, size) if status != "finished" else "", ended


def _noted_end(loss: Loss | None) -> tuple[str, str, int] | None:
    """The end of a run whose journal could not take it."""
    return (loss.status, loss.reason, loss.t) if loss is not None and loss.status else None


def _reasons_of_ranks(ends: dict[int, tuple[str | None, str, int | None]], size: int) -> str:
    """What became of each rank, the gravest first; ranks of one fate together."""
    fates: dict[str, list[int]] = {}
    for rank, (how, reason, _) in sorted(ends.items(), key=lambda item: _GRAVITY.index(item[1][0] or "lost")):
        fates.setdefault(f"{how}: {reason}" if reason else str(how), []).append(rank)
    silent = [rank for rank in range(min(size, _NAMED_RANKS)) if rank not in ends]
    if silent:
        fates["recorded nothing"] = silent
    return "; ".join(
        f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} {fate}" for fate, ranks in fates.items()
    )


def unchanged_since(connection: Connection) -> dict[str, tuple[str, int]]:
    """Run id → (status, bytes taken of all its journals): what a look at the folder is compared with."""
    j = journals.c
    found: dict[str, tuple[str, int]] = {}
    rows = connection.execute(
        select(runs.c.id, runs.c.status, j.upto).join(journals, (j.run == runs.c.run) & j.replay_id.is_(None))
    )
    for run_id, status, upto in rows:
        found[run_id] = (status, found.get(run_id, ("", 0))[1] + upto)
    return found
