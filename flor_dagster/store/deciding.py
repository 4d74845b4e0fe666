"""The one writer of a store: what is decided goes to the ledger and to the database, in one transaction."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, insert, select, update

from flor_dagster.errors import StoreError
from flor_dagster.store import schema
from flor_dagster.store.counting import next_number
from flor_dagster.store.decisions import Taking, amounts, counts, everything, take, take_again
from flor_dagster.store.duplicates import find_duplicates
from flor_dagster.store.models import Rebuilt
from flor_dagster.store.schema import counters

if TYPE_CHECKING:
    from flor_dagster.store.database import Database
    from flor_dagster.store.ledger import Batch, Decision, Ledger

_MOST = 1 << 62

# What is made anew, in an order in which nothing that is left refers to what is gone. Versions and their objects stay.
_DERIVED = (
    schema.unsettled, schema.layouts, schema.chunks, schema.cells, schema.placements, schema.confirmations, schema.outputs, schema.run_warnings, schema.uncaptured,
    schema.checkpoints, schema.records, schema.journal_calls, schema.call_sites, schema.statement_forms, schema.contexts,
    schema.loops, schema.args, schema.journals, schema.replays, schema.statements, schema.names, schema.runs,
)  # fmt: skip


class WouldLoseError(StoreError):
    """A rebuild would lose what the database alone has; nothing was changed."""

    def __init__(self, missing: tuple[str, ...]) -> None:
        self.missing = missing
        super().__init__(
            "the database holds what the files do not have any more, so it was left as it is: "
            + "; ".join(missing)
        )


class Deciding:
    """One transaction in which things are decided."""

    def __init__(self, connection: Connection, home: Path | None) -> None:
        self.connection = connection
        self.decisions: list[Decision] = []
        self._taking = Taking(connection, home)

    def __call__(self, kind: str, /, **fields: Any) -> Any:
        """Decide something: it is done, and noted."""
        done = take(self._taking, kind, fields)
        self.decisions.append((kind, fields))
        return done

    def note(self, kind: str, /, **fields: Any) -> None:
        """Note what was decided and done already."""
        self.decisions.append((kind, fields))


class Decider:
    """Decides, and keeps database and ledger the same.

    Args:
        database: the store's.
        ledger: None where nothing is noted.
        home: the project's `.flor/`.
    """

    def __init__(self, database: Database, ledger: Ledger | None, home: Path | None) -> None:
        self._database = database
        self._ledger = ledger
        self._home = home
        self.problems: list[str] = []

    @contextmanager
    def begin(self) -> Generator[Deciding]:
        """One transaction: all of it is decided, or nothing.

        Raises:
            StoreError: the disk did not take it.
        """
        written: Batch | None = None
        try:
            with self._database.write() as connection:
                self._catch_up(connection)
                deciding = Deciding(connection, self._home)
                yield deciding
                if self._ledger is not None and deciding.decisions:
                    written = self._write(connection, self._ledger, deciding.decisions)
        except BaseException:
            if written is not None and self._ledger is not None:
                with suppress(OSError):
                    self._ledger.void(written)
            raise

    def _write(self, connection: Connection, ledger: Ledger, decisions: list[Decision]) -> Batch | None:
        try:
            name = ledger.id()
            if name is None:
                # Everything that the database holds, and with it what was decided just now.
                _set_mark(connection, ledger.create(everything(connection)), ledger.size())
                return None
            written = ledger.append(decisions)
            _set_mark(connection, name, written.end)
            return written
        except OSError as error:
            raise StoreError(f"nothing was decided, since {ledger.path} can't be written: {error}") from error

    def merge_duplicates(self) -> None:
        """Make statements one that an earlier release let two processes register twice."""
        with self._database.read() as connection:
            if next(find_duplicates(connection), None) is None:
                return
        with self.begin() as decide:
            for key, first in list(find_duplicates(decide.connection)):
                decide("merge", statement=key, into=first)

    # Taking in ---------------------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Take in what the ledger holds and the database does not know."""
        if self._ledger is None:
            return
        name = self._ledger.id()
        if name is None:
            return
        with self._database.read() as connection:
            if _mark(connection, name) == self._ledger.size():
                return
        with self._database.write() as connection:
            self._catch_up(connection)

    def taken_in(self, connection: Connection) -> bytes:
        """The ledger as far as the database has taken it in; empty where there is none."""
        name = None if self._ledger is None else self._ledger.id()
        if self._ledger is None or name is None:
            return b""
        with self._ledger.path.open("rb") as file:
            return file.read(_mark(connection, name) or 0)

    def _catch_up(self, connection: Connection) -> None:
        ledger = self._ledger
        if ledger is None:
            return
        name = ledger.id()
        if name is None:
            return
        mark = _mark(connection, name)
        if mark is not None and ledger.size() < mark:
            # It is an older one than what the database has taken in.
            _set_mark(connection, ledger.create(everything(connection)), ledger.size())
            return
        if ledger.size() != mark:
            self.problems = self._take_in(connection, ledger, mark or 0)
            _set_mark(connection, name, ledger.size())

    def _take_in(self, connection: Connection, ledger: Ledger, start: int) -> list[str]:
        decisions = [decision for batch in ledger.read(start) for decision in batch.decisions]
        # A run that was named while it ran is over by now: it has the number that it was given later, and nobody else's.
        numbers = dict(_numbers(fields for kind, fields in decisions if kind == "run"))
        if numbers:
            next_number(connection, "ingested", max(numbers.values()))
        taking = Taking(connection, self._home, numbers=numbers)
        for kind, fields in decisions:
            take_again(taking, kind, fields)
        taking.end()
        return taking.problems

    def rebuild(self, *, accept_loss: bool = False) -> Rebuilt:
        """Make all rows anew from the journals and the ledger, in one transaction.

        Args:
            accept_loss: also where the database holds what the files do not have any more.

        Raises:
            WouldLoseError: it does; nothing was changed.
        """
        ledger = self._ledger
        if ledger is None:
            raise StoreError(
                f"{self._database.place} has no ledger: it was opened without the project's home"
            )
        with self._database.write() as connection:
            self._catch_up(connection)
            if ledger.id() is None:
                _set_mark(connection, ledger.create(everything(connection)), ledger.size())
            before, held = counts(connection), amounts(connection)
            if self._database.sqlite:
                connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            given = dict(connection.execute(select(schema.names.c.name, schema.names.c.given)).all())
            for table in _DERIVED:
                connection.execute(delete(table))
            problems = self._take_in(connection, ledger, 0)
            _keep_given(connection, given)
            after = counts(connection)
            missing = (*_missing(before, after), *_fewer(held, amounts(connection), before, after))
            if missing and not accept_loss:
                raise WouldLoseError((*missing, *problems))
            _set_mark(connection, ledger.id(), ledger.size())
        return Rebuilt({kind: len(found) for kind, found in after.items()}, missing, tuple(problems))


def _numbers(runs: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    for fields in runs:
        run, number = fields.get("id"), fields.get("seq")
        if isinstance(run, str) and type(number) is int and 0 < number < _MOST:
            yield run, number


def _keep_given(connection: Connection, given: dict[str, int]) -> None:
    """No key is given out twice: not one either of a statement that is gone."""
    n = schema.names.c
    for name, number in given.items():
        here = (n.name == name) & (n.given < number)
        connection.execute(update(schema.names).where(here).values(given=number))


def _missing(before: dict[str, set[Any]], after: dict[str, set[Any]]) -> Generator[str]:
    for kind, had in before.items():
        gone = sorted(map(str, had - after[kind]))
        if gone:
            more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
            yield f"{len(gone)} {kind} ({', '.join(gone[:3])}{more})"


def _fewer(
    held: dict[tuple[str, str, str], int],
    now: dict[tuple[str, str, str], int],
    before: dict[str, set[Any]],
    after: dict[str, set[Any]],
) -> Generator[str]:
    """Journals that give less than the database has of them: cut short, or with lines that can't be read any more."""
    # What is gone as a whole was named as that.
    gone = {name for _, name in before["journals"] - after["journals"]}
    for (kind, run, name), count in sorted(held.items()):
        left = now.get((kind, run, name), 0)
        if left < count and name not in gone:
            yield f"{count - left} of {count} {kind} of training run {run} ({name})"


def _mark(connection: Connection, name: str) -> int | None:
    here = counters.c.name == f"ledger {name}"
    return connection.execute(select(counters.c.value).where(here)).scalar_one_or_none()


def _set_mark(connection: Connection, name: str | None, value: int) -> None:
    here = counters.c.name == f"ledger {name}"
    if not connection.execute(update(counters).where(here).values(value=value)).rowcount:
        connection.execute(insert(counters).values(name=f"ledger {name}", value=value))
