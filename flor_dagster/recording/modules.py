"""The repository's modules in this process: which are its own, and what lies in their files."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import linecache
import math
import os
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from flor_dagster.recording import layout, script
from flor_dagster.recording.imports import when_sought
from flor_dagster.recording.program import is_compiled_from, main_code, program
from flor_dagster.recording.scopes import as_loaded

CHANGED_BLOB = "0" * 40
"""Stands for the content of a module that changed while it was in use: no file of a version is equal to it."""

READ_SECONDS = 0.015
"""The interpreter has not read its script yet this long after the start of its process."""

TICK_SECONDS = 0.02
"""The time of a file may be that much behind the clock."""


def process_start() -> float | None:
    """When this process began, in seconds since the epoch; None where the system does not say."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


_loaded = time.time()


def clock_facts() -> dict[str, Any]:
    """By what clocks this process's values of the clock are known: when it began, and how far its other clock was then."""
    now = time.time()
    began = min(process_start() or now, _loaded)
    return {"began": began, "monotonic": time.monotonic() - (now - began)}


_libraries: dict[str, str] = {}
"""Files of modules that were loaded before anything of the repository was → their real paths."""


def note_libraries() -> None:
    """Look up the real paths of all that is loaded: by a process that only loads libraries, for those forked from it."""
    folders: dict[str, str] = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.startswith(os.sep):
            with contextlib.suppress(ValueError, OSError):
                _libraries[file] = layout.real_file(file, folders)


class Modules:
    """What of the process's modules belongs to a repository.

    Args:
        root: the top of the work tree.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._own: dict[str, bool] = {}
        self._blobs: dict[str, str] = {}
        self._texts: dict[str, bytes] = {}
        self._known: dict[str, _Known] = {}
        self._first = True
        self._told = False
        self._began = process_start()
        # The interpreter takes it away before the process's exit hooks run.
        self._main_file = program().file

    def is_own(self, module: str) -> bool:
        """Whether a module's code belongs to the repository."""
        known = self._own.get(module)
        if known is None:
            known = self._looks_own(module)
            if module in sys.modules:
                self._own[module] = known
        return known

    def loaded(self) -> dict[str, str]:
        """The modules that were loaded until now: file → git blob id, by what the interpreter read.

        The repository's, and by their absolute paths those that lie neither in it nor among the installed packages. Who edits
        a file after it was loaded changes nothing of what runs: it counts as it was, unless something may have read it again.
        A file that may have been read as another one has no content of its own.
        """
        if self._first or self._told:
            self._look()
        self._told = True
        return dict(self._blobs)

    def texts(self) -> dict[str, bytes]:
        """The repository's files among them, with their bytes, as they were when they were first looked at."""
        if self._first:
            self._look()
        return self._texts

    def _look(self) -> None:
        for file, (module, name) in self._found().items():
            path = self._root / file
            known = self._known.get(file)
            is_script = getattr(module, "__name__", "") == "__main__"
            try:
                if is_script and known is None and name == script.file:
                    written, data = script.written, script.text
                else:
                    written = path.stat().st_mtime_ns
                    data = path.read_bytes() if known is None or known.written != written else b""
            except OSError:
                continue
            if known is None:
                self._known[file] = _Known(getattr(module, "__spec__", None), written)
                certain = written <= self._read_after(module) or (is_script and _is_running(data))
                self._blobs[file] = _blob(data) if certain else CHANGED_BLOB
                if self._first and certain:
                    as_loaded[name] = data
                    if not file.startswith(os.sep):
                        self._texts[file] = data
            elif data and _blob(data) != self._blobs[file] and known.read_again(module, str(path), written):
                self._blobs[file] = CHANGED_BLOB
        self._first = False

    def _read_after(self, module: Any) -> float:
        """The interpreter has read a module's file later than this, in nanoseconds since the epoch."""
        sought = when_sought(module.__name__)
        if sought is not None:
            return sought - TICK_SECONDS * 1e9
        return math.inf if self._began is None else (self._began + READ_SECONDS) * 1e9

    def below(self, folder: str) -> str:
        """A module that was loaded from a folder which is not this repository; empty where there is none.

        Args:
            folder: an absolute path.
        """
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if not isinstance(file, str) or not file.startswith(folder + os.sep):
                continue
            inside = file.startswith(f"{self._root}{os.sep}")
            if not inside and not name.startswith("flor_dagster") and _is_someones(file, {}):
                return f"{name} ({file})"
        return ""

    def _looks_own(self, module: str) -> bool:
        if module == "__main__":
            return True
        file = getattr(sys.modules.get(module), "__file__", None)
        if not isinstance(file, str):
            return False
        relative = layout.relative_file(file, self._root)
        parts = Path(relative).parts
        ours = module == "flor_dagster" or module.startswith("flor_dagster.")
        return (
            not Path(relative).is_absolute()
            and "site-packages" not in parts
            and "dist-packages" not in parts
            and not ours
        )

    def _found(self) -> dict[str, tuple[Any, str]]:
        """File → one of the modules that were loaded from it, of those that count, and what that calls it."""
        found: dict[str, tuple[Any, str]] = {}
        folders: dict[str, str] = {}
        top = str(self._root) + os.sep
        for module in list(sys.modules.values()):
            name = getattr(module, "__name__", "")
            file = self._main_file if name == "__main__" else getattr(module, "__file__", None)
            if not isinstance(file, str) or not file.endswith(".py"):
                continue
            real = _libraries.get(file)
            if real is None or real.startswith(top):
                path = layout.relative_file(file, self._root, folders)
            elif _INSTALLED[0] in file or _INSTALLED[1] in file:
                continue
            else:
                path = file
            if path.startswith(os.sep):
                wanted = not name.startswith("flor_dagster") and _is_someones(path, folders)
            else:
                wanted = self.is_own(name)
            if wanted:
                found.setdefault(path, (module, file))
        return found


def _is_running(source: bytes) -> bool:
    code = main_code()
    return code is not None and is_compiled_from(code, source)


class _Known:
    """A module's file as it was first looked at.

    Args:
        spec: by which the module was loaded.
        written: when the file was written, in nanoseconds since the epoch.
    """

    __slots__ = ("spec", "written")

    def __init__(self, spec: Any, written: int) -> None:
        self.spec = spec
        self.written = written

    def read_again(self, module: Any, path: str, written: int) -> bool:
        """Whether something may have read the file again after it was written anew.

        A reload gives the module another spec. `inspect.getsource`, and what compiles by it, goes by `linecache`. A process that
        does not fork its children lets them load the file anew.
        """
        entry = linecache.cache.get(path) or linecache.cache.get(str(getattr(module, "__file__", "")))
        sourced = (
            entry is not None
            and len(entry) > 1
            and entry[1] is not None
            and entry[1] * 1e9 > self.written + 1e6
        )
        return (
            getattr(module, "__spec__", None) is not self.spec
            or sourced
            or any(name.endswith(_STARTERS) for name in sys.modules)
        )


_STARTERS = ("popen_spawn_posix", "popen_forkserver", "popen_loky_posix")
"""Modules that are loaded where children are started that load their modules by themselves."""


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@functools.cache
def _interpreters_folders() -> tuple[str, ...]:
    paths = {os.path.realpath(path) for path in sysconfig.get_paths().values()}
    paths |= {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    return tuple(path + os.sep for path in paths)


def _is_someones(file: str, folders: dict[str, str]) -> bool:
    """Whether a file outside the repository is code that no package list names: no library's, not Python's own."""
    return (
        not any(folder in file for folder in _INSTALLED)
        and not (_libraries.get(file) or layout.real_file(file, folders)).startswith(_interpreters_folders())
        and "<" not in file.rpartition(os.sep)[2]
    )
