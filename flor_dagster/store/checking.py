"""The rows of records held against the journals that they came from: a flipped bit in the database shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, select

from flor_dagster.errors import ODD, FlorError
from flor_dagster.recording.layout import run_folder
from flor_dagster.store.lines import read_lines
from flor_dagster.store.packing import label, pack
from flor_dagster.store.schema import call_sites, contexts, journal_calls, journals, names, records, runs


def differences(connection: Connection, home: Path) -> Iterator[str]:
    """What the database says otherwise than the journals, in words; one sentence for each journal.

    Args:
        connection: one look at the database.
        home: the project's `.flor/`.
    """
    j = journals.c
    query = select(j.journal, j.name, j.rank, j.run, j.replay_id, j.upto, runs.c.id, runs.c.key).join(
        runs, runs.c.run == j.run
    )
    for row in connection.execute(query.order_by(runs.c.run, j.journal)).all():
        path = run_folder(home, row.id) / row.name if row.replay_id is None else home / row.name
        if row.replay_id is not None and not path.exists() and not _has_values(connection, row.journal):
            continue  # another replay answered the same later
        try:
            found = _differs(connection, row.journal, path, row.upto, recorded=row.replay_id is None)
            if row.replay_id is None:
                found = found or _other_places(connection, row.run, row.rank, row.journal, path)
        except (FlorError, OSError, *ODD) as error:
            found = f"its journal can't be read ({error})"
        if found:
            yield f"training run {row.key}, {row.name}: {found}"


def _has_values(connection: Connection, journal: int) -> bool:
    return (
        connection.execute(select(records.c.at).where(records.c.journal == journal).limit(1)).first()
        is not None
    )


def _differs(connection: Connection, journal: int, path: Path, upto: int, *, recorded: bool) -> str:
    there = {at: (call, ctx, value) for call, ctx, value, at in read_lines(path).records if at < upto}
    r = records.c
    query = select(r.at, r.ctx, r.kind, r.num, r.whole, r.text).where(r.journal == journal).order_by(r.at)
    others: list[int] = []
    count = 0
    for at, ctx, *packed in connection.execute(query):
        count += 1
        said = there.get(at)
        # A replay's contexts have the numbers of the recorded run's.
        if said is None or tuple(packed) != pack(said[2]) or (recorded and said[1] != ctx):
            others.append(at)
    if others:
        return f"{len(others)} of {count} values are not what the journal says, the first at byte {others[0]}"
    if recorded and count < len(there):
        return f"{len(there) - count} of {len(there)} values of the journal are missing"
    return ""


def _other_places(connection: Connection, run: int, rank: int, journal: int, path: Path) -> str:
    """Whether names and iterations are what the journal says."""
    lines = read_lines(path)
    c = contexts.c
    query = select(c.ctx, c.loop, c.idx).where(c.run == run, c.rank == rank, c.ctx > 0)
    for ctx, loop, index in connection.execute(query):
        if lines.contexts.get(ctx, (None, None))[:2] != (loop, index):
            return f"the loop context {ctx} is not what the journal says"
    calls = select(journal_calls.c.call, names.c.name).where(journal_calls.c.journal == journal)
    calls = calls.join(call_sites, call_sites.c.site == journal_calls.c.site)
    calls = calls.join(names, names.c.name_id == call_sites.c.name_id)
    for call, name in connection.execute(calls):
        if call in lines.calls and label(lines.calls[call][0]) != name:
            return f"values of {lines.calls[call][0]!r} are called {name!r}"
    return ""
