"""Imports libraries before a worker forks, and only what leaves no more behind than an import should.

A library that draws from a random generator while it is imported (one that makes random style ids, say) must do that
where the old code imports it, or the draws after it are others. But what it pulls in is most of its time: the modules
that were loaded without such a draw are loaded beforehand in a fresh process, the rest by each child itself.
"""

from __future__ import annotations

import builtins
import gc
import importlib.util
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, Self

from flor_dagster.replay.processes import native_threads

# Loaded by a library when it is first used; a worker does that beforehand.
_LATER = {"numpy": ("numpy.random",), "torch": ("torch._dynamo",)}
_FIRST = ("random", "numpy", "torch")


class UnsafeError(Exception):
    """A process that can't be forked from without changing what the old code computes.

    Attributes:
        harmless: modules that a fresh process may import instead; none where that would not help.
    """

    def __init__(self, message: str, harmless: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.harmless = harmless


def preload(names: Sequence[str]) -> dict[str, str]:
    """Import libraries and look whether forking afterwards is safe.

    Returns:
        The version of each library.

    Raises:
        UnsafeError: a library can't be imported, or importing it leaves more than an import should.
    """
    if not names:
        return {}
    importlib.import_module("random")
    asked = list(dict.fromkeys(part for name in names for part in (name.partition(".")[0], name)))
    asked.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    with _Watch() as watch:
        for name in asked:
            for module in (name, *_LATER.get(name, ())):
                try:
                    importlib.import_module(module)
                except Exception as error:
                    raise UnsafeError(
                        f"{module} can't be imported: {type(error).__name__}: {error}"
                    ) from error
                watch.look()
    libraries = dict.fromkeys(name.partition(".")[0] for name in asked)
    if watch.drawn:
        generators = ", ".join(sorted(watch.generators))
        raise UnsafeError(
            f"importing {', '.join(libraries)} changes the random generator of {generators}",
            watch.harmless(libraries),
        )
    _look_for_threads()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise UnsafeError("importing the libraries has initialised CUDA")
    gc.collect()
    gc.freeze()
    return {name: str(getattr(sys.modules[name], "__version__", "")) for name in libraries}


class _Watch:
    """Asked first for every module that is loaded: finds none, and sees what the one before has drawn.

    Attributes:
        drawn: modules of which one has changed a random generator: all that were being loaded when one was.
        generators: whose generators those were.
    """

    def __init__(self) -> None:
        self.drawn: set[str] = set()
        self.generators: set[str] = set()
        self._found: list[str] = []
        self._loading: set[str] = set()
        self._importers: dict[str, set[str]] = {}
        self._states = _random_states()
        self._import = builtins.__import__

    def __enter__(self) -> Self:
        sys.meta_path.insert(0, self)
        builtins.__import__ = self._note_import
        return self

    def __exit__(self, *_: object) -> None:
        builtins.__import__ = self._import
        sys.meta_path.remove(self)

    def _note_import(
        self,
        name: str,
        asking: Any = None,
        local: Any = None,
        wanted: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """`__import__`, noting who asked for what."""
        found = self._import(name, asking, local, wanted or (), level)
        importer = asking["__name__"] if asking and "__name__" in asking else ""
        if _is_loading(importer):
            whole = (
                importlib.util.resolve_name("." * level + name, asking.get("__package__")) if level else name
            )
            for imported in (whole, *(f"{whole}.{part}" for part in wanted or ())):
                self._importers.setdefault(imported, set()).add(importer)
        return found

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Nothing: the finders after this one find it."""
        self.look()
        self._found.append(name)
        # Only what was being loaded in the meantime, and this module, can draw until the next look.
        self._loading = {name, *(other for other in self._loading if _is_loading(other))}

    def look(self) -> None:
        """Compare the generators with those of the last look."""
        states = _random_states()
        changed = {key for key, state in self._states.items() if states[key] != state}
        if changed:
            self.drawn |= self._loading
            self.generators |= changed
        self._states = states

    def harmless(self, libraries: Sequence[str] | dict[str, None]) -> tuple[str, ...]:
        """What was loaded of these libraries without a draw, in its order: nothing that imports or lies in what drew."""
        reached = list(self.drawn)
        while reached:
            new = self._importers.get(reached.pop(), set()) - self.drawn
            self.drawn |= new
            reached += new
        return tuple(
            name
            for name in dict.fromkeys(self._found)
            if name.partition(".")[0] in libraries
            and name in sys.modules
            and not any(parent in self.drawn for parent in _lineage(name))
        )


def _is_loading(name: str) -> bool:
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))


def _is_loaded(name: str) -> bool:
    return name in sys.modules and not _is_loading(name)


def _lineage(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _random_states() -> dict[str, Any]:
    states: dict[str, Any] = {"python": sys.modules["random"].getstate()}
    if _is_loaded("numpy.random"):
        kind, keys, *rest = sys.modules["numpy.random"].get_state(legacy=True)
        states["numpy"] = (kind, keys.tobytes(), *rest)
    if _is_loaded("torch"):
        # An operation on a tensor could start threads: its own bytes are read.
        states["torch"] = bytes(sys.modules["torch"].default_generator.get_state().numpy())
    return states


def _look_for_threads() -> None:
    if threading.active_count() > 1:
        names = ", ".join(t.name for t in threading.enumerate() if t is not threading.main_thread())
        raise UnsafeError(f"importing the libraries has started threads: {names}")
    # Libraries that know of forks (OpenBLAS) end their threads before one, and start them again when they need them.
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    left = native_threads()
    if left > 1:
        raise UnsafeError(
            f"importing the libraries has started {left - 1} threads that live on across a fork"
        )
