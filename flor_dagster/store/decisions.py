"""The kinds of decisions, and what each does to the database. Deciding and taking in a ledger are the same code.

Runs are meant by their ids, statements by their keys, times are nanoseconds since the epoch:

    run          id, key, seq             a run was taken in: its key, its number among those that are over
    statement    key, …, identity         a statement became known
    form         statement, identity      another identity means it
    merge        statement, into          two statements turned out to be one
    question     statement, question      it is an open question, or is none any more
    link         scope, file, line, name, statement; column where the line has several
    placement    statement, commit, …     where it stands in a version, or why it is refused
    confirm      statement, commit, place, by, at   a person confirmed this place
    cell         run, statement, …
    replay       id, run, …               a replay began
    commit       replay, journals, cells  its values became visible; journals: [path below the home, values taken]
    failed       replay, sentence
    approximate  run, reason              a run's version is not certainly the code that ran
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, func, or_, select, update
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from flor_dagster.errors import ODD, FlorError, StoreError, UnknownNameError
from flor_dagster.recording.layout import run_folder
from flor_dagster.store import replays as replay_rooms
from flor_dagster.store import statements
from flor_dagster.store.duplicates import merge
from flor_dagster.store.ingest import Forced, ingest, look
from flor_dagster.store.models import CellRow, PlacementRow, ReplayRow, StatementRow
from flor_dagster.store.packing import label, to_json
from flor_dagster.store.rows import moment, nanoseconds, run_number
from flor_dagster.store.schema import (
    args,
    call_sites,
    cells,
    checkpoints,
    confirmations,
    contexts,
    journals,
    loops,
    names,
    outputs,
    placements,
    records,
    replays,
    run_warnings,
    runs,
    uncaptured,
)
from flor_dagster.store.schema import statement_forms as forms
from flor_dagster.store.schema import statements as statement_table

Fields = dict[str, Any]


@dataclass(slots=True)
class Taking:
    """One transaction in which decisions are made or taken in.

    Attributes:
        connection: the transaction's.
        home: the project's `.flor/`; paths are below it.
        keys: key in the ledger → key in this database, where a statement was known here by another.
        numbers: run → its number among those that are over, where a decision still to come gives it.
        problems: what could not be taken in, and why.
        gone: replays whose journals are gone.
    """

    connection: Connection
    home: Path | None
    keys: dict[str, str] = field(default_factory=dict[str, str])
    numbers: dict[str, int] = field(default_factory=dict[str, int])
    problems: list[str] = field(default_factory=list[str])
    gone: list[_JournalGoneError] = field(default_factory=list["_JournalGoneError"])

    def end(self) -> None:
        """All is taken in: a journal that is gone is missed only where no later replay answered the same."""
        for error in self.gone:
            if any(not self._is_answered(cell) for cell in error.cells):
                self.problems.append(f"commit {error.replay.id}: {error}"[:500])

    def _is_answered(self, fields: Fields) -> bool:
        try:
            row = _cell_row(self, fields)
        except (FlorError, *ODD):
            return False
        query = statements.cells_query([row.run_id], [row.statement_id])
        return any(cell.updated > row.updated for cell in statements.cell_rows(self.connection, query))

    def statement(self, key: str) -> StatementRow:
        """The statement that a decision means."""
        return statements.by_key(self.connection, self.keys.get(key, key))


class _JournalGoneError(FileNotFoundError):
    """A replay's journal is not there any more."""

    def __init__(self, path: Path, replay: ReplayRow, cells: Sequence[Fields]) -> None:
        super().__init__(f"the journal {path} of replay {replay.id} is gone, and its values with it")
        self.replay = replay
        self.cells = cells


def take(taking: Taking, kind: str, fields: Fields) -> Any:
    """Do what a decision says.

    Raises:
        StoreError: a kind that this release does not know.
    """
    if kind not in _KINDS:
        raise StoreError(f"the ledger holds a decision of the kind {kind!r}. Update flor-dagster to read it.")
    return _KINDS[kind](taking, fields)


def take_again(taking: Taking, kind: str, fields: Fields) -> None:
    """The same for a decision out of the ledger: what it needs may be gone from the disk, and is then named."""
    if kind not in _KINDS:
        take(taking, kind, fields)
    try:
        with taking.connection.begin_nested():
            take(taking, kind, fields)
    except OperationalError:
        raise  # the database's trouble, not the decision's
    except _JournalGoneError as error:
        replay_rooms.save_replay(taking.connection, error.replay)
        taking.gone.append(error)
    except (FlorError, OSError, SQLAlchemyError, *ODD) as error:
        about = fields.get("id") or fields.get("run") or fields.get("statement") or ""
        said = str(error) if isinstance(error, FlorError | OSError) else f"{type(error).__name__}: {error}"
        taking.problems.append(f"{kind} {about}: {said}"[:500])


def _run(taking: Taking, fields: Fields) -> None:
    assert taking.home is not None
    folder = run_folder(taking.home, fields["id"])
    try:
        found = look(folder)
    except FlorError as error:
        found, why = None, str(error)
    else:
        why = f"the folder {folder} of training run {fields['key']} is gone"
    if found is None:
        raise UnknownNameError(why)
    ingest(taking.connection, found, Forced(fields["key"], taking.numbers.get(fields["id"], fields["seq"])))


def _statement(taking: Taking, fields: Fields) -> StatementRow:
    row = {k: v for k, v in fields.items() if k not in ("key", "identity")}
    made = statements.add(taking.connection, row, fields["identity"])
    told = fields.setdefault("key", made.key)
    if told != made.key:
        taking.keys[told] = made.key
    return made


def _form(taking: Taking, fields: Fields) -> None:
    statements.add_form(taking.connection, taking.statement(fields["statement"]).id, fields["identity"])


def _merge(taking: Taking, fields: Fields) -> None:
    other, first = taking.statement(fields["statement"]), taking.statement(fields["into"])
    if other.id != first.id:
        merge(taking.connection, other.id, other.key, first.id)


def _question(taking: Taking, fields: Fields) -> None:
    here = statement_table.c.id == taking.statement(fields["statement"]).id
    taking.connection.execute(update(statement_table).where(here).values(question=int(fields["question"])))


def _link(taking: Taking, fields: Fields) -> int:
    key = fields["statement"]
    number = None if key is None else taking.statement(key).id
    return statements.link(
        taking.connection, fields["scope"], fields["file"], fields["line"], fields["name"], number,
        fields.get("column"),
    )  # fmt: skip


def _placement(taking: Taking, fields: Fields) -> None:
    row = {k: v for k, v in fields.items() if k not in ("statement", "saved")}
    row["reasons"] = tuple(row.get("reasons", ()))
    number = taking.statement(fields["statement"]).id
    statements.save_placement(taking.connection, PlacementRow(statement_id=number, **row), fields["saved"])


def _confirm(taking: Taking, fields: Fields) -> None:
    number = taking.statement(fields["statement"]).id
    statements.confirm(
        taking.connection, number, fields["commit"], fields["place"], fields["by"], fields["at"]
    )


def _cell(taking: Taking, fields: Fields) -> None:
    statements.keep_cell(taking.connection, _cell_row(taking, fields))


def _cell_row(taking: Taking, fields: Fields) -> CellRow:
    run_number(taking.connection, fields["run"])
    row = {k: v for k, v in fields.items() if k not in ("run", "statement", "updated")}
    number = taking.statement(fields["statement"]).id
    return CellRow(run_id=fields["run"], statement_id=number, updated=moment(fields["updated"]), **row)


def _replay(taking: Taking, fields: Fields) -> None:
    replay_rooms.save_replay(taking.connection, _replay_row(fields))


def _replay_row(fields: Fields) -> ReplayRow:
    row = {k: v for k, v in fields.items() if k not in ("run", "started")}
    return ReplayRow(run_id=fields["run"], started=moment(fields["started"]), **row)


def _commit(taking: Taking, fields: Fields) -> None:
    row = _replay_row(fields["replay"])
    paths: list[Path] = []
    for place, values in fields["journals"]:
        path = Path(place) if taking.home is None else taking.home / place
        if path.is_file():
            paths.append(path)
        elif values != 0:
            raise _JournalGoneError(path, row, fields["cells"])
    answers = [_cell_row(taking, cell) for cell in fields["cells"]]
    taken = replay_rooms.commit(taking.connection, row, paths, answers, taking.keys)
    for entry in fields["journals"]:
        entry[1] = taken.get(Path(entry[0]).name, 0) if entry[1] is None else entry[1]


def _failed(taking: Taking, fields: Fields) -> None:
    replay_rooms.fail(taking.connection, fields["replay"], fields["sentence"])


def _approximate(taking: Taking, fields: Fields) -> None:
    here = runs.c.id == fields["run"] if "run" in fields else runs.c.commit_id == fields["commit"]
    taking.connection.execute(update(runs).where(here).values(approximate=label(fields["reason"])))


_KINDS: Mapping[str, Callable[[Taking, Fields], Any]] = {
    "run": _run, "statement": _statement, "form": _form, "merge": _merge, "question": _question, "link": _link, "placement": _placement,
    "confirm": _confirm, "cell": _cell, "replay": _replay, "commit": _commit, "failed": _failed, "approximate": _approximate,
}  # fmt: skip


# Rows as decisions.


def placement_fields(row: PlacementRow, key: str, saved: int) -> Fields:
    """A placement as a decision."""
    return {
        "statement": key, "commit": row.commit, "propagator": row.propagator, "status": row.status, "score": row.score,
        "sentence": row.sentence, "kind": row.kind, "diff": row.diff, "file": row.file, "line": row.line, "saved": saved,
        "verdict": row.verdict, "reasons": list(row.reasons), "place": row.place,
    }  # fmt: skip


def cell_fields(row: CellRow, key: str) -> Fields:
    """A cell as a decision."""
    return {
        "run": row.run_id, "statement": key, "status": row.status, "fidelity": row.fidelity, "sentence": row.sentence,
        "rows": row.rows, "replay_id": row.replay_id, "updated": nanoseconds(row.updated), "detail": row.detail,
        "coverage": row.coverage, "place": row.place,
    }  # fmt: skip


def replay_fields(row: ReplayRow) -> Fields:
    """A replay as a decision."""
    return {
        "id": row.id, "run": row.run_id, "started": nanoseconds(row.started), "seconds": row.seconds,
        "estimated_seconds": row.estimated_seconds, "status": row.status, "fidelity": row.fidelity,
        "compared_records": row.compared_records, "compared_digests": row.compared_digests, "sentence": row.sentence,
        "plan": row.plan,
    }  # fmt: skip


def everything(connection: Connection) -> Iterator[list[tuple[str, Fields]]]:
    """What a database holds that the journals do not say, as the decisions that lead there."""
    r = runs.c
    query = select(r.id, r.key, r.ingested_seq).order_by(r.run)
    yield [("run", {"id": row[0], "key": row[1], "seq": row[2]}) for row in connection.execute(query)]
    rows = statements.rows(connection)
    keys = {row.id: row.key for row in rows}
    yield [("statement", _statement_fields(row)) for row in rows]
    f = forms.c
    yield [
        ("form", {"statement": keys[number], "identity": identity})
        for identity, number in connection.execute(
            select(f.identity, f.statement_id).order_by(f.statement_id)
        )
    ]
    yield list(_links(connection, keys))
    p = placements.c
    for key, number in ((row.key, row.id) for row in rows):
        kept = select(p.commit_id, p.propagator, p.saved).where(p.statement_id == number)
        saved = {(row[0], row[1]): row[2] for row in connection.execute(kept)}
        yield [
            ("placement", placement_fields(row, key, saved[row.commit, row.propagator]))
            for row in statements.placement_rows(connection, number)
        ]
    yield [("confirm", fields) for fields in _confirmed(connection, keys)]
    known = {row.id: row for row in replay_rooms.replay_rows(connection)}
    answers = statements.cell_rows(connection, statements.cells_query())
    for replay, journals_of in _committed(connection).items():
        own = [cell_fields(cell, keys[cell.statement_id]) for cell in answers if cell.replay_id == replay]
        yield [
            ("commit", {"replay": replay_fields(known.pop(replay)), "journals": journals_of, "cells": own})
        ]
    yield [("replay", replay_fields(row)) for row in known.values()]
    yield [("cell", cell_fields(cell, keys[cell.statement_id])) for cell in answers]
    r = runs.c
    approximate = connection.execute(select(r.id, r.approximate).where(r.approximate != "").order_by(r.run))
    yield [("approximate", {"run": run, "reason": reason}) for run, reason in approximate]


def _statement_fields(row: StatementRow) -> Fields:
    return {
        "key": row.key, "identity": None, "name": row.name, "expression": row.expression, "file": row.file,
        "function": row.function, "loops": to_json(list(row.loops)), "ordinal": row.ordinal, "line": row.line,
        "question": int(row.question), "source": row.source, "created": nanoseconds(row.created),
    }  # fmt: skip


def _links(connection: Connection, keys: Mapping[int, str]) -> Iterator[tuple[str, Fields]]:
    s = call_sites.c
    query = (
        select(s.scope, s.file, s.line, s.col, names.c.name, s.statement_id)
        .join(names, names.c.name_id == s.name_id)
        .where(s.statement_id.is_not(None), ~s.scope.startswith("replay/"))
        .order_by(s.site)
    )
    for scope, file, line, column, name, number in connection.execute(query):
        yield (
            "link",
            {
                "scope": scope, "file": file, "line": line, "column": column if column >= 0 else None, "name": name,
                "statement": keys[number],
            },
        )  # fmt: skip


def _confirmed(connection: Connection, keys: Mapping[int, str]) -> Iterator[Fields]:
    k = confirmations.c
    query = select(k.statement_id, k.commit_id, k.place, k.confirmed_by, k.confirmed).order_by(k.confirmed)
    for number, commit, place, by, at in connection.execute(query):
        yield {"statement": keys[number], "commit": commit, "place": place, "by": by, "at": at}


def _committed(connection: Connection) -> dict[str, list[list[Any]]]:
    """Replays that are visible, in order, with their journals and how many values came from each."""
    j, p, r = journals.c, replays.c, records.c
    found: dict[str, list[list[Any]]] = {}
    values = select(func.count()).where(r.journal == j.journal).scalar_subquery()
    query = select(j.replay_id, j.name, values).join(replays, p.id == j.replay_id)
    for replay, name, count in connection.execute(query.order_by(p.started, p.id, j.journal)):
        found.setdefault(replay, []).append([name, count])
    return found


def counts(connection: Connection) -> dict[str, set[Any]]:
    """What must not become less when a database is made anew: by kind, what there is."""
    settled = select(runs.c.id, statement_table.c.key, cells.c.status)
    joined = settled.select_from(cells).join(runs, runs.c.run == cells.c.run)
    joined = joined.join(statement_table, statement_table.c.id == cells.c.statement_id)
    return {
        "training runs": set(connection.execute(select(runs.c.id)).scalars()),
        "statements": set(connection.execute(select(statement_table.c.key)).scalars()),
        "replays": set(connection.execute(select(replays.c.id)).scalars()),
        "cells": {tuple(row) for row in connection.execute(joined)},
        "placements": {
            tuple(row)
            for row in connection.execute(
                select(statement_table.c.key, placements.c.commit_id, placements.c.propagator).join(
                    statement_table, statement_table.c.id == placements.c.statement_id
                )
            )
        },
        "confirmed places": {
            tuple(row)
            for row in connection.execute(
                select(statement_table.c.key, confirmations.c.commit_id).join(
                    statement_table, statement_table.c.id == confirmations.c.statement_id
                )
            )
        },
        "journals": {tuple(row) for row in connection.execute(_journals_that_count())},
    }


def amounts(connection: Connection) -> dict[tuple[str, str, str], int]:
    """How much there is of every journal that counts: (kind, run's key, journal's name) → rows."""
    j = journals.c
    found: dict[tuple[str, str, str], int] = {}
    for kind, table in _OF_JOURNALS.items():
        query = select(runs.c.key, j.name, func.count()).select_from(table)
        query = query.join(journals, j.journal == table.c.journal).join(runs, runs.c.run == j.run)
        for key, name, count in connection.execute(query.group_by(runs.c.key, j.name)):
            found[kind, key, name] = count
    for kind, table in _OF_RANKS.items():
        here = table.c.loop > 0 if kind == "loop executions" else table.c.ctx > 0
        query = select(runs.c.key, table.c.rank, func.count()).join(runs, runs.c.run == table.c.run)
        for key, rank, count in connection.execute(query.where(here).group_by(runs.c.key, table.c.rank)):
            found[kind, key, f"journal.{rank}.jsonl"] = count
    query = select(runs.c.key, func.count()).select_from(args).join(runs, runs.c.run == args.c.run)
    for key, count in connection.execute(query.group_by(runs.c.key)):
        found["arguments", key, "its journals"] = count
    return found


_OF_JOURNALS = {
    "values": records, "checkpoints": checkpoints, "warnings": run_warnings, "lines of output": outputs,
    "uncaptured states": uncaptured,
}  # fmt: skip
_OF_RANKS = {"loop executions": loops, "loop contexts": contexts}


def _journals_that_count() -> Select[Any, Any]:
    """Runs' journals, and those of replays that values came from: others may be collected."""
    j = journals.c
    values = select(records.c.at).where(records.c.journal == j.journal).exists()
    query = select(runs.c.id, j.name).join(runs, runs.c.run == j.run)
    return query.where(or_(j.replay_id.is_(None), values))
