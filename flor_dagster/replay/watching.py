"""What a replay's child reads: nothing stale, and nothing that is not what the recorded run had without saying so.

What a skipped loop wrote is not there, and what lies there instead is of another moment: the user's file as the training left
it. So once something was put back instead of being executed, the process may only read what was written before the recorded
run began, and what it wrote itself since. Anything else ends it, and it is carried out again without skipping. Data files
that changed since the run read them are noted, and those that are missing end it.

Seen by an audit hook of Python's. C extensions that open files themselves pass it, but for what they still hold at the end; of forked
processes (the workers of loaders) only what is no input of the recorded run is heard, of other programs what is named to them.
"""

# ruff: noqa: PTH100, PTH116, PTH118 - called at every opening of a file: texts, not Path objects

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from flor_dagster.recording import layout
from flor_dagster.recording import process as sessions
from flor_dagster.recording.datafiles import base_files, is_data, is_source_in
from flor_dagster.recording.exits import EXIT_RESTORE
from flor_dagster.recording.guarding import doubts
from flor_dagster.recording.handed import Spool, held, named_in
from flor_dagster.recording.questions import (
    OUTPUTS,
    hide,
    kind_of,
    listen_to_questions,
    names_said,
    who_asks,
)
from flor_dagster.recording.replaying import ReplaySession, before_end, on_restore
from flor_dagster.replay.answers import difference, of_tools
from flor_dagster.replay.auditing import listen

# The version holds them, whatever became of the user's.
_CODE = (".py", ".pyi", ".pyc", ".so")
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR
_SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr")
# File systems note times by a clock that ticks more coarsely than the one of `time.time_ns`.
_TICK = 20_000_000
COARSE = 50_000_000
"""Nanoseconds by which a file's time may lie before the clock's."""


# Event → of its arguments: what is started, and in which working directory.
_STARTS: dict[str, Callable[[tuple[Any, ...]], tuple[Any, Any]]] = {
    "subprocess.Popen": lambda args: (args[1], args[2]),
    "os.system": lambda args: (args[0], None),
    "os.posix_spawn": lambda args: (args[1], None),
    "os.spawn": lambda args: (args[2], None),
}


def watch(plan: Mapping[str, Any], *, made: bool = False) -> None:
    """Watch what this process reads from here on.

    Args:
        plan: the child's, or that of one of its ranks; `data` says what the run read (`read`), what was put into the checkout
            (`placed`, `kept`), what changed (`changed`), when the run's loops began (`looped`).
        made: whether a process that is forked from this one may become a rank. It is watched as this one is.
    """
    watcher = Watcher(plan)
    watcher.begin()
    on_restore.append(watcher.restored)
    before_end.append(watcher.ended)
    if made:
        os.register_at_fork(after_in_child=watcher.follow)


class Watcher:
    """Watches the files of one process.

    Args:
        plan: see `watch`.
    """

    def __init__(self, plan: Mapping[str, Any]) -> None:
        user_root: str = plan["user_root"]
        data: Mapping[str, Any] = plan["data"]
        self._began: int = plan["began"]
        self._looped: int = data["looped"]
        self._alone: bool = plan["world_size"] == 1
        self._started: int = plan.get("launched") or time.time_ns()
        self._root, self._user_root = os.path.realpath(plan["root"]), os.path.realpath(user_root)
        self._roots = (self._root, self._user_root, user_root)
        self._read: Mapping[str, Sequence[int]] = data["read"]
        self._ahead = frozenset(data["ahead"])
        self._placed = frozenset(data["placed"])
        self._folders = tuple(name for name in data["placed"] if name.endswith("/"))
        self._kept = frozenset(data["kept"])
        self._changed: Mapping[str, tuple[str, bool]] = data["changed"]
        self._home = os.path.realpath(plan["home"]) + os.sep
        self._checkpoints = str(layout.checkpoints_folder(Path(plan["home"]))) + os.sep
        prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(os.__file__).parent))
        ours = (plan["home"], *plan["own_folders"][1:])
        self._exempt = tuple({os.path.realpath(p) + os.sep for p in (*ours, *prefixes, *_SYSTEM)})
        self._own: set[str] = set()
        """Written by this process since something was last put back."""
        self._late: set[str] = set()
        """Written by this process before that."""
        self._made: set[str] = set()
        """Folders that this process made."""
        self._mixed: set[str] = set()
        """Appended to, behind what the training left."""
        self._unwritten: dict[str, str] = {}
        """What libraries asked for that is of another moment, and have not written since: path → in words."""
        self._answers: Mapping[str, Mapping[str, list[Any]]] = {"asked": {}, "listed": {}, **data["answers"]}
        self._pid = os.getpid()
        self._others: frozenset[str] | None = None
        """The recorded names without links, once one is looked for."""
        self._restored = False
        self._busy = False
        self._said_by_children = Spool()
        """In which forked processes say what they read."""

    def begin(self) -> None:
        """Look at what is opened, and at what is asked whether it exists, from here on."""
        listen(
            (
                "open",
                "os.rename",
                "os.mkdir",
                "sqlite3.connect",
                "subprocess.Popen",
                "os.system",
                "os.posix_spawn",
                "os.spawn",
            ),
            self.hook,
        )
        hide(self._root, OUTPUTS)
        listen_to_questions(self)

    # Questions -----------------------------------------------------------------------------------------------------

    def asked(self, path: str, status: os.stat_result | None) -> None:
        """For `questions.listen_to_questions`."""
        if self._busy or os.getpid() != self._pid:
            return
        self._busy = True
        try:
            said: dict[str, Any] = {"is": kind_of(status)}
            if said["is"] == "file" and status is not None:
                said["size"] = status.st_size
            real = _real(path)
            if real and real not in self._own and real not in self._made:
                self._compare_answer("asked", real, said, stale=self._restored and self._is_late(real))
        finally:
            self._busy = False

    def listed(self, path: str, names: Callable[[], Sequence[str]]) -> None:
        """Likewise."""
        if self._busy or os.getpid() != self._pid:
            return
        self._busy = True
        try:
            real = _real(path)
            told = self._answers["listed"].get(self._name(real)[0])
            # What the replayed code has made itself is no input: its records tell whether it fills it as then.
            if told and real not in self._made:
                self._compare_answer("listed", real, names_said(names()), stale=False)
        finally:
            self._busy = False

    def _compare_answer(self, kind: str, path: str, said: Mapping[str, Any], stale: bool) -> None:
        """Whether the recorded run was told the same, and could be told it after what was skipped."""
        name, _ = self._name(path)
        session = sessions.present()
        early = session is None or session.loops_begun == 0
        told = self._answers[kind].get(name, ())
        late = [one for one in told if not one[0]]
        mine = [one for one in told if one[0]] if early else [*[one for one in told if one[0]][-1:], *late]
        varied = self._restored and any(difference(kind, late[0][2], one[2]) for one in late[1:])
        if not stale and not varied and not mine:
            return
        who = who_asks()
        if who is None:
            return
        if stale or varied:
            words = f"{self._shown(path)} is asked for, which skipped code may have written"
            if not who.to_write or kind == "listed":
                give_up(words)
            self._unwritten[path] = words
            return
        words = [difference(kind, one[2], said) for one in mine]
        if all(words):
            verb = {"asked": "asked for", "listed": "listed"}[kind]
            sentence = f"{name}, which this run {verb}, {words[0]}"
            if self._restored:
                give_up(sentence)
            doubts[f"{kind} {name}"] = sentence, mine[0][1] and not of_tools(name)

    def ended(self) -> None:
        """The replay is over: what libraries asked for and did not write may have decided something."""
        for words in self._unwritten.values():
            give_up(words)
        self._busy = True
        try:
            self._look_around()
            self._hear_children()
        finally:
            self._busy = False

    def follow(self) -> None:
        """In a forked child: one that may become a rank is watched, a rank's or a loader's own worker is not."""
        if sessions.factory is not None:
            self._pid = os.getpid()

    def restored(self) -> None:
        """Something was put back: what was written until now may have been written again by what was skipped."""
        self._restored = True
        self._late |= {path for path in self._own if path.startswith(self._root + os.sep)}
        self._own.clear()

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """For `auditing.listen`."""
        if self._busy or self._reads_checkpoint(event, args):
            return
        self._busy = True
        try:
            if os.getpid() != self._pid:
                self._in_child(event, args)
            elif event in _STARTS:
                self._starts(*_STARTS[event](args))
            elif event == "os.mkdir":
                self._made.add(_real(args[0]))
            elif event == "os.rename":
                if _real(args[0]) in self._own:
                    self._own.add(_real(args[1]))
                    self._unwritten.pop(_real(args[1]), None)
            elif event == "sqlite3.connect":
                for file in base_files(args[0]):
                    self._opened(_real(file), "", os.O_CREAT)
            elif path := _real(args[0]):
                mode, flags = (*args[1:3], None, None)[:2]
                self._opened(
                    path, mode if isinstance(mode, str) else "", flags if isinstance(flags, int) else 0
                )
        finally:
            self._busy = False

    # Other processes, and what C code holds ----------------------------------------------------------------------------

    def _starts(self, arguments: Any, folder: Any) -> None:
        """Another program is started: what is named to it, it may read."""
        for path in map(_real, named_in(arguments, folder)):
            if path not in self._own and self._counts(path):
                doubt = self._doubt_of(path)
                if doubt is not None:
                    doubts[f"named {path}"] = (
                        f"{self._name(path)[0]} is named to another program: {doubt[0]}",
                        False,
                    )

    def _in_child(self, event: str, args: tuple[Any, ...]) -> None:
        """In a process that the training forked: it says what it reads and nobody knows; this process hears it at the end."""
        if event != "open" or not (path := _real(args[0])) or not self._counts(path):
            return
        mode = args[1] if isinstance(args[1], str) else ""
        if not set(mode).isdisjoint("wxa") or (
            isinstance(args[2], int) and args[2] & _WRITE_FLAGS == os.O_WRONLY
        ):
            return
        doubt = self._doubt_of(path)
        if doubt is None and self._restored and self._is_late(path):
            words = (
                "is read in a process that the training forked, and was written after the recorded run began"
            )
            doubt = f"{self._name(path)[0]} {words}", False
        if doubt is not None:
            self._said_by_children.say(path, *doubt)

    def _hear_children(self) -> None:
        for path, words, certain in self._said_by_children.heard():
            doubts[f"child {path}"] = words, certain

    def _look_around(self) -> None:
        """What the process holds open or mapped, whoever opened it, and Python did not."""
        for path in map(_real, held()):
            if path not in self._own and self._counts(path):
                doubt = self._doubt_of(path)
                if doubt is not None:
                    doubts.setdefault(self._name(path)[0], doubt)

    def _reads_checkpoint(self, event: str, args: tuple[Any, ...]) -> bool:
        """Whether this is the replay's own reading of what is put back: hundreds of files, told by their names alone."""
        if event != "open" or not isinstance(args[0], str) or not args[0].startswith(self._checkpoints):
            return False
        return args[1] in ("r", "rb") and os.pardir not in args[0] and args[0] not in self._own

    def _opened(self, path: str, mode: str, flags: int) -> None:
        if flags & (_WRITE_FLAGS | os.O_TRUNC | os.O_APPEND) or not set(mode).isdisjoint("wxa+"):
            self._note_writing(path)
        if path in self._own:
            return
        there = os.path.lexists(path)
        if "w" in mode or "x" in mode or flags & os.O_TRUNC or (not there and flags & os.O_CREAT):
            self._own.add(path)
            self._unwritten.pop(path, None)
            self._mixed.discard(path)
        elif "a" in mode or flags & os.O_APPEND:
            # What it is appended to is what the training left, not what it found.
            if self._is_late(path):
                self._mixed.add(path)
        elif "r" in mode or flags & _WRITE_FLAGS != os.O_WRONLY:
            if path in self._mixed or (self._restored and self._is_late(path)):
                _end_stale(self._shown(path))
            if self._counts(path):
                self._look_at_data(path)

    def _counts(self, path: str) -> bool:
        counts = is_data(path) or (is_source_in(path, self._root + os.sep) and not _imports())
        return counts and not path.startswith(self._home)

    def _note_writing(self, path: str) -> None:
        session = sessions.present()
        wrote = session.guard.wrote.get(threading.get_ident()) if isinstance(session, ReplaySession) else None
        if wrote is not None and path.startswith(self._root + os.sep) and not path.endswith(_CODE):
            wrote.append(path)

    # Files of another moment ---------------------------------------------------------------------------------------

    def _is_late(self, path: str) -> bool:
        """Whether a file was written after the recorded run began, and not by what this process executed since a restore."""
        if path in self._late:
            return True
        if path.endswith(_CODE) or path.startswith(self._exempt):
            return False
        inside = path.startswith(self._root + os.sep)
        if inside:
            path = self._user_root + path[len(self._root) :]
        try:
            status = os.stat(path)
        except OSError:
            return False
        if not self._alone and not inside and status.st_mtime_ns > self._started - COARSE:
            return False  # several ranks may talk through files outside the checkout, which each writes anew
        if self._is_as_then(self._name(path)[0], status.st_mtime_ns):
            return False
        return status.st_mtime_ns > self._began - COARSE and (status.st_mode & 0o170000) == 0o100000

    def _is_as_then(self, name: str, written: int) -> bool:
        """Whether a file has the time that was ahead of the run's clock: nobody has written to it since."""
        return name in self._ahead and written == self._read[name][1]

    def _shown(self, path: str) -> str:
        inside = path.startswith(self._root + os.sep)
        return self._user_root + path[len(self._root) :] if inside else path

    # Data that changed ---------------------------------------------------------------------------------------------

    def _look_at_data(self, path: str) -> None:
        name, copied = self._name(path)
        try:
            written = os.stat(path).st_mtime_ns
        except OSError:
            self._absent(name)
            return
        if self._is_made_here(written):
            # By C code. What was restored since may have been written, too, by what was skipped.
            if written < _restored_at() and (copied or self._alone):
                give_up(f"{name} may have been written by what was skipped")
            return
        doubt = self._doubt_of(path)
        if doubt is not None:
            doubts[name] = doubt

    def _is_made_here(self, written: int) -> bool:
        """Whether this replay itself wrote a file then. A time ahead of the clock is given to a file, or was another clock's."""
        return self._started - _TICK <= written <= time.time_ns()

    def _doubt_of(self, path: str) -> tuple[str, bool] | None:
        """Why a file that is read may not be what the recorded run read, and whether it certainly is not; None where it is that."""
        name, copied = self._name(path)
        try:
            written = os.stat(path).st_mtime_ns
        except OSError:
            return None
        if self._is_made_here(written) or (copied and name in self._kept):
            return None
        if name in self._changed:
            sentence, certain = self._changed[name]
            return sentence, certain
        if copied and not (name in self._placed or name.startswith(self._folders)):
            return None  # of the version
        if written >= self._looped and not self._came_before(name):
            return f"{name} was written since the training was in its loops", True
        if not self._is_known(path, name):
            return (
                f"{name} is read, and the record of the run does not say that it read that: it may have been another one",
                False,
            )
        return None

    def _is_known(self, path: str, name: str) -> bool:
        """Whether the recorded run noted a file, by this name or by another one of it."""
        if name in self._read or (not path.startswith(self._roots) and f"{os.sep}." in path):
            return True  # or it lies where libraries keep what they like
        if self._others is None:
            places = (os.path.join(self._user_root, read) for read in self._read)
            self._others = frozenset(self._name(os.path.realpath(place))[0] for place in places)
        return self._name(os.path.realpath(path))[0] in self._others

    def _came_before(self, name: str) -> bool:
        known = self._read.get(name)
        return known is not None and (known[1] < self._looped or name in self._ahead)

    def _absent(self, name: str) -> None:
        if name not in self._read:
            return
        if _restored_at():
            give_up(f"{name} is written by what was skipped")
        if self._came_before(name):
            give_up(f"{name}, which this run read, is missing", 1)

    def _name(self, path: str) -> tuple[str, bool]:
        """As the recorded run would name it, relative to the repository where it lies in it or its copy; whether in its copy."""
        for number, root in enumerate(self._roots):
            if path.startswith(root + os.sep):
                return path[len(root) + 1 :], number == 0
            if path == root:
                return ".", number == 0
        return path, False


def _restored_at() -> int:
    session = sessions.present()
    return session.restored_at if isinstance(session, ReplaySession) and not session.ended else 0


def _end_stale(path: str) -> None:
    give_up(
        f"{path} is read, which was written after the recorded run began: skipped code may have written it"
    )


def give_up(why: str, status: int = EXIT_RESTORE) -> None:
    """End this process here: no `except` of the old code may turn this into a value.

    Args:
        why: in words.
        status: its exit status; by default the replay is carried out again with less put back.
    """
    session = sessions.present() or sessions.start()
    if not isinstance(session, ReplaySession) or session.ended:
        return
    sys.stderr.write("".join(traceback.format_stack(_caller(), limit=8)))
    session.abandon(why, status)


def _caller() -> FrameType | None:
    """The innermost frame that is not of this file."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame


def _imports() -> bool:
    """Whether a file is opened because a module is imported: that is code, which is compared as such."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    for _ in range(8):
        if frame is None:
            return False
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _real(path: Any) -> str:
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str | os.PathLike):
        return ""
    # The last part is looked at as it is named: a link in the checkout stands for the user's file.
    text = os.path.abspath(os.fspath(path))  # pyright: ignore[reportUnknownArgumentType, reportArgumentType, reportCallIssue]
    folder, name = os.path.split(text)
    return os.path.join(os.path.realpath(folder), name)
