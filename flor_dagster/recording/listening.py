"""Objects that libraries fill without the loop's code naming them.

A log handler of the program's own, a list of recorded warnings, a text that standard output is redirected into, a hook on
every module of torch: what is called behind a library's back is found where the library keeps it.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Callable, Collection, Iterator
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
    """The handlers and filters of all loggers, in the order of the loggers' names."""
    logging = sys.modules.get("logging")
    if logging is None or not hasattr(logging, "root"):
        return
    named = logging.root.manager.loggerDict
    seen: set[int] = set()
    for logger in (logging.root, *(named[name] for name in sorted(named))):
        for handler in getattr(logger, "handlers", ()):
            parts = (handler, getattr(handler, "formatter", None), *handler.filters)
            for part in parts:
                if part is not None and id(part) not in seen:
                    seen.add(id(part))
                    yield part
        for part in getattr(logger, "filters", ()):
            if id(part) not in seen:
                seen.add(id(part))
                yield part


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
