"""A glance along a plan: do live objects hang together as it says? Their numbers are not asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import compress, count
from operator import is_not
from typing import Any

from flor_dagster.recording.capture import is_scalar
from flor_dagster.recording.following import Match, Matcher
from flor_dagster.recording.listing import lister_of, nothing
from flor_dagster.recording.plans import Changed, Group, Level, Plan
from flor_dagster.recording.tensorfacts import have_constants


class Glancer(Matcher):
    """Follows a plan for a survey: what holds no objects is not described.

    Args:
        plan: the plan.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._learned = set[int]()

    def look_at_others(self, level: Level, group: Group, some: Sequence[Any]) -> Iterable[Any]:
        """What its adapter describes: only where it may hold objects."""
        values: list[Any] = []
        children = self._plan.children
        for number, item in zip(level.numbers[group.start : group.end], some, strict=True):
            if children[number] or not _is_leaf(item):
                self._again(number, item)
                values += self._shim.children
        return values

    def _numbers_changed(
        self, level: Level, objects: Sequence[Any], values: Sequence[Any], scalars: Sequence[Any]
    ) -> None:
        del objects, values
        changed = map(is_not, scalars, level.old)
        if not all(is_scalar(scalars[place]) for place in compress(count(), changed)):
            raise Changed

    def _end(self, live: list[Any], numbers: list[int], tensors: Sequence[Any]) -> Match:
        storages = self._plan.tensors.storages_of(tensors)
        if not have_constants(tensors):
            raise Changed
        return Match(self._plan, live, numbers, {}, [], self._shim.spans, storages, (), self._redone.keys())


def _is_leaf(item: Any) -> bool:
    """Whether a survey follows nothing that hangs at an object, now or later."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(item) is numpy.ndarray:
        return item.base is None and item.dtype.char != "O"
    return lister_of(type(item), _no_module) is nothing


def _no_module(name: str) -> bool:
    del name
    return False
