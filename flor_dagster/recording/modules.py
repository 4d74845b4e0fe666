"""The repository's modules in this process: which are its own, and what lies in their files."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from flor_dagster.recording import layout
from flor_dagster.recording.program import program

CHANGED_BLOB = "0" * 40
"""Stands for the content of a module that changed while it was in use: no file of a version is equal to it."""

READ_SECONDS = 0.015
"""The interpreter has not read its script yet this long after the start of its process."""


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
        self._first = True
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

    def _is_newer(self, path: str, began: float) -> bool:
        """Whether a file was written after this process began: it may have read another content."""
        try:
            return (self._root / path).stat().st_mtime > began + READ_SECONDS
        except OSError:
            return False

    def loaded(self) -> dict[str, str]:
        """The modules that are loaded: file → git blob id, by what lies there now.

        The repository's, and by their absolute paths those that lie neither in it nor among the installed packages.

        A file that changed since the last time it was asked for has no content of its own.
        """
        now = self._read()
        for file, blob in self._blobs.items():
            if now.get(file, blob) != blob:
                now[file] = CHANGED_BLOB
        self._blobs = now
        return now

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

    def _read(self) -> dict[str, str]:
        blobs: dict[str, str] = {}
        # Later on, what was written meanwhile differs from what was noted here, or from the version.
        began = process_start() if self._first else None
        self._first = False
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
            if wanted and path not in blobs:
                if began is not None and self._is_newer(path, began):
                    blobs[path] = CHANGED_BLOB
                    continue
                with contextlib.suppress(OSError):
                    data = (self._root / path).read_bytes()
                    blobs[path] = hashlib.sha1(
                        b"blob %d\0" % len(data) + data, usedforsecurity=False
                    ).hexdigest()
        return blobs


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
