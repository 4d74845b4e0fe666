"""The plans of a run: one for each place where checkpoints are taken, made when it is reached again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from flor_dagster.recording import listening
from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.following import Match, Matcher
from flor_dagster.recording.glancing import Glancer
from flor_dagster.recording.globals import find_global
from flor_dagster.recording.memory import KnownMemory
from flor_dagster.recording.planned import PlannedCapturer
from flor_dagster.recording.planning import make_plan
from flor_dagster.recording.plans import Changed, Plan, Shim
from flor_dagster.recording.shape import MISSING
from flor_dagster.recording.touching import Touches

FIRST = 2
"""At this walk of a place the first plan is made: a place that is reached once needs none."""


MOST_LESSONS = 3
"""So often a plan is made again because of objects that turn out to change in their numbers."""


class Place:
    """What is known of the end states of one place.

    Args:
        is_own: see `Capturer`.
        root_path: likewise.
        known: likewise.
    """

    def __init__(self, is_own: Callable[[str], bool], root_path: str, known: KnownMemory) -> None:
        self._is_own = is_own
        self._root_path = root_path
        self._known = known
        self._plan: Plan | None = None
        self._shim = Shim(is_own, root_path)
        self._volatile: set[int] = set()
        self._names: list[str] = []
        self._order: list[str] = []
        self._noted: list[str] = []
        self._all_noted: set[str] = set()
        self._touched: list[tuple[Touches, Mapping[str, Any], str]] = []
        self._dynamic: dict[str, str] = {}
        self._surroundings: Any = None
        self._explicit: list[str] = []
        self._walks = 0
        self._due = FIRST
        self._lessons = 0

    def capture(
        self, explicit: Mapping[str, Any], note_body: Callable[[Capturer], None] = lambda _: None
    ) -> Capturer | None:
        """A capture along the plan; None where everything must be walked.

        Args:
            explicit: the roots that are no globals, by name.
            note_body: notes the globals that the loop's own code reaches.
        """
        plan = self._plan
        if plan is None or list(explicit) != self._explicit:
            return None
        if self._surroundings != _surroundings(self._noted, self._surroundings):
            return None
        roots = _roots_of(plan, explicit)
        if roots is None:
            return None
        try:
            match = Matcher(plan).match(roots)
        except Changed:
            self._plan = None
            return None
        capturer = PlannedCapturer(match, self._is_own, self._root_path, self._known)
        capturer.state.unavailable.update(self._dynamic)
        for name, value in explicit.items():
            if name not in capturer.state.roots:
                capturer.add(name, value)
        capturer.note(self._noted)
        for touches, namespace, where in self._touched:
            capturer.note_touches(touches, namespace, where)
        note_body(capturer)
        capturer.follow()
        if set(capturer.noted) != self._all_noted or not capturer.plannable:
            return None
        found = capturer.state.roots
        capturer.state.roots = {name: found.pop(name) for name in self._order if name in found} | found
        if plan.learned and self._lessons < MOST_LESSONS:
            # From the next walk on they are described anew without being looked at first.
            self._volatile |= plan.learned
            self._lessons += 1
            self._plan, self._due = None, self._walks + 1
        return capturer

    def glance(self, find: Callable[[bool], Mapping[str, Any]]) -> Match | None:
        """The live objects that have the form of the plan, for a survey; None where they have another.

        Args:
            find: gives the roots that are no globals, by name; told whether listeners are among the plan's.
        """
        plan = self._plan
        if plan is None:
            return None
        roots = _roots_of(plan, find(any(name.startswith(f"{listening.KIND}:") for name in plan.names)))
        if roots is None:
            return None
        try:
            return Glancer(plan).match(roots)
        except Changed:
            return None

    def walked(self, capturer: Capturer, explicit: Mapping[str, Any]) -> None:
        """Everything was walked, and nothing copied yet: time for a plan?"""
        self._walks += 1
        if self._walks < self._due or not capturer.plannable:
            return
        self._due = 2 * self._walks  # where the form never stays, less and less is spent on it
        values = dict(capturer.values)

        def again(names: list[str]) -> Capturer:
            only = Capturer(self._is_own, self._root_path, self._known)
            for name in names:
                only.add(name, values[name])
            return only

        self._plan = make_plan(capturer, again, self._shim, self._volatile)
        if self._plan is None:
            return
        if self._plan.names != self._names:
            self._names = self._plan.names
            if self._volatile:  # the numbers are of another walk
                self._volatile = set()
                self._plan = make_plan(capturer, again, self._shim, self._volatile)
        self._explicit = list(explicit)
        self._order = list(capturer.state.roots)
        self._all_noted = set(capturer.noted)
        self._noted = [name for name in capturer.noted if name not in capturer.library]
        self._touched = list(capturer.touched)
        self._dynamic = dict(capturer.dynamic)
        self._surroundings = _surroundings(self._noted, (dict.fromkeys(capturer.imported), {}))


def _roots_of(plan: Plan, explicit: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of a plan's roots; None where one is missing."""
    roots = {
        name: explicit[name] if name in explicit else find_global(*name.split(":", 1)) for name in plan.names
    }
    return None if any(value is MISSING for value in roots.values()) else roots


Surroundings = tuple[dict[str, Any], dict[str, list[str] | None]]


def _surroundings(noted: list[str], before: Surroundings) -> Surroundings:
    """What decides which globals belong to a state beside the code: the names of their modules, what is imported."""
    spaces: dict[str, list[str] | None] = {}
    for module in {name.partition(":")[0] for name in noted}:
        found = sys.modules.get(module)
        spaces[module] = None if found is None else list(vars(found))
    return {name: name in sys.modules for name in before[0]}, spaces
