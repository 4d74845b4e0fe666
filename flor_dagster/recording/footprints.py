"""A survey along a plan: the identities of a plan's objects, in its order.

A plan says how its objects hang together. Where the live objects have its form, a survey of them is a list of their
identities; only what a plan's adapters describe anew is listed again (their steps may be others), and what the plan does
not hold is surveyed beside it. What the steps are called is read off one real survey of the same objects.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import compress, count
from operator import is_not, ne
from typing import TYPE_CHECKING, Any

from flor_dagster.recording.listing import OF_TENSOR, Lister, Step, lister_of, nothing
from flor_dagster.recording.surveying import SCALARS, Survey, is_array, survey, takes_references

if TYPE_CHECKING:
    from collections.abc import Callable

    from flor_dagster.recording.following import Match

Steps = list[tuple[Step, int]]


@dataclass(slots=True)
class Footing:
    """What surveys see of a plan's objects; they are numbered in its order, its storages behind them.

    Args:
        nodes: of each.
        kinds: the type of each object.
        steps: of each, the steps that lead on and the objects there; None of what no survey sees.
        listed: the objects whose steps are listed at each look, with what lists them.
        weak: of each, its number among those to which there are weak references.
        referred: whether there are.
        tensors: of each storage, the tensors on it that surveys see.
        arrays: the objects that are arrays of numpy.
        storage_of: and of each of these tensors, its storage, by its number among them.
        places: node → its number here.
    """

    nodes: list[int]
    kinds: list[type]
    steps: list[list[tuple[Step, int]] | None]
    listed: list[tuple[int, Lister]]
    weak: list[int | None]
    referred: list[bool]
    tensors: list[list[int]]
    arrays: list[int]
    storage_of: dict[int, int]
    places: dict[int, int]
    unseen: list[int] = field(default_factory=list[int])


@dataclass(slots=True)
class Footprint:
    """The identities of a plan's objects at one moment, and a survey of what is beside it.

    Args:
        footing: which objects these are.
        roots: root name → identity.
        numbers: the identities, in their order.
        odd: the steps of those whose steps are listed at each look, with the identities there.
        rest: of what the plan does not hold.
        refs: weak references, where there are any.
    """

    footing: Footing
    roots: dict[str, int]
    numbers: list[int]
    odd: dict[int, Steps]
    rest: Survey
    refs: list[Any]

    def changed(self, later: Footprint) -> list[int]:
        """Which of the plan's objects are others at a later look."""
        found = set(compress(count(), map(ne, self.numbers, later.numbers)))
        # There is one weak reference to an object, as long as anybody holds it.
        others = list(map(is_not, self.refs, later.refs))
        if any(others):
            found.update(compress(compress(count(), self.footing.referred), others))
        return sorted(found)

    def steps(self, place: int) -> Steps:
        """The steps that lead on from one of the objects, with the identities there."""
        numbers = self.numbers
        odd = self.odd.get(place)
        return odd if odd is not None else [(s, numbers[c]) for s, c in self.footing.steps[place] or ()]

    def same_steps(self, other: Footprint) -> bool:
        """Whether the steps of another look have the same names, and lead to the same objects outside the plan."""
        return all(self._names(place) == other._names(place) for place in self.odd.keys() | other.odd.keys())

    def _names(self, place: int) -> list[tuple[Step, int]]:
        planned = self.footing.steps[place] or ()
        odd = self.odd.get(place)
        if odd is None:
            return [(step, 0) for step, _ in planned]
        inside = {self.numbers[child] for _, child in planned}
        return [(step, 0 if number in inside else number) for step, number in odd]

    def mark(self, place: int) -> Any:
        """What tells an object from a later one in its place: a weak reference, or its type; None of a storage."""
        footing = self.footing
        if place >= len(footing.kinds):
            return None
        weak = footing.weak[place]
        return footing.kinds[place] if weak is None else self.refs[weak]

    def full(self) -> Survey:
        """The survey that it stands for."""
        children: dict[int, dict[Step, int]] = {}
        for place, steps in enumerate(self.footing.steps):
            if steps is not None:
                children[self.numbers[place]] = dict(self.steps(place))
        marks = {self.numbers[place]: self.mark(place) for place in range(len(self.footing.kinds))}
        return Survey(self.roots, children | self.rest.children, marks | self.rest.marks)


def look(match: Match, roots: Mapping[str, Any], is_own: Callable[[str], bool]) -> Footprint:
    """Survey live objects that have the form of a plan.

    Args:
        match: they.
        roots: all roots of the survey, by name.
        is_own: whether a module's name belongs to the program.

    Raises:
        TooManyError: there are too many.
    """
    plan, live = match.plan, match.live
    numbers = [*match.numbers, *[-storage._cdata for storage in match.storages]]  # noqa: SLF001 - as a survey does
    footing = plan.footing
    if footing is None:
        footing = plan.footing = _footing(match, numbers, roots, is_own)
    outside = {name: value for name, value in roots.items() if name not in plan.roots}
    odd: dict[int, Steps] = {}
    planned: set[int] | None = None
    listed = footing.listed
    if match.laid_out:
        places = [footing.places[node] for node in match.laid_out]
        also = [(place, lister_of(footing.kinds[place], is_own) or nothing) for place in places]
        listed = [*listed, *also]
    for place, lister in listed:
        steps: Steps = []
        for step, item in lister(live[place]):
            if type(item) in SCALARS:
                continue
            steps.append((step, id(item)))
            planned = set(numbers) if planned is None else planned
            if id(item) not in planned:
                outside[f"{place} {len(steps)}"] = item
        odd[place] = steps
    if any(type(value) not in SCALARS for value in outside.values()):
        planned = set(numbers) if planned is None else planned
        rest = survey(outside, is_own, planned)
    else:
        rest = Survey()
    refs = list(map(weakref.ref, compress(live, footing.referred)))
    return Footprint(footing, {name: id(value) for name, value in roots.items()}, numbers, odd, rest, refs)


def _footing(
    match: Match, numbers: list[int], roots: Mapping[str, Any], is_own: Callable[[str], bool]
) -> Footing:
    """What surveys see of a plan, from one of them."""
    plan, live = match.plan, match.live
    found = survey(roots, is_own).children
    place_of = {number: place for place, number in enumerate(numbers)}
    kinds = [type(item) for item in live]
    steps: list[list[tuple[Step, int]] | None] = []
    listed: list[tuple[int, Lister]] = []
    tensors: list[list[int]] = [[] for _ in match.storages]
    described = {
        number
        for level in plan.levels
        for group in level.groups
        if group.way == "described"
        for number in level.numbers[group.start : group.end]
    }
    for place, number in enumerate(numbers):
        inner = found.get(number)
        if inner is None:
            steps.append(None)
            continue
        steps.append([(step, place_of[child]) for step, child in inner.items() if child in place_of])
        if place >= len(live):
            continue
        storage = inner.get(OF_TENSOR)
        if storage in place_of:
            tensors[place_of[storage] - len(live)].append(place)
        lister = lister_of(kinds[place], is_own)
        beside = any(child not in place_of for child in inner.values())
        if lister is not None and lister is not nothing and (beside or plan.numbers[place] in described):
            listed.append((place, lister))
    nodes = [*plan.numbers, *plan.tensors.storages]
    referred = list(map(takes_references, kinds))
    numbered = count()
    return Footing(
        nodes, kinds, steps, listed, [next(numbered) if weakly else None for weakly in referred], referred, tensors,
        [place for place, kind in enumerate(kinds) if is_array(kind) and steps[place] is not None],
        {tensor: storage for storage, some in enumerate(tensors) for tensor in some},
        {node: place for place, node in enumerate(nodes)},
        sorted(node for node, step in zip(nodes, steps, strict=True) if step is None),
    )  # fmt: skip
