"""Statements, their forms, where they stand in versions, and the cells."""

from __future__ import annotations

import datetime as dt
import difflib
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, Select, insert, select, update

from flor_dagster.computed import fits, is_computed
from flor_dagster.errors import UnknownNameError
from flor_dagster.store.database import insert_one, slices
from flor_dagster.store.models import CellRow, PlacementRow, StatementRow
from flor_dagster.store.packing import label, to_json
from flor_dagster.store.rows import moment, nanoseconds, run_number
from flor_dagster.store.schema import (
    call_sites,
    cells,
    confirmations,
    names,
    placements,
    runs,
    statement_forms,
    statements,
)
from flor_dagster.store.sites import name_id

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")


def key_text(name: str) -> str:
    """A name as a statement key writes it: anything outside `[A-Za-z0-9_.-]` percent-encoded, as UTF-8."""
    return "".join(
        c if c in _PLAIN else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))
        for c in name
    )


def add(connection: Connection, row: dict[str, Any], identity: str | None) -> StatementRow:
    """Give out the next key of a name; a known identity gives back its statement."""
    if identity is not None:
        known = find_form(connection, identity)
        if known is not None:
            return known
    name = row.pop("name")
    name_key = name_id(connection, name)
    given = connection.execute(select(names.c.given).where(names.c.name_id == name_key)).scalar_one() + 1
    connection.execute(update(names).where(names.c.name_id == name_key).values(given=given))
    key = key_text(name) if given == 1 else f"{key_text(name)}:{given}"
    number = insert_one(connection, statements, **row, key=key, name_id=name_key)
    if identity is not None:
        add_form(connection, number, identity)
    return _one(connection, statements.c.id == number)


def add_form(connection: Connection, statement_id: int, identity: str) -> None:
    """Another identity means this statement; one that already means a statement is left."""
    kept = label(identity)
    if connection.execute(
        select(statement_forms.c.identity).where(statement_forms.c.identity == kept)
    ).one_or_none():
        return
    connection.execute(insert(statement_forms).values(identity=kept, statement_id=statement_id))


def merged_key(key: str) -> str:
    """The identity under which the key of a statement that was merged into another one is kept."""
    return f"key {key}"


def ids_of_name(connection: Connection, name: str) -> set[int]:
    """Every statement of a name."""
    query = select(statements.c.id).join(names, names.c.name_id == statements.c.name_id)
    return set(connection.execute(query.where(names.c.name == label(name))).scalars())


def ids_by_key(connection: Connection) -> dict[str, int]:
    """Key → id of every statement; the keys of what was merged mean what it was merged into."""
    forms = statement_forms.c
    begins = merged_key("")
    merged = select(forms.identity, forms.statement_id).where(forms.identity.startswith(begins))
    found = {row[0].removeprefix(begins): row[1] for row in connection.execute(merged)}
    return found | {row[0]: row[1] for row in connection.execute(select(statements.c.key, statements.c.id))}


def names_by_id(connection: Connection) -> dict[int, str]:
    """The name or pattern of every statement."""
    query = select(statements.c.id, names.c.name).join(names, names.c.name_id == statements.c.name_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def find_form(connection: Connection, identity: str) -> StatementRow | None:
    """The statement that an identity means."""
    forms = statement_forms.c
    found = connection.execute(
        select(forms.statement_id).where(forms.identity == label(identity))
    ).scalar_one_or_none()
    return None if found is None else _one(connection, statements.c.id == found)


def of_name(name: str) -> Any:
    """The condition that a statement has a name."""
    return names.c.name == label(name)


def that_logged(name: str) -> Any:
    """The condition that a statement logged a name in some run, whatever its own name is."""
    s, logged = call_sites.c, names.alias("logged")
    sites = select(s.statement_id).join(logged, logged.c.name_id == s.name_id)
    return statements.c.id.in_(sites.where(logged.c.name == label(name), s.statement_id.is_not(None)))


def rows(connection: Connection, condition: Any = None) -> list[StatementRow]:
    """Statements in the order in which they became known."""
    query = select(statements, names.c.name).join(names, names.c.name_id == statements.c.name_id)
    if condition is not None:
        query = query.where(condition)
    return [_row(row) for row in connection.execute(query.order_by(statements.c.id))]


def _one(connection: Connection, condition: Any) -> StatementRow:
    return rows(connection, condition)[0]


def _row(row: Row[Any]) -> StatementRow:
    return StatementRow(
        id=row.id,
        key=row.key,
        name=row.name,
        expression=row.expression,
        file=row.file,
        function=row.function,
        loops=tuple(json.loads(row.loops)),
        ordinal=row.ordinal,
        line=row.line,
        question=bool(row.question),
        source=row.source,
        created=moment(row.created),
    )


def by_key(connection: Connection, key: str) -> StatementRow:
    """The statement of a key; `name:1` is the first definition, whose key is the bare name.

    Raises:
        UnknownNameError: with the keys that come near.
    """
    for candidate in (key, key.removesuffix(":1")):
        found = rows(connection, statements.c.key == candidate)
        if found:
            return found[0]
    merged = find_form(connection, merged_key(key))
    if merged is not None:
        return merged
    known = list(connection.execute(select(statements.c.key)).scalars())
    near = difflib.get_close_matches(key, known, n=3)
    hint = (
        f"Did you mean {' or '.join(map(repr, near))}?" if near else f"{len(known)} statement(s) are known."
    )
    raise UnknownNameError(f"No statement has the key {key!r}. {hint}")


def key_of(connection: Connection, statement_id: int) -> str:
    """The key of a statement.

    Raises:
        UnknownNameError: when there is none of this id.
    """
    key = connection.execute(
        select(statements.c.key).where(statements.c.id == statement_id)
    ).scalar_one_or_none()
    if key is None:
        raise UnknownNameError(f"No statement has the id {statement_id}.")
    return key


def link(
    connection: Connection,
    commit: str,
    file: str,
    line: int,
    name: str,
    statement_id: int | None,
    column: int | None = None,
) -> int:
    """Say which statement stands at a line of a version; how many call sites that are known it names.

    With a column it is the call that begins there alone, and not another one of the same name on the line. A name with holes
    means every name there that fits.
    """
    s = call_sites.c
    name_key = name_id(connection, name)
    here = (s.scope == commit) & (s.file == label(file)) & (s.line == line)
    if column is not None:
        here &= s.col == column
    if is_computed(name):
        query = select(s.site, names.c.name).join(names, names.c.name_id == s.name_id).where(here, s.col >= 0)
        mine = [site for site, logged in connection.execute(query) if fits(name, logged)]
        for some in slices(mine):
            connection.execute(update(call_sites).where(s.site.in_(some)).values(statement_id=statement_id))
        if mine and column is not None:
            return len(mine)
    here &= s.name_id == name_key
    changed = connection.execute(update(call_sites).where(here).values(statement_id=statement_id)).rowcount
    if not changed and statement_id is not None and column is None:
        # No run of this version has reached the line yet. The column is not known; -1 keeps the link for when one does.
        connection.execute(
            insert(call_sites).values(
                scope=commit,
                name_id=name_key,
                file=label(file),
                function="",
                line=line,
                col=-1,
                statement_id=statement_id,
            )
        )
    return changed


def save_placement(connection: Connection, row: PlacementRow, saved: int) -> None:
    """Keep a placement or refusal; the newest of one propagator counts."""
    p = placements.c
    here = (
        (p.statement_id == row.statement_id) & (p.commit_id == row.commit) & (p.propagator == row.propagator)
    )
    values = {
        "status": row.status,
        "score": row.score,
        "sentence": label(row.sentence),
        "kind": row.kind,
        "diff": label(row.diff),
        "file": label(row.file),
        "line": row.line,
        "saved": saved,
        "verdict": row.verdict,
        "reasons": to_json(list(row.reasons)),
        "place": row.place,
    }
    if not connection.execute(update(placements).where(here).values(**values)).rowcount:
        connection.execute(
            insert(placements).values(
                statement_id=row.statement_id, commit_id=row.commit, propagator=row.propagator, **values
            )
        )


def placement_rows(
    connection: Connection, statement_id: int, commit: str | None = None, propagator: str | None = None
) -> list[PlacementRow]:
    """Placements of a statement, oldest first."""
    p, k = placements.c, confirmations.c
    same = (k.statement_id == p.statement_id) & (k.commit_id == p.commit_id) & (k.place == p.place)
    query = (
        select(placements, k.confirmed, k.confirmed_by)
        .outerjoin(confirmations, same)
        .where(p.statement_id == statement_id)
        .order_by(p.saved, p.commit_id)
    )
    if commit is not None:
        query = query.where(p.commit_id == commit)
    if propagator is not None:
        query = query.where(p.propagator == propagator)
    return [
        PlacementRow(
            statement_id=row.statement_id,
            commit=row.commit_id,
            propagator=row.propagator,
            status=row.status,
            score=row.score,
            sentence=row.sentence,
            kind=row.kind,
            diff=row.diff,
            file=row.file,
            line=row.line,
            verdict=row.verdict,
            reasons=tuple(json.loads(row.reasons)),
            place=row.place,
            confirmed=None if row.confirmed is None else moment(row.confirmed),
            confirmed_by=row.confirmed_by or "",
        )
        for row in connection.execute(query)
    ]


def confirmation(
    connection: Connection, statement_id: int, commit: str, place: str
) -> tuple[dt.datetime | None, str]:
    """When a person confirmed this very place of a statement in a version, and who; None and empty where nobody did."""
    k = confirmations.c
    here = (k.statement_id == statement_id) & (k.commit_id == commit) & (k.place == place)
    row = connection.execute(select(k.confirmed, k.confirmed_by).where(here)).one_or_none()
    return (None, "") if row is None else (moment(row[0]), row[1])


def confirm(connection: Connection, statement_id: int, commit: str, place: str, by: str, at: int) -> None:
    """A person confirms a place, by its digest; what was confirmed of the statement in this version before is void."""
    k = confirmations.c
    here = (k.statement_id == statement_id) & (k.commit_id == commit)
    values = {"place": place, "confirmed_by": label(by), "confirmed": at}
    if not connection.execute(update(confirmations).where(here).values(**values)).rowcount:
        connection.execute(
            insert(confirmations).values(statement_id=statement_id, commit_id=commit, **values)
        )


def cell_rows(connection: Connection, query: Select[Any]) -> list[CellRow]:
    """The cells of a query made by `cells_query`."""
    return [
        CellRow(
            run_id=row.run_id,
            statement_id=row.statement_id,
            status=row.status,
            fidelity=row.fidelity,
            sentence=row.sentence,
            rows=row.rows,
            replay_id=row.replay_id,
            updated=moment(row.updated),
            detail=json.loads(row.detail),
            coverage=json.loads(row.coverage),
            place=row.place,
        )
        for row in connection.execute(query.order_by(cells.c.run, cells.c.statement_id))
    ]


def cells_query(
    run_ids: Sequence[str] | None = None,
    statement_ids: Sequence[int] | None = None,
    status: str | None = None,
) -> Select[Any]:
    """A query over cells with the runs' ids; None does not narrow."""
    c = cells.c
    query = select(cells, runs.c.id.label("run_id")).join(runs, runs.c.run == c.run)
    if run_ids is not None:
        query = query.where(runs.c.id.in_(list(run_ids)))
    if statement_ids is not None:
        query = query.where(c.statement_id.in_(list(statement_ids)))
    return query if status is None else query.where(c.status == status)


def keep_cell(connection: Connection, cell: CellRow) -> bool:
    """Save a cell; False where what the run itself recorded stands and stays."""
    c = cells.c
    run = run_number(connection, cell.run_id)
    here = (c.run == run) & (c.statement_id == cell.statement_id)
    old = connection.execute(select(c.status).where(here)).scalar_one_or_none()
    if old == "recorded" and cell.status not in ("recorded", "excluded"):
        return False
    values = {
        "status": cell.status,
        "fidelity": cell.fidelity,
        "sentence": label(cell.sentence),
        "rows": cell.rows,
        "replay_id": cell.replay_id,
        "updated": nanoseconds(cell.updated or dt.datetime.now(dt.UTC)),
        "detail": to_json(cell.detail),
        "place": cell.place,
    }
    if cell.coverage is not None:
        values["coverage"] = to_json(cell.coverage)
    if old is None:
        connection.execute(insert(cells).values(run=run, statement_id=cell.statement_id, **values))
    else:
        connection.execute(update(cells).where(here).values(**values))
    return True
