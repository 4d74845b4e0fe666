"""The begin of a replay, up to the recorded run's first flor call: what comes before it, and with which generators."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from flor_dagster.recording.generators import global_generators, is_in, put_state
from flor_dagster.recording.layout import relative_file

_folders: dict[str, str] = {}
"""Folders that were looked up, without links."""


def from_asked(plan: Mapping[str, Any]) -> bool:
    """Whether a hindsight statement, or what it calls, made the call of now.

    Such a call is not the one that began the recorded run.

    Args:
        plan: the child's; `asked` holds the lines of the hindsight statements in each file of the checkout.
    """
    lines = {file: set(some) for file, some in plan["asked"].items()}
    root = Path(plan["root"]).resolve()
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        # A module that was found by `sys.path.insert(0, "..")` is called by that way.
        if frame.f_lineno in lines.get(relative_file(frame.f_code.co_filename, root, _folders), ()):
            return True
        frame = frame.f_back
    return False


def begin_here(states: Mapping[str, Mapping[str, Any]], drawn: Mapping[str, bool]) -> None:
    """The script imports this package: the shared generators go where they were when the recorded one did.

    Args:
        states: root name → the recorded state.
        drawn: the generators that are meant, and whether something had drawn from them by then.
    """
    now = global_generators()
    for root in drawn.keys() & states.keys() & now.keys():
        if is_in(states[root], root, now[root]):
            continue
        put_state(root, states[root], now[root])
