"""The history of one value up to the statement, and what happens to it behind the statement."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Literal

from flor_dagster.placecheck.events import Event, Frame, Trace
from flor_dagster.placecheck.standing import Path

Relation = Literal["reaches", "may reach", "never"]
TRANSPARENT = ("with", "try", "call")


@dataclass(slots=True)
class History:
    """What happened to a value: `before` the statement, last first, and `after` it; `entry` is what it was at the top."""

    before: list[Event] = field(default_factory=list[Event])
    after: list[Event] = field(default_factory=list[Event])
    entry: Path | None = None
    paths: set[Path] = field(default_factory=set[Path])


def relation(event: Event, context: tuple[Frame, ...]) -> Relation:
    """Whether what happens in an event is seen by a statement that stands behind it in another block."""
    common = 0
    for mine, theirs in zip(context, event.context, strict=False):
        if mine is not theirs:
            break
        common += 1
    rest, mine = event.context[common:], context[common:]
    if rest and mine and rest[0].kind == mine[0].kind == "arm" and rest[0].group == mine[0].group:
        return "never"
    if any(_leaves(frame, rest[:position], context) for position, frame in enumerate(rest)):
        return "never"
    return "reaches" if all(f.kind in TRANSPARENT for f in rest) else "may reach"


def _leaves(frame: Frame, within: tuple[Frame, ...], context: tuple[Frame, ...]) -> bool:
    """Whether a block ends by leaving what the statement stands in."""
    if frame.kind not in ("arm", "handler"):
        return False
    body = _body(frame)
    last = body[-1] if body else None
    if isinstance(last, ast.Return):
        return not any(f.kind == "call" for f in within)
    if isinstance(last, ast.Raise) or _is_false_assertion(last):
        return True
    if isinstance(last, ast.Continue | ast.Break):
        return not any(f.kind == "loop" for f in within) and any(f.kind == "loop" for f in context)
    return False


def _body(frame: Frame) -> list[ast.stmt]:
    if frame.kind == "arm" and frame.label.startswith("not ") and isinstance(frame.node, ast.If):
        node = frame.node
        while len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
            node = node.orelse[0]
        return node.orelse
    return getattr(frame.node, "body", [])


def _is_false_assertion(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant) and not node.test.value


def touching(one: Path, other: Path) -> bool:
    """Whether a path is another one, a part of it or what it is a part of."""
    size = min(len(one), len(other))
    return one[:size] == other[:size]


def history(trace: Trace, path: Path) -> History:
    """Follow a value back from the statement to where it was made, and on from the statement to the end."""
    found = History()
    found.entry = _back(trace, path, found, None)
    known = _aliases(trace, found.paths)
    found.before.clear()
    _back(trace, path, found, known)
    for event in trace.events[trace.star :]:
        if event.kind == "jump" or event.copy is not None:
            continue
        if (any(touching(event.path, p) for p in found.paths) or _changes(event, known)) and relation_after(
            event, trace.context
        ) != "never":
            found.after.append(event)
    return found


def relation_after(event: Event, context: tuple[Frame, ...]) -> Relation:
    """As `relation`, for what happens behind the statement: only another arm of the same `if` has nothing to do with it."""
    for mine, theirs in zip(context, event.context, strict=False):
        if mine is not theirs:
            other = mine.kind == theirs.kind == "arm" and mine.group == theirs.group
            return "never" if other else "may reach"
    return "may reach"


def _back(trace: Trace, path: Path, found: History, aliases: set[Path] | None) -> Path | None:
    current = path
    found.paths.add(path)
    covered: dict[int, set[int]] = {}
    for event in reversed(trace.events[: trace.star]):
        if event.kind == "jump":
            continue
        defines = event.kind == "def" and len(event.path) <= len(current)
        if not touching(event.path, current):
            if aliases is not None and _changes(event, aliases) and relation(event, trace.context) != "never":
                found.before.append(event)
            continue
        seen = relation(event, trace.context)
        if seen == "never":
            continue
        if defines and event.copy is not None:
            source = (*event.copy, *current[len(event.path) :])
            if seen == "reaches":
                current = source
                found.paths.add(current)
            else:
                found.before.append(event)
                found.paths.add(source)
            continue
        if event.copy is not None:
            continue
        found.before.append(event)
        if not defines or event.reads_itself:
            continue
        if seen == "reaches" or _covers(event, trace.context, covered):
            return None
    return current


def _aliases(trace: Trace, paths: set[Path]) -> set[Path]:
    """The other names, and parts of other names, that the object of one of these paths has or gets."""
    found = set(paths)
    for event in trace.events:
        if event.copy is not None:
            for path in list(found):
                if path[: len(event.copy)] == event.copy:
                    found.add((*event.path, *path[len(event.copy) :]))
    return found


def _changes(event: Event, aliases: set[Path]) -> bool:
    """Whether an event changes an object in place through one of these names."""
    if event.copy is not None or event.kind == "jump":
        return False
    if event.kind == "def" and not event.in_place and event.path in aliases:
        return False
    return any(
        touching(event.path, p) and (event.kind != "def" or event.in_place or len(event.path) > len(p))
        for p in aliases
    )


def _covers(event: Event, context: tuple[Frame, ...], covered: dict[int, set[int]]) -> bool:
    """Whether every arm of an `if` that is over has made the value anew."""
    rest = [f for f in event.context if f not in context and f.kind not in TRANSPARENT]
    if len(rest) != 1 or rest[0].kind != "arm" or not rest[0].arms:
        return False
    arms = covered.setdefault(rest[0].group, set())
    arms.add(rest[0].arm)
    return len(arms) == rest[0].arms
