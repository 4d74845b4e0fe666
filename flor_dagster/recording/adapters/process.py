"""What belongs to the process: files, locks, threads, child processes, output.

Of those that only carry output, or that are the same before and after, the live one stays. The others can't be captured:
a number of a file descriptor, a process or a connection means something else in another process.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording import shape
from flor_dagster.recording.adapters.registry import Describe, Uncapturable, puts_back
from flor_dagster.recording.shape import MISSING, opaque_text

if TYPE_CHECKING:
    from flor_dagster.recording.capture import Capturer
    from flor_dagster.recording.graft import Grafter

# Libraries whose objects only carry output: putting a training back does not put them back.
SINKS = (
    "logging", "tqdm", "rich", "tensorboard", "tensorboardX", "torch.utils.tensorboard", "wandb", "mlflow",
    "flor_dagster", "structlog", "loguru", "dagster",
)  # fmt: skip

# The same before and after, whatever the code does.
_CONSTANT = frozenset(
    {
        "_thread.lock", "_thread.RLock", "threading._RLock", "multiprocessing.context.DefaultContext",
        "multiprocessing.context.ForkContext", "multiprocessing.context.SpawnContext",
        "multiprocessing.context.ForkServerContext", "random.SystemRandom",
    }
)  # fmt: skip

# Their objects stand for something outside the interpreter.
_OUTSIDE = frozenset(
    {
        "subprocess", "multiprocessing", "_multiprocessing", "asyncio", "_asyncio", "concurrent", "selectors", "select",
        "socket", "_socket", "ssl", "_ssl", "sqlite3", "http", "mmap", "tempfile",
    }
)  # fmt: skip
# Plain values and errors that these modules make.
_VALUES_OF_OUTSIDE = frozenset({"subprocess.CompletedProcess"})


def recognise(kind: type) -> Describe | None:
    """What belongs to the process, by its type."""
    module = kind.__module__ or ""
    name = shape.type_name(kind)
    if _is_sink(module) or name in _CONSTANT or module == "typing":
        return describe_opaque
    if module == "_io" and kind.__name__ not in ("StringIO", "BytesIO"):
        return describe_file
    if kind in (weakref.ProxyType, weakref.CallableProxyType):
        return _refuse("is a weak proxy")
    if issubclass(kind, threading.Thread):
        return describe_thread
    if module == "torch.utils.data.dataloader" and hasattr(kind, "__next__"):
        return describe_pulled_loader
    outside = module.partition(".")[0] in _OUTSIDE and not issubclass(kind, BaseException)
    if outside and name not in _VALUES_OF_OUTSIDE:
        return _refuse(f"is a {name}, which belongs to its process")
    if (
        module != "_io"
        and hasattr(kind, "__next__")
        and hasattr(kind, "__iter__")
        and not shape.is_plain(kind)
    ):
        return _refuse(f"is a {name}: an iterator's position can't be captured")
    if name in ("builtins.coroutine", "builtins.async_generator"):
        return _refuse(f"is a {name.partition('.')[2]}: where it stands can't be captured")
    return None


def describe_opaque(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """An object whose state is no part of the training."""
    del walk, node
    return ["opaque", opaque_text(value)]


def describe_file(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A file that is written to, or closed; one that is read from has a position that matters."""
    del walk, node
    if not getattr(value, "closed", False):
        try:
            readable = value.readable()
        except ValueError:
            readable = False
        if readable:
            raise Uncapturable("is an open file that is read from")
    return ["opaque", opaque_text(value)]


def describe_thread(walk: Capturer, value: threading.Thread, node: list[Any]) -> list[Any]:
    """A thread that is over, or was never started."""
    if value.is_alive() and value is not threading.main_thread():
        raise Uncapturable("is a thread that runs on by itself")
    return describe_opaque(walk, value, node)


def describe_pulled_loader(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """What pulls from a loader: one that is kept has its workers, and their generators, in other processes."""
    del walk, node
    if getattr(value, "_persistent_workers", False):
        words = (
            "keeps the loader's workers (persistent_workers=True): what they drew lives in their processes"
        )
        raise Uncapturable(words)
    raise Uncapturable(f"is a {shape.type_name(type(value))}: an iterator's position can't be captured")


@puts_back("opaque")
def put_opaque(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live object, as it is."""
    if live is MISSING:
        live = graft.template(ref)
    if live is MISSING:
        raise CheckpointError(f"a {node[1]} can't be made anew")
    return live


def _refuse(what: str) -> Describe:
    def refuse(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
        del walk, value, node
        raise Uncapturable(what)

    return refuse


def _is_sink(module: str) -> bool:
    return any(module == sink or module.startswith(sink + ".") for sink in SINKS)
