"""Tells when a module has been imported, without importing it."""

from __future__ import annotations

import builtins
import contextlib
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any


class _Watch:
    """A finder that finds nothing of its own: it lets the others find a watched module, and listens to its loader.

    Of every module it notes when it was first looked for, a moment before its file was read.
    """

    def __init__(self) -> None:
        self.callbacks: dict[str, Callable[[], None]] = {}
        self.sought: dict[str, int] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in self.sought:
            self.sought[name] = time.time_ns()
        callback = self.callbacks.pop(name, None)
        if callback is None:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if finder is not self and find is not None else None
            if spec is not None:
                _listen(spec, callback)
                return spec
        return None


_watch = _Watch()


def _listen(spec: ModuleSpec, callback: Callable[[], None]) -> None:
    """Call back once the module's code has run; the loader is afterwards as it was."""
    loader: Any = spec.loader
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return

    def exec_module(module: Any) -> None:
        with contextlib.suppress(AttributeError):
            del loader.exec_module
        execute(module)
        with contextlib.suppress(Exception):
            callback()

    with contextlib.suppress(AttributeError, TypeError):  # a loader that takes no attributes goes unheard
        loader.exec_module = exec_module


def when_sought(name: str) -> int | None:
    """When a module was first looked for, in nanoseconds since the epoch; None where that was before this package was there."""
    return _watch.sought.get(name)


def when_imported(name: str, callback: Callable[[], None]) -> None:
    """Call back as soon as a module's code has run: now where it has, else behind its import.

    Whatever the callback raises is dropped: it runs inside somebody else's import.

    Args:
        name: the module's full name.
        callback: called once, in the importing thread. A later one for the same name takes the place of an earlier one.
    """
    if name in sys.modules:
        with contextlib.suppress(Exception):
            callback()
        return
    _listen_in()
    _watch.callbacks[name] = callback


def _listen_in() -> None:
    if _watch not in sys.meta_path:
        sys.meta_path.insert(0, _watch)  # pyright: ignore[reportArgumentType] - find_spec is all that the machinery asks for


def when_asked_for(package: str, callback: Callable[[], None]) -> None:
    """Call back before code outside a package imports it, or something of it, by a statement for the first time.

    So it is also seen where the package is there already.

    Args:
        package: its full name.
        callback: called once, in the importing thread.
    """
    plain = builtins.__import__
    inside = f"{package}."
    waiting = [callback]

    def listening(name: str, names: Any = None, *more: Any, **named: Any) -> Any:
        level = more[2] if len(more) > 2 else named.get("level", 0)
        if waiting and level == 0 and f"{name}.".startswith(inside):
            importer = str((names or named.get("globals") or {}).get("__name__"))
            if not f"{importer}.".startswith(inside):
                if builtins.__import__ is listening:
                    builtins.__import__ = plain
                waiting.pop()()
        return plain(name, *(() if names is None else (names,)), *more, **named)

    builtins.__import__ = listening


_listen_in()
