"""Why did a replay not come to the same values? What differs first, and what differed around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flor_dagster.errors import ReplayError
from flor_dagster.replay.chance import SHOWN, suspects
from flor_dagster.replay.environments import choose_environment
from flor_dagster.replay.planning import LoopPlan
from flor_dagster.replay.record import Record, RunRecord
from flor_dagster.replay.surroundings import library_facts_of, surrounding_differences

_TRACED = ("numpy", "torch", "sklearn", "scipy", "pandas")


def same_replay(one: RunRecord, other: RunRecord) -> str:
    """Whether two replays by one plan did the same: the first difference in words, empty where there is none.

    Compared are all records, hindsight values included, and the digests that each found unequal, rank by rank.
    """
    pairs = zip(one.ranks, other.ranks, strict=True)
    found = ((mine.rank, words) for mine, theirs in pairs if (words := _first_difference(mine, theirs)))
    rank, words = next(found, (0, ""))
    return f"rank {rank}: {words}" if words and one.peers else words


def _first_difference(one: RunRecord, other: RunRecord) -> str:
    for mine, theirs in zip(one.records, other.records, strict=False):
        if _line(mine) != _line(theirs):
            return f"`{mine.name}` at {mine.path or 'the top of the run'} differs between two replays"
    if len(one.records) != len(other.records):
        return f"one replay emitted {len(one.records)} records, its repetition {len(other.records)}"
    for mine, theirs in zip(_digests(one), _digests(other), strict=False):
        if mine != theirs:
            return f"the state at the end of {mine[0]} differs between two replays"
    return ""


def _line(record: Record) -> tuple[str, str, str]:
    return record.path, record.name, record.text


def _digests(record: RunRecord) -> list[tuple[Any, ...]]:
    return [
        (record.executions[parts[1]].path, parts[2], tuple(parts[4]))
        for _, kind, parts in record.events
        if kind == "d"
    ]


def diagnose(
    recorded: RunRecord,
    replayed: RunRecord,
    plan: LoopPlan,
    *,
    repeats: str | None,
    seeded: str = "",
    sources: Mapping[str, str] | None = None,
    home: Path | None = None,
) -> str:
    """What may be behind a divergence, in words: what is certain first, then what may be, at last the suspects of the source.

    Args:
        recorded: the run's journal.
        replayed: the replay's.
        plan: what was to be executed.
        repeats: what differs between the replay and its repetition, empty where nothing does, None where it was not
            repeated.
        seeded: what differs under another hash seed, of a run that drew its own; empty where nothing does or it was not tried.
        sources: the texts of the version's files that the run loaded.
        home: the `.flor/` folder, which holds the run's list of packages.
    """
    found: list[str] = []
    if repeats:
        found.append(f"the code is not deterministic: {repeats}")
    elif repeats is not None:
        found.append("a second replay gave the same: not chance, something is not as it was")
    if seeded:
        found.append(
            f"it hangs on the hash seed, which this run drew itself (PYTHONHASHSEED was not set): under another one {seeded}"
        )
    found += [words for one in replayed.ranks if (words := _first_generators(one))][:1]
    found += dict.fromkeys(words for one in replayed.ranks for words in data_changes(one))
    found += environment_differences(recorded, replayed)
    found += package_differences(recorded, replayed, home)
    # Where something certain is known to differ and the code repeats itself, it needs no suspect.
    chance = suspects(sources or {}, repeats=not repeats)
    if chance and (repeats or len(found) < 2):
        more = f", and {len(chance) - SHOWN} more places" if len(chance) > SHOWN else ""
        found.append(f"what may be behind it: {', '.join(c.sentence for c in chance[:SHOWN])}{more}")
    if plan.start is not None or plan.skipped:
        found.append("parts of it were restored from checkpoints")
    return "; ".join(found)


def data_changes(replayed: RunRecord) -> list[str]:
    """The data files that a replay read and that are, or may be, others than the recorded run had, in words."""
    return [parts[2] for _, kind, parts in replayed.events if kind == "x" and parts[1] in ("data", "doubt")]


def _first_generators(replayed: RunRecord) -> str:
    for _, kind, parts in replayed.events:
        if kind == "d" and parts[4]:
            names = [root.partition(":")[2] for root in parts[4] if root.startswith("random:")]
            path = replayed.executions[parts[1]].path
            where = path if parts[2] is None else f"{path}[{parts[2]}]"
            if names:
                return (
                    f"the random generator of {', '.join(names)} differs at the end of {where}: "
                    "it was seeded otherwise, or drawn from in another order or number"
                )
            return f"no random generator differs at the end of {where}, where the state first does"
    return ""


def environment_differences(recorded: RunRecord, replayed: RunRecord) -> list[str]:
    """What of the two processes may change results, what decides numbers first: kernels, threads, versions, machine, hash seed."""
    old, new = library_facts_of(recorded).get("versions", {}), library_facts_of(replayed).get("versions", {})
    versions = [
        f"{name} was {old[name]} and is {new[name]}"
        for name in _TRACED
        if old.get(name) and new.get(name) and old[name] != new[name]
    ]
    return versions + surrounding_differences(recorded, replayed)


def package_differences(recorded: RunRecord, replayed: RunRecord, home: Path | None) -> list[str]:
    """The packages of the interpreter that differ from those that were installed then, but for what is imported and said already."""
    mine = str(recorded.header.get("packages") or "")
    if home is None or not mine or mine == replayed.header.get("packages"):
        return []
    try:
        chosen = choose_environment(recorded, str(replayed.header.get("executable") or "") or None, home)
    except ReplayError:
        return []
    return [words for words in chosen.warnings if words.startswith("other packages differ")]
