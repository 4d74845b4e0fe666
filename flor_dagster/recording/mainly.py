"""What a program itself defined (`__main__`), for another program that loads its objects.

The names of a checkpoint's classes and functions are those of the training's process, where the script was `__main__`.
Elsewhere the script is a module, a notebook has its cells in `__main__`, or the names are not there at all. Nothing is
imported for them: to import a script may be to train.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from flor_dagster.errors import CheckpointError

_PREFIX = "__main__."
_NAMED = frozenset({"class", "object", "function", "find", "wrapper"})


def as_defined_here(nodes: list[Any], entrypoint: str) -> list[Any]:
    """A captured graph with the names that its classes and functions have in this process, and with classes that are left alone.

    Args:
        nodes: the graph.
        entrypoint: the script that was `__main__`, relative to its repository.

    Raises:
        CheckpointError: a class of this name here is another one: it lacks what the captured one had.
    """
    module = _module_of(entrypoint)
    found: list[Any] = []
    for node in nodes:
        renamed = list(node)
        if node[0] in _NAMED and str(node[1]).startswith(_PREFIX) and module is not None:
            rest = node[1].removeprefix(_PREFIX)
            if not _has(sys.modules["__main__"], rest) and _has(module, rest):
                renamed[1] = f"{module.__name__}.{rest}"
        if node[0] == "class":
            _check_same(renamed, nodes)
            renamed = ["find", renamed[1]]  # its attributes are this process's
        found.append(renamed)
    return found


def undefined_here(nodes: list[Any], error: str) -> str:
    """The class or function of `__main__` that an error is about and that this process has not; empty where it is about another."""
    names = {str(node[1]) for node in nodes if node[0] in _NAMED and str(node[1]).startswith(_PREFIX)}
    for name in sorted(names, key=len):
        rest = name.removeprefix(_PREFIX).partition("@")[0]
        if f"{_PREFIX}{rest}" in error and not _has(sys.modules["__main__"], rest):
            return rest
    return ""


def _module_of(entrypoint: str) -> ModuleType | None:
    """The script as a module, where something imported it."""
    parts = Path(entrypoint).with_suffix("").parts if entrypoint.endswith(".py") else ()
    for start in range(len(parts)):
        module = sys.modules.get(".".join(parts[start:]))
        file = getattr(module, "__file__", None) or ""
        if module is not None and Path(file).parts[-len(parts) :] == Path(entrypoint).parts:
            return module
    return None


def _has(module: ModuleType, name: str) -> bool:
    found: Any = module
    for part in name.partition("@")[0].split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def _check_same(node: list[Any], nodes: list[Any]) -> None:
    """Refuse another class of the same name, as its methods tell."""
    module, _, name = str(node[1]).partition(".")
    here: Any = sys.modules.get(module)
    for part in name.split("."):
        here = getattr(here, part, None)
    if not isinstance(here, type):
        return
    methods = [
        attribute
        for attribute, ref in node[2].items()
        if isinstance(ref, int)
        and nodes[ref][0] == "function"
        and not isinstance(vars(here).get(attribute), FunctionType)
    ]
    if methods:
        raise CheckpointError(
            f"{name} of this program is another class than the one that was captured: it has no {', '.join(sorted(methods))}"
        )
