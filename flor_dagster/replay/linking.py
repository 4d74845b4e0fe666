"""Which statement is it? Links the call sites of recorded versions, and the newest source, to the project's statements.

A statement is known by its forms: file, name, normalised expression and place. A form that is not known yet is compared with
the statements of the same name by propagation's matching: a renamed variable or a moved block keeps its statement, another
expression is another one, whose key is `name:2`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from flor_dagster.computed import fits, is_computed
from flor_dagster.errors import SourceSyntaxError
from flor_dagster.propagation import Statement, counterparts, find_statements
from flor_dagster.propagation.statements import read
from flor_dagster.store import LogStore
from flor_dagster.store.models import RunRow, StatementRow
from flor_dagster.versions import Repository


@dataclass(frozen=True, slots=True)
class Located:
    """A statement of some version: in this file, at this place."""

    file: str
    statement: Statement
    name: str

    @property
    def form(self) -> str:
        """What it is known by."""
        place = "/".join((self.statement.function, *self.statement.loops))
        return f"{self.file}::{self.name}={self.statement.expression}@{place}#{self.statement.ordinal}"


class Linker:
    """Finds or makes the statement that a call site or a line of source is.

    Args:
        repository: the user's repository.
        store: the project's log store.
    """

    def __init__(self, repository: Repository, store: LogStore) -> None:
        self._repository = repository
        self._store = store
        self._counterparts: Callable[[str, str], tuple[tuple[Statement, Statement, bool], ...]] = (
            functools.lru_cache(64)(counterparts)
        )
        self._statements: Callable[[str, str], tuple[Statement, ...]] = functools.lru_cache(256)(
            self._read_statements
        )
        self._calls: Callable[[str, str], tuple[tuple[Statement, tuple[int, int]], ...]] = (
            functools.lru_cache(256)(self._read_calls)
        )

    def _read_statements(self, commit: str, file: str) -> tuple[Statement, ...]:
        text = self._repository.read(commit, file)
        return find_statements(text) if text is not None else ()

    def _read_calls(self, commit: str, file: str) -> tuple[tuple[Statement, tuple[int, int]], ...]:
        text = self._repository.read(commit, file)
        if text is None:
            return ()
        found = read(text.removeprefix("\ufeff"), file).found
        return tuple((one.statement, (one.call.lineno, one.call.col_offset)) for one in found)

    def statements_of(self, commit: str, file: str) -> tuple[Statement, ...]:
        """The `flor.log` statements of one file of a version.

        Raises:
            SourceSyntaxError: the file is no Python; the message names it.
        """
        try:
            return self._statements(commit, file)
        except SourceSyntaxError as error:
            raise SourceSyntaxError(f"{file}: {error}") from error

    def link_run(self, run: RunRow) -> tuple[StatementRow, ...]:
        """Link every call site of a run that has no statement yet; the statements that are new."""
        if run.commit is None:
            return ()
        fresh: list[StatementRow] = []
        linked: set[tuple[str, int, int, int]] = set()
        for _, name, file, _, line, column, statement_id in self._store.call_sites(run.id):
            if statement_id is not None:
                continue
            located = self._locate(run.commit, file, line, column, name)
            if located is None:
                continue
            row, new = self.identify(located, run.commit, question=False)
            # A call that computes its names is linked once for all of them.
            link = (file, line, column, row.id)
            if link not in linked or not is_computed(located.name):
                self._store.link_call_site(run.commit, file, line, located.name, row.id, column)
                linked.add(link)
            if new:
                fresh.append(row)
        return tuple(fresh)

    def _locate(self, commit: str, file: str, line: int, column: int, name: str) -> Located | None:
        """The statement that a call is; None where two of one name share the line, and the column is not known."""
        try:
            found = self._calls(commit, file)
        except SourceSyntaxError:
            return None
        here = [
            (statement, at)
            for statement, at in found
            if statement.lines[0] <= line <= statement.lines[1]
            and statement.name is not None
            and fits(statement.name, name)
        ]
        if len(here) > 1:
            # Of several on these lines it is the one that begins there.
            here = [one for one in here if one[1] == (line, column)] or [
                one for one in here if one[1][0] == line and not column
            ]
        return Located(file, here[0][0], here[0][0].name or name) if len(here) == 1 else None

    def identify(self, located: Located, commit: str, *, question: bool) -> tuple[StatementRow, bool]:
        """The statement at a place of a version, made where there is none; whether it is new."""
        known = self._store.find_form(located.form)
        while known is None:
            # What comes while the sources are compared is not seen, and then looked at again: two that ask at once make one.
            seen = [row.id for row in self._store.statements(name=located.name)]
            same = self._same_by_matching(located, commit)
            if same is not None:
                return self._store.add_form(same.id, located.form), False
            made = self._store.find_or_add_statement(
                located.form, seen, located.name, located.statement.expression, file=located.file,
                function=located.statement.function, loops=located.statement.loops, ordinal=located.statement.ordinal,
                line=located.statement.lines[0], question=question, source=commit,
            )  # fmt: skip
            if made is not None:
                return made
            known = self._store.find_form(located.form)
        return known, False

    def _same_by_matching(self, located: Located, commit: str) -> StatementRow | None:
        text = self._repository.read(commit, located.file)
        if text is None:
            return None
        for row in sorted(self._store.statements(name=located.name), key=lambda r: r.created, reverse=True):
            # The version that it was last seen in is the nearest one; the one that it was first written in never moved.
            for known in dict.fromkeys((*self._last_seen(row), (row.source, row.file))):
                if self._is_counterpart(located, text, row, *known):
                    return row
        return None

    def _is_counterpart(self, located: Located, text: str, row: StatementRow, commit: str, file: str) -> bool:
        other = self._repository.read(commit, file)
        if other is None:
            return False
        try:
            pairs = self._counterparts(text, other)
        except SourceSyntaxError:
            return False
        return any(
            same_expression
            and _same_place(new, located.statement)
            and new.name == located.name
            and self._belongs(Located(file, old, located.name).form, row)
            for new, old, same_expression in pairs
        )

    def _last_seen(self, row: StatementRow) -> tuple[tuple[str, str], ...]:
        """The newest version of a training run that has a statement, and the file that it stands in there."""
        seen: set[str] = set()
        for run in reversed(self._store.runs()):
            if run.commit is None or run.commit in seen:
                continue
            seen.add(run.commit)
            for _, _, file, *_, linked in self._store.call_sites(run.id):
                if linked == row.id:
                    return ((run.commit, file),)
        return ()

    def _belongs(self, form: str, row: StatementRow) -> bool:
        known = self._store.find_form(form)
        return known is not None and known.id == row.id


def _same_place(one: Statement, other: Statement) -> bool:
    """Whether two statements of one text are the same; several may share a line."""
    return (one.lines, one.expression, one.ordinal) == (other.lines, other.expression, other.ordinal)
