"""Compare two histories and two places: what stands on the other side, what one side alone does, which block is another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from flor_dagster.placecheck.events import Event, Frame, Trace
from flor_dagster.placecheck.histories import History
from flor_dagster.placecheck.standing import BUILTINS

T = TypeVar("T")
_MOST = 150
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Finding:
    """What speaks against a place."""

    verdict: Literal["likely", "contradicted"]
    reason: str


def likeness(ours: Event, theirs: Event, known_new: frozenset[str], known_old: frozenset[str]) -> int:
    """How alike two events are: 3 the same text, 2 the same but for names, 1 the same call, 0 another."""
    if {ours.kind, theirs.kind} not in ({"def"}, {"store"}, {"call"}, {"def", "store"}):
        return 0
    if ours.copy is not None or theirs.copy is not None:
        return 2 if ours.copy is not None and theirs.copy is not None else 0
    if ours.exact == theirs.exact and ours.exact:
        return 3
    only_new, only_old = ours.names - theirs.names, theirs.names - ours.names
    others = bool(only_new) and only_new <= known_old and bool(only_old) and only_old <= known_new
    same_call = _same_call(ours.callee, theirs.callee) and not _nested(ours, theirs)
    if ours.shape == theirs.shape:
        return 2 if not others else int(same_call)
    return int(same_call)


def _same_call(ours: str, theirs: str) -> bool:
    """Whether two functions are one, perhaps of another library: `mean` and `reduce_mean`."""
    mine, other = sorted((ours.strip("_"), theirs.strip("_")), key=len)
    if not mine or mine == other:
        return bool(mine)
    name = mine.removeprefix("call ")
    return name != mine and len(name) > 3 and other.startswith("call ") and other.endswith(f"_{name}")


def _nested(ours: Event, theirs: Event) -> bool:
    """Whether one of two calls of a function has the other within: `clip(clip(g))` is no `clip(g)`."""
    name = f"{ours.callee.removeprefix('call ')}("
    within = ours.shape in theirs.shape or theirs.shape in ours.shape
    return ours.shape != theirs.shape and (within or ours.shape.count(name) != theirs.shape.count(name))


def align(ours: Sequence[T], theirs: Sequence[T], like: Callable[[T, T], int]) -> list[tuple[int, int, int]]:
    """Pair two sequences in order, so that the pairs are as alike as they can be."""
    rows, columns = len(ours), len(theirs)
    best = [[0] * (columns + 1) for _ in range(rows + 1)]
    level = [[like(a, b) for b in theirs] for a in ours]
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            taken = level[i][j] * 4 + 1 + best[i + 1][j + 1] if level[i][j] else 0
            best[i][j] = max(best[i + 1][j], best[i][j + 1], taken)
    pairs: list[tuple[int, int, int]] = []
    i = j = 0
    while i < rows and j < columns:
        if level[i][j] and best[i][j] == level[i][j] * 4 + 1 + best[i + 1][j + 1]:
            pairs.append((i, j, level[i][j]))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _told(event: Event) -> str:
    name = ".".join((event.path[0].split(".", 1)[-1], *event.path[1:]))
    if event.kind == "call":
        return f"the call of `{event.callee}`"
    return f"`{name} = …`" if not event.callee.startswith("call ") else f"`{name} = {event.callee[5:]}(…)`"


class Comparison:
    """Compares what both versions do around the statement, and collects what speaks against the place."""

    def __init__(self, new: Trace, old: Trace, *, gradients: bool = False) -> None:
        self.new, self.old = new, old
        self._known_new, self._known_old = _known(new), _known(old)
        self._gradients = gradients
        self.followed: list[tuple[Event, Event]] = []
        self.findings: list[Finding] = []

    def _like(self, ours: Event, theirs: Event) -> int:
        return likeness(ours, theirs, self._known_new, self._known_old)

    def doubt(self, reason: str) -> None:
        """Something can't be confirmed."""
        self.findings.append(Finding("likely", reason))

    def deny(self, reason: str) -> None:
        """Something shows that the place is another."""
        self.findings.append(Finding("contradicted", reason))

    def histories(self, name: str, ours: History, theirs: History) -> None:
        """Compare what happens to one value in both versions."""
        before_new, before_old = self._telling(ours.before), self._telling(theirs.before)
        after_new, after_old = self._telling(ours.after), self._telling(theirs.after)
        if max(map(len, (before_new, before_old, after_new, after_old))) > _MOST:
            self.doubt(f"too much happens to `{name}` to follow it")
            return
        pairs = align(before_new, before_old, self._like)
        later = align(after_new, after_old, lambda a, b: level if (level := self._like(a, b)) > 1 else 0)
        left_new = [e for k, e in enumerate(before_new) if k not in {i for i, _, _ in pairs}]
        left_old = [e for k, e in enumerate(before_old) if k not in {j for _, j, _ in pairs}]
        rest_new = [e for k, e in enumerate(after_new) if k not in {i for i, _, _ in later}]
        rest_old = [e for k, e in enumerate(after_old) if k not in {j for _, j, _ in later}]
        self._other_side(left_new, rest_old, "before the statement", "behind it")
        self._other_side(rest_new, left_old, "behind the statement", "before it")
        for i, j, level in pairs:
            mine, other = before_new[i], before_old[j]
            if any(self._like(mine, e) > max(level, 1) for e in rest_old) or any(
                self._like(e, other) > max(level, 1) for e in rest_new
            ):
                self.deny(
                    f"{_told(other)} reaches the statement in the old version, another definition in the newest"
                )
        for i, j, level in pairs:
            again = [
                e for e in (*rest_new, *rest_old) if e.kind == "def" and e.callee == before_new[i].callee
            ]
            if level == 1 and again:
                self.doubt(f"{_told(before_old[j])} may be that before the statement or that behind it")
        if any(_grows(e, theirs) for e in rest_old) and not any(_grows(e, ours) for e in rest_new):
            self.doubt(f"`{name}` is added to behind the place in the old version, and nowhere in the newest")
        self.followed += [(before_new[i], before_old[j]) for i, j, level in pairs if level > 1]
        made_later = any(e.kind == "def" for e in (*rest_new, *rest_old))
        if not made_later and _defined_anew(left_new, left_old):
            return
        for event in left_new:
            if event.given:
                continue
            self.doubt(f"{_told(event)} comes before the statement and has no counterpart in the old version")
        for event in left_old:
            if event.given:
                continue
            self.doubt(f"{_told(event)} comes before the place and has no counterpart in the newest version")
        self._ordinals(ours, theirs, [(before_new[i], before_old[j]) for i, j, level in pairs if level > 1])

    def _telling(self, events: Sequence[Event]) -> list[Event]:
        quiet = () if self._gradients else ("backward", "zero_grad")
        return [e for e in events if e.strong and e.callee not in quiet]

    def tied(self, ours: Sequence[Event], theirs: Sequence[Event], at_new: int, at_old: int) -> None:
        """Compare the sides of what changes an object through another that was made of it."""
        counts = [
            Counter(e.callee for e in self._telling(s))
            for s in (ours[:at_new], ours[at_new:], theirs[:at_old], theirs[at_old:])
        ]
        for callee in (counts[0] - counts[2]) & (counts[3] - counts[1]):
            self.deny(f"the call of `{callee}` comes before the statement in the newest version only")
        for callee in (counts[1] - counts[3]) & (counts[2] - counts[0]):
            self.deny(f"the call of `{callee}` comes before the place in the old version only")

    def _other_side(self, ours: list[Event], theirs: list[Event], here: str, there: str) -> None:
        for event in ours:
            found = next((e for e in theirs if self._like(event, e) > 1), None)
            if found is not None:
                self.deny(f"{_told(event)} comes {here} in the newest version and {there} in the old one")

    def _ordinals(self, ours: History, theirs: History, pairs: list[tuple[Event, Event]]) -> None:
        """Of several events that are alike, the statement must stand behind the same one in both versions."""
        for mine, other in pairs:
            if mine.kind != "def":
                continue
            count_new, first_new = _ordinal(self.new, ours, mine)
            count_old, first_old = _ordinal(self.old, theirs, other)
            if count_new == count_old and first_new != first_old:
                self.deny(f"{_told(other)} stands several times, and the statement behind another one")
            elif count_old > count_new:
                self.doubt(
                    f"{_told(other)} stands {count_old} times in the old version, {count_new} in the newest"
                )

    def blocks(self) -> None:
        """Compare the loops, branches and handlers around the statement; what it reads has been compared before."""
        ours = [f for f in self.new.context if f.kind != "call"]
        theirs = [f for f in self.old.context if f.kind != "call"]
        pairs = align(ours, theirs, self._like_frames)
        alone_new = [f for k, f in enumerate(ours) if k not in {i for i, _, _ in pairs}]
        alone_old = [f for k, f in enumerate(theirs) if k not in {j for _, j, _ in pairs}]
        loops_new = [f for f in alone_new if f.kind == "loop"]
        loops_old = [f for f in alone_old if f.kind == "loop"]
        if len(loops_new) == len(loops_old) == 1 and not self._elsewhere(
            loops_new[0], loops_old[0], theirs, ours
        ):
            alone_new.remove(loops_new[0])
            alone_old.remove(loops_old[0])
        for frame in alone_new:
            self._alone(frame, [f for f in self.old.frames if f not in theirs], "newest", "old")
        for frame in alone_old:
            self._alone(frame, [f for f in self.new.frames if f not in ours], "old", "newest")
        for i, j, _ in pairs:
            if ours[i].kind in ("loop", "arm"):
                self._same_one(ours[i], theirs[j])

    def _elsewhere(
        self, ours: Frame, theirs: Frame, around_old: list[Frame], around_new: list[Frame]
    ) -> bool:
        """Whether a loop that has no counterpart around the place has one elsewhere."""
        return any(self._like_frames(ours, f) for f in self.old.frames if f not in around_old) or any(
            self._like_frames(f, theirs) for f in self.new.frames if f not in around_new
        )

    def _alone(self, frame: Frame, others: list[Frame], here: str, there: str) -> None:
        flip = here == "old"
        found = any(
            (self._like_frames(f, frame) if flip else self._like_frames(frame, f)) > 1
            for f in others
            if f.kind == frame.kind
        )
        what = {"loop": "loop", "arm": "branch"}.get(frame.kind, f"`{frame.kind}`")
        line = getattr(frame.node, "lineno", 0)
        if frame.kind in ("with", "try"):
            if self._left(frame, flip=flip) or (found and not self._goes_along(frame, flip=flip)):
                self.doubt(f"the {what} of line {line} is around it in the {here} version only")
        elif found:
            self.deny(
                f"the {what} of line {line} is around it in the {here} version only, and the {there} one has it, too"
            )
        elif frame.kind in ("loop", "handler") or (
            frame.kind == "arm" and not self._goes_along(frame, flip=flip)
        ):
            self.doubt(f"the {what} of line {line} is around it in the {here} version only")

    def _goes_along(self, frame: Frame, *, flip: bool) -> bool:
        """Whether what the statement reads is made within a branch that one version has around both of them."""
        context = self.new.context if flip else self.old.context
        for mine, other in self.followed:
            inside, outside = (other, mine) if flip else (mine, other)
            if frame not in inside.context or any(
                self._same_frames(frame, f, flip=flip) for f in outside.context
            ):
                continue
            if all(f in context for f in outside.context if f.kind in ("loop", "arm", "handler")):
                return True
        return False

    def _left(self, frame: Frame, *, flip: bool) -> bool:
        """Whether what the statement reads is made in such a block in both versions, and one of the statements left it."""
        context = self.new.context if flip else self.old.context
        pairs = ((other, mine) if flip else (mine, other) for mine, other in self.followed)
        return any(
            frame in inside.context
            and any(f.kind == frame.kind and f not in context for f in outside.context)
            for inside, outside in pairs
        )

    def _same_frames(self, frame: Frame, other: Frame, *, flip: bool) -> bool:
        return (self._like_frames(other, frame) if flip else self._like_frames(frame, other)) > 1

    def _like_frames(self, ours: Frame, theirs: Frame) -> int:
        if ours.kind != theirs.kind or ours.label.startswith("not ") != theirs.label.startswith("not "):
            return 0
        if ours.loop_name and theirs.loop_name:
            return 3 if ours.loop_name == theirs.loop_name else 0
        if ours.kind == "try":
            return 2 * int(self._alike_inside(ours, theirs) >= 0.5)
        if ours.label == theirs.label:
            only_new, only_old = ours.names - theirs.names, theirs.names - ours.names
            other = only_new and only_old and only_new <= self._known_old and only_old <= self._known_new
            return 2 if other else 3
        if ours.kind == "with":
            return 0
        if ours.kind == "loop" and _words_alike(_header(ours), _header(theirs)) >= 0.6:
            return 1
        return int(self._alike_inside(ours, theirs) >= 0.5)

    def _alike_inside(self, ours: Frame, theirs: Frame) -> float:
        mine, other = _content(self.new, ours), _content(self.old, theirs)
        total = sum(mine.values()) + sum(other.values())
        return 2 * sum((mine & other).values()) / total if total else 0.0

    def _same_one(self, ours: Frame, theirs: Frame) -> None:
        alike_new = [f for f in self.new.frames if f.kind == ours.kind and f.label == ours.label]
        alike_old = [f for f in self.old.frames if f.kind == theirs.kind and f.label == theirs.label]
        what = "loop" if ours.kind == "loop" else "branch"
        if len(alike_new) == len(alike_old) > 1 and ours.label == theirs.label:
            if alike_new.index(ours) != alike_old.index(theirs):
                self.deny(f"of several like it, another {what} is around the place")
        elif ours.label != theirs.label and self._fits_better(ours, theirs):
            self.doubt(f"a {what} like that around it in the newest version stands elsewhere in the old one")
        elif len(alike_old) > 1:
            here = self._alike_inside(ours, theirs)
            best = max(self._alike_inside(ours, f) for f in alike_old if f is not theirs)
            if best > here + 0.1:
                self.deny(f"another {what} of the old version fits better")
            elif best > here - 0.1:
                self.doubt(f"another {what} of the old version fits as well")

    def _fits_better(self, ours: Frame, theirs: Frame) -> bool:
        """Whether a block with the same header stands elsewhere, and what is in it is more alike."""
        here = self._alike_inside(ours, theirs)
        return any(
            frame not in self.old.context
            and self._like_frames(ours, frame) > 1
            and self._alike_inside(ours, frame) >= here
            for frame in self.old.frames
        ) or any(
            frame not in self.new.context
            and self._like_frames(frame, theirs) > 1
            and self._alike_inside(frame, theirs) >= here
            for frame in self.new.frames
        )

    def neighbours(self) -> None:
        """What changes by itself is the same only between the same neighbours."""
        beside = [
            (_beside(self.new.events, self.new.star, step), _beside(self.old.events, self.old.star, step))
            for step in (-1, 1)
        ]
        if not any(
            (mine is other is None) or (mine and other and mine.shape == other.shape)
            for mine, other in beside
        ):
            self.doubt("it reads what changes by itself, and other statements are beside it")

    def jumps(self) -> None:
        """A jump that may skip the statement must stand on the same side of it in both versions."""
        before_new, after_new = _jumps(self.new)
        before_old, after_old = _jumps(self.old)
        for event in (before_new - before_old) & (after_old - after_new):
            self.doubt(
                f"`{event}` comes before the statement in the newest version and behind it in the old one"
            )
        for event in (after_new - after_old) & (before_old - before_new):
            self.doubt(
                f"`{event}` comes behind the statement in the newest version and before it in the old one"
            )
        around = self.old.context
        if any(
            e.kind == "jump" and e.context == around[: len(e.context)]
            for e in self.old.events[: self.old.star]
        ):
            self.deny("nothing comes to the place: what is before it leaves the block")


def _grows(event: Event, history: History) -> bool:
    """Whether an event adds to the very object that is read."""
    added = event.kind == "store" or event.callee in (
        "append",
        "extend",
        "insert",
        "add",
        "update",
        "setdefault",
    )
    return added and not event.given and event.path in history.paths


def _defined_anew(ours: list[Event], theirs: list[Event]) -> bool:
    """Whether both sides make a value of the same name once, in another way that is no transformation of the other's."""
    if len(ours) != 1 or len(theirs) != 1:
        return False
    mine, other = ours[0], theirs[0]
    if (
        {mine.kind, other.kind} != {"def"}
        or mine.reads_itself
        or other.reads_itself
        or mine.copy
        or other.copy
    ):
        return False
    if mine.path[-1].split(".", 1)[-1] != other.path[-1].split(".", 1)[-1]:
        return False
    if mine.shape in other.shape or other.shape in mine.shape or not (mine.callee and other.callee):
        return False
    return mine.callee.split()[0] == other.callee.split()[0] and _words_alike(mine.exact, other.exact) >= 0.6


def _words_alike(ours: str, theirs: str) -> float:
    mine, other = Counter(_WORD.findall(ours)), Counter(_WORD.findall(theirs))
    total = sum(mine.values()) + sum(other.values())
    return 2 * sum((mine & other).values()) / total if total else 0.0


def _beside(events: list[Event], star: int, step: int) -> Event | None:
    position = star - 1 if step < 0 else star
    while 0 <= position < len(events):
        if events[position].copy is None:
            return events[position]
        position += step
    return None


def _header(loop: Frame) -> str:
    words = [w for w in _WORD.findall(loop.label) if w not in ("for", "while", "range", "_")]
    return " ".join((*words, *sorted(loop.names - BUILTINS)))


def _known(trace: Trace) -> frozenset[str]:
    return frozenset(part for e in trace.events for part in (e.path[0].split(".", 1)[-1], *e.path[1:]))


def _ordinal(trace: Trace, history: History, event: Event) -> tuple[int, int]:
    same = [
        k
        for k, e in enumerate(trace.events)
        if e.kind == event.kind
        and e.exact == event.exact
        and (e.path in history.paths or e.path == event.path)
    ]
    return len(same), sum(k < trace.star for k in same)


def _content(trace: Trace, frame: Frame) -> Counter[str]:
    return Counter(
        e.shape or e.callee
        for e in trace.events
        if e.copy is None and e.kind != "jump" and frame in e.context
    )


def _jumps(trace: Trace) -> tuple[Counter[str], Counter[str]]:
    sides: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for k, event in enumerate(trace.events):
        if event.kind != "jump":
            continue
        rest = [f for f in event.context if f not in trace.context and f.kind not in ("with", "try")]
        if [f.kind for f in rest] in (["arm"], []):
            sides[k >= trace.star][event.exact] += 1
    return sides
