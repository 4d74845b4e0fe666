"""What a program asks of the file system without opening a file: whether something is there, what lies in a folder.

`os.stat`, `os.lstat`, `os.listdir` and `os.scandir` are looked at: `os.path`, `pathlib`, `glob` and `os.walk` come through
them. The interpreter's own questions while it imports do not, and those of its tools for packages are left out.
"""

# ruff: noqa: PTH100, PTH120 - every question of a training comes by here: texts, not Path objects

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple, Protocol, Self

MAX_NAMES = 1000
"""So many names of a folder are kept; of more their number and a digest."""

_TOOLS = (
    "importlib",
    "pkgutil",
    "pkg_resources",
    "zipimport",
    "linecache",
    "inspect",
    "site",
    "runpy",
    "tempfile",
)
# What these find changes nothing that the program gets to see, or shows otherwise.
_TRANSPARENT = frozenset({"realpath", "_joinrealpath", "makedirs", "mkdir"})
_EXISTENCE = frozenset(
    {"exists", "lexists", "isfile", "isdir", "islink", "is_file", "is_dir", "is_symlink", "ismount"}
)
_STANDARD = os.path.dirname(os.__file__) + os.sep
_LIBRARIES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Listener(Protocol):
    """Is told of the questions of this process. Nothing that it does may stop a training."""

    def asked(self, path: str, status: os.stat_result | None) -> None:
        """Something was asked for; None where it is not there."""
        ...

    def listed(self, path: str, names: Callable[[], Sequence[str]]) -> None:
        """A folder was listed; `names` gives what is in it, at some cost."""
        ...


_listener: Listener | None = None


class _Busy(threading.local):
    """Whether a thread is telling, whose own questions are nobody's."""

    now = False


_busy = _Busy()


class StandIn:
    """Stands for a function of the standard library, and is taken for it.

    Args:
        name: of the function.
        plain: the real one.
    """

    __slots__ = ("_name", "_plain")

    def __init__(self, name: str, plain: Callable[..., Any]) -> None:
        self._name = name
        self._plain = plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def __reduce__(self) -> str:
        return self._name  # as the real one: by its name

    def __repr__(self) -> str:
        return repr(self._plain)


class _Asked(StandIn):
    """Stands for a function of `os` that asks for something: calls it, and tells the listener of the answer.

    Args:
        name: of the function.
        plain: the real one.
    """

    __slots__ = ("_lists",)
    __module__ = "os"

    def __init__(self, name: str, plain: Callable[..., Any]) -> None:
        super().__init__(name, plain)
        self._lists = name in ("listdir", "scandir")

    def __call__(self, *given: Any, **named: Any) -> Any:
        """As the function."""
        if self._lists:
            result = self._plain(*given, **named)
            path = given[0] if given else named.get("path", ".")
            _tell_listed(path)
            return _without_hidden(path, result) if _hidden else result
        try:
            result = self._plain(*given, **named)
        except (FileNotFoundError, NotADirectoryError):
            _tell_asked(given, named, None)
            raise
        _tell_asked(given, named, result)
        return result


_hidden: dict[str, str] = {}


def hide(folder: str, name: str) -> None:
    """Let nobody see a name in a folder: it is no part of what the program may find there."""
    _hidden[os.path.abspath(folder)] = name


def _without_hidden(path: Any, result: Any) -> Any:
    name = None if isinstance(path, int) else _hidden.get(absolute("." if path is None else path))
    if name is None:
        return result
    if isinstance(result, list):
        names: list[Any] = result  # pyright: ignore[reportUnknownVariableType]
        return [n for n in names if os.fsdecode(n) != name]
    return _Scan(result, name)


class _Scan:
    """As what `os.scandir` returns, without one name."""

    def __init__(self, plain: Any, name: str) -> None:
        self._plain = plain
        self._name = name

    def __iter__(self) -> _Scan:
        return self

    def __next__(self) -> Any:
        entry = next(self._plain)
        return entry if os.fsdecode(entry.name) != self._name else next(self._plain)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._plain.close()

    def close(self) -> None:
        """As that of the real one."""
        self._plain.close()


_ASKED = _Asked.__call__.__code__
_NAMES = ("stat", "lstat", "listdir", "scandir")
_plain: dict[str, Callable[..., Any]] = {}


def listen_to_questions(listener: Listener) -> None:
    """Tell a listener of this process's questions from here on, in the place of the one before."""
    global _listener
    _listener = listener
    if _plain:
        return
    support = (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks, os.supports_effective_ids)
    for name in _NAMES:
        plain = _plain[name] = getattr(os, name)
        asked: Any = _Asked(name, plain)
        for able in support:
            if plain in able:
                able.add(asked)
        setattr(os, name, asked)
        _replace_kept(plain, asked)


def _replace_kept(plain: Any, asked: Any) -> None:
    """The standard library's classes for patterns keep these functions from Python 3.13 on."""
    for module in ("glob", "pathlib", "pathlib._local", "pathlib._abc"):
        for kind in list(vars(sys.modules.get(module, object())).values()) if module in sys.modules else ():
            for key, kept in list(vars(kind).items()) if isinstance(kind, type) else ():
                if isinstance(kept, staticmethod) and kept.__func__ is plain:
                    setattr(kind, key, staticmethod(asked))


def plain_stat(path: str) -> os.stat_result:
    """`os.stat`, unheard."""
    return _plain.get("stat", os.stat)(path)


def plain_list(path: str) -> list[str]:
    """`os.listdir`, unheard."""
    return _plain.get("listdir", os.listdir)(path)


def _tell_asked(given: Sequence[Any], named: dict[str, Any], status: os.stat_result | None) -> None:
    target = given[0] if given else named.get("path")
    if _listener is None or _busy.now or isinstance(target, int) or named.get("dir_fd") is not None:
        return
    _busy.now = True
    try:
        with contextlib.suppress(OSError, ValueError, TypeError):
            _listener.asked(absolute(target), status)
    finally:
        _busy.now = False


def _tell_listed(target: Any) -> None:
    if _listener is None or _busy.now or isinstance(target, int):
        return
    _busy.now = True
    try:
        with contextlib.suppress(OSError, ValueError, TypeError):
            path = absolute("." if target is None else target)
            _listener.listed(path, lambda: plain_list(path))
    finally:
        _busy.now = False


def absolute(target: Any) -> str:
    """A path as an absolute text."""
    return os.path.abspath(os.fsdecode(target))


class Asker(NamedTuple):
    """Who asks: the program's own code, or a library; `existence` is set where only that is asked for.

    `to_write`: libraries and `shutil` ask before they write something, and let nobody know the answer.
    """

    own: bool
    existence: bool
    to_write: bool


def who_asks() -> Asker | None:
    """Who asks the question that a listener is being told of; None where it is no part of what the program does."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code is not _ASKED:
        frame = frame.f_back
    existence = to_write = False
    while frame is not None:
        code, file = frame.f_code, frame.f_code.co_filename
        if code is _ASKED:
            pass
        elif (
            code.co_name in _TRANSPARENT
            or file.startswith(_OURS)
            or str(frame.f_globals.get("__name__")).startswith(_TOOLS)
        ):
            return None
        elif any(part in file for part in _LIBRARIES):
            return Asker(own=False, existence=existence, to_write=True)
        elif not file.startswith((_STANDARD, "<frozen")):
            return Asker(own=True, existence=existence, to_write=to_write)
        else:
            existence = existence or code.co_name in _EXISTENCE
            to_write = to_write or file.endswith(f"{os.sep}shutil.py")
        frame = frame.f_back
    return None


def kind_of(status: os.stat_result | None) -> str:
    """What is there, in a word."""
    if status is None:
        return "missing"
    return {0o100000: "file", 0o040000: "folder"}.get(status.st_mode & 0o170000, "other")


def names_said(names: Sequence[str]) -> dict[str, Any]:
    """The names in a folder, as they are noted."""
    found = sorted(n for n in names if n != OUTPUTS)
    if len(found) <= MAX_NAMES:
        return {"names": found}
    digest = hashlib.blake2b("\0".join(found).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return {"count": len(found), "digest": digest}


OUTPUTS = ".flor-outputs"
"""A folder that a replay's checkout has for what other trackers write."""
