"""Plans: what a walk found, so that the next one at the same place only compares.

Between two checkpoints of one place nearly everything keeps its form: the same classes with the same attributes, the same
containers, the same aliases; other numbers. A plan is that form. To match it is to walk the live objects again, level by
level, with each question asked of all objects of a level at once, which the interpreter does at C speed: are the types,
the names, the lengths the same, does every reference that led to an object seen before do so again, and every other one to
an object of its own? No identity and no object is remembered, so that nothing of the program is kept alive and a new
tensor in an old place is nothing special.

What differs in its numbers alone is described anew by its adapter, object by object; such objects are known the next time.
Whatever else differs makes `Matcher.match` (see `following`) raise `Changed`: then everything is walked. A root with something in it that no plan
can follow (a view of an array, a tensor on a device) is walked each time, behind the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any

from flor_dagster.recording.adapters import registry
from flor_dagster.recording.adapters.registry import Uncapturable
from flor_dagster.recording.capture import Capturer, is_scalar
from flor_dagster.recording.flat import FlatState
from flor_dagster.recording.hulls import Hull
from flor_dagster.recording.memory import Copy
from flor_dagster.recording.spans import MemorySpans
from flor_dagster.recording.tensorfacts import TensorFacts

if TYPE_CHECKING:
    from flor_dagster.recording.footprints import Footing


class Changed(Exception):  # noqa: N818 - a signal to walk everything, not an error for anyone
    """The live objects do not have the form of the plan."""


class Shim(Capturer):
    """Lets an adapter describe one object whose children are known: references are looked up, nothing is walked."""

    def __init__(self, is_own: Callable[[str], bool], root_path: str) -> None:
        super().__init__(is_own, root_path)
        self.children: list[Any] = []
        self.numbers: list[int] = []
        self.functions: list[Any] = []
        self.find: Callable[[Any], int] = _unknown

    def again(self, value: Any, find: Callable[[Any], int]) -> list[Any]:
        """A new node for an object.

        Args:
            value: the object.
            find: the number of each object that it refers to, asked in the adapter's order.

        Raises:
            Changed: it can't be described so.
        """
        self.children, self.numbers, self.find = [], [], find
        self.pending = []
        node: list[Any] = []
        kind: type = type(value)
        describe = self._describers.get(kind)
        try:
            if describe is None:
                describe = self._describers[kind] = registry.describer(kind)
            node += describe(self, value, node)
        except (Uncapturable, KeyError, RecursionError) as error:
            raise Changed from error
        if self.parts:
            raise Changed
        return node

    def let_go(self) -> None:
        """Forget what was described last: nothing of the program may live on for it."""
        self.children, self.numbers, self.functions, self.pending = [], [], [], []
        self.find, self.spans = _unknown, MemorySpans()

    def ref(self, value: Any) -> Any:
        """A scalar, or the number of a known object."""
        if is_scalar(value):
            return super().ref(value)
        number = self.find(value)
        self.children.append(value)
        self.numbers.append(number)
        return number

    def new_node(self, key: int, keep: Any) -> int:
        """There are none."""
        raise Changed

    def meet_function(self, function: Any) -> None:
        """Its code is compared."""
        self.functions.append(function)


def _unknown(_: Any) -> int:
    raise Changed


def keyed_values(item: dict[Any, Any]) -> list[Any]:
    """What a dict refers to whose keys are objects, in its adapter's order: an optimizer's state is one."""
    values = list(chain.from_iterable(dict.items(item)))
    if type(item) is defaultdict:
        values.append(item.default_factory)
    return values


@dataclass(slots=True)
class Edges:
    """Which of a list of values are scalars, objects met first, objects met before.

    Args:
        scalars: places of scalars.
        first: places of objects met first, in the order of the next level.
        again: places of the others.
        targets: for these, their places among all objects so far.
    """

    scalars: list[int] = field(default_factory=list[int])
    first: list[int] = field(default_factory=list[int])
    again: list[int] = field(default_factory=list[int])
    targets: list[int] = field(default_factory=list[int])
    pick_scalars: Any = None
    pick_first: Any = None
    pick_again: Any = None
    pick_targets: Any = None

    def seal(self) -> None:
        """Make what picks them."""
        self.pick_scalars, self.pick_first = _picker(self.scalars), _picker(self.first)
        self.pick_again, self.pick_targets = _picker(self.again), _picker(self.targets)

    def follow(self, values: Sequence[Any], live: list[Any]) -> Sequence[Any]:
        """The objects of the next level; `live` gets them too.

        Raises:
            Changed: a reference leads elsewhere.
        """
        found: Sequence[Any] = self.pick_first(values)
        live += found
        if self.again and not all(map(is_, self.pick_again(values), self.pick_targets(live))):
            raise Changed
        return found


def _picker(places: list[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if not places:
        return lambda _: ()
    if len(places) == 1:
        only = places[0]
        return lambda values: (values[only],)
    return itemgetter(*places)


@dataclass(slots=True)
class Group:
    """Objects of one level that are looked at in one way.

    Args:
        way: the name of that way.
        start: the first of them in their level.
        end: the one behind the last.
        lengths: of each, how many attributes or items.
        keys: all their names, one object after the other.
    """

    way: str
    start: int
    end: int
    lengths: list[int] = field(default_factory=list[int])
    keys: list[Any] = field(default_factory=list[Any])


@dataclass(slots=True)
class Level:
    """Objects that are equally far from the roots.

    Args:
        numbers: of their nodes.
        types: of each.
        groups: together all of them, in their order.
        starts: where each one's values begin among all values of the level.
        ends: and where they end.
        edges: what these values are.
        old: the scalars as they were met last.
    """

    numbers: list[int]
    types: list[type]
    groups: list[Group]
    starts: list[int]
    ends: list[int]
    edges: Edges
    old: Sequence[Any] = ()


@dataclass(slots=True)
class Plan:
    """The form of an end state.

    Args:
        names: the planned roots, in their order.
        refs: their references.
        nodes: the captured graph, without the content of memory.
        top: what the roots' values are.
        levels: of objects.
        numbers: the nodes of all objects, in the order in which they are met.
        children: per node, the nodes that it refers to, in its adapter's order.
        tensors: the facts of all tensors, in the order in which they are met.
        hulls: which bytes of a storage are shown.
        codes: the code of every function met, with the globals that it runs in.
        shim: what describes such a node anew.
        learned: nodes that turned out to be volatile.
        copies: of the storages' memory, the last ones that were digested.
        flat: the texts that its digests are of.
        footing: what surveys see of it.
        roots: the planned roots' names.
    """

    names: list[str]
    refs: list[int]
    nodes: list[Any]
    top: Edges
    levels: list[Level]
    numbers: list[int]
    children: list[tuple[int, ...]]
    tensors: TensorFacts
    hulls: dict[int, Hull]
    codes: list[tuple[Any, Any]]
    shim: Shim
    learned: set[int] = field(default_factory=set[int])
    copies: Sequence[Copy] = ()
    flat: FlatState | None = None
    footing: Footing | None = None
    roots: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.roots = frozenset(self.names)
