"""The program whose code runs here: the script itself, also where a tool of the interpreter's runs it.

`python -m cProfile train.py`, `-m trace` and the like leave the tool as `__main__` and run the script in a namespace that only
its frame knows. A console script lies with the interpreter and calls the code of a package that lies elsewhere.
"""

from __future__ import annotations

import functools
import os
import site
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from flor_dagster.recording import layout

_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@dataclass(frozen=True, slots=True)
class Program:
    """What a process runs as its program.

    Args:
        file: the file of its main module; None in a notebook or an interactive session.
        namespace: the globals of its main module.
        spec: how the main module was found, where it was started as a module.
    """

    file: str | None
    namespace: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    spec: Any = None

    def folder(self) -> Path:
        """The folder of the program's own code; of what an installed script calls, not of the script."""
        if self.file is None:
            return Path.cwd()
        if not is_installed(self.file):
            return Path(self.file).parent
        own = next((frame for frame in _frames() if _is_own(frame)), None)
        return Path.cwd() if own is None else Path(_file_of(own)).parent


_found: Program | None = None


def program() -> Program:
    """The program of this process, as the main thread's frames and `__main__` tell."""
    global _found
    module = sys.modules.get("__main__")
    namespace: dict[str, Any] = getattr(module, "__dict__", {})
    file = namespace.get("__file__")
    if not isinstance(file, str) or not is_installed(file):
        return Program(file if isinstance(file, str) else None, namespace, namespace.get("__spec__"))
    if _found is None:
        frame = next((frame for frame in _frames() if _is_own(frame) and _is_main(frame)), None)
        if frame is None:
            return Program(file, namespace, namespace.get("__spec__"))
        inside = frame.f_globals
        _found = Program(_file_of(frame), inside, inside.get("__spec__"))
    return _found


def main_code() -> CodeType | None:
    """The code of the program's main module, as long as it runs; None where its frame is gone or another thread's."""
    namespace = program().namespace
    for frame in _frames():
        if frame.f_globals is namespace and frame.f_code.co_name == "<module>":
            return frame.f_code
    return None


def is_compiled_from(code: CodeType, source: bytes) -> bool:
    """Whether this source gives this code, each instruction at its line and column."""
    try:
        with warnings.catch_warnings(action="ignore"):  # the program has been told once
            again = compile(source, code.co_filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError):
        return False
    return _is_same(code, again)


def _is_same(one: CodeType, other: CodeType) -> bool:
    pairs = zip(one.co_consts, other.co_consts, strict=False)
    return (
        one == other
        and one.co_linetable == other.co_linetable
        and all(_is_same(a, b) for a, b in pairs if isinstance(a, CodeType) and isinstance(b, CodeType))
    )


def is_installed(file: str) -> bool:
    """Whether a file is Python's own, a library's that was installed, or a script that came with one."""
    path = os.path.join(layout.beginning(), file)  # noqa: PTH118 - asked before every training; texts are faster
    return any(part in path for part in _INSTALLED) or path.startswith(_folders())


@functools.cache
def _folders() -> tuple[str, ...]:
    """Where the interpreter, its libraries and its scripts lie. A repository may lie below its prefix, as in `/usr/src`."""
    # `sysconfig` would load a table of every setting that Python was built with.
    scripts = "Scripts" if os.name == "nt" else "bin"
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found = {Path(os.__file__).parent, Path(sys.executable).parent, Path(site.getuserbase(), scripts)}
    for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix):
        found |= {Path(prefix, scripts), Path(prefix, "lib", version)}
    folders = {str(path) for path in found} | {os.path.realpath(path) for path in found}
    return tuple(f"{path.rstrip(os.sep)}{os.sep}" for path in sorted(folders))


def _frames() -> Iterator[FrameType]:
    """The main thread's frames, the outermost first."""
    main = threading.main_thread().ident
    frame = sys._current_frames().get(main) if main is not None else None  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    stack: list[FrameType] = []
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    return reversed(stack)


def _file_of(frame: FrameType) -> str:
    """A frame's file; a tool may have compiled it under a name relative to where the process began."""
    return str(layout.beginning() / frame.f_code.co_filename)


def _is_own(frame: FrameType) -> bool:
    file = _file_of(frame)
    return (
        not str(frame.f_globals.get("__name__")).startswith("flor_dagster.")
        and not is_installed(file)
        and Path(file).is_file()
    )


def _is_main(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") == "__main__" and frame.f_code.co_name == "<module>"
