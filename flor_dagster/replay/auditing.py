"""One audit hook for all that listens in a replay's child.

Python tells every hook of every event, also of each `id(…)`, of which a walk through a training's state makes thousands.
So there is one, and most events cost it a look into a table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

Listener = Callable[[str, tuple[Any, ...]], None]

_listeners: dict[str, tuple[Listener, ...]] = {}
_begun: list[bool] = []


def listen(events: Iterable[str], told: Listener) -> None:
    """Be told of audit events of this process, for as long as it lives.

    Args:
        events: their names.
        told: given an event's name and arguments; what it raises, the code that caused the event sees. Those that listened
            before are told before.
    """
    for event in events:
        _listeners[event] = (*_listeners.get(event, ()), told)
    if not _begun:
        _begun.append(True)
        sys.addaudithook(_hook)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event in _listeners:
        for told in _listeners[event]:
            told(event, args)
