"""The ledger held against the database: what of the one does not follow from the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flor_dagster.store.decisions import everything

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from flor_dagster.store.decisions import Fields

_KEYS = {
    "run": ("id",), "statement": ("key",), "form": ("identity",), "link": ("scope", "file", "line", "column", "name"),
    "placement": ("statement", "commit", "propagator"), "confirm": ("statement", "commit"), "replay": ("id",),
    "cell": ("run", "statement"), "approximate": ("run",),
}  # fmt: skip
_WORDS = {
    "run": "training runs", "statement": "statements", "form": "texts of statements", "link": "call sites of statements",
    "placement": "placements", "confirm": "confirmed places", "replay": "replays", "cell": "cells",
    "approximate": "runs whose version is approximate",
}  # fmt: skip
# A run that was not over when the ledger named it may be so by now.
_PASSING = {"run": ("seq",)}
_NAMED = 3

Known = dict[tuple[str, ...], str]


def known(connection: Connection) -> Known:
    """What a database holds that the journals do not say: the kind and key of each thing → all of it."""
    return dict(_flat(decision for batch in everything(connection) for decision in batch))


def _flat(decisions: Iterable[tuple[str, Fields]]) -> Iterator[tuple[tuple[str, ...], str]]:
    for kind, fields in decisions:
        if kind == "commit":
            yield from _flat([("replay", fields["replay"])])
            yield from _flat([("cell", cell) for cell in fields["cells"]])
            continue
        key = (kind, *(str(fields[name]) for name in _KEYS[kind]))
        said = {name: value for name, value in fields.items() if name not in _PASSING.get(kind, ())}
        yield key, json.dumps(said, sort_keys=True, default=dict)


def disagreements(database: Known, ledger: Known) -> Iterator[str]:
    """In words, by kind: what the one has and the other has not, and what both have and say differently."""
    for kind, words in _WORDS.items():
        ours = {key: said for key, said in database.items() if key[0] == kind}
        theirs = {key: said for key, said in ledger.items() if key[0] == kind}
        yield from _sentence(ours.keys() - theirs.keys(), words, "are in the database and not in the ledger")
        yield from _sentence(theirs.keys() - ours.keys(), words, "are in the ledger and not in the database")
        other = {key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
        yield from _sentence(other, words, "are one thing in the database and another in the ledger")


def _sentence(keys: set[tuple[str, ...]], words: str, how: str) -> Iterator[str]:
    if keys:
        named = "; ".join(" ".join(key[1:]) for key in sorted(keys)[:_NAMED])
        more = f"; and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        yield f"{len(keys)} {words} {how} ({named}{more})"


def unreadable(ledger: Path) -> list[int]:
    """The bytes at which the lines of a ledger begin that can't be read."""
    found: list[int] = []
    at = 0
    with ledger.open("rb") as file:
        for raw in file:
            if not _is_line(raw):
                found.append(at)
            at += len(raw)
    return found


def _is_line(raw: bytes) -> bool:
    try:
        parts: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return isinstance(parts, list) and bool(parts)
