"""What propagation returns: placements and refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RefusalKind = Literal[
    "no-function",
    "no-loop",
    "no-branch",
    "no-variable",
    "no-attribute",
    "not-definite",
    "other-definition",
    "weak-place",
    "changes-training",
    "unsupported-syntax",
]


@dataclass(frozen=True, slots=True)
class Statement:
    """A `flor.log` statement of one source text, or the block of new statements that holds it.

    `lines` are 1-based and inclusive, in the source that it was found in. `name` is the logged name, with a
    hole `{}` for each part that is computed; None where it is no text. `expression` is the logged expression normalised by `ast.unparse`. `loops` are the names of the
    enclosing `flor.loop`s, outermost first; `function` is the qualified name of the enclosing function, `<module>` at
    the top; `ordinal` counts statements of the same name, function and loops from 0.
    """

    name: str | None
    expression: str
    lines: tuple[int, int]
    function: str
    loops: tuple[str, ...]
    ordinal: int

    @property
    def identity(self) -> str:
        """A text that is equal for equal (name, expression, place); moves and reformatting keep it."""
        place = "/".join((self.function, *self.loops))
        return f"{self.name}={self.expression}@{place}#{self.ordinal}"


@dataclass(frozen=True, slots=True)
class Placement:
    """One statement at its place in the old version.

    `status` is `placed` (the old file gained the lines `lines`, 1-based and inclusive in the resulting source) or
    `already-there` (`lines` are where its counterpart stands in the *resulting* source; nothing was added).
    `score` is the evidence for the place: at 10 and above nothing about it is in doubt. `renamed` maps names of the new
    source to the old version's. `carried` names what travelled along (imports, helpers); it stands first in `lines`,
    but for our own import, which goes to the top. `diff` is a unified diff. `elsewhere` are lines of the resulting source
    at which the old version logs the same name, too.
    """

    statement: Statement
    status: Literal["placed", "already-there"]
    lines: tuple[int, int]
    score: float
    renamed: tuple[tuple[str, str], ...]
    carried: tuple[str, ...]
    diff: str
    elsewhere: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one statement has no place in the old version.

    `missing` is the name, loop or function that the old version lacks (empty where nothing is missing);
    `candidate_line` the best place found, 1-based in the old source, or None; `sentence` says it all to a person.
    """

    statement: Statement
    kind: RefusalKind
    missing: str
    candidate_line: int | None
    candidate_score: float | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Propagated:
    """The old source with everything placed that could be, and why the rest could not.

    `source` is byte for byte the old file but for the added lines; `added` are their 1-based line numbers in `source`,
    ascending, so that line numbers of the old file can be mapped. A statement that belongs between two that share a line
    (`if x: f()`, `a(); b()`) opens that line: `rewritten` are the line numbers in `source` of lines that lost a part to
    added ones. The program without the statements is the same.
    """

    source: str
    placements: tuple[Placement, ...]
    refusals: tuple[Refusal, ...]
    added: tuple[int, ...]
    rewritten: tuple[int, ...] = ()
