"""Which data files a training read: path, size and time of each, at its first opening.

Looked at are the calls of `open` (pathlib, numpy, pandas, torch, zipfile and others come through it), of `os.open`, `io.open_code` and of
`sqlite3.connect`, not every audit event of the interpreter: a Python audit hook makes each `id()` and each record of ours slower
(measured: 0.5 µs a record). Of libraries that open files in C by themselves (HDF5, Arrow, LMDB) the files are seen that the process
holds when its run begins, when its loops begin and when it ends; of programs that it starts those that are named to them.

A line of `files.jsonl` in the run's folder is `[path, size, time, copy, inode, changed]`, the path relative to the repository where it lies
in it, times in nanoseconds, `changed` by the system's own clock (which no program sets), `copy` empty where none is kept. `[[], {…}]` says more: when reading began to be watched (`begun`), that
some are not noted (`more`), files that were handed to another program (`handed`), databases that were written meanwhile, so that nothing is known of what was read (`unknown`), that a file's time was ahead of the clock (`ahead`), and the content digests of small files (`digests`) and of samples of large ones (`samples`), taken at the end; what the program asked for
(`asked`) or listed (`listed`), when, and what it was told, each time that this was something else. Forked processes add to the same file; what they read before
the run begins comes through one in memory.
"""

# ruff: noqa: PTH100, PTH109, PTH116, PTH118, PTH120 - every opening of a training comes by here: texts, not Path objects

from __future__ import annotations

import builtins
import contextlib
import gc
import hashlib
import io
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flor_dagster.recording import variable_reads
from flor_dagster.recording.descriptors import Identity, identity, open_apart
from flor_dagster.recording.handed import Spool, held, named_in
from flor_dagster.recording.imports import when_imported
from flor_dagster.recording.journal import retire
from flor_dagster.recording.program import is_installed, program
from flor_dagster.recording.questions import (
    StandIn,
    kind_of,
    listen_to_questions,
    names_said,
    plain_stat,
    who_asks,
)

MAX_FILES = 20_000
"""So many files are noted per process; what is behind them is said to be unknown."""

FILE_NAME = "files.jsonl"
KEPT_FOLDER = "inputs"

RESUMABLE = (".pt", ".pth", ".ckpt", ".tar")
"""What trainings go on from: copied, because the run often writes the next one over it."""
DIGEST_BYTES = 1_000_000
DIGEST_TOTAL = 32_000_000
SAMPLE_PIECES = 32
SAMPLE_BYTES = 8192
SAMPLE_SECONDS = 1.0
KEPT_BYTES = 64_000_000
KEPT_TOTAL = 256_000_000

begun = time.time_ns()

_SYSTEM = ("/proc/", "/sys/", "/dev/", "/run/", "/etc/", "/usr/", "/lib", "/bin/", "/sbin/")
_CODE = (".py", ".pyc", ".pyi", ".so", ".pyd")


class Watched(StandIn):
    """Stands for `open`: notes what is opened for reading, and what was in it before it is written over; then opens it.

    Args:
        plain: the real one.
    """

    __slots__ = ("files",)

    def __init__(self, plain: Callable[..., Any]) -> None:
        super().__init__("open", plain)
        self.files = Files()

    def __call__(self, file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        """As `open`."""
        if type(file) is not int and type(mode) is str:
            if "r" in mode:
                self.files.saw(file, mode)
            if mode[:1] != "r" or "+" in mode:
                self.files.overwrites(file)
        return self._plain(file, mode, *more, **named)

    __module__ = "io"


class _WatchedCall(StandIn):
    """Stands for another function that opens files: tells of what it is about to read, then calls it.

    Args:
        name: of the function.
        module: its module.
        plain: the real one.
        tell: told of its arguments.
    """

    def __init__(self, name: str, module: str, plain: Callable[..., Any], tell: Callable[..., None]) -> None:
        super().__init__(name, plain)
        self.__module__ = module
        self._tell = tell

    def __call__(self, *given: Any, **named: Any) -> Any:
        """As the function."""
        with contextlib.suppress(Exception):
            self._tell(*given, **named)
        return self._plain(*given, **named)


@dataclass(slots=True, eq=False)
class _Target:
    """Where the files of one run are noted; how much of them was copied."""

    folder: Path
    fd: int
    identity: Identity | None
    kept: int = 0
    copies: int = 0


class _Status(NamedTuple):
    """What another process said of a file: the fields of `os.stat` that count here."""

    st_size: int
    st_mtime_ns: int
    st_ino: int
    st_ctime_ns: int


class Files:
    """What was read so far. Nothing here may stop a training."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()
        self._noted: dict[str, os.stat_result | _Status] = {}
        self._bases: set[str] = set()
        """Paths of databases."""
        self._before: dict[str, str] = {}
        """Path → digest of what was read, of small files that the training then wrote over."""
        self._ahead: dict[str, dict[str, Any]] = {}
        """Path → what else is known of a file whose time was ahead of the clock when it was read."""
        self._answers: dict[tuple[str, str], Any] = {}
        """(what was asked, path) → what was answered last."""
        self._said: list[dict[str, Any]] = []
        """All answers, for the runs that are to come."""
        self._script = str(program().file)  # the recorder reads it
        self._root = ""
        self._home = ""
        self._targets: tuple[_Target, ...] = ()
        self._pid = os.getpid()
        self._handed: set[str] = set()
        """Paths that another program was given."""
        self._early: Spool | None = None
        """In which forked processes say what they read before the first run begins."""

    def begin(self, root: Path, home: Path, folder: Path, *, first: bool) -> None:
        """A run begins: what was read since the process began was read for it, too. Others may go on.

        Args:
            root: the repository.
            home: the `.flor/` folder.
            folder: the run's.
            first: whether it is the process's first run.
        """
        with contextlib.suppress(OSError):
            self._root, self._home, self._pid = f"{root}{os.sep}", f"{home}{os.sep}", os.getpid()
            fd = open_apart(folder / FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            target = _Target(folder, fd, identity(fd))
            self._write([], {"begun": begun if first else time.time_ns()}, to=(target,))
            self._read_early()
            self.look_around()
            for path, status in list(self._noted.items()):
                if not path.startswith(self._home):
                    self._tell(path, status, (target,))
            for answer in self._said:
                self._note_answer(answer, (target,))
            self._targets = (*self._targets, target)

    def end(self, folder: Path) -> None:
        """A run is over."""
        target = next((one for one in self._targets if one.folder == folder), None)
        if target is None:
            return
        if os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                self.look_around()
                self._read_of_children(target)
                digests, samples = self._digests()
                said = {"digests": digests, "samples": samples, "unknown": self._written_bases()}
                self._write([], said, to=(target,))
        self._targets = tuple(one for one in self._targets if one is not target)
        retire(target.fd, target.identity)

    def _digests(self) -> tuple[dict[str, str], dict[str, str]]:
        """Of files that are still what they were when they were read, or were until the training wrote over them: small ones, samples."""
        found = {self._name(path): digest for path, digest in self._before.items() if path in self._noted}
        samples: dict[str, str] = {}
        left, until = DIGEST_TOTAL, time.monotonic() + SAMPLE_SECONDS
        for path, status in list(self._noted.items()):
            if path in self._before:
                continue
            if status.st_size <= min(DIGEST_BYTES, left):
                digest = content_digest(path, status.st_size, status.st_mtime_ns)
                if digest:
                    left -= status.st_size
                    found[self._name(path)] = digest
            elif time.monotonic() < until:
                digest = sample_digest(path, status.st_size, status.st_mtime_ns)
                if digest:
                    samples[self._name(path)] = digest
        return found, samples

    def _written_bases(self) -> list[str]:
        """Databases that are not any more what they were when they were opened: what was read of them when is not known."""
        return [self._name(path) for path in sorted(self._bases) if _differs(path, self._noted.get(path))]

    def _name(self, path: str) -> str:
        return path.removeprefix(self._root)

    def saw(self, file: Any, mode: str) -> None:
        """A file is about to be opened for reading."""
        try:
            text = file if type(file) is str else os.fsdecode(os.fspath(file))
            folder = "" if text[:1] == "/" else os.getcwd()
            if (folder, text) in self._known:
                return
            path = os.path.normpath(os.path.join(folder, text))
            if path not in self._noted:
                if len(self._noted) >= MAX_FILES or not self._counts(path):
                    return
                self._note(path)
            if path in self._noted and "+" not in mode:
                self._known.add((folder, text))
        except Exception:  # noqa: BLE001 - whatever is wrong with it, `open` will say so
            pass

    def opens(self, path: Any, flags: int, *more: Any, dir_fd: int | None = None, **named: Any) -> None:
        """`os.open` is about to be called."""
        del more, named
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        if type(path) is int or flags & _NO_DATA or (flags & os.O_CREAT and flags & os.O_EXCL):
            return
        if dir_fd is None or os.fsdecode(path)[:1] == os.sep:
            if writes != os.O_WRONLY and not flags & os.O_TRUNC:
                self.saw(path, "r+" if writes else "r")
            if writes or flags & os.O_TRUNC:
                self.overwrites(path)

    def connects(self, database: Any, *more: Any, **named: Any) -> None:
        """`sqlite3.connect` is about to be called."""
        del more, named
        for path in base_files(database):
            self.saw(path, "r+")
            path = os.path.abspath(path)
            if path in self._noted:
                self._bases.add(path)

    def started(self, arguments: Any, folder: Any = None) -> None:
        """Another program is about to be started."""
        for path in named_in(arguments, folder):
            if path not in self._noted:
                self._handed.add(path)
                self.saw(path, "r")

    def look_around(self) -> None:
        """Note what the process holds, whoever opened it."""
        if os.getpid() == self._pid:
            for path in held():
                # What was written since the process began may be its own output.
                with contextlib.suppress(OSError):
                    if path not in self._noted and plain_stat(path).st_mtime_ns < begun:
                        self.saw(path, "r")

    def before_fork(self) -> None:
        """A process is about to be forked: what it reads before a run begins, it must be able to say."""
        if self._early is None and not self._targets and not self._root:
            self._early = Spool()

    def _read_early(self) -> None:
        """Take over what forked processes read before the first run began."""
        early, self._early = self._early, None
        for path, *status in early.heard() if early is not None else ():
            if path not in self._noted and len(self._noted) < MAX_FILES:
                self._noted[path] = _Status(*status)
        if early is not None:
            early.close()

    def _read_of_children(self, target: _Target) -> None:
        """Take over what forked processes noted for a run: its contents are to be kept, too."""
        with contextlib.suppress(OSError, ValueError), (target.folder / FILE_NAME).open("rb", 0) as lines:
            for line in lines.read().split(b"\n"):
                parts = json.loads(line or b"[[]]")
                if isinstance(parts[0], str) and len(parts) > 5:
                    path = os.path.join(self._root, parts[0])
                    if path not in self._noted:
                        self._noted[path] = _Status(parts[1], parts[2], parts[4], parts[5])

    def overwrites(self, file: Any) -> None:
        """A file is about to be opened for writing: if it was read, what was in it is known for the last time."""
        try:
            text = file if type(file) is str else os.fsdecode(os.fspath(file))
            path = os.path.normpath(os.path.join("" if text[:1] == "/" else os.getcwd(), text))
            status = self._noted.get(path)
            if (
                status is None
                or path in self._before
                or status.st_size > DIGEST_BYTES
                or os.getpid() != self._pid
            ):
                return
            digest = content_digest(path, status.st_size, status.st_mtime_ns)
            if digest:
                self._before[path] = digest
        except Exception:  # noqa: BLE001 - whatever is wrong with it, `open` will say so
            pass

    # What is asked of the file system -------------------------------------------------------------------------------

    def asked(self, path: str, status: os.stat_result | None) -> None:
        """Something was asked for."""
        said: dict[str, Any] = {"is": kind_of(status)}
        if said["is"] == "file" and status is not None:
            said |= {"size": status.st_size, "time": status.st_mtime_ns}
        self._answered("asked", path, said, said)

    def listed(self, path: str, names: Callable[[], Sequence[str]]) -> None:
        """A folder was listed."""
        changed = plain_stat(path).st_mtime_ns
        if self._answers.get(("listed", path)) != changed:
            self._answered("listed", path, names_said(names()), changed)

    def _answered(self, kind: str, path: str, said: dict[str, Any], known_by: Any) -> None:
        before = self._answers.get((kind, path))
        if before == known_by or not self._counts(path) or len(self._answers) >= MAX_FILES:
            return
        who = who_asks()
        if who is None:
            return
        self._answers[kind, path] = known_by
        facts = {kind: path, "t": time.time_ns(), "own": who.own, **said}
        if who.existence:
            facts["existence"] = True
        self._said.append(facts)
        self._note_answer(facts, self._targets)

    def _note_answer(self, facts: dict[str, Any], targets: tuple[_Target, ...]) -> None:
        kind = "asked" if "asked" in facts else "listed"
        path = facts[kind]
        if f"{path}{os.sep}" == self._root:
            path = "."
        elif path.startswith(self._home) or (not path.startswith(self._root) and f"{os.sep}." in path):
            return  # ours, or a folder where libraries keep what they like
        self._write([], facts | {kind: self._name(path)}, to=targets)

    def _counts(self, path: str) -> bool:
        counts = is_data(path) or (is_source_in(path, self._root) and path != self._script)
        return counts and not (self._home and path.startswith(self._home))

    def _note(self, path: str) -> None:
        try:
            status = plain_stat(path)
        except OSError:
            return
        if not stat.S_ISREG(status.st_mode) or (self._home and path.startswith(self._home)):
            return
        self._noted[path] = status
        now = time.time_ns()
        if status.st_mtime_ns > now:
            # Its time does not say that it was there before: that it was read does.
            self._ahead[path] = {"t": now, "inode": status.st_ino, "changed": status.st_ctime_ns}
        self._tell(path, status, self._targets)

    def _tell(self, path: str, status: os.stat_result | _Status, targets: tuple[_Target, ...]) -> None:
        if not targets and self._early is not None and os.getpid() != self._pid:
            self._early.say(path, status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
        if len(self._noted) == MAX_FILES:
            self._write([], {"more": True}, to=targets)
        if targets and not self._counts(path):
            return  # a source that was read before the repository was known
        for one in targets:
            kept = (
                self._keep(path, status, one)
                if path.startswith(self._root) and path.endswith(RESUMABLE)
                else ""
            )
            said = self._name(path), status.st_size, status.st_mtime_ns
            self._write(*said, kept, status.st_ino, status.st_ctime_ns, to=(one,))
            if path in self._handed:
                self._write([], {"handed": self._name(path)}, to=(one,))
            if path in self._ahead:
                self._write([], {"ahead": self._name(path), **self._ahead[path]}, to=(one,))

    def _keep(self, path: str, status: os.stat_result | _Status, target: _Target) -> str:
        """Copy what the training goes on from; the name of the copy, empty where there is none."""
        before = status.st_mtime_ns < begun or path in self._ahead
        wanted = before and status.st_size <= KEPT_BYTES
        if not wanted or target.kept + status.st_size > KEPT_TOTAL or os.getpid() != self._pid:
            return ""
        folder = target.folder / KEPT_FOLDER
        name = f"{target.copies + 1}"
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
            after = os.stat(path)
            if (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns):
                target.kept += status.st_size
                target.copies += 1
                return name
            (folder / name).unlink()
        return ""

    def _write(self, *parts: Any, to: tuple[_Target, ...]) -> None:
        line = json.dumps(parts).encode() + b"\n"
        for one in to:
            if identity(one.fd) != one.identity:  # the program closed it
                one.fd = open_apart(one.folder / FILE_NAME, os.O_WRONLY | os.O_APPEND)
                one.identity = identity(one.fd)
            os.write(one.fd, line)


_NO_DATA = os.O_DIRECTORY | getattr(os, "O_PATH", 0) | getattr(os, "O_TMPFILE", 0)


def base_files(database: Any) -> tuple[str, ...]:
    """The files of a database of SQLite, by what `sqlite3.connect` is given: itself, and its log where it has one; none in memory."""
    if not isinstance(database, str | bytes | os.PathLike):
        return ()
    text: str = os.fsdecode(database)  # pyright: ignore[reportUnknownArgumentType, reportArgumentType]
    if text.startswith("file:") and not os.path.lexists(text):
        from urllib.parse import unquote  # no training should wait for what it rarely needs

        path, _, options = text[5:].partition("?")
        if "mode=memory" in options:
            return ()
        host, _, rest = path[2:].partition("/") if path.startswith("//") else ("", "", path)
        text = unquote(rest if not path.startswith("//") else f"/{rest}") if host in ("", "localhost") else ""
    if text in ("", ":memory:"):
        return ()
    log = f"{text}-wal"
    return (text, log) if os.path.lexists(log) else (text,)


def _differs(path: str, then: os.stat_result | _Status | None) -> bool:
    try:
        now = plain_stat(path)
    except OSError:
        return True
    return then is None or (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns)


def content_digest(path: str | os.PathLike[str], size: int, written: int) -> str:
    """The digest of a file that has this size and time, before and after reading; empty where it has not."""
    try:
        fd = _plain_open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            before = os.fstat(fd)
            data = os.read(fd, size + 1)
            after = os.fstat(fd)
        finally:
            os.close(fd)
    except OSError:
        return ""
    same = all((s.st_size, s.st_mtime_ns) == (size, written) for s in (before, after))
    return hashlib.blake2b(data, digest_size=20).hexdigest() if same and len(data) == size else ""


def sample_digest(path: str | os.PathLike[str], size: int, written: int) -> str:
    """The same of pieces that are spread evenly over a large file."""
    digest = hashlib.blake2b(digest_size=20)
    try:
        fd = _plain_open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            before = os.fstat(fd)
            for piece in range(SAMPLE_PIECES):
                at = (size - SAMPLE_BYTES) * piece // (SAMPLE_PIECES - 1)
                digest.update(os.pread(fd, SAMPLE_BYTES, max(at, 0)))
            after = os.fstat(fd)
        finally:
            os.close(fd)
    except OSError:
        return ""
    same = all((s.st_size, s.st_mtime_ns) == (size, written) for s in (before, after))
    return digest.hexdigest() if same else ""


def is_source_in(path: str, root: str) -> bool:
    """Whether a file is a source below a folder: settings are often kept in one that git ignores, and executed."""
    return path.endswith(".py") and path.startswith(root) and not path.startswith(_PREFIXES)


def is_data(path: str) -> bool:
    """Whether a file may be data: it is no code, and belongs neither to the system nor to the interpreter and its libraries."""
    return not (path.endswith(_CODE) or path.startswith(_SYSTEM) or path.startswith(_PREFIXES))


_watched: Watched | None = None


def files() -> Files:
    """What was read in this process; from the first call on it is watched."""
    global _watched
    if _watched is None:
        _watched = Watched(io.open)
        # One object by both names, as before.
        plain, io.open = io.open, _watched  # type: ignore[assignment]
        builtins.open = _watched  # type: ignore[assignment]
        _replace_kept(plain, _watched)
        opening: Any = _WatchedCall("open", "os", _plain_open, _watched.files.opens)
        os.supports_dir_fd.add(opening)
        os.open = opening
        io.open_code = _watched_code(_watched.files, io.open_code)
        variable_reads.starters.append(_watched.files.started)
        os.register_at_fork(before=_watched.files.before_fork)
        when_imported("sqlite3.dbapi2", _watch_sqlite)
        listen_to_questions(_watched.files)
    return _watched.files


_plain_open = os.open


def _watched_code(files: Files, plain: Any) -> Any:
    """`io.open_code` as `runpy` calls it; the import system has one of its own."""

    def tell(path: Any) -> None:
        files.saw(path, "r")

    return _WatchedCall("open_code", "io", plain, tell)


def _watch_sqlite() -> None:
    plain: Any = sys.modules["sqlite3.dbapi2"].connect
    if not isinstance(plain, _WatchedCall):
        told: Any = _WatchedCall("connect", "sqlite3", plain, files().connects)
        sys.modules["sqlite3.dbapi2"].connect = told  # type: ignore[attr-defined]
        _replace_kept(plain, told)


def _replace_kept(plain: Any, watched: Watched) -> None:
    """What was imported before may keep the real `open` by a name, or in a table, of its own: numpy's readers do."""
    for holder in gc.get_referrers(plain):
        # A class's names are looked up past its dictionary; the interpreter's own module stays as it is.
        if (
            type(holder) is not dict
            or "__module__" in holder
            or holder.get("__name__") in ("_io", "_sqlite3", __name__)
        ):
            continue
        names: dict[Any, Any] = holder
        for name in [name for name, value in names.items() if value is plain]:
            names[name] = watched


def look_around() -> None:
    """The loops of a run begin: note what the process holds, where it is watched at all (a replay's is not)."""
    if _watched is not None:
        _watched.files.look_around()


def watch_early() -> None:
    """Watch from the beginning, where a script of somebody's own is what runs: no tool, no server, no notebook."""
    script = program().file
    if script is not None and not is_installed(script):
        files()


def _prefixes() -> tuple[str, ...]:
    """Where the interpreter and its libraries lie."""
    found = {os.path.abspath(p) for p in (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__))}
    found |= {
        os.path.abspath(p) for p in sys.path if p.rstrip(os.sep).endswith(("site-packages", "dist-packages"))
    }
    return tuple(f"{p}{os.sep}" for p in sorted(found) if p != os.sep)


_PREFIXES = _prefixes()
