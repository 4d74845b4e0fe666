"""Rows of the store as the frozen dataclasses that the other rooms know."""

from __future__ import annotations

import datetime as dt
import difflib
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, Select, or_, select

from flor_dagster.errors import UnknownNameError
from flor_dagster.recording.values import decode
from flor_dagster.store.database import slices
from flor_dagster.store.models import LoopRow, RunRow, VersionRow
from flor_dagster.store.packing import label, unpack
from flor_dagster.store.schema import (
    args,
    call_sites,
    checkpoints,
    contexts,
    journal_calls,
    journals,
    loops,
    names,
    outputs,
    records,
    run_warnings,
    runs,
    uncaptured,
    versions,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def moment(nanoseconds: int) -> dt.datetime:
    """A time column as an aware datetime in UTC, exact to the microsecond."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return dt.datetime.fromtimestamp(seconds, dt.UTC) + dt.timedelta(microseconds=rest // 1000)


def nanoseconds(time: dt.datetime) -> int:
    """The reverse of `moment`."""
    since = time - dt.datetime.fromtimestamp(0, dt.UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def run_rows(connection: Connection, query: Select[Any]) -> list[RunRow]:
    """The runs of a query over the whole `runs` table."""
    rows = connection.execute(query).all()
    known = _args_of(connection, [row.run for row in rows])
    return [_run_row(row, known.get(row.run, {})) for row in rows]


def _args_of(connection: Connection, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    a = args.c
    for some in slices(numbers):
        for run, name, value in connection.execute(select(a.run, a.name, a.value).where(a.run.in_(some))):
            found.setdefault(run, {})[name] = decode(json.loads(value))
    return found


def _run_row(row: Row[Any], values: dict[str, Any]) -> RunRow:
    return RunRow(
        id=row.id,
        key=row.key,
        status=row.status,
        reason=row.reason,
        entrypoint=row.entrypoint,
        commit=row.commit_id,
        started=moment(row.started),
        ended=None if row.ended is None else moment(row.ended),
        seconds=None if row.ended is None else (row.ended - row.started) / 1e9,
        args=values,
        origin=row.origin,
        tags=json.loads(row.tags),
        header=json.loads(row.header),
        ingested_seq=row.ingested_seq or 0,
        lost=row.lost,
        approximate=row.approximate,
    )


def find_run(connection: Connection, asked: str) -> RunRow:
    """The run of a key, an id, or a prefix of either that is no other run's.

    Raises:
        UnknownNameError: when no run or more than one is meant.
    """
    r = runs.c
    found = run_rows(connection, select(runs).where(or_(r.id == asked, r.key == asked)))
    if not found and asked:
        prefix = or_(r.id.startswith(asked, autoescape=True), r.key.startswith(asked, autoescape=True))
        found = run_rows(connection, select(runs).where(prefix).order_by(r.started).limit(6))
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(run.key for run in found[:5])
        raise UnknownNameError(
            f"{asked!r} is the beginning of several training runs: {keys}. Give more of the key."
        )
    known = [part for row in connection.execute(select(r.key, r.id)) for part in row]
    near = difflib.get_close_matches(asked, known, n=3)
    hint = (
        f"Did you mean {' or '.join(near)}?"
        if near
        else f"The store knows {len(known) // 2} training run(s)."
    )
    raise UnknownNameError(f"No training run is called {asked!r}. {hint}")


def output_rows(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    """What a run printed and logged elsewhere, in its order: `path`, `channel`, `source`, `text`, `time`."""
    run = run_number(connection, run_id)
    o, j, c = outputs.c, journals.c, contexts.c
    query = (
        select(o.channel, o.source, o.text, o.t.label("at_time"), c.path)
        .join(journals, j.journal == o.journal)
        .outerjoin(contexts, (c.run == j.run) & (c.rank == j.rank) & (c.ctx == o.ctx))
        .where(j.run == run, j.replay_id.is_(None))
        .order_by(j.rank, o.at)
    )
    return [
        {"path": ", ".join(f"{k}={v}" for k, v in json.loads(row.path or "{}").items()), "channel": row.channel, "source": row.source, "text": row.text,
         "time": moment(row.at_time)}
        for row in connection.execute(query)
    ]  # fmt: skip


def run_number(connection: Connection, run_id: str) -> int:
    """A run's number in the store.

    Raises:
        UnknownNameError: when the run was not ingested.
    """
    found = connection.execute(select(runs.c.run).where(runs.c.id == run_id)).scalar_one_or_none()
    if found is None:
        raise UnknownNameError(f"No training run with the id {run_id!r} is in the store. Ingest it first.")
    return found


def version_rows(connection: Connection, commit: str | None = None) -> list[VersionRow]:
    """All versions in the order of their coming, or the one of a commit."""
    query = select(versions).order_by(versions.c.created, versions.c.commit_id)
    if commit is not None:
        query = query.where(versions.c.commit_id == commit)
    return [
        VersionRow(
            commit=row.commit_id,
            tree=row.tree,
            dirty=bool(row.dirty),
            excluded=tuple((path, reason) for path, reason in json.loads(row.excluded)),
            created=moment(row.created),
        )
        for row in connection.execute(query)
    ]


def ranks(connection: Connection) -> list[int]:
    """Every rank that recorded something, in any run."""
    return sorted(connection.execute(select(journals.c.rank).distinct()).scalars()) or [0]


def loop_rows(connection: Connection, run: int, rank: int) -> list[LoopRow]:
    """The loop executions of a run in the order of their opening."""
    old, ctx = loops.c, contexts.c
    rows = connection.execute(
        select(loops, ctx.loop.label("parent_loop"), ctx.idx.label("parent_index"))
        .outerjoin(contexts, (ctx.run == old.run) & (ctx.rank == old.rank) & (ctx.ctx == old.parent_ctx))
        .where(old.run == run, old.rank == rank)
        .order_by(old.loop)
    )
    return [
        LoopRow(
            loop_id=row.loop,
            parent_ctx=row.parent_ctx,
            parent_loop=row.parent_loop,
            parent_index=row.parent_index,
            name=row.name,
            ordinal=row.ordinal,
            file=row.file,
            function=row.function,
            line=row.line,
            how=row.how,
            count=row.iterations,
            seconds=None if row.ended is None or row.opened is None else (row.ended - row.opened) / 1e9,
        )
        for row in rows
    ]


def context_rows(connection: Connection, run: int, rank: int) -> list[tuple[int, int, int, Any]]:
    """(context, loop, index, value) of every interned iteration, in order."""
    ctx = contexts.c
    rows = connection.execute(
        select(ctx.ctx, ctx.loop, ctx.idx, ctx.value)
        .where(ctx.run == run, ctx.rank == rank)
        .order_by(ctx.ctx)
    )
    return [
        (row[0], row[1], row[2], row[2] if row[3] is None else decode(json.loads(row[3]))) for row in rows
    ]


def call_rows(
    connection: Connection, run: int, rank: int
) -> list[tuple[int, str, str, str, int, int, int | None]]:
    """(call, name, file, function, line, column, statement id) of a run's own journal."""
    s = call_sites.c
    rows = connection.execute(
        select(journal_calls.c.call, names.c.name, s.file, s.function, s.line, s.col, s.statement_id)
        .select_from(journal_calls)
        .join(call_sites, s.site == journal_calls.c.site)
        .join(names, names.c.name_id == s.name_id)
        .where(journal_calls.c.journal.in_(_recorded(run, rank)))
        .order_by(journal_calls.c.call)
    )
    return [tuple(row) for row in rows]  # type: ignore[misc]


def _recorded(run: int, rank: int) -> Select[Any]:
    j = journals.c
    return select(j.journal).where(j.run == run, j.rank == rank, j.replay_id.is_(None))


def record_rows(
    connection: Connection, run: int, rank: int, wanted: Sequence[str] | None, origin: str
) -> list[tuple[int, int, int, Any]]:
    """(byte offset, context, call, value) in journal order.

    `call` is the number in that journal for what was recorded, and the statement's id for what was replayed: a
    replay's own numbers mean nothing outside it.
    """
    r, j = records.c, journals.c
    query = (
        select(r.at, r.ctx, r.site, call_sites.c.statement_id, r.kind, r.num, r.whole, r.text)
        .join(journals, j.journal == r.journal)
        .join(call_sites, call_sites.c.site == r.site)
        .where(j.run == run, j.rank == rank)
        .order_by(r.journal, r.at)
    )
    query = query.where(j.replay_id.is_(None) if origin == "recorded" else j.replay_id.is_not(None))
    if wanted is not None:
        query = query.join(names, names.c.name_id == call_sites.c.name_id)
        query = query.where(names.c.name.in_([label(name) for name in wanted]))
    calls: dict[int, int] = {}
    if origin == "recorded":
        known = journal_calls.c
        own = connection.execute(
            select(known.site, known.call).where(known.journal.in_(_recorded(run, rank)))
        )
        for site, call in own:
            calls.setdefault(site, call)
    return [
        (row[0], row[1], calls[row[2]] if calls else row[3], unpack(row[4], row[5], row[6], row[7]))
        for row in connection.execute(query)
    ]


def checkpoint_rows(connection: Connection, run: int, rank: int) -> list[dict[str, Any]]:
    """The `k` entries of a run's journal, in order."""
    c = checkpoints.c
    query = select(c.entry).where(c.journal.in_(_recorded(run, rank))).order_by(c.at)
    return [json.loads(text) for text in connection.execute(query).scalars()]


def uncaptured_rows(connection: Connection, run: int, rank: int) -> list[tuple[int, int | None, list[str]]]:
    """The `u` entries of a run's journal, in order: loop, index (None: the loop's end), reasons."""
    u = uncaptured.c
    query = select(u.loop, u.idx, u.reasons).where(u.journal.in_(_recorded(run, rank))).order_by(u.at)
    return [(row[0], row[1], json.loads(row[2])) for row in connection.execute(query)]


def warning_rows(connection: Connection, run: int) -> list[tuple[str, str]]:
    """(code, message) of what went wrong beside the training, over all ranks."""
    w, j = run_warnings.c, journals.c
    query = (
        select(w.code, w.message)
        .join(journals, j.journal == w.journal)
        .where(j.run == run, j.replay_id.is_(None))
        .order_by(j.rank, w.at)
    )
    return [(row[0], row[1]) for row in connection.execute(query)]


def artifact_texts(connection: Connection) -> list[str]:
    """The texts of values and arguments that may refer to an artifact."""
    found = select(records.c.text).where(records.c.text.contains("artifact")).distinct()
    given = select(args.c.value).where(args.c.value.contains("artifact"))
    return [*connection.execute(found).scalars(), *connection.execute(given).scalars()]
