"""What the system and the interpreter set for a process and its values may depend on: read for the record, given back to a replay.

Interpreter options (`-O`, `-X`, `-W`), umask, soft resource limits, how many processors it may use, locale, whether there is
a standard input.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIMITS = (
    "RLIMIT_STACK",
    "RLIMIT_AS",
    "RLIMIT_DATA",
    "RLIMIT_NOFILE",
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_NPROC",
    "RLIMIT_MEMLOCK",
)
"""Recorded and compared."""

GIVEN_BACK = ("RLIMIT_STACK", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_NOFILE")
"""Given back where this machine allows it; the others end a process, and change no value."""

_FLAGS = (
    "optimize", "dev_mode", "utf8_mode", "bytes_warning", "no_site", "no_user_site", "ignore_environment", "isolated",
    "warn_default_encoding", "int_max_str_digits", "hash_randomization", "context_aware_warnings", "thread_inherit_context", "gil",
)  # fmt: skip
_X_OPTIONS = ("dev", "utf8", "int_max_str_digits", "warn_default_encoding", "cpu_count", "gil", "context_aware_warnings", "thread_inherit_context", "frozen_modules", "no_debug_ranges")  # fmt: skip
"""The `-X` options that a program can tell; the others profile or trace."""


_early: dict[str, Any] = {}


def keep_early_state() -> None:
    """Remember what the program may change before its run begins."""
    _early.update(umask=_umask(), limits=_limits())


def read_process_state() -> dict[str, Any]:
    """The facts of this process, as JSON holds them; umask and limits as they were when this package was imported."""
    early = _early or {"umask": _umask(), "limits": _limits()}
    return {
        "flags": {name: int(getattr(sys.flags, name)) for name in _FLAGS if hasattr(sys.flags, name)},
        "options": interpreter_options(),
        "umask": early["umask"], "limits": early["limits"], "affinity": _affinity(), "locale": _locale(),
        "stdin": _standard_input(), "encodings": [sys.getfilesystemencoding(), getattr(sys.stdout, "encoding", None)],
    }  # fmt: skip


def interpreter_options() -> list[str]:
    """The command line's options that start an interpreter like this one, for what a program can tell.

    Environment variables that say the same (`PYTHONOPTIMIZE`, `PYTHONWARNINGS`, …) are kept as variables.
    """
    options = ["-" + "O" * sys.flags.optimize] if sys.flags.optimize else []
    options += ["-" + "b" * sys.flags.bytes_warning] if sys.flags.bytes_warning else []
    options += ["-S"] * bool(sys.flags.no_site) + ["-s"] * bool(sys.flags.no_user_site)
    given = getattr(sys, "_xoptions", {})
    options += [
        part
        for name in _X_OPTIONS
        if name in given
        for part in ("-X", name if given[name] is True else f"{name}={given[name]}")
    ]
    by_variable = os.environ.get("PYTHONWARNINGS", "").split(",") if not sys.flags.ignore_environment else []
    for warning in sys.warnoptions:
        if warning not in by_variable and not (warning == "default" and sys.flags.dev_mode):
            options += ["-W", warning]
    return options


def _umask() -> int | None:
    """Read without setting it, which would be seen by other threads."""
    with (
        contextlib.suppress(OSError, ValueError),
        Path("/proc/self/status").open(encoding="ascii", errors="replace") as file,
    ):
        for line in file:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return None


def _limits() -> dict[str, int]:
    try:
        import resource
    except ImportError:
        return {}
    found: dict[str, int] = {}
    for name in LIMITS:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            found[name] = resource.getrlimit(getattr(resource, name))[0]
    return found


def _affinity() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return None


def _standard_input() -> str:
    try:
        mode = os.fstat(0).st_mode
        if stat.S_ISCHR(mode):
            return "terminal" if os.isatty(0) else "null"
    except OSError:
        return "closed"
    return "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "file"


def _locale() -> str | None:
    import _locale

    with contextlib.suppress(Exception):
        return _locale.setlocale(_locale.LC_ALL, None)
    return None


def give_back_process_state(state: Mapping[str, Any]) -> None:
    """Give this process what the recorded one had, as far as the system lets it.

    Args:
        state: what `read_process_state` returned then; empty changes nothing.
    """
    umask = state.get("umask")
    if isinstance(umask, int):
        os.umask(umask)
    with contextlib.suppress(ImportError):
        import resource

        for name in GIVEN_BACK:
            soft = state.get("limits", {}).get(name)
            if isinstance(soft, int):
                with contextlib.suppress(AttributeError, OSError, ValueError):
                    number = getattr(resource, name)
                    resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))
    wanted = state.get("affinity")
    with contextlib.suppress(AttributeError, OSError):
        here = sorted(os.sched_getaffinity(0))
        if isinstance(wanted, int) and 0 < wanted < len(here):
            # Any of them, so that replays side by side do not all take the first ones.
            begin = random.SystemRandom().randrange(len(here))
            os.sched_setaffinity(0, {here[(begin + n) % len(here)] for n in range(wanted)})


def state_differences(recorded: Mapping[str, Any], replayed: Mapping[str, Any]) -> list[str]:
    """How two processes' states differ, each in words; what one of them does not know is not compared."""
    found: list[str] = []
    before, after = recorded.get("flags") or {}, replayed.get("flags") or {}
    for name in sorted(
        before.keys()
        & after.keys() - {"hash_randomization", "ignore_environment", "isolated", "no_user_site"}
    ):
        if before[name] != after[name]:
            shown = " (-O)" if name == "optimize" else ""
            found.append(f"the interpreter's flag {name}{shown} was {before[name]} and is {after[name]}")
    if recorded.get("umask") is not None and replayed.get("umask") not in (None, recorded["umask"]):
        found.append(f"the umask was {recorded['umask']:03o} and is {replayed['umask']:03o}")
    if recorded.get("affinity") and replayed.get("affinity") and recorded["affinity"] != replayed["affinity"]:
        found.append(
            f"the process could use {recorded['affinity']} processors and can use {replayed['affinity']}"
        )
    if recorded.get("locale") and replayed.get("locale") and recorded["locale"] != replayed["locale"]:
        found.append(f"the locale was {recorded['locale']} and is {replayed['locale']}")
    if (
        recorded.get("encodings")
        and replayed.get("encodings")
        and recorded["encodings"][0] != replayed["encodings"][0]
    ):
        found.append(
            f"the file system's encoding was {recorded['encodings'][0]} and is {replayed['encodings'][0]}"
        )
    limits = replayed.get("limits") or {}
    for name, soft in (recorded.get("limits") or {}).items():
        if name in GIVEN_BACK and name in limits and limits[name] != soft:
            found.append(f"the limit {name} was {_limit(soft)} and is {_limit(limits[name])}")
    return found


def _limit(soft: int) -> str:
    return "unlimited" if soft < 0 else str(soft)
