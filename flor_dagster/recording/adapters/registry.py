"""The registry of adapters: what a live object is captured as, and how a captured node is put back.

An adapter is a module of this package. It says for types (`describes`, and the `families` that recognise them) how an object becomes a node of the
captured graph, and for kinds of nodes (`puts_back`) how a live object gets that state, or is made anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from flor_dagster.recording.capture import Capturer
    from flor_dagster.recording.graft import Grafter

Ref = Any
"""A reference in a captured graph: an int (a node), or a list `[tag, value]` (a scalar)."""

Describe = Callable[["Capturer", Any, list[Any]], list[Any]]
"""(walk, value, its node, still empty) → what to add to the node."""

PutBack = Callable[["Grafter", int, list[Any], Any], Any]
"""(graft, the node's number, the node, the live object or `shape.MISSING`) → the object to use."""

D = TypeVar("D", bound=Describe)
P = TypeVar("P", bound=PutBack)

exact: dict[Any, Describe] = {}
families: list[Callable[[type], Describe | None]] = []
"""Each tells how objects of a type are captured, None where it does not know the type; asked once per type and walk."""

restorers: dict[str, PutBack] = {}


class Uncapturable(Exception):  # noqa: N818 - a signal inside a walk, not an error for anyone
    """A value that can't be captured: what it is, and the way to it, gathered on the way back up the walk."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self._what = what
        self._way: list[str] = []

    def under(self, step: str) -> Uncapturable:
        """The same problem, seen from one level above."""
        self._way.append(step)
        return self

    def sentence(self, root: str) -> str:
        """What can't be captured, by its name."""
        kind, _, name = root.partition(":")
        shown = name if kind in ("name", "object", "random") or name else kind
        return f"`{shown}{''.join(reversed(self._way))}` {self._what}"


def describes(*kinds: Any) -> Callable[[D], D]:
    """Register how objects of exactly these types are captured."""

    def register(function: D) -> D:
        exact.update(dict.fromkeys(kinds, function))
        return function

    return register


def puts_back(*kinds: str) -> Callable[[P], P]:
    """Register how nodes of these kinds are put back."""

    def register(function: P) -> P:
        restorers.update(dict.fromkeys(kinds, function))
        return function

    return register


def describer(kind: type) -> Describe:
    """How objects of a type are captured."""
    known = exact.get(kind)
    if known is not None:
        return known
    for recognise in families:
        found = recognise(kind)
        if found is not None:
            return found
    raise Uncapturable(f"is a {kind.__module__}.{kind.__qualname__}, which no adapter knows")
