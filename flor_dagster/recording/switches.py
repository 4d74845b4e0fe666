"""The process's switches: settings of libraries and of the interpreter that are no object of the training.

A loop whose code turns one leaves it so for what follows. So they are read at a loop's entry and compared at its ends: an
end state holds the ones that were turned, under a root `process-settings:NAME`, and putting it back turns them again. One
that can't be turned from outside makes the execution one that can't be skipped, with the switch's name as the reason.

Only what is loaded is read. Left out is what a library does for itself when it is imported: folders below the
interpreter's own in `sys.path`, filters of warnings as long as none of them raises.
"""

from __future__ import annotations

import _locale
import functools
import importlib
import os
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording.masking import looks_like_credential, secret_name
from flor_dagster.recording.process_state import GIVEN_BACK
from flor_dagster.recording.variables import OURS

KIND = "process-settings"
"""The kind of their roots; no module can have this name."""

Value = str | int | bool | None

_ENVIRON = "environ."
_TEMPORARY = ("/tmp", "/var/tmp", "/var/folders")
_HOOKS = "torch.hooks"
_UNREADABLE = "<unreadable>"
_UNCHANGED: Any = object()
"""Of a library that was loaded in between: what its import makes of a setting is not looked at."""


@dataclass(frozen=True, slots=True)
class Switch:
    """One setting.

    Args:
        library: the module that must be loaded for it to be there, empty for the interpreter's own.
        words: what it is, in a sentence.
        read: library → value.
        turn: (library, value) → None; None where it can't be turned from outside.
        unset: what it is where the library was not loaded, of those that can't be turned.
    """

    library: str
    words: str
    read: Callable[[Any], Any]
    turn: Callable[[Any, Any], object] | None = None
    unset: Any = None


@dataclass(frozen=True, slots=True)
class Readings:
    """What the switches were at some moment; what is not loaded has none."""

    values: Mapping[str, Any]
    environ: Mapping[Any, Any]


def read_all() -> Readings:
    """Read every switch of what is loaded; some 10 µs."""
    modules = sys.modules
    values: dict[str, Any] = {}
    for name, switch in SWITCHES.items():
        module = modules.get(switch.library) if switch.library else sys
        if module is None:
            continue
        try:
            values[name] = switch.read(module)
        except Exception:  # noqa: BLE001 - another release, a half-imported library, settings that contradict each other
            values[name] = _UNREADABLE
    return Readings(values, dict(_environ()))


def turned(before: Readings, root: str) -> tuple[dict[str, Value], list[str]]:
    """What was turned since then.

    Args:
        before: the readings of a loop's entry.
        root: the repository's path.

    Returns:
        Name → value of the switches that can be put back, and why others can't be.
    """
    now = read_all()
    put: dict[str, Value] = {}
    reasons: list[str] = []
    for name, value in now.values.items():
        switch = SWITCHES[name]
        old = before.values.get(name, switch.unset)
        if name in before.values or (switch.turn is None and old is not _UNCHANGED):
            if value == old:
                continue
        elif value == _UNREADABLE or old is _UNCHANGED:
            continue  # behind its import it is what the import makes it
        outside = name == "cwd" and not (str(value) + os.sep).startswith(root.rstrip(os.sep) + os.sep)
        if switch.turn is None or value == _UNREADABLE or outside:
            reasons.append(f"{switch.words} is changed in the loop")
        else:
            put[name] = value
    if now.environ != before.environ:
        for key in sorted(map(os.fsdecode, now.environ.keys() | before.environ.keys())):
            value, old = _variable(now.environ, key), _variable(before.environ, key)
            if value == old or key in OURS:
                continue
            if secret_name(key) or looks_like_credential(value or old or ""):
                reasons.append(
                    f"the environment variable {key} is changed in the loop, and its name tells of a secret"
                )
            else:
                put[_ENVIRON + key] = value
    return put, reasons


def not_compared(values: Mapping[str, Value]) -> tuple[str, ...]:
    """The names of those that are put back and may be others elsewhere: what tells of temporary folders and processes.

    The counter of hooks is one, too: a statement that watches a layer for a moment moves it. The hooks themselves are
    compared, by their numbers, with the objects that hold them.
    """
    if not values:
        return ()
    # Asking `tempfile` would write a file to find out.
    temporary = "|".join(re.escape(d.rstrip("/")) for d in {os.environ.get("TMPDIR"), *_TEMPORARY} if d)
    own = re.compile(rf"({temporary})(/|$)|\b{os.getpid()}\b")
    return tuple(
        n for n, v in values.items() if n == _HOOKS or (n.startswith(_ENVIRON) and v and own.search(str(v)))
    )


def read_one(name: str) -> Value:
    """A switch of now.

    Raises:
        KeyError: what it belongs to is not loaded, or this release does not know it.
    """
    if name.startswith(_ENVIRON):
        return os.environ.get(name.removeprefix(_ENVIRON))
    switch = SWITCHES[name]
    return switch.read(sys.modules[switch.library] if switch.library else sys)


def load(names: list[str]) -> None:
    """Import what the skipped code had imported.

    Raises:
        CheckpointError: it is not there, or a later release captured the switch.
    """
    for name in names:
        if name.startswith(_ENVIRON):
            continue
        if name not in SWITCHES:
            raise CheckpointError(
                f"this release does not know the setting {name!r}, which a later one captured"
            )
        library = SWITCHES[name].library
        if library and library not in sys.modules:
            try:
                importlib.import_module(library)
            except Exception as error:
                raise CheckpointError(
                    f"{library}, which the recorded run loaded, can't be loaded here: {error}"
                ) from error


def put_back(values: Mapping[str, Value]) -> None:
    """Turn switches to recorded values; the environment first, since the time zone is read from there.

    Raises:
        CheckpointError: one of them did not get there.
    """
    for name, value in sorted(values.items(), key=lambda item: not item[0].startswith(_ENVIRON)):
        try:
            if name.startswith(_ENVIRON):
                key = name.removeprefix(_ENVIRON)
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = str(value)
            elif read_one(name) != value:
                switch = SWITCHES[name]
                assert switch.turn is not None
                switch.turn(sys.modules[switch.library] if switch.library else sys, value)
            reached = read_one(name)
        except Exception as error:
            raise CheckpointError(
                f"the setting {name} can't be put back: {type(error).__name__}: {error}"
            ) from error
        if reached != value:
            raise CheckpointError(
                f"the setting {name} can't be put back: it is {reached!r}, it was {value!r}"
            )


# The switches ---------------------------------------------------------------------------------------------------------


def _environ() -> Mapping[Any, Any]:
    # The mapping behind os.environ, without decoding every value.
    return getattr(os.environ, "_data", os.environ)


def _variable(environ: Mapping[Any, Any], key: str) -> str | None:
    value = environ.get(os.fsencode(key), environ.get(key))
    return None if value is None else os.fsdecode(value)


_STANDARD = str(Path(os.__file__).parent) + os.sep
_INSTALLED = ("/site-packages/", "/dist-packages/", "\\site-packages\\")


def _is_own_folder(entry: str) -> bool:
    """Whether it lies below the standard library or an installed package."""
    return entry.startswith(_STANDARD) or any(part in entry for part in _INSTALLED)


def _search_path(_: Any) -> tuple[str, ...]:
    return _others(tuple(map(str, sys.path)))


@functools.lru_cache(maxsize=8)
def _others(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(entry for entry in path if not _is_own_folder(entry))


def _raising_filters(_: Any) -> tuple[Any, ...]:
    filters = warnings.filters
    return tuple(map(repr, filters)) if any(entry[0] == "error" for entry in filters) else ()


_DECIMAL = (
    "Context(prec=28, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999, capitals=1, clamp=0, "
    "traps=[InvalidOperation, DivisionByZero, Overflow])"
)


def _decimal_context(decimal: Any) -> str:
    # All but the flags, which every rounding raises.
    settings, _, rest = repr(decimal.getcontext()).partition(", flags=")
    return settings + rest.partition("]")[2]


def _numpy_errors(numpy: Any) -> str:
    return ",".join(f"{kind}={action}" for kind, action in sorted(numpy.geterr().items()))


def _set_numpy_errors(numpy: Any, value: str) -> None:
    numpy.seterr(**dict(part.split("=") for part in value.split(",")))


def _numpy_printing(numpy: Any) -> Any:
    options = numpy.get_printoptions()
    # Their text takes longer than all other settings of numpy; formatters may be changed in place.
    return repr(options) if options.get("formatter") else tuple(options.items())


def _pandas_options(pandas: Any) -> str:
    return repr(pandas._config.config._global_config)  # noqa: SLF001 - the public way takes a hundred times as long


def _flushes_denormal(torch: Any) -> bool:
    del torch
    return _SMALLEST * _ONE == 0.0  # the processor's own flag, of this thread


_SMALLEST, _ONE = 5e-324, 1.0


def _attention(torch: Any) -> str:
    cuda = torch.backends.cuda
    return f"{cuda.flash_sdp_enabled()} {cuda.mem_efficient_sdp_enabled()} {cuda.math_sdp_enabled()}"


def _dtype(torch: Any) -> str:
    return str(torch.get_default_dtype()).removeprefix("torch.")


def _device(torch: Any) -> str:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)  # noqa: SLF001 - the public getter makes a tensor
    return "" if context is None else str(context.device)


def _deterministic(torch: Any) -> str:
    if not torch.are_deterministic_algorithms_enabled():
        return "off"
    return "warn" if torch.is_deterministic_algorithms_warn_only_enabled() else "on"


def _set_deterministic(torch: Any, value: str) -> None:
    torch.use_deterministic_algorithms(value != "off", warn_only=value == "warn")


_umask: int | None = None
_put: dict[str, str | None] = {}
"""What was set in the environment that the system's own code and children see, past `os.environ`."""


def watch_calls() -> None:
    """Note what is set by functions whose settings nothing reads back: `os.umask`, `os.putenv`, `os.unsetenv`; once per process."""
    if hasattr(os.umask, "__wrapped__"):
        return
    set_mask = os.umask

    @functools.wraps(set_mask)
    def umask(mask: int, /) -> int:
        global _umask
        before = set_mask(mask)
        _umask = mask & 0o777
        return before

    os.umask = umask
    for name in ("putenv", "unsetenv"):
        if hasattr(os, name):
            setattr(os, name, _noting_put(getattr(os, name)))


def _noting_put(plain: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(plain)
    def put(name: Any, *value: Any) -> None:
        plain(name, *value)
        if sys._getframe(1).f_globals.get("__name__") != "os":  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - os.environ does it by this, too
            _put[os.fsdecode(name)] = os.fsdecode(value[0]) if value else None

    return put


def _soft_limit(name: str) -> Switch:
    def read(_: Any) -> int:
        return resource.getrlimit(getattr(resource, name))[0]

    def turn(_: Any, value: int) -> None:
        number = getattr(resource, name)
        resource.setrlimit(number, (value, resource.getrlimit(number)[1]))

    return Switch("", f"the limit {name}", read, turn)


def _processors(_: Any) -> str:
    return ",".join(map(str, sorted(os.sched_getaffinity(0))))


def _cudnn(name: str) -> Switch:
    return Switch(
        "torch",
        f"torch.backends.cudnn.{name}",
        lambda torch: getattr(torch.backends.cudnn, name),
        lambda torch, value: setattr(torch.backends.cudnn, name, value),
    )


def _set_hook_counter(torch: Any, value: int) -> None:
    torch.utils.hooks.RemovableHandle.next_id = value


SWITCHES: dict[str, Switch] = {
    "cwd": Switch("", "the working directory", lambda _: os.getcwd(), lambda _, value: os.chdir(value)),  # noqa: PTH109 - a fifth of the time
    "recursion_limit": Switch(
        "", "the recursion limit", lambda _: sys.getrecursionlimit(), lambda _, value: sys.setrecursionlimit(value)
    ),
    "umask": Switch("", "the umask", lambda _: _umask, lambda _, value: os.umask(value)),
    "putenv": Switch("", "the environment, by os.putenv,", lambda _: tuple(_put.items())),
    **{
        f"limit.{name}": _soft_limit(name)
        for name in GIVEN_BACK
    },
    **(
        {"affinity": Switch("", "which processors it may use", _processors, lambda _, v: os.sched_setaffinity(0, map(int, v.split(","))))}
        if hasattr(os, "sched_getaffinity") else {}
    ),
    **({"timezone": Switch("", "the time zone", lambda _: f"{time.tzname} {time.timezone} {time.altzone}", lambda _, v: time.tzset())}
       if hasattr(time, "tzset") else {}),
    "sys.path": Switch("", "sys.path", _search_path),
    "warnings": Switch("", "which warnings raise (warnings.filters)", _raising_filters),
    "locale": Switch("", "the locale", lambda _: _locale.setlocale(_locale.LC_ALL, None)),
    "decimal": Switch("decimal", "decimal's context", _decimal_context, unset=_DECIMAL),
    "numpy.errors": Switch("numpy", "numpy.seterr", _numpy_errors, _set_numpy_errors),
    "numpy.print": Switch(
        "numpy", "numpy's print options", _numpy_printing, unset=_UNCHANGED
    ),
    "numpy.buffer": Switch("numpy", "numpy.setbufsize", lambda n: n.getbufsize(), lambda n, value: n.setbufsize(value)),
    "pandas.options": Switch("pandas", "pandas.options", _pandas_options, unset=_UNCHANGED),
    "sklearn.config": Switch("sklearn", "sklearn.set_config", lambda s: repr(s.get_config()), unset=_UNCHANGED),
    "torch.print": Switch("torch", "torch's print options", lambda t: repr(t._tensor_str.PRINT_OPTS), unset=_UNCHANGED),  # noqa: SLF001
    "torch.denormal": Switch(
        "torch", "torch.set_flush_denormal", _flushes_denormal, lambda t, value: t.set_flush_denormal(value)
    ),
    "torch.mkldnn": Switch("torch", "torch.backends.mkldnn", lambda t: t._C._get_mkldnn_enabled(), unset=_UNCHANGED),  # noqa: SLF001
    "torch.attention": Switch("torch", "torch's scaled dot product attention", _attention, unset=_UNCHANGED),
    "torch.grad": Switch(
        "torch", "torch's grad mode", lambda t: t.is_grad_enabled(), lambda t, value: t.set_grad_enabled(value)
    ),
    "torch.inference": Switch("torch", "torch's inference mode", lambda t: t.is_inference_mode_enabled(), unset=False),
    "torch.autocast": Switch(
        "torch", "torch's autocast", lambda t: (t.is_autocast_enabled("cpu"), t.is_autocast_enabled("cuda")),
        unset=(False, False),
    ),
    "torch.dtype": Switch(
        "torch", "torch's default dtype", _dtype, lambda t, value: t.set_default_dtype(getattr(t, value))
    ),
    "torch.device": Switch(
        "torch", "torch's default device", _device, lambda t, value: t.set_default_device(value or None)
    ),
    "torch.threads": Switch(
        "torch", "torch.set_num_threads", lambda t: t.get_num_threads(), lambda t, value: t.set_num_threads(value)
    ),
    "torch.deterministic": Switch("torch", "torch.use_deterministic_algorithms", _deterministic, _set_deterministic),
    "torch.matmul": Switch(
        "torch", "torch's float32 matmul precision", lambda t: t.get_float32_matmul_precision(),
        lambda t, value: t.set_float32_matmul_precision(value),
    ),
    "torch.cudnn.benchmark": _cudnn("benchmark"),
    "torch.cudnn.deterministic": _cudnn("deterministic"),
    "torch.cudnn.allow_tf32": _cudnn("allow_tf32"),
    _HOOKS: Switch(
        "torch", "torch's counter of hooks", lambda t: t.utils.hooks.RemovableHandle.next_id, _set_hook_counter
    ),
}  # fmt: skip
"""Name → switch."""
