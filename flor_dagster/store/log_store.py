"""The log store: one object that takes journals in and hands rows and the log view out."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from sqlalchemy import Connection, and_, select, update
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, ProgrammingError

from flor_dagster.errors import ODD, FlorError, QueryError, StoreError, UnknownNameError, odd_content
from flor_dagster.recording.journal import journal_end
from flor_dagster.recording.layout import runs_folder
from flor_dagster.store import (
    archive,
    checking,
    copying,
    decisions,
    ledger_check,
    rows,
    statements,
    unsettled,
)
from flor_dagster.store import replays as replay_rooms
from flor_dagster.store.database import Database
from flor_dagster.store.deciding import Decider
from flor_dagster.store.ingest import TERMINAL, given, ingest, look, unchanged_since
from flor_dagster.store.ledger import Ledger
from flor_dagster.store.packing import label, to_json
from flor_dagster.store.schema import chunks, journals, layouts, runs
from flor_dagster.store.schema import statements as statement_table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

    import pandas as pd

    from flor_dagster.store.columns import Fidelities
    from flor_dagster.store.models import (
        CellRow,
        LoopRow,
        PlacementRow,
        Rebuilt,
        ReplayRow,
        RunRow,
        StatementRow,
        VersionRow,
    )
    from flor_dagster.store.pivot import Keep
    from flor_dagster.store.query import Rows
    from flor_dagster.store.why import Why

_log = logging.getLogger(__name__)


class LogStore:
    """Runs, statements, cells, replays and the log view of one project.

    Safe to share between threads, and between processes by opening it in each. Close it, or use it in a `with`.

    Attributes:
        problems: run folder → sentence, of the folders that the last `ingest_all` could not read.
        ledger_path: the ledger; None where the store was opened without a home.
    """

    def __init__(self, database: Database, home: Path | None = None, ledger_file: Path | None = None) -> None:
        self._database = database
        self._home = home
        self.ledger_path = None if home is None else ledger_file or ledger_path(database, home)
        ledger = None if self.ledger_path is None else Ledger(self.ledger_path)
        self._decider = Decider(database, ledger, home)
        self._decider.catch_up()
        self._decider.merge_duplicates()
        self.problems: dict[str, str] = {}

    @classmethod
    def open(cls, url: str | Path, *, home: Path | None = None) -> LogStore:
        """Open a store, made or migrated where needed, or made anew from a home's journals and ledger.

        Args:
            url: the file of a SQLite store, or `postgresql://user@host/database`.
            home: the project's `.flor/`, where a ledger is kept of what the journals do not say.

        Raises:
            StoreError: when it can't be opened, or was made by a later release.
        """
        database = Database(url)
        try:
            return cls(database, home)
        except BaseException:
            database.close()
            raise

    @classmethod
    def open_copy(cls, home: Path, folder: Path) -> LogStore:
        """Open a copy of a home's store, where the home can only be read; what is taken in goes to the copy.

        Args:
            home: the project's `.flor/`.
            folder: an empty folder for the copy.

        Raises:
            StoreError: the store can't be read.
        """
        copying.copy_store(home, folder)
        database = Database(folder / copying.DATABASE)
        try:
            return cls(database, home, folder / copying.LEDGER)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Give back every connection."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    # Journals in.

    def ingest_run(self, run_dir: Path) -> RunRow | None:
        """Take in what is new of one training run, all ranks.

        Returns:
            The run as it is now; None where there is nothing yet, or its version is still being made.

        Raises:
            JournalError: when a journal in the folder is not a run's, of a later format, or shorter than before.
        """
        with odd_content(str(run_dir)):
            folder = look(run_dir)
        if folder is None:
            return None
        run_id = folder.header["run"]
        with self._decider.begin() as decide:
            before = given(decide.connection, run_id)
            with odd_content(str(run_dir)):
                after = ingest(decide.connection, folder)
            if after is not None and after != before:
                decide.note("run", id=run_id, key=after.key, seq=after.seq)
        return None if after is None else self._run_of_id(run_id)

    def ingest_all(self, home: Path) -> list[RunRow]:
        """Take in every run below `home` that has changed; the changed ones in the order of their start.

        A folder that can't be read stops no other; it is named in `problems` and in the log.
        """
        folder = runs_folder(home)
        if not folder.is_dir():
            return []
        with self._database.read() as connection:
            known = unchanged_since(connection)
        changed: list[RunRow] = []
        self.problems = {}
        for run_dir in sorted(folder.iterdir()):
            before = known.get(run_dir.name)
            try:
                if not run_dir.is_dir() or (before is not None and _settled(run_dir, *before)):
                    continue
                run = self.ingest_run(run_dir)
                if run is not None and not (
                    before is not None and before[0] == run.status and _taken(run_dir, before[1])
                ):
                    changed.append(run)
            except (FlorError, OSError, *ODD) as error:
                if isinstance(error, StoreError) and not _is_odd(error):
                    raise
                self.problems[str(run_dir)] = str(error)
                _log.warning("%s was left out: %s", run_dir, error)
        return sorted(changed, key=lambda run: (run.started, run.id))

    def with_news(self) -> dict[str, int]:
        """Runs of which something was taken in, by whomever, and not carried through yet: id → a number."""
        with self._database.read() as connection:
            return unsettled.with_news(connection)

    def carried_through(self, news: Mapping[str, int]) -> None:
        """What `with_news` gave is linked, looked at and settled; what came meanwhile stays."""
        if news:
            with self._database.write() as connection:
                for run_id, number in news.items():
                    unsettled.carried_through(connection, run_id, number)

    def rebuild(self, *, accept_loss: bool = False) -> Rebuilt:
        """Make every row anew from the journals of runs and replays and from the ledger, in one transaction.

        Args:
            accept_loss: also where the database holds what the files do not have any more.

        Raises:
            WouldLoseError: it does; nothing was changed.
        """
        return self._decider.rebuild(accept_loss=accept_loss)

    def differences(self) -> list[str]:
        """What the database says otherwise than the journals, in words: `rebuild` makes it anew of them.

        Raises:
            StoreError: the store was opened without the project's home.
        """
        if self._home is None:
            raise StoreError(
                "the store was opened without the project's home: there are no journals to hold it against"
            )
        with self._database.read() as connection:
            return list(checking.differences(connection, self._home))

    def ledger_differences(self, folder: Path) -> tuple[list[str], list[str]]:
        """What the ledger does not say as the database does: a store is made of the ledger alone, and the two are compared.

        Args:
            folder: an empty folder for that store.

        Returns:
            What damage the ledger has, and where the two disagree; in words.

        Raises:
            StoreError: the store was opened without the project's home.
        """
        if self._home is None:
            raise StoreError("the store was opened without the project's home: there is no ledger")
        ledger = folder / copying.LEDGER
        with self._database.read() as connection:
            database = ledger_check.known(connection)
            ledger.write_bytes(self._decider.taken_in(connection))
        if not ledger.stat().st_size:
            return [], []
        bad = ledger_check.unreadable(ledger)
        made = Database(folder / copying.DATABASE)
        try:
            LogStore(made, self._home, ledger)  # takes the ledger in
            with made.read() as connection:
                return (
                    [f"{len(bad)} lines of it can't be read, the first at byte {bad[0]}"] if bad else [],
                    list(ledger_check.disagreements(database, ledger_check.known(connection))),
                )
        finally:
            made.close()

    def replay_journals(self) -> set[str]:
        """The journals of replays that values came from, as paths below the home: a rebuild needs them."""
        with self._database.read() as connection:
            return replay_rooms.journals_with_values(connection)

    def rebuild_chunks(self) -> None:
        """Make everything that is derived from the rows anew."""
        from flor_dagster.store.chunks import pack_journal

        with self._database.write() as connection:
            connection.execute(chunks.delete())
            connection.execute(layouts.delete())
            connection.execute(update(journals).values(chunked_upto=-1))
            over = select(journals.c.journal).join(runs).where(runs.c.status.in_(TERMINAL))
            for number in connection.execute(over.order_by(journals.c.journal)).scalars().all():
                pack_journal(connection, number)

    # Runs and versions.

    def runs(
        self,
        *,
        ids: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        status: str | Sequence[str] | None = None,
        entrypoint: str | None = None,
        latest: int | None = None,
    ) -> list[RunRow]:
        """Training runs in the order of their start; `latest` keeps that many of the youngest."""
        query = select(runs)
        if ids is not None:
            query = query.where(runs.c.id.in_(list(ids)))
        if keys is not None:
            query = query.where(runs.c.key.in_(list(keys)))
        if status is not None:
            query = query.where(runs.c.status.in_([status] if isinstance(status, str) else list(status)))
        if entrypoint is not None:
            query = query.where(runs.c.entrypoint == label(entrypoint))
        query = query.order_by(runs.c.started.desc(), runs.c.id.desc())
        if latest is not None:
            query = query.limit(latest)
        with self._database.read() as connection:
            return rows.run_rows(connection, query)[::-1]

    def run(self, asked: str) -> RunRow:
        """The run of a key, an id, or a unique beginning of either.

        Raises:
            UnknownNameError: when none or several are meant.
        """
        with self._database.read() as connection:
            return rows.find_run(connection, asked)

    def runs_after(self, seq: int, limit: int) -> list[RunRow]:
        """Runs that are over, in the order in which the store learned it: `ingested_seq` greater than `seq`."""
        query = select(runs).where(runs.c.ingested_seq > seq).order_by(runs.c.ingested_seq).limit(limit)
        with self._database.read() as connection:
            return rows.run_rows(connection, query)

    def versions(self) -> list[VersionRow]:
        """Every version, in the order of its first run's coming."""
        with self._database.read() as connection:
            return rows.version_rows(connection)

    def version(self, commit: str) -> VersionRow:
        """The version of a commit.

        Raises:
            UnknownNameError: when no run of that version is known.
        """
        with self._database.read() as connection:
            found = rows.version_rows(connection, commit)
        if not found:
            raise UnknownNameError(f"No training run of the version {commit} is in the store.")
        return found[0]

    def set_approximate(self, run: str, reason: str) -> None:
        """Mark a run's version as not exactly the code that it ran; the empty reason takes the mark away."""
        with self._decider.begin() as decide:
            decide("approximate", run=run, reason=reason)

    def unarchived_versions(self) -> list[str]:
        """The versions that can't be rebuilt from the store yet."""
        return archive.unarchived(self._database)

    def known_objects(self, ids: Collection[str]) -> set[str]:
        """Which of some git objects the store keeps."""
        return archive.known_objects(self._database, ids)

    def archive_version(
        self, commit: str, objects: Mapping[str, bytes | None], left_out: Mapping[str, str]
    ) -> None:
        """Keep what is new of a version's git objects: from then on it can be rebuilt from here."""
        archive.keep(self._database, commit, objects, left_out)

    def version_object(self, name: str) -> bytes | None:
        """A git object of a version, as git keeps it loose; None where it is not kept."""
        return archive.read_object(self._database, name)

    def modules(self, run_id: str) -> dict[str, str]:
        """File → git blob id of the repository's modules that a run had loaded at its end."""
        import json

        with self._database.read() as connection:
            number = rows.run_number(connection, run_id)
            return json.loads(
                connection.execute(select(runs.c.modules).where(runs.c.run == number)).scalar_one()
            )

    # What a run recorded.

    def loops(self, run_id: str, *, rank: int = 0) -> list[LoopRow]:
        """The loop executions of a run, in the order of their opening."""
        with self._database.read() as connection:
            return rows.loop_rows(connection, rows.run_number(connection, run_id), rank)

    def contexts(self, run_id: str, *, rank: int = 0) -> list[tuple[int, int, int, Any]]:
        """(context, loop, index, value) of each iteration that was interned. Context 0 is the run, and not among them.

        Numbers are the journal's; below zero are the places that only a replay has seen.
        """
        with self._database.read() as connection:
            return rows.context_rows(connection, rows.run_number(connection, run_id), rank)

    def call_sites(
        self, run_id: str, *, rank: int = 0
    ) -> list[tuple[int, str, str, str, int, int, int | None]]:
        """(call, name, file, function, line, column, statement id) of each call site that the run reached."""
        with self._database.read() as connection:
            return rows.call_rows(connection, rows.run_number(connection, run_id), rank)

    def records(
        self,
        run_id: str,
        *,
        names: Sequence[str] | None = None,
        origin: Literal["recorded", "replayed"] = "recorded",
        rank: int = 0,
    ) -> list[tuple[int, int, int, Any]]:
        """(byte offset, context, call, value) in journal order; for replayed values `call` is the statement's id."""
        with self._database.read() as connection:
            number = rows.run_number(connection, run_id)
            return rows.record_rows(connection, number, rank, names, origin)

    def checkpoints(self, run_id: str, *, rank: int = 0) -> list[dict[str, Any]]:
        """The summaries of a run's checkpoints, in order."""
        with self._database.read() as connection:
            return rows.checkpoint_rows(connection, rows.run_number(connection, run_id), rank)

    def uncaptured(self, run_id: str, *, rank: int = 0) -> list[tuple[int, int | None, list[str]]]:
        """(loop, index, reasons) of the end states that could not be captured; index None means the loop's end."""
        with self._database.read() as connection:
            return rows.uncaptured_rows(connection, rows.run_number(connection, run_id), rank)

    def warnings(self, run_id: str) -> list[tuple[str, str]]:
        """(code, message) of what went wrong beside the training."""
        with self._database.read() as connection:
            return rows.warning_rows(connection, rows.run_number(connection, run_id))

    def output(self, run_id: str) -> list[dict[str, Any]]:
        """What a run printed and logged elsewhere under `flor.capture`: `path`, `channel`, `source`, `text`, `time`."""
        with self._database.read() as connection:
            return rows.output_rows(connection, run_id)

    # Statements, placements, cells.

    def add_statement(
        self,
        name: str,
        expression: str,
        *,
        file: str,
        function: str = "<module>",
        loops: Sequence[str] = (),
        ordinal: int = 0,
        line: int = 0,
        question: bool = False,
        source: str = "",
        identity: str | None = None,
    ) -> StatementRow:
        """Make a statement known and give out its key: `name`, then `name:2`, …, never one twice.

        An `identity` that is known gives back the statement that it means, unchanged.
        """
        row = _statement_row(
            name, expression, file=file, function=function, loops=loops, ordinal=ordinal, line=line,
            question=question, source=source,
        )  # fmt: skip
        with self._decider.begin() as decide:
            known = None if identity is None else statements.find_form(decide.connection, identity)
            return known if known is not None else decide("statement", identity=identity, **row)

    def find_or_add_statement(
        self, identity: str, seen: Collection[int], name: str, expression: str, **where: Any
    ) -> tuple[StatementRow, bool] | None:
        """The statement that an identity means, made in the same transaction where there is none; whether it is new.

        Args:
            identity: what it is known by.
            seen: the ids of the statements of this name that were found to be others.
            name: as in `add_statement`.
            expression: as in `add_statement`.
            **where: as in `add_statement`.

        Returns:
            None where somebody made one of this name that was not seen: it may be the same.
        """
        row = _statement_row(name, expression, **where)
        with self._decider.begin() as decide:
            known = statements.find_form(decide.connection, identity)
            if known is not None:
                return known, False
            if statements.ids_of_name(decide.connection, name) - set(seen):
                return None
            return decide("statement", identity=identity, **row), True

    def add_form(self, statement_id: int, identity: str) -> StatementRow:
        """Say that another identity means this statement; one that is taken stays as it is.

        Returns:
            The statement that the identity means.
        """
        with self._decider.begin() as decide:
            known = statements.find_form(decide.connection, identity)
            if known is not None:
                return known
            key = statements.key_of(decide.connection, statement_id)
            decide("form", statement=key, identity=identity)
            return statements.by_key(decide.connection, key)

    def find_form(self, identity: str) -> StatementRow | None:
        """The statement that an identity means."""
        with self._database.read() as connection:
            return statements.find_form(connection, identity)

    def statements(self, *, questions: bool | None = None, name: str | None = None) -> list[StatementRow]:
        """Statements in the order in which they became known; all, the open questions, or those of a name."""
        # A run may log thousands of names; each of its statements is looked up by its own.
        wanted = [] if questions is None else [statement_table.c.question == int(questions)]
        wanted += [] if name is None else [statements.of_name(name)]
        with self._database.read() as connection:
            return statements.rows(connection, and_(*wanted) if wanted else None)

    def statements_that_logged(self, name: str) -> list[StatementRow]:
        """Statements that logged a name in some run, in the order in which they became known; their own may be `norm/{}`."""
        with self._database.read() as connection:
            return statements.rows(connection, statements.that_logged(name))

    def statement(self, key: str) -> StatementRow:
        """The statement of a key (`name:1` is the same as the first definition's `name`).

        Raises:
            UnknownNameError: with the keys that come near.
        """
        with self._database.read() as connection:
            return statements.by_key(connection, key)

    def set_question(self, statement_id: int, question: bool) -> None:
        """Open or close a statement as a hindsight question; its values and cells stay."""
        with self._decider.begin() as decide:
            key = statements.key_of(decide.connection, statement_id)
            decide("question", statement=key, question=question)

    def link_call_site(
        self,
        commit: str,
        file: str,
        line: int,
        name: str,
        statement_id: int | None,
        column: int | None = None,
    ) -> int:
        """Say which statement the call sites of `name` at a line of a version are.

        Args:
            commit: the version, or `run/<run id>` for a run without one.
            file: relative to the repository.
            line: 1-based.
            name: the name that is logged there.
            statement_id: the statement; None takes the link away.
            column: of the call site, where the line may have several of the name; None takes every one on it.

        Returns:
            How many known call sites were linked. The link holds for those that come later too.
        """
        with self._decider.begin() as decide:
            key = None if statement_id is None else statements.key_of(decide.connection, statement_id)
            return decide("link", scope=commit, file=file, line=line, name=name, statement=key, column=column)

    def save_placement(self, row: PlacementRow) -> None:
        """Keep where a statement stands in a version, or why it is refused there."""
        with self._decider.begin() as decide:
            key = statements.key_of(decide.connection, row.statement_id)
            decide("placement", **decisions.placement_fields(row, key, time.time_ns()))

    def confirm_place(self, row: PlacementRow, by: str) -> PlacementRow:
        """A person confirms a likely place: this very one, in this version. The placement as it stands then.

        Args:
            row: the placement.
            by: who confirms it.
        """
        with self._decider.begin() as decide:
            key = statements.key_of(decide.connection, row.statement_id)
            at = time.time_ns()
            decide("confirm", statement=key, commit=row.commit, place=row.place, by=by, at=at)
            return self._with_confirmation(decide.connection, row)

    def confirmed(self, row: PlacementRow) -> PlacementRow:
        """A placement with what is known of a person's confirmation of this very place."""
        with self._database.read() as connection:
            return self._with_confirmation(connection, row)

    @staticmethod
    def _with_confirmation(connection: Connection, row: PlacementRow) -> PlacementRow:
        found = statements.confirmation(connection, row.statement_id, row.commit, row.place)
        return replace(row, confirmed=found[0], confirmed_by=found[1])

    def placement(self, statement_id: int, commit: str, propagator: str) -> PlacementRow | None:
        """The placement that this engine version found, if it was asked."""
        with self._database.read() as connection:
            found = statements.placement_rows(connection, statement_id, commit, propagator)
        return found[0] if found else None

    def placements(self, statement_id: int) -> list[PlacementRow]:
        """Every placement of a statement, oldest first."""
        with self._database.read() as connection:
            return statements.placement_rows(connection, statement_id)

    def cells(
        self,
        *,
        run_ids: Sequence[str] | None = None,
        statement_ids: Sequence[int] | None = None,
        status: str | None = None,
    ) -> list[CellRow]:
        """Cells that something is known of; a pair without a row is open."""
        with self._database.read() as connection:
            return statements.cell_rows(connection, statements.cells_query(run_ids, statement_ids, status))

    def save_cell(self, cell: CellRow) -> CellRow:
        """Keep a cell, and give back the one that stands: what a run recorded itself is not overwritten."""
        return self.save_cells([cell])[0]

    def save_cells(self, cells: Sequence[CellRow]) -> list[CellRow]:
        """The same for many, in one transaction."""
        with self._decider.begin() as decide:
            connection = decide.connection
            for cell in cells:
                key = statements.key_of(connection, cell.statement_id)
                decide("cell", **decisions.cell_fields(cell, key))
            return [
                statements.cell_rows(connection, statements.cells_query([cell.run_id], [cell.statement_id]))[
                    0
                ]
                for cell in cells
            ]

    # Replays.

    def begin_replay(self, replay: ReplayRow) -> None:
        """Write down that a replay has begun."""
        with self._decider.begin() as decide:
            decide("replay", **decisions.replay_fields(replay))

    def commit_replay(self, replay: ReplayRow, journals: Sequence[Path], cells: Sequence[CellRow]) -> None:
        """Make a replay's values and its cells visible, all in one transaction.

        Records count where their line is in the header's `statements`; their contexts are the run's own, found by
        path. What the run recorded itself stays; what an earlier replay said about the same cell is replaced.

        Raises:
            StoreError: when a journal is not this replay's; nothing is taken in then.
        """
        with self._decider.begin() as decide:
            keys = [statements.key_of(decide.connection, cell.statement_id) for cell in cells]
            decide(
                "commit",
                replay=decisions.replay_fields(replay),
                journals=[[self._below_home(path), None] for path in journals],
                cells=[decisions.cell_fields(cell, key) for cell, key in zip(cells, keys, strict=True)],
            )

    def _below_home(self, path: Path) -> str:
        if self._home is not None and path.is_relative_to(self._home):
            return str(path.relative_to(self._home))
        return str(path.absolute())

    def fail_replay(self, replay_id: str, sentence: str) -> None:
        """Write down that a replay has failed, and why."""
        with self._decider.begin() as decide:
            decide("failed", replay=replay_id, sentence=sentence)

    def replays(self, run_id: str | None = None, *, status: str | None = None) -> list[ReplayRow]:
        """Replays in the order of their start; all, or a run's, or those of a status."""
        with self._database.read() as connection:
            return replay_rooms.replay_rows(connection, run_id, status)

    # The log view.

    def artifact_texts(self) -> list[str]:
        """Every recorded or replayed value and every argument that may refer to an artifact, as JSON text."""
        with self._database.read() as connection:
            return rows.artifact_texts(connection)

    def names(self) -> list[str]:
        """Every name that was logged, asked for or given as an argument."""
        from flor_dagster.store.columns import known_names

        with self._database.read() as connection:
            return known_names(connection)

    def has_loop(self, name: str) -> bool:
        """Whether any training run has a loop of that name."""
        from flor_dagster.store.columns import is_loop

        with self._database.read() as connection:
            return is_loop(connection, name)

    def dataframe(
        self,
        *names: str,
        where: str | None = None,
        runs: Sequence[str] | None = None,
        latest: int | None = None,
        at: str | None = None,
        fill: bool = False,
        keep: Keep = "last",
        fidelity: Fidelities = "default",
        provenance: bool = False,
        rank: int = 0,
        ranks: Sequence[int] | Literal["all"] | None = None,
    ) -> pd.DataFrame:
        """The log view: one row per training run and innermost loop context of the names.

        A column shows every recorded value of its name, whatever definition logged it; what replays found is the newest
        definition's. `attrs["definitions"]` says of a column that shows several definitions which, each with its number of runs.

        Columns are `run` (the run's key), one per loop (the iteration's index, outermost loop first; `<loop>_execution`
        where a loop ran more than once in one place, `<loop>_value` where a value is not its index), and one per name.
        Values of an outer level are repeated in the rows within it. Of several values of a name in one context the last
        one is shown, and `attrs["several"]` says by name how many stand behind it; one of an outer level that inner ones of its name hide
        has a row of its own. `attrs["empty"]` says, by (run, name), why a column is empty all over a run; `attrs["places"]` by
        (run, name) what else than `certain` is to be said of the place that replayed values come from. What is called like a
        loop is `<name>_logged`, an argument of such a name `args.<name>`, whatever else is asked; `attrs["columns"]` says it of each asked name.

        Args:
            names: `loss` is every recorded value of the name and the newest definition's replayed ones, `loss:1` the first definition alone,
                `args.lr` an argument (`lr` too, where nothing of that name was logged), `run.status` a field of the run. `val_*`,
                `args.*` and `run.*` are all names that are like it. None given: all names and arguments.
            where: a condition on rows and runs; see `conditions`. The names that it reads take part in the rows.
            runs: keys, ids or unique beginnings; None takes all.
            latest: only so many of the youngest runs that fulfil what the condition says of runs.
            at: the loop whose iterations are the rows, `run` for a row of each run: what is logged within an iteration counts as logged
                at it. What lies elsewhere is left out, and counted by name in `attrs["elsewhere"]`.
            fill: an empty place shows what the nearest row before it in its run has (its origin is `filled`).
            keep: of several values of a name in one place the `last`, the `first`, or `all`, in a row each with its number in `ordinal`.
                Of several definitions there the newest one's counts.
            fidelity: `default` leaves out what has diverged; `exact` all that is neither recorded nor exact; `any`
                leaves out nothing and adds a `<name>_fidelity` column.
            provenance: add `<name>_origin`, `<name>_fidelity` (of the replay) and `<name>_place` (of the statement in
                that version: `certain`, `confirmed` by a person, or `unchecked` where an earlier release placed it).
            rank: whose records; the first rank's by default.
            ranks: several ranks, or `all`: rows of each, told apart by a column `rank`.

        Raises:
            UnknownNameError: when a name, a run or a loop is not known.
            ConditionError: when the condition can't be read, or does not fit; the message points at the character.
        """
        from flor_dagster.store.ranks import of_ranks
        from flor_dagster.store.view import Request, log_view

        for option, value, allowed in (
            ("fidelity", fidelity, ("default", "exact", "any")),
            ("keep", keep, ("last", "first", "all")),
        ):
            if value not in allowed:
                raise QueryError(f"{option}={value!r} is unknown; give {', '.join(map(repr, allowed))}.")
        if latest is not None and latest < 1:
            raise QueryError(f"latest={latest} is below one.")
        picked = self._picked(runs)
        request = Request(names, where, latest, at, fill, keep, fidelity, provenance, rank, ranks is not None)
        if ranks is None:
            return log_view(self._database, request, picked, all_runs=runs is None)
        if ranks == "all":
            with self._database.read() as connection:
                ranks = rows.ranks(connection)
        frames = {
            number: log_view(self._database, replace(request, rank=number), picked, all_runs=runs is None)
            for number in sorted(set(ranks))
        }
        return of_ranks(frames, [run.key for run in picked])

    def view(
        self,
        columns: Sequence[str] = (),
        where: str | None = None,
        order_by: str | Sequence[str] | None = None,
        limit: int | None = None,
        *,
        runs: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """The log view, sorted and cut.

        Args:
            columns: names to show, as in `dataframe`; none given shows all.
            where: as in `dataframe`.
            order_by: a column or several; a `-` in front sorts downwards.
            limit: at most so many rows.
            runs: as in `dataframe`.

        Raises:
            QueryError: when the condition or the order does not fit the columns.
            UnknownNameError: when a name is not known.
        """
        from flor_dagster.store.narrowing import narrowed

        return narrowed(self, columns, where, order_by, limit, runs)

    def runs_where(self, where: str, among: Sequence[RunRow]) -> list[RunRow]:
        """The training runs that fulfil a condition, in their order; see `conditions`.

        Raises:
            ConditionError: when it can't be asked of training runs; the message points at the character.
        """
        from flor_dagster.store.columns import run_numbers
        from flor_dagster.store.conditions import read_condition
        from flor_dagster.store.run_values import runs_that_fulfil

        condition = read_condition(where)
        with self._database.read() as connection:
            numbers = run_numbers(connection, among, all_runs=False)
            return list(runs_that_fulfil(connection, condition, numbers, 0).values())

    def query(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] = (),
        *,
        seconds: float | None = None,
        rows: int | None = None,
    ) -> pd.DataFrame:
        """The result of one reading SQL statement over the documented views; see `sql_views`.

        `records` has a row per record: run, rank, path (JSON), loop, iteration, name, statement, value, number, origin, fidelity, place.

        Args:
            sql: the statement; `:name` stands for a parameter on either database.
            params: the parameters, by name, or in the database's own way by position.
            seconds: how long it may take; None means a minute.
            rows: how many rows it may give; None means a million.

        Raises:
            QueryError: when it writes, reads something else, is wrong, takes too long, or gives too much; on PostgreSQL also where no
                role for it is set up (`make_reader`).
        """
        from flor_dagster.store import query

        return query.read_only(
            self._database, sql, params, seconds=seconds or query.MAX_SECONDS, rows=rows or query.MAX_ROWS
        )

    def stream(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = (), *, seconds: float | None = None
    ) -> AbstractContextManager[Rows]:
        """The same, row by row as they are computed; no result is too large. See `query`."""
        from flor_dagster.store import query

        return query.streamed(self._database, sql, params, seconds=seconds or query.MAX_SECONDS)

    def make_reader(self, password: str | None = None) -> None:
        """Make the role that people's SQL runs as on PostgreSQL, and the views that it may read; SQLite needs none.

        Args:
            password: the role's; None where the server asks for none, or for leaving it as it is.

        Raises:
            StoreError: this store's own role may not make it.
        """
        if not self._database.sqlite:
            from flor_dagster.store.reader_role import make_reader

            with self._database.write() as connection:
                make_reader(connection, password)

    def why_empty(self, run_id: str, name: str) -> str:
        """Why a name has no value in a run, in words.

        Raises:
            UnknownNameError: when the run or the name is not known.
        """
        from flor_dagster.store.columns import resolve
        from flor_dagster.store.reasons import reasons_for

        with self._database.read() as connection:
            run = rows.find_run(connection, run_id)
            column = resolve(connection, name)
            return reasons_for(connection, [(rows.run_number(connection, run.id), run, column)])[
                run.key, name
            ]

    def why(self, run_id: str, name: str, at: Mapping[str, Any] | None = None, *, rank: int = 0) -> Why:
        """Why a place of the log view shows no value, or what it shows.

        Args:
            run_id: the training run: its key, its id, or a beginning of either.
            name: as in `dataframe`.
            at: loop → iteration, by index (`{"epoch": 3}`) or by value (`{"epoch_value": "b"}`); None means the whole run.
            rank: whose records.

        Raises:
            UnknownNameError: when the run, the name, the loop or the iteration is not known.
        """
        from flor_dagster.store.why import why

        with self._database.read() as connection:
            run = rows.find_run(connection, run_id)
            number = rows.run_number(connection, run.id)
        return why(self._database, number, run, name, at or {}, rank)

    def _picked(self, asked: Sequence[str] | None) -> list[RunRow]:
        if asked is None:
            return self.runs()
        with self._database.read() as connection:
            found = {run.id: run for run in (rows.find_run(connection, one) for one in asked)}
        return sorted(found.values(), key=lambda run: (run.started, run.id))

    def _run_of_id(self, run_id: str) -> RunRow:
        with self._database.read() as connection:
            return rows.run_rows(connection, select(runs).where(runs.c.id == run_id))[0]


def _statement_row(
    name: str,
    expression: str,
    *,
    file: str,
    function: str = "<module>",
    loops: Sequence[str] = (),
    ordinal: int = 0,
    line: int = 0,
    question: bool = False,
    source: str = "",
) -> dict[str, Any]:
    return {
        "name": name,
        "expression": label(expression),
        "file": label(file),
        "function": label(function),
        "loops": to_json(list(loops)),
        "ordinal": ordinal,
        "line": line,
        "question": int(question),
        "source": label(source),
        "created": time.time_ns(),
    }


def ledger_path(database: Database, home: Path) -> Path:
    """Where the ledger of a store lies; a home that is kept in several stores has one for each."""
    if database.sqlite and database.place == str((home / "flor.db").resolve()):
        return home / "ledger.jsonl"
    return home / f"ledger-{hashlib.sha256(database.place.encode()).hexdigest()[:12]}.jsonl"


def now() -> datetime:
    """The time as rows carry it."""
    return datetime.now(UTC)


def _is_odd(error: StoreError) -> bool:
    """Whether the database refused what it was given: that is the run's fault, and no other's."""
    return isinstance(error.__cause__, DataError | IntegrityError | InterfaceError | ProgrammingError)


def _settled(run_dir: Path, status: str, taken: int) -> bool:
    """Whether a run is over and nothing was appended since."""
    return status in TERMINAL and _taken(run_dir, taken)


def _taken(run_dir: Path, taken: int) -> bool:
    journals = list(run_dir.glob("journal.*.jsonl"))
    if sum(path.stat().st_size for path in journals) == taken:
        return True
    # A torn last line is never taken: it makes the file longer than what counts.
    return sum(journal_end(path) for path in journals) == taken
