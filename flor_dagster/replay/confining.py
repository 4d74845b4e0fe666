"""What a replay's child may write: its own checkout, its journal, temporary and cache folders; nothing else of the user's.

Two fences. An audit hook of Python's refuses with a sentence that says why; C extensions that open files themselves pass
it. Where the kernel has Landlock (Linux 5.13), it holds the same line for everything that the process and its children
do. Neither is a sandbox against code that means harm: reading, the network and signals are not fenced in.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flor_dagster.replay.auditing import listen

_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_WRITING = frozenset("wax+")
# Event of the audit hook → how many of its arguments are paths that it changes.
_CHANGING = {
    "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.truncate": 1,
    "os.chmod": 1, "os.chown": 1, "os.utime": 1, "shutil.rmtree": 1,
}  # fmt: skip
_CACHE_VARIABLES = (
    "XDG_CACHE_HOME",
    "HF_HOME",
    "TORCH_HOME",
    "MPLCONFIGDIR",
    "NUMBA_CACHE_DIR",
    "TRITON_CACHE_DIR",
)

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PR_SET_NO_NEW_PRIVS = 38
_RULE_PATH_BENEATH = 1
# Bits of Landlock's file system rights that change something, by the version of its interface that brought them.
_RIGHTS = {1: 0x2 | 0x10 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x1000, 2: 0x2000, 3: 0x4000}
_OF_A_FILE = 0x2 | 0x4000


def writable_folders(own: Sequence[str]) -> list[str]:
    """Every folder that a child may write in, besides its own: temporary ones, caches, devices."""
    caches = [os.environ[name] for name in _CACHE_VARIABLES if os.environ.get(name)]
    home = Path.home()
    folders = [
        *own, tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev", *caches, str(home / ".cache"),
        str(home / ".triton"), str(home / ".nv"),
    ]  # fmt: skip
    return list(dict.fromkeys(os.path.realpath(f) for f in folders if os.path.isdir(f)))  # noqa: PTH112


def confine(user_root: str, own: Sequence[str]) -> bool:
    """Put up both fences around this process.

    Args:
        user_root: the user's repository: nothing in it is written, also where it lies in a folder that may be.
        own: the folders that belong to this replay.

    Returns:
        Whether the kernel's fence stands.
    """
    allowed = writable_folders(own)
    hook = _hook(os.path.realpath(user_root), [os.path.realpath(f) for f in own], allowed)
    listen(("open", *_CHANGING), hook)
    return _landlock(allowed)


def _hook(user_root: str, own: Sequence[str], allowed: Sequence[str]) -> Any:
    def refused(target: Any) -> bool:
        if isinstance(target, bytes):
            target = os.fsdecode(target)
        if not isinstance(target, str | os.PathLike):
            return False
        real = os.path.realpath(target)
        if any(_below(real, folder) for folder in own):
            return False
        return _below(real, user_root) or not any(_below(real, folder) for folder in allowed)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            target, mode, flags = (*args, None, None)[:3]
            writes = isinstance(flags, int) and flags & _WRITE_FLAGS
            writes = writes or (isinstance(mode, str) and not _WRITING.isdisjoint(mode))
            if writes and refused(target):
                raise PermissionError(_words(f"write the user's file {target}"))
        elif event in _CHANGING and any(refused(target) for target in args[: _CHANGING[event]]):
            raise PermissionError(_words(f"change the user's file {args[0]} ({event})"))

    return hook


def _words(what: str) -> str:
    return f"a replay may not {what}: it writes in its own copy of the repository, in temporary folders and in caches"


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _landlock(allowed: Sequence[str]) -> bool:
    """Restrict this process, for good, to writing in some folders; False where the kernel can't."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    rights = sum(bits for since, bits in _RIGHTS.items() if since <= version)
    handled = ctypes.c_uint64(rights)
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    if ruleset < 0:
        return False
    try:
        for path in allowed:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = _Rule(rights if os.path.isdir(path) else rights & _OF_A_FILE, fd)  # noqa: PTH112
                if libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0):
                    return False
            finally:
                os.close(fd)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            return False
        return libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


class _Rule(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]
