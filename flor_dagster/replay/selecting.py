"""Which training runs: a condition as a person writes it, `args.lr > 0.01 and last(loss) < 2`.

A small part of Python's own expression syntax, read by `ast` and never evaluated as code; SQL's way of writing the same
(`=`, `<>`, `AND`, `IS NOT NULL`) is understood too. What a run does not have is unknown, as in SQL: a comparison with it
selects nothing, and neither does its opposite.
"""

from __future__ import annotations

import ast
import io
import math
import operator
import tokenize
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import QueryError, UnknownNameError
from flor_dagster.parsing import parse_python

if TYPE_CHECKING:
    from flor_dagster.replay.model import Question
    from flor_dagster.store import LogStore
    from flor_dagster.store.models import RunRow

MAX_LENGTH = 2000
ALLOWED = (
    "args.NAME, tags.NAME (or tags['NAME']), last(NAME), first(NAME), min(NAME), max(NAME), mean(NAME), count(NAME), "
    "key, status, entrypoint, origin, commit, started, ended, seconds"
)

_FIELDS = ("key", "status", "entrypoint", "origin", "commit", "started", "ended", "seconds")
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Mod: operator.mod,
}  # fmt: skip
_AGGREGATES: dict[str, Callable[[Sequence[Any]], Any]] = {
    "first": lambda v: v[0], "last": lambda v: v[-1], "min": min, "max": max, "mean": lambda v: math.fsum(v) / len(v),
}  # fmt: skip
_SQL = {
    "AND": "and",
    "OR": "or",
    "NOT": "not",
    "IN": "in",
    "IS": "is",
    "NULL": "None",
    "TRUE": "True",
    "FALSE": "False",
}


def choose_runs(runs: Sequence[RunRow], store: LogStore, question: Question) -> tuple[RunRow, ...]:
    """The training runs that a question is asked of, in the order of their start.

    Args:
        runs: the project's.
        store: its log store.
        question: `runs`, `where` and `latest` narrow each other.

    Raises:
        UnknownNameError: a run is not known, or belongs to another entry point.
        QueryError: the condition makes no sense.
    """
    chosen = tuple(runs)
    if question.runs is not None:
        known = {run.id for run in runs}
        named = [store.run(name) for name in question.runs]
        for run in named:
            if run.id not in known:
                raise UnknownNameError(
                    f"training run {run.key} belongs to another entry point ({run.entrypoint})"
                )
        ids = {run.id for run in named}
        chosen = tuple(run for run in chosen if run.id in ids)
    if question.where:
        chosen = Condition(question.where).select(chosen, store)
    return chosen if question.latest is None else chosen[max(len(chosen) - question.latest, 0) :]


class Condition:
    """A condition on training runs.

    Args:
        text: see the module.

    Raises:
        QueryError: when it is none; the message says what is allowed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > MAX_LENGTH:
            raise QueryError(f"the condition is longer than {MAX_LENGTH} characters")
        try:
            self._tree = parse_python(_as_python(text), mode="eval").body
        except (SyntaxError, ValueError, tokenize.TokenError) as error:
            raise QueryError(
                f"the condition {text!r} can't be read: {error}. Write for example: args.lr > 0.01 and last(loss) < 2"
            ) from error
        self.names = tuple(dict.fromkeys(self._check(self._tree)))
        """The logged names that it reads."""

    def select(self, runs: Sequence[RunRow], store: LogStore) -> tuple[RunRow, ...]:
        """The runs that fulfil it.

        Args:
            runs: to choose from.
            store: where their logged values are.

        Raises:
            QueryError: when its parts don't fit each other, as in a text compared with a number.
            UnknownNameError: when a name was never logged.
        """
        values = {name: _values(store, name, runs) for name in self.names}
        chosen: list[RunRow] = []
        for run in runs:
            reader = _Reader(run, {name: values[name].get(run.key, ()) for name in self.names}, self.text)
            if reader.truth(self._tree) is True:
                chosen.append(run)
        return tuple(chosen)

    def _check(self, node: ast.expr) -> list[str]:
        """The logged names below a node; refuses what is not allowed."""
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str()):
                return []
            case ast.Name(id=name) if name in _FIELDS:
                return []
            case ast.Attribute(value=ast.Name(id="args" | "tags")):
                return []
            case ast.Subscript(value=ast.Name(id="args" | "tags"), slice=ast.Constant(value=str())):
                return []
            case ast.Call(func=ast.Name(id=function), args=[argument], keywords=[]) if function in (
                *_AGGREGATES,
                "count",
            ):
                return [_logged_name(argument, self.text)]
            case ast.BoolOp(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
                return [name for part in parts for name in self._check(part)]
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                return self._check(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return self._check(left) + self._check(right)
            case ast.Compare(left=left, comparators=others):
                return [name for part in (left, *others) for name in self._check(part)]
            case ast.Name(id=name):
                raise QueryError(
                    f"the condition {self.text!r} reads {name!r}, which is nothing of a training run. Write args.{name} for "
                    f"an argument, last({name}) for the last logged value; there is {ALLOWED}"
                )
            case _:
                raise QueryError(
                    f"the condition {self.text!r} uses {ast.unparse(node)!r}, which is not allowed there. Allowed are "
                    f"{ALLOWED}; numbers, texts, comparisons, `in (…)`, and, or, not, + - * / %, `is None`"
                )


class _Reader:
    def __init__(self, run: RunRow, values: Mapping[str, Sequence[Any]], text: str) -> None:
        self._run = run
        self._values = values
        self._text = text

    def truth(self, node: ast.expr) -> bool | None:
        """Whether a condition holds; None where that is unknown."""
        match node:
            case ast.BoolOp(op=op, values=parts):
                found = [self.truth(part) for part in parts]
                decides = isinstance(op, ast.Or)
                if decides in found:
                    return decides
                return None if None in found else not decides
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.truth(operand)
                return None if inner is None else not inner
            case ast.Compare(left=left, ops=ops, comparators=others):
                parts = [left, *others]
                found = [self._one(op, a, b) for op, a, b in zip(ops, parts, parts[1:], strict=False)]
                return False if False in found else None if None in found else True
            case _:
                value = self.value(node)
                if value is None or isinstance(value, bool):
                    return value
                raise QueryError(f"{ast.unparse(node)!r} in the condition {self._text!r} is no yes or no")

    def _one(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> bool | None:
        mine = self.value(left)
        if isinstance(op, ast.Is | ast.IsNot):
            return (mine is None) == isinstance(op, ast.Is)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List):
                raise QueryError(
                    f"in {self._text!r}, `in` needs a list of values, like: status in ('failed', 'lost')"
                )
            if mine is None:
                return None
            among = any(mine == self._fitting(mine, self.value(item)) for item in right.elts)
            return among == isinstance(op, ast.In)
        other = self.value(right)
        if mine is None or other is None:
            return None
        try:
            return bool(_COMPARE[type(op)](self._fitting(other, mine), self._fitting(mine, other)))
        except TypeError:
            raise QueryError(
                f"{ast.unparse(left)} is {mine!r} in training run {self._run.key}, which can't be compared with {other!r}"
            ) from None

    def _fitting(self, to: Any, value: Any) -> Any:
        """A text as the time that it is compared with."""
        if isinstance(to, datetime) and isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                raise QueryError(
                    f"{value!r} in the condition {self._text!r} is no time; write it as '2026-03-01' or '2026-03-01T12:00'"
                ) from None
            return moment if moment.tzinfo is not None else moment.astimezone()
        return value

    def value(self, node: ast.expr) -> Any:
        """What an expression is for this run; None where it has nothing of the kind."""
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                found = getattr(self._run, name)
                return found.astimezone(UTC) if isinstance(found, datetime) else found
            case (
                ast.Attribute(value=ast.Name(id=of), attr=name)
                | ast.Subscript(value=ast.Name(id=of), slice=ast.Constant(value=str(name)))
            ):
                return (self._run.args if of == "args" else self._run.tags).get(name)
            case ast.Call(func=ast.Name(id=function), args=[argument]):
                values = self._values[_logged_name(argument, self._text)]
                return len(values) if function == "count" else self._aggregate(function, values)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.value(operand)
                return None if inner is None else -inner
            case ast.BinOp(left=left, op=op, right=right):
                a, b = self.value(left), self.value(right)
                try:
                    return None if a is None or b is None else _ARITHMETIC[type(op)](a, b)
                except (TypeError, ArithmeticError) as error:
                    raise QueryError(
                        f"{ast.unparse(node)!r} can't be computed for training run {self._run.key}: {error}"
                    ) from None
            case _:
                return self.truth(node)

    def _aggregate(self, function: str, values: Sequence[Any]) -> Any:
        try:
            return _AGGREGATES[function](values) if values else None
        except TypeError as error:
            raise QueryError(
                f"{function}(…) can't be computed for training run {self._run.key}: {error}"
            ) from None


def _logged_name(node: ast.expr, text: str) -> str:
    """`loss`, `train.loss` or `'train/loss'`."""
    match node:
        case ast.Constant(value=str(name)):
            return name
        case ast.Name() | ast.Attribute():
            return ast.unparse(node)
        case _:
            raise QueryError(
                f"{ast.unparse(node)!r} in the condition {text!r} is no logged name; write last(loss) or last('train/loss')"
            )


def _values(store: LogStore, name: str, runs: Sequence[RunRow]) -> dict[str, list[Any]]:
    """Run key → its values of a name, in loop order."""
    if name not in store.names() and ":" not in name:
        raise UnknownNameError(
            f"no training run logged `{name}`; logged were {', '.join(sorted(store.names())[:20])}"
        )
    frame = store.dataframe(name, runs=[run.key for run in runs])
    frame = frame[frame[name].notna()]
    found: dict[str, list[Any]] = {}
    for key, value in zip(frame["run"].tolist(), frame[name].tolist(), strict=True):
        found.setdefault(key, []).append(value)
    return found


def _as_python(text: str) -> str:
    """SQL's words and signs as Python's."""
    tokens: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text.strip().replace("<>", "!=")).readline):
        kind, word = token.type, token.string
        if kind == tokenize.OP and word == "=":
            word = "=="
        elif kind == tokenize.NAME and word.upper() in _SQL and word.isupper():
            word = _SQL[word]
        tokens.append((kind, word))
    return tokenize.untokenize(tokens).strip()
