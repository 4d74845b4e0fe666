"""What a loop found when it began, and what every later look at it finds changed."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import compress, count
from operator import ne
from typing import TYPE_CHECKING, Any

from flor_dagster.recording.footprints import Footprint
from flor_dagster.recording.listing import OF_ARRAY, OF_TENSOR
from flor_dagster.recording.surveying import Survey, Way, by_node, ways

if TYPE_CHECKING:
    from flor_dagster.recording.capture import Capturer


class Entry:
    """The objects that a loop execution found, and how they stood.

    From one look along a plan to the next only what is another object is asked about; all else is as it was found then.

    Args:
        before: the survey of when it began.
    """

    def __init__(self, before: Survey | Footprint) -> None:
        self._before = before
        self.held: list[Any] = []
        """Of the objects that it found, those that something else holds and that no weak reference finds again."""
        self.shared: dict[int, str] = {}
        """Of the storages of tensors behind names that the loop may bind anew, those that something else uses → the name's root."""
        self._last = before if isinstance(before, Footprint) else None
        self._fresh: set[int] = set()  # of the plan's objects at the last look, by their places
        self._displaced: set[int] = set()  # and what hangs elsewhere at one of them, by its identity
        self._ways: dict[int, Way | None] = {}
        # Identities of arrays at the last look that are parts of other ones than then.
        self._others = frozenset[int]()

    @property
    def roots(self) -> Mapping[str, int]:
        """Root name → identity, of when it began."""
        return self._before.roots

    @functools.cached_property
    def full(self) -> Survey:
        """The whole survey of when it began."""
        return self._before if isinstance(self._before, Survey) else self._before.full()

    def changes(self, after: Survey | Footprint, capturer: Capturer) -> dict[str, Any]:
        """What lies between its begin and a look, as a checkpoint keeps it (see `surveying.by_node`).

        Args:
            after: the look.
            capturer: what was captured at it.
        """
        if isinstance(after, Survey):
            return by_node(self.full, after, capturer.identities())
        footing = after.footing
        others, self._others = self._others, self._others_at(after)
        if others != self._others or not self._carry_on(after):
            self._begin_with(after)
        self._last = after
        beside = _Beside(self, after)
        fresh = [footing.nodes[p] for p in self._fresh if footing.nodes[p] not in beside.staying_nodes]
        displaced = self._displaced | beside.displaced
        unseen = footing.unseen
        walked = capturer.walked_identities()
        if walked:
            fresh += [walked[number] for number in beside.fresh if number in walked]
            seen = after.rest.children
            unseen = sorted([*unseen, *(node for number, node in walked.items() if number not in seen)])
        return {"fresh": sorted(fresh), "displaced": self._led_to(displaced, capturer), "unseen": unseen}

    def hold(self, others: Mapping[int, Any]) -> None:
        """Keep those of some objects that are among the ones it found.

        Args:
            others: by identity; something else holds them.
        """
        if not others:
            return
        there = _identities(self._before) - set(map(id, self.held))
        self.held += [value for number, value in others.items() if number in there]

    def lost(self, after: Survey | Footprint) -> list[Any]:
        """The objects that it found, that are at none of its places any more, and that still live; in no order.

        Args:
            after: a look.
        """
        found = [value for mark in self._moved_marks(after) if (value := _alive(mark)) is not None]
        found += self.held
        if not found:
            return []
        there = _identities(after)
        return [value for value in found if id(value) not in there]

    def lost_memory(self, after: Survey | Footprint) -> list[str]:
        """The roots of tensors whose memory something else uses, too, and that no tensor shows any more."""
        if not self.shared:
            return []
        there = _identities(after)
        return [root for number, root in self.shared.items() if number not in there]

    def _moved_marks(self, after: Survey | Footprint) -> list[Any]:
        """What finds the objects again that are not where they were; others may be among them."""
        before = self._before
        if isinstance(before, Survey):
            there = after if isinstance(after, Survey) else after.rest
            return [before.marks.get(number) for number in before.children.keys() - there.children.keys()]
        if isinstance(after, Footprint) and after.footing is before.footing:
            places = compress(count(), map(ne, before.numbers, after.numbers))
            gone = before.rest.children.keys() - after.rest.children.keys()
        else:
            places = range(len(before.numbers))
            gone = before.rest.children.keys()
        return [*map(before.mark, places), *map(before.rest.marks.get, gone)]

    def ways_to(self, numbers: set[int], without: Collection[str]) -> dict[int, Way]:
        """Where objects stood when it began.

        Args:
            numbers: their identities.
            without: roots that lead nowhere.
        """
        full = self.full
        roots = {root: number for root, number in full.roots.items() if root not in without}
        return ways(Survey(roots, full.children, full.marks), numbers)

    def _led_to(self, displaced: set[int], capturer: Capturer) -> list[Any]:
        open_ones = displaced - self._ways.keys()
        if open_ones:
            found = ways(self.full, open_ones)
            self._ways.update({number: found.get(number) for number in open_ones})
        if not displaced:
            return []
        memo = capturer.identities()
        found_ways = ((number, self._ways[number]) for number in displaced if number in memo)
        return [[memo[number], way] for number, way in found_ways if way is not None]

    def knows(self, number: int, kind: Any) -> bool:
        """Whether an object was there already.

        Args:
            number: its identity now.
            kind: its type; None for a storage.
        """
        if number in self._others:
            return False
        if isinstance(self._before, Survey):
            return number in self._before.children and _is_same(self._before.marks.get(number), kind)
        place = self._places.get(number, -1)
        if place < 0:
            rest = self._before.rest
            return number in rest.children and _is_same(rest.marks.get(number), kind)
        return self._before.footing.steps[place] is not None and _is_same(self._before.mark(place), kind)

    def _others_at(self, after: Footprint) -> frozenset[int]:
        """Arrays that have the identity of one which was a part of another array, or of none: that never changes."""
        found = {
            after.numbers[place]: dict(after.steps(place)).get(OF_ARRAY) for place in after.footing.arrays
        }
        found |= {number: inner.get(OF_ARRAY) for number, inner in after.rest.children.items()}
        return frozenset(number for number, base in found.items() if base != self._base_of(number, base))

    def _base_of(self, number: int, unknown: int | None) -> int | None:
        """The array that one was a part of when it began."""
        before, place = self._before, -1
        if isinstance(before, Footprint):
            place = self._places.get(number, -1)
            inner = dict(before.steps(place)) if place >= 0 else before.rest.children.get(number)
        else:
            inner = before.children.get(number)
        return unknown if inner is None else inner.get(OF_ARRAY)

    def knows_any(self, numbers: set[int]) -> bool:
        """Whether one of some identities was there already, be it another object's."""
        before = self._before
        if isinstance(before, Survey):
            return not numbers.isdisjoint(before.children)
        return not (numbers.isdisjoint(before.numbers) and numbers.isdisjoint(before.rest.children))

    @functools.cached_property
    def _places(self) -> dict[int, int]:
        """Of a look along a plan: identity → place."""
        return dict(zip(self._before.numbers, count())) if isinstance(self._before, Footprint) else {}

    def _carry_on(self, after: Footprint) -> bool:
        """Find what is another object than at the last look; False where more has changed than can be told so."""
        last, footing = self._last, after.footing
        if last is None or last.footing is not footing or not last.same_steps(after):
            return False
        changed = last.changed(after)
        if not changed:
            return True
        objects, numbers = len(footing.kinds), after.numbers
        fresh, displaced = set(self._fresh), set(self._displaced)
        known = self.knows_any({numbers[place] for place in changed})
        for place in changed:
            if place >= objects or footing.steps[place] is None:
                continue
            if last.numbers[place] in displaced or (
                known and self.knows(numbers[place], footing.kinds[place])
            ):
                return False
            fresh.add(place)
        for place in changed:
            for _, child in footing.steps[place] or ():
                if child < objects and child not in fresh:
                    displaced.add(numbers[child])
        storage_of = footing.storage_of
        for storage in {
            place - objects if place >= objects else storage_of.get(place, -1) for place in changed
        }:
            if storage >= 0:
                self._sort_storage(after, objects + storage, footing.tensors[storage], fresh)
        self._fresh, self._displaced = fresh, displaced
        return True

    def _begin_with(self, after: Footprint) -> None:
        """Ask about every object of a plan."""
        footing, numbers, before = after.footing, after.numbers, self.full.children
        objects = len(footing.kinds)
        kinds: dict[int, Any] = dict(zip(numbers, footing.kinds, strict=False))
        kinds |= {n: m if isinstance(m, type) else None for n, m in after.rest.marks.items()}
        fresh, displaced = set[int](), set[int]()
        for place, steps in enumerate(footing.steps[:objects]):
            if steps is None:
                continue
            number = numbers[place]
            inside = [(step, child) for step, child in after.steps(place) if child > 0]
            if not self.knows(number, footing.kinds[place]):
                fresh.add(place)
                displaced.update(child for _, child in inside if self.knows(child, kinds.get(child)))
            else:
                old = before[number]
                displaced.update(c for s, c in inside if old.get(s) != c and self.knows(c, kinds.get(c)))
        for storage, tensors in enumerate(footing.tensors):
            self._sort_storage(after, objects + storage, tensors, fresh)
        self._fresh, self._displaced = fresh, displaced

    def _sort_storage(self, after: Footprint, place: int, tensors: Sequence[int], fresh: set[int]) -> None:
        """A storage stays where a tensor still has it which had it before; one that is only on others is copied."""
        numbers = after.numbers
        stays = not fresh.issuperset(tensors) and any(
            tensor not in fresh
            and self.full.children.get(numbers[tensor], {}).get(OF_TENSOR) == numbers[place]
            for tensor in tensors
        )
        if tensors and not stays:
            fresh.add(place)
        else:
            fresh.discard(place)


def _is_same(mark: Any, kind: Any) -> bool:
    return mark() is not None if type(mark) is weakref.ref else mark is kind


def _identities(look: Survey | Footprint) -> AbstractSet[int]:
    """Of all that a look found."""
    return look.children.keys() if isinstance(look, Survey) else look.rest.children.keys() | set(look.numbers)


def _alive(mark: Any) -> Any:
    return mark() if type(mark) is weakref.ref else None


class _Beside:
    """What is changed of what a plan does not hold, and of the roots.

    Args:
        entry: what was there before.
        after: the look.
    """

    def __init__(self, entry: Entry, after: Footprint) -> None:
        self.fresh: set[int] = set()
        self.displaced: set[int] = set()
        self.staying_nodes: set[int] = set()
        rest, footing = after.rest, after.footing
        self._entry, self._after = entry, after
        staying: set[int] = set()
        for number, inner in rest.children.items():
            if number < 0:
                continue
            if not entry.knows(number, self._kind(number)):
                self.fresh.add(number)
                self._move(inner.values())
                continue
            old = entry.full.children.get(number, {})
            if old != inner:
                self._move([child for step, child in inner.items() if old.get(step) != child])
            if OF_TENSOR in inner and old.get(OF_TENSOR) == inner[OF_TENSOR]:
                staying.add(inner[OF_TENSOR])
        self.fresh |= {number for number in rest.children if number < 0} - staying
        if staying:
            objects = len(footing.kinds)
            self.staying_nodes = {
                footing.nodes[place]
                for place in range(objects, len(after.numbers))
                if after.numbers[place] in staying
            }
        if after.roots != entry.roots:
            self._move([n for root, n in after.roots.items() if entry.roots.get(root) != n])

    @functools.cached_property
    def _places(self) -> dict[int, int]:
        return dict(zip(self._after.numbers, count()))

    def _kind(self, number: int) -> Any:
        mark = self._after.rest.marks.get(number)
        if mark is not None:
            return mark
        place = self._places.get(number, -1)
        return self._after.footing.kinds[place] if 0 <= place < len(self._after.footing.kinds) else None

    def _move(self, numbers: Iterable[int]) -> None:
        objects = {number for number in numbers if number > 0}
        if objects and self._entry.knows_any(objects):
            self.displaced.update(n for n in objects if self._entry.knows(n, self._kind(n)))
