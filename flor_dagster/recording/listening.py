"""Objects that libraries fill without the loop's code naming them.

A log handler of the program's own, a list of recorded warnings, a text that standard output is redirected into, a hook on
every module of torch: what is called behind a library's back is found where the library keeps it.
"""

from __future__ import annotations

import gc
import io
import sys
import types
from collections.abc import Callable, Collection, Iterator
from itertools import compress
from operator import attrgetter, itemgetter, or_
from typing import Any

KIND = "listening"
"""The kind of their roots; no module of a program can have this name."""

_STREAMS = ("stdout", "stderr")
_TORCH = {
    "torch.nn.modules.module": (
        "_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks",
        "_global_buffer_registration_hooks", "_global_module_registration_hooks", "_global_parameter_registration_hooks",
    ),
    "torch.optim.optimizer": ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"),
}  # fmt: skip


def listeners(is_own: Callable[[str], bool], hosts: Collection[object] = ()) -> dict[str, list[Any]]:
    """What libraries fill or call: root name → the objects. A place that has none is left out.

    Args:
        is_own: whether a module's code belongs to the repository.
        hosts: what listened before a host began the run, which no replay has: a handler of Dagster's, say. The program's
            own ones count nevertheless.
    """
    listened = set(map(id, hosts))

    def ours(value: Any) -> bool:
        function = getattr(value, "__func__", value)
        if isinstance(function, types.FunctionType):
            return is_own(str(function.__globals__.get("__name__", "")))
        if isinstance(value, types.BuiltinMethodType):
            return isinstance(value.__self__, list | dict | set)
        return is_own(type(value).__module__ or "") or (
            hasattr(value, "func") and hasattr(value, "args") and ours(value.func)
        )

    places: dict[str, Iterator[Any]] = {
        "(output)": (stream for name in _STREAMS if _is_in_memory(stream := getattr(sys, name, None)) or ours(stream)),
        "(logging)": (h for h in _handlers() if ours(h) or _is_in_memory(getattr(h, "stream", None)) or hasattr(h, "buffer")),
        "(warnings)": (w for w in _warners() if ours(w)),
        "(torch hooks)": (h for h in _torch_hooks() if ours(h)),
        "(garbage collection)": (c for c in gc.callbacks if ours(c)),
    }  # fmt: skip
    return {
        f"{KIND}:{name}": found
        for name, values in places.items()
        if (found := [v for v in values if id(v) not in listened or is_own(type(v).__module__ or "")])
    }


def _is_in_memory(stream: Any) -> bool:
    return type(stream).__module__ == "_io" and type(stream).__name__ in ("StringIO", "BytesIO")


def _handlers() -> Iterator[Any]:
    """The handlers and filters of all loggers, in the order of the loggers' names; none that is plainly logging's own."""
    logging = sys.modules.get("logging")
    if logging is None or not hasattr(logging, "root"):
        return
    loggers = (logging.root, *_loggers(logging))
    used = compress(
        loggers, map(or_, map(bool, map(_its_handlers, loggers)), map(bool, map(_its_filters, loggers)))
    )
    found: dict[int, Any] = {}
    for logger in used:
        for handler in logger.handlers:
            for part in (handler, getattr(handler, "formatter", None), *handler.filters):
                found[id(part)] = part
        for part in logger.filters:
            found[id(part)] = part
    plain, stream = (logging.Formatter, logging.NullHandler, type(None)), logging.StreamHandler
    for part in found.values():
        kind = type(part)
        quiet = kind in plain or (kind is stream and type(part.stream) is io.TextIOWrapper)
        if not quiet or "func" in getattr(part, "__dict__", ()):
            yield part


_its_handlers, _its_filters = attrgetter("handlers"), attrgetter("filters")
_known: tuple[list[Any], list[Any]] = [], []


def _loggers(logging: Any) -> list[Any]:
    """All loggers but the root's, in the order of their names; they are sorted again when there are others."""
    global _known
    named = logging.root.manager.loggerDict
    values = list(named.values())
    if values != _known[0]:
        _known = (
            values,
            [x for _, x in sorted(named.items(), key=itemgetter(0)) if isinstance(x, logging.Logger)],
        )
    return _known[1]


def _warners() -> Iterator[Any]:
    warnings = sys.modules.get("warnings")
    for name in ("_showwarnmsg_impl", "showwarning", "formatwarning"):
        found = getattr(warnings, name, None)
        if found is not None:
            yield found


def _torch_hooks() -> Iterator[Any]:
    for module, names in _TORCH.items():
        for name in names:
            yield from getattr(sys.modules.get(module), name, {}).values()
