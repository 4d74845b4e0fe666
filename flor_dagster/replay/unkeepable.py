"""Values that no checkpoint can hold, by the expressions that make them; in the words of a recorded run."""

from __future__ import annotations

import ast
from collections.abc import Callable, Container
from dataclasses import dataclass

from flor_dagster.replay.bindings import is_true, last_name

CACHES = frozenset({"functools.lru_cache", "functools.cache"})
"""What makes functions that remember their results."""

_ITERATORS = frozenset({"iter", "zip", "map", "filter", "enumerate", "reversed"})
_OUTSIDE = frozenset(
    {"subprocess", "multiprocessing", "asyncio", "concurrent", "selectors", "select", "socket", "ssl", "sqlite3", "http", "mmap", "tempfile"}
)  # fmt: skip
_MADE_OUTSIDE = frozenset({"socket", "socketpair", "create_connection", "connect"})
_PLAIN_OUTSIDE = frozenset({"CompletedProcess"})
_CONSUMED = "make it a list, or make it inside the loop's body"


@dataclass(frozen=True, slots=True)
class What:
    """Why a value can't be kept, in words behind its name; whether that is certain."""

    words: str
    hint: str
    certain: bool = True


def what_of(
    value: ast.expr, full_name: Callable[[ast.expr], str], generators: Container[str], classes: Container[str]
) -> What | None:
    """Why a value can't be kept; None where nothing says so.

    Args:
        value: the expression that makes it.
        full_name: what a dotted name means, by the imports around it.
        generators: the program's own functions that make generators.
        classes: its own classes.
    """

    def _again(inner: ast.expr) -> What | None:
        return what_of(inner, full_name, generators, classes)

    if isinstance(value, ast.IfExp):
        return _again(value.body) or _again(value.orelse)
    if isinstance(value, ast.Tuple):
        return next((what for item in value.elts if (what := _again(item))), None)
    if isinstance(value, ast.GeneratorExp):
        return What("is a generator: an iterator's position can't be captured", _CONSUMED)
    if isinstance(value, ast.Set) and any(
        isinstance(e, ast.Call) and last_name(e.func) in classes for e in value.elts
    ):
        return What(
            "may be a set of objects whose order depends on their places in memory",
            "make it a list or a dictionary",
            False,
        )
    return _of_call(value, full_name, generators) if isinstance(value, ast.Call) else None


def _of_call(
    value: ast.Call, full_name: Callable[[ast.expr], str], generators: Container[str]
) -> What | None:
    full, last = full_name(value.func), last_name(value.func)
    module, _, rest = full.partition(".")
    if isinstance(value.func, ast.Name) and (full in _ITERATORS or last in generators):
        kind = "a generator" if last in generators else f"an iterator (`{last}(…)`)"
        return What(f"is {kind}: an iterator's position can't be captured", _CONSUMED)
    if module == "itertools" and rest:
        return What(f"is an iterator (`{full}(…)`): an iterator's position can't be captured", _CONSUMED)
    if full == "contextvars.ContextVar":
        return What(
            "is a _contextvars.ContextVar, which can't be captured",
            "pass the value as an argument, or hold it in an object",
        )
    if full == "weakref.WeakSet":
        words = "is a weak set, whose order depends on its members' places in memory"
        return What(words, "use a `weakref.WeakValueDictionary` or a list", False)
    if (isinstance(value.func, ast.Call) and full_name(value.func.func) in CACHES) or full in CACHES:
        return What(
            "is a function whose cache of results can't be captured",
            "clear its cache behind the loop, or keep results in a dictionary",
        )
    if module in _OUTSIDE and (last[:1].isupper() or last in _MADE_OUTSIDE) and last not in _PLAIN_OUTSIDE:
        return What(
            f"is a {full}, which belongs to its process",
            "make it where it is used, inside the loop's body",
        )
    if last == "DataLoader" and is_true(value, "persistent_workers"):
        words = (
            "keeps the loader's workers (persistent_workers=True): what they drew lives in their processes"
        )
        return What(words, "leave persistent_workers out where the workers draw random numbers or count")
    if full == "numpy.memmap" and any(
        isinstance(n, ast.Constant) and n.value in ("r+", "w+") for n in ast.walk(value)
    ):
        return What("is mapped to a file that it writes to", "write the file behind the loop")
    return None
