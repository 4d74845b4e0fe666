"""The one language of conditions: `args.lr > 0.01 and last(loss) < 2`, `epoch >= 3 and loss is not null`.

A condition is read into a tree here and judged in `judging`; nothing of it is ever executed as code.

    condition   or, and, not, ( ); comparisons may be chained: 0.2 < args.lr < 0.7
    comparison  < <= > >= = == != <>, in (…), not in (…), between … and …, is null, is not null, is nan, is not nan
    value       numbers, 'texts', true, false, + - * / // %, and
                  loss, epoch, `train/loss`       a column of the view: one value a row
                  args.lr, tags.team, run.status  of the training run; also args['a b']
                  first(loss) last min max mean count   of all values that the training run has of a name

Words are understood in any case. A text is written in ' or ", with the quote doubled inside of it; a name that is none of letters, digits, `_` and
`.` in backticks. What a row or a training run does not have is unknown: a comparison with it selects nothing, and neither does its opposite.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from flor_dagster.errors import QueryError, UnknownNameError

MAX_LENGTH = 2000
MAX_TOKENS = 400
MAX_DEPTH = 40

AGGREGATES = ("first", "last", "min", "max", "mean", "count")
RUN_FIELDS = (
    "key", "id", "status", "reason", "entrypoint", "version", "started", "ended", "seconds", "origin", "lost"
)  # fmt: skip
TIMES = ("started", "ended")
WORDS = ("and", "or", "not", "in", "is", "null", "none", "nan", "true", "false", "between")
COMPARISONS = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "=": "=", "==": "=", "!=": "!=", "<>": "!="}


class ConditionError(QueryError):
    """A condition that can't be read, or does not fit what it is asked of.

    Attributes:
        at: the character, from 0.
    """

    def __init__(self, text: str, at: int, message: str) -> None:
        self.at = at
        start = max(0, text.rfind("\n", 0, at) + 1)
        line = text[start:].partition("\n")[0].replace("\t", " ")
        super().__init__(
            f"the condition is wrong at character {at + 1}: {message}\n    {line}\n    {' ' * (at - start)}^"
        )


class UnknownInConditionError(ConditionError, UnknownNameError):
    """A condition reads a name that nothing has."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, a text, true or false."""

    at: int
    value: bool | int | float | str


@dataclass(frozen=True, slots=True)
class ColumnOf:
    """A column of the view."""

    at: int
    name: str


@dataclass(frozen=True, slots=True)
class OfRun:
    """Something of the training run: a field, an argument, a tag."""

    at: int
    kind: Literal["run", "args", "tags"]
    name: str


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One value of all that a training run has of a name."""

    at: int
    function: str
    name: str


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Two numbers as one; `negative` has none on its left."""

    at: int
    op: Literal["+", "-", "*", "/", "//", "%"]
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison; `op` is one of the values of `COMPARISONS`."""

    at: int
    op: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Among:
    """Whether a value is one of several."""

    at: int
    value: Node
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Is:
    """Whether a value is not there, or no number."""

    at: int
    value: Node
    what: Literal["null", "nan"]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    at: int
    of: Node


@dataclass(frozen=True, slots=True)
class Several:
    """All of them, or any."""

    at: int
    op: Literal["and", "or"]
    parts: tuple[Node, ...]


Node: TypeAlias = Constant | ColumnOf | OfRun | Aggregate | Arithmetic | Compare | Among | Is | Not | Several


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that was read.

    Attributes:
        text: as it was written.
        tree: what it means.
    """

    text: str
    tree: Node

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the view that it reads, in the order of their first mention."""
        return tuple(dict.fromkeys(node.name for node in walk(self.tree) if isinstance(node, ColumnOf)))

    @property
    def aggregated(self) -> tuple[str, ...]:
        """The names of whose values in a whole training run it reads something."""
        return tuple(dict.fromkeys(node.name for node in walk(self.tree) if isinstance(node, Aggregate)))

    def split(self) -> tuple[Condition | None, Condition | None]:
        """What it says of training runs alone, and what it says of rows: both together are the condition."""
        parts = self.tree.parts if isinstance(self.tree, Several) and self.tree.op == "and" else (self.tree,)
        of_rows = tuple(part for part in parts if any(isinstance(n, ColumnOf) for n in walk(part)))
        of_runs = tuple(part for part in parts if part not in of_rows)
        return self._of(of_runs), self._of(of_rows)

    def _of(self, parts: tuple[Node, ...]) -> Condition | None:
        if not parts:
            return None
        return Condition(self.text, parts[0] if len(parts) == 1 else Several(self.tree.at, "and", parts))

    def wrong(self, node: Node, message: str) -> ConditionError:
        """An error that points at a part of it."""
        return ConditionError(self.text, node.at, message)

    def unknown(self, node: Node, message: str) -> UnknownInConditionError:
        """An error that points at a name that nothing has."""
        return UnknownInConditionError(self.text, node.at, message)


def walk(node: Node) -> Iterator[Node]:
    """A part of a condition and all that is in it."""
    yield node
    match node:
        case Arithmetic() | Compare():
            below: tuple[Node, ...] = (node.left, node.right)
        case Among():
            below = (node.value, *node.items)
        case Is():
            below = (node.value,)
        case Not():
            below = (node.of,)
        case Several():
            below = node.parts
        case _:
            below = ()
    for part in below:
        yield from walk(part)


def written(node: Node) -> str:
    """A value as a person writes it, for messages."""
    match node:
        case Constant():
            return repr(node.value)
        case ColumnOf():
            return node.name
        case OfRun():
            return f"{node.kind}.{node.name}"
        case Aggregate():
            return f"{node.function}({node.name})"
        case _:
            return "this"


def read_condition(text: str) -> Condition:
    """Read a condition.

    Raises:
        ConditionError: it is none; the message points at the character.
    """
    return _Reader(text).condition()


# Reading -----------------------------------------------------------------------------------------------------------------


class _Token(NamedTuple):
    kind: str  # number, text, quoted, name, word, sign, end
    text: str
    at: int


_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<quoted>`[^`]+`)
      | (?P<name>[^\W\d]\w*(?:\.\w+)*(?::\d+)?)
      | (?P<sign><=|>=|==|!=|<>|//|[-+*/%<>=(),\[\]])""",
    re.VERBOSE,
)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > MAX_LENGTH:
            raise ConditionError(
                text[:40], 0, f"it is longer than {MAX_LENGTH} characters; it begins like this"
            )
        self.tokens = list(self._tokens())
        self.place = 0
        self.depth = 0
        if len(self.tokens) > MAX_TOKENS:
            raise self._wrong(self.tokens[MAX_TOKENS].at, "it has too many parts")

    def _wrong(self, at: int, message: str) -> ConditionError:
        return ConditionError(self.text, at, message)

    def _tokens(self) -> Iterator[_Token]:
        at = 0
        while at < len(self.text):
            found = _TOKEN.match(self.text, at)
            if found is None:
                raise self._wrong(at, self._unreadable(at))
            kind = found.lastgroup or ""
            if kind == "name" and found[0].lower() in WORDS:
                yield _Token("word", found[0].lower(), at)
            elif kind != "space":
                yield _Token(kind, found[0], at)
            at = found.end()
        yield _Token("end", "", len(self.text))

    def _unreadable(self, at: int) -> str:
        sign = self.text[at]
        if sign in "'\"`":
            return f"the {'name' if sign == '`' else 'text'} that begins here has no end"
        if sign.isdigit():
            return "this is no number; a name that begins with a digit is written in backticks"
        return f"{sign!r} has no meaning in a condition; a name with it is written in backticks"

    # One token ---------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> _Token:
        return self.tokens[self.place]

    def _next(self) -> _Token:
        token = self.now
        self.place += 1
        return token

    def _take(self, *texts: str) -> _Token | None:
        if self.now.kind in ("word", "sign") and self.now.text in texts:
            return self._next()
        return None

    def _need(self, text: str, behind: str) -> None:
        if not self._take(text):
            raise self._wrong(self.now.at, f"{text!r} is missing {behind}")

    def _is_ahead(self, *words: str) -> bool:
        ahead = self.tokens[self.place : self.place + len(words)]
        return [token.text for token in ahead if token.kind in ("word", "sign")] == [*words]

    # What a condition is made of ------------------------------------------------------------------------------------------

    def condition(self) -> Condition:
        if self.now.kind == "end":
            raise self._wrong(0, "it is empty. Write for example: args.lr > 0.01 and last(loss) < 2")
        tree = self._or()
        if self.now.kind != "end":
            raise self._wrong(self.now.at, f"{self.now.text!r} is not expected here")
        if not any(isinstance(node, ColumnOf | OfRun | Aggregate) for node in walk(tree)):
            raise self._wrong(tree.at, "it reads nothing of a training run, and no column")
        return Condition(self.text, tree)

    def _or(self) -> Node:
        return self._several("or", self._and)

    def _and(self) -> Node:
        return self._several("and", self._not)

    def _several(self, op: Literal["and", "or"], one: Any) -> Node:
        parts = [one()]
        while self._take(op):
            parts.append(one())
        return parts[0] if len(parts) == 1 else Several(parts[0].at, op, tuple(parts))

    def _not(self) -> Node:
        token = self._take("not")
        if token is None:
            return self._comparison()
        with _Deeper(self, token):
            return Not(token.at, self._not())

    def _comparison(self) -> Node:
        left = self._sum()
        found: list[Node] = []
        while True:
            token = self.now
            if self._take(*COMPARISONS):
                right = self._sum()
                found.append(Compare(token.at, COMPARISONS[token.text], left, right))
                left = right
            elif self._is_ahead("not", "in") or self._is_ahead("not", "between"):
                self._next()
                found.append(Not(token.at, self._tested(left)))
            elif self.now.kind == "word" and self.now.text in ("in", "is", "between"):
                found.append(self._tested(left))
            else:
                break
        return left if not found else found[0] if len(found) == 1 else Several(left.at, "and", tuple(found))

    def _tested(self, value: Node) -> Node:
        token = self._next()
        if token.text == "in":
            return Among(token.at, value, self._items())
        if token.text == "between":
            low = self._sum()
            self._need("and", "behind the first value of between")
            high = self._sum()
            pair = (Compare(token.at, ">=", value, low), Compare(token.at, "<=", value, high))
            return Several(token.at, "and", pair)
        opposite = self._take("not")
        what = self._take("null", "none", "nan")
        if what is None:
            raise self._wrong(
                self.now.at, "`is` compares with null or nan alone; write = for any other value"
            )
        found = Is(token.at, value, "nan" if what.text == "nan" else "null")
        return Not(token.at, found) if opposite else found

    def _items(self) -> tuple[Node, ...]:
        close = ")" if self._take("(") else "]" if self._take("[") else ""
        if not close:
            raise self._wrong(
                self.now.at, "`in` needs a list of values, like: run.status in ('failed', 'lost')"
            )
        items = [self._sum()]
        while self._take(","):
            if self.now.text == close:
                break
            items.append(self._sum())
        self._need(close, "at the end of the list")
        return tuple(items)

    def _sum(self) -> Node:
        left = self._product()
        while token := self._take("+", "-"):
            left = Arithmetic(token.at, "+" if token.text == "+" else "-", left, self._product())
        return left

    def _product(self) -> Node:
        left = self._signed()
        while token := self._take("*", "/", "//", "%"):
            op: Any = token.text
            left = Arithmetic(token.at, op, left, self._signed())
        return left

    def _signed(self) -> Node:
        token = self._take("-", "+")
        if token is None:
            return self._one()
        with _Deeper(self, token):
            value = self._signed()
        if token.text == "+":
            return value
        if isinstance(value, Constant) and isinstance(value.value, int | float):
            return Constant(token.at, -value.value)
        return Arithmetic(token.at, "-", Constant(token.at, 0), value)

    def _one(self) -> Node:
        token = self._next()
        match token.kind:
            case "number":
                return Constant(token.at, _number(token.text))
            case "text":
                return Constant(token.at, _unquoted(token.text))
            case "quoted":
                return ColumnOf(token.at, token.text[1:-1])
            case "name":
                return self._named(token)
            case "word" if token.text in ("true", "false"):
                return Constant(token.at, token.text == "true")
            case "word" if token.text in ("null", "none", "nan"):
                raise self._wrong(token.at, f"nothing is equal to {token.text}: write `is {token.text}`")
            case "sign" if token.text == "(":
                with _Deeper(self, token):
                    inside = self._or()
                self._need(")", "here")
                return inside
            case "end":
                raise self._wrong(token.at, "it ends too early: a value is missing")
            case _:
                raise self._wrong(token.at, f"a value is missing before {token.text!r}")

    def _named(self, token: _Token) -> Node:
        if self._take("("):
            return self._aggregate(token)
        kind, dot, name = token.text.partition(".")
        if token.text in ("args", "tags") and self._take("["):
            text = self._next()
            if text.kind != "text":
                raise self._wrong(text.at, f"write {token.text}['NAME'] or {token.text}.NAME")
            self._need("]", "behind the name")
            return self._of_run(token, "args" if token.text == "args" else "tags", _unquoted(text.text))
        if dot and kind in ("args", "tags", "run"):
            return self._of_run(token, kind, name)
        if token.text in ("args", "tags", "run"):
            raise self._wrong(token.at, f"write {token.text}.NAME")
        return ColumnOf(token.at, token.text)

    def _of_run(self, token: _Token, kind: Any, name: str) -> OfRun:
        if kind == "run" and name not in RUN_FIELDS:
            raise self._wrong(
                token.at, f"a training run has no {name!r}; it has run.{', run.'.join(RUN_FIELDS)}"
            )
        return OfRun(token.at, kind, name)

    def _aggregate(self, token: _Token) -> Aggregate:
        function = token.text.lower()
        if function not in AGGREGATES:
            raise self._wrong(
                token.at, f"there is no function {token.text!r}; there are {', '.join(AGGREGATES)}"
            )
        name = self._next()
        match name.kind:
            case "name":
                of = name.text
            case "quoted":
                of = name.text[1:-1]
            case "text":
                of = _unquoted(name.text)
            case _:
                raise self._wrong(
                    name.at,
                    f"{function}(…) needs a logged name, like {function}(loss) or {function}(`train/loss`)",
                )
        self._need(")", f"behind {function}({of}")
        return Aggregate(token.at, function, of)


class _Deeper:
    """Bounds how deep conditions may be nested."""

    def __init__(self, reader: _Reader, token: _Token) -> None:
        self.reader = reader
        self.token = token

    def __enter__(self) -> None:
        self.reader.depth += 1
        if self.reader.depth > MAX_DEPTH:
            raise ConditionError(self.reader.text, self.token.at, "it is nested too deeply")

    def __exit__(self, *_: object) -> None:
        self.reader.depth -= 1


def _number(text: str) -> int | float:
    return int(text) if text.isdecimal() else float(text)


def _unquoted(text: str) -> str:
    return text[1:-1].replace(text[0] * 2, text[0])
