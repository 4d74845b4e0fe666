"""What the log store hands out: frozen rows, typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datetime import datetime

RunStatus = Literal["running", "finished", "failed", "interrupted", "lost"]
CellStatus = Literal["open", "recorded", "replayed", "refused", "excluded", "failed"]
Fidelity = Literal["recorded", "exact", "unverified", "within tolerance", "diverged"]
PlaceSaid = Literal["certain", "likely", "contradicted"]
Place = Literal["certain", "confirmed", "likely", "contradicted"]
"""What a cell says of its statement's place: `confirmed` is a likely one that a person confirmed."""

SETTLED: frozenset[str] = frozenset({"recorded", "replayed", "refused", "excluded"})


def once(status: str, sentence: str) -> str:
    """A sentence without its status in front of it, however often it stands there."""
    while sentence.startswith(f"{status}: "):
        sentence = sentence.removeprefix(f"{status}: ")
    return sentence


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One git commit that holds exactly the code of some training runs."""

    commit: str
    tree: str
    dirty: bool
    excluded: tuple[tuple[str, str], ...]
    created: datetime


@dataclass(frozen=True, slots=True)
class RunRow:
    """One training run.

    `key` is its partition key; `commit` is None where no version could be kept; `lost` is how many lines of its journals
    could not be written; `approximate` says why its version is not certainly the code that it ran, empty where it is.
    """

    id: str
    key: str
    status: RunStatus
    reason: str
    entrypoint: str
    commit: str | None
    started: datetime
    ended: datetime | None
    seconds: float | None
    args: dict[str, Any]
    origin: str
    tags: dict[str, str]
    header: dict[str, Any]
    ingested_seq: int
    lost: int = 0
    approximate: str = ""


@dataclass(frozen=True, slots=True)
class LoopRow:
    """One execution of one `flor.loop`.

    `path` is its place: ((loop name, ordinal, iteration index) of each enclosing iteration…), then (name, ordinal).
    """

    loop_id: int
    parent_ctx: int
    parent_loop: int | None
    parent_index: int | None
    name: str
    ordinal: int
    file: str
    function: str
    line: int
    how: str
    count: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class StatementRow:
    """A statement known to the project. `key` is given out once and never used again."""

    id: int
    key: str
    name: str
    expression: str
    file: str
    function: str
    loops: tuple[str, ...]
    ordinal: int
    line: int
    question: bool
    source: str
    created: datetime

    @property
    def shown(self) -> str:
        """The key as people read it: the name as it is written, and which of its definitions it is."""
        _, colon, number = self.key.partition(":")
        return self.name + colon + number


@dataclass(frozen=True, slots=True)
class PlacementRow:
    """Statement by version: placed where, already there, or refused why. `propagator` is the engine's version.

    `verdict` is what the second opinion said of the place, with its `reasons`; empty where it was not asked. `place` is a
    digest of the place; `confirmed` says when a person confirmed this very place, `confirmed_by` who.
    """

    statement_id: int
    commit: str
    propagator: str
    status: Literal["placed", "already-there", "refused"]
    score: float | None
    sentence: str
    kind: str
    diff: str
    file: str
    line: int | None
    verdict: PlaceSaid | Literal[""] = ""
    reasons: tuple[str, ...] = ()
    place: str = ""
    confirmed: datetime | None = None
    confirmed_by: str = ""

    @property
    def said(self) -> Place | None:
        """The place in one word; None where nobody looked at it."""
        if self.verdict == "likely" and self.confirmed is not None:
            return "confirmed"
        return self.verdict or None

    @property
    def waits(self) -> bool:
        """Whether a person has to confirm the place before anything is answered from it."""
        return self.said == "likely"


@dataclass(frozen=True, slots=True)
class CellRow:
    """Training run by statement. Settled, failed or open; `sentence` is the answer in words.

    `coverage` says which iterations are answered, by which `replays`; None leaves what is stored as it is. `place` is what
    is thought of the statement's place in the run's version, beside the fidelity of its replay; None where nobody looked.
    """

    run_id: str
    statement_id: int
    status: CellStatus
    fidelity: Fidelity | None
    sentence: str
    rows: int
    replay_id: str | None
    updated: datetime
    detail: dict[str, Any] = field(default_factory=dict[str, Any])
    coverage: dict[str, Any] | None = None
    place: Place | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing more is to be done for this cell. One that lacks what the next asker may have is asked again."""
        return self.status in SETTLED and not self.detail.get("ask_again")


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """One replay of one training run: its plan, what it cost, how true it is."""

    id: str
    run_id: str
    started: datetime
    seconds: float | None
    estimated_seconds: float | None
    status: Literal["running", "finished", "failed"]
    fidelity: Fidelity | None
    compared_records: int
    compared_digests: int
    sentence: str
    plan: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild found.

    Attributes:
        counts: how many of what there are now.
        missing: what there was before and is not any more, by kind, in words.
        problems: what the ledger names and the disk does not have, in words.
    """

    counts: dict[str, int]
    missing: tuple[str, ...]
    problems: tuple[str, ...]
