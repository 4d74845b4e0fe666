"""The session of this process: begun at the first flor call, ended with the process, never a forked child's."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

from flor_dagster.recording import layout, switches, variable_reads
from flor_dagster.recording.arguments import jsonable
from flor_dagster.recording.context import current
from flor_dagster.recording.datafiles import watch_early
from flor_dagster.recording.endings import at_end
from flor_dagster.recording.generators import early_entries, keep_early
from flor_dagster.recording.identity import Topology, new_run_id
from flor_dagster.recording.process_state import keep_early_state
from flor_dagster.recording.program import program
from flor_dagster.recording.ranks import find_rank, find_topology
from flor_dagster.recording.records import CallSite
from flor_dagster.recording.session import PARENT_RUN, Session
from flor_dagster.recording.settings import keeps_values
from flor_dagster.recording.trouble import warn
from flor_dagster.recording.variable_notes import note_for_parent

active: Session | None = None
factory: Callable[[], Session | None] | None = None
"""What a replay's child begins at the first flor call, where a training run begins its recording."""

ranks_follow = False
"""In a replay: whether this process makes the ranks, and is none itself; its children may become some."""

wanted = 1
"""In a replay: which of the runs of the recorded process it is of."""

wanted_block: Sequence[Any] | None = None
"""In a replay of a block that ran beside others, which begin in no fixed order: its name, arguments and tags, and how many like
it had begun by then."""

asked: Callable[[], bool] | None = None
"""In a replay: whether the flor call of now comes from a hindsight statement, which the recorded run did not have."""

outside = False
"""In a replay of a function: its module's code runs, which was run before the recorded run began."""

_starting = threading.RLock()
_disabled = False
_number = 0
_twins: dict[tuple[str, str, str], int] = {}
_silent = False
_ahead: Session | None = None
"""In a replay: the session, where hindsight statements came before the first flor call of the recorded run."""
_parent = os.environ.get(PARENT_RUN, "")
"""The run that this process was started from."""

_warned: set[str] = set()
_forked_from: str | None = None
"""In a forked child the id of the run that its parent recorded, empty where it recorded none."""
_forker = 0
"""In a forked child the process that forked it."""
_terminal = 0
"""In a forked child the session, in the system's sense, of the process that was no child."""
_dropped = 0
"""In a forked child how many records it did not keep, since it was not known to have been left to itself."""

_within = 0
"""The thread in which a run is being begun: a flor call of now in it comes from a signal handler."""
_held: list[tuple[str, Any, CallSite]] = []
"""What signal handlers logged meanwhile."""


class _Block:
    """A `flor.run` block that is open: its session, None where it is not recorded, and the thread that began it."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.thread = threading.get_ident()


block: ContextVar[_Block | None] = ContextVar("flor_run", default=None)
"""The block that the calls of this context belong to."""

_blocks: list[_Block] = []


def here() -> Session | None:
    """The session that a flor call of this context belongs to; what is recorded outside of blocks is begun by its first call."""
    mine = block.get()
    if mine is None and _blocks:
        mine = _block_around()
    if mine is not None:
        return mine.session
    return active or start()


def _block_around() -> _Block | None:
    """The block that a thread without one works for: the main thread's, where no other is open."""
    if len(_blocks) != 1 or threading.get_ident() == _blocks[0].thread:
        return None
    return _blocks[0] if _blocks[0].thread == threading.main_thread().ident else None


def start() -> Session | None:
    """The session of this process, begun at the first flor call; None where nothing is recorded."""
    global active, _silent
    with _starting:
        if active is not None:
            return active
        if _within == threading.get_ident():
            return None
        if _silent or (factory is None and (_off() or _is_child())):
            return None
        if factory is not None and asked is not None and asked():
            return _ahead_of_run()
        with _beginning():
            if active is None:  # a signal handler may have come before
                active = _begin()
        _record_held(active)
        _silent = factory is not None and active is None
        if active is not None and factory is None:
            _tell_children()
        return active


def unrecorded(name: object, value: Any, frame: FrameType) -> None:
    """A value was logged and there is no run for it: kept for the one that is being begun, or counted for one that may begin."""
    global _dropped
    if _within == threading.get_ident():
        _held.append((str(name), value, CallSite(frame)))
    elif _forked_from is not None:
        _dropped += 1


def _ahead_of_run() -> Session | None:
    """The session for a hindsight statement that comes before the recorded run's first flor call: that one begins the run."""
    global _ahead
    if _ahead is None and factory is not None and not outside and _number + 1 == wanted:
        _ahead = factory()
    return _ahead


def ahead() -> Session | None:
    """The session that a hindsight statement is evaluated for; None where the run that is asked for is not near."""
    mine = block.get()
    if mine is not None:
        return mine.session
    with _starting:
        return active or _ahead_of_run()


def present() -> Session | None:
    """A session of this process, if it has one by now; in a replay there is one alone."""
    return active or _ahead or next((one.session for one in list(_blocks) if one.session is not None), None)


def replaying() -> Session | None:
    """The session of a replay, begun where none was before; None where this process is none."""
    session = here() if factory is not None else None
    return session if session is not None and session.mode == "replay" else None


def _is_child() -> bool:
    """Whether this is a process that a training made for its own work, and no rank of it: it records nothing.

    So a worker of a loader or a pool, however it was started, neither writes into its parent's run nor begins another. A process
    that was left to itself (a daemon) works for nobody, and is a training run.
    """
    return _is_made() and find_rank() is None and not _is_left_alone()


def _is_left_alone() -> bool:
    """Whether a script forked this process and let it go: in a session of its own, or by having ended."""
    if _forked_from is None or _forker == 0:
        return False
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        return False
    return os.getsid(0) != _terminal or os.getppid() != _forker


def _is_made() -> bool:
    """Whether a script forked this process, or made it by `multiprocessing`."""
    if _forked_from is not None:
        return True
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is None:
        return False
    # While a spawned child imports the script it does not know its parent yet.
    return multiprocessing.parent_process() is not None or hasattr(
        multiprocessing.current_process(), "_inheriting"
    )


@contextlib.contextmanager
def _beginning() -> Generator[None]:
    """A run is being begun, until flor calls can find it: what signal handlers log meanwhile is held."""
    global _within
    _within = threading.get_ident()
    try:
        yield
    finally:
        _within = 0


def _record_held(session: Session | None) -> None:
    """Record what was logged before the run could be found; say how much was not kept."""
    global _dropped
    if session is not None:
        for logged, value, site in _held:
            with contextlib.suppress(Exception):
                session.records.record(logged, value, site)
        if _dropped:
            session.journal.entry(
                "w",
                "lost",
                f"{_dropped} values were logged before the process that forked this one had ended",
            )
    _held.clear()
    _dropped = 0


def _begin(
    name: str = "", tags: Mapping[str, str] | None = None, args: Mapping[str, Any] | None = None
) -> Session | None:
    """Begin the next run of this process. In a replay only the one that is asked for begins."""
    global _ahead, _number
    _number += 1
    alike = (
        name,
        json.dumps(jsonable(args or {}), sort_keys=True),
        json.dumps(dict(tags or {}), sort_keys=True),
    )
    twin = _twins[alike] = _twins.get(alike, 0) + 1
    if factory is not None:
        mine = _number == wanted if wanted_block is None else [*alike, twin] == list(wanted_block)
        session = (_ahead or factory()) if mine else None
        _ahead = None
        if session is not None:
            session.reached()
        return session
    running = program()
    script = running.file
    begin = running.folder()
    place = layout.find_place(begin) or layout.find_place(Path.cwd())
    versioned = place is not None
    if place is None:
        place = layout.place_without_git(Path.cwd())
        _warn_once(
            f"no git repository around {begin}: this run is recorded in {place.home}, but can't be replayed"
        )
    entrypoint = layout.relative_file(script, place.root) if script else "<notebook>"
    # Taken out of the environment: a process that the script starts is another training run.
    origin = os.environ.pop("FLOR_ORIGIN", "") or ("script" if script else "notebook")
    try:
        layout.ensure_home(place.home)
        session = Session(
            place, entrypoint, topology=find_topology(place.home, parent=_forked_from or "", made=_is_made()),
            tags=_environment_object("FLOR_TAGS") | dict(tags or {}), origin=origin,
            args=dict(args or {}) | _environment_object("FLOR_ARGS"), versioned=versioned,
            begin=early_entries() if _number == 1 else (), nth=_number, name=name, parent=_parent,
            more=_circumstances([*alike, twin]),
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - recording must never break the training
        warn(f"this run is not recorded: {type(error).__name__}: {error}")
        _disable()
        return None
    session.successor = here
    at_end(_finish_all)
    return session


def _circumstances(alike: list[Any]) -> dict[str, Any]:
    """What the journal says of a run that is not simply the next one of its process."""
    said: dict[str, Any] = {"in_child": True} if _is_made() and find_rank() is None else {}
    if len(_blocks) > 1 or (_blocks and threading.current_thread() is not threading.main_thread()):
        said["beside"] = alike
    return said


def _finish_all(status: str, reason: str) -> None:
    """This process ends, with all that it records."""
    for session in [*(one.session for one in list(_blocks)), active]:
        if session is not None:
            session.finish(status, reason)


def _tell_children() -> None:
    """Processes that are started now belong to the run that is being recorded, where that is one alone."""
    live = [s.run_id for s in (active, *(one.session for one in _blocks)) if s is not None and not s.ended]
    parent = live[0] if len(live) == 1 else "" if live else _parent
    if parent:
        os.environ[PARENT_RUN] = parent
    else:
        os.environ.pop(PARENT_RUN, None)


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warn(message)


def _over(status: str = "finished", reason: str = "") -> None:
    """End what is recorded outside of blocks; the next flor call outside of them begins another run."""
    global active, _silent
    with _starting:
        session, active = active, None  # from here on other threads begin another one
        _silent = False
        _tell_children()
    _close(session, status, reason)


def _close(session: Session | None, status: str, reason: str) -> None:
    global factory
    if session is None:
        return
    session.finish(status, reason)
    if factory is not None:
        if session.mode == "replay":
            session.stop()  # where the record ends, the replay does
        factory = None  # a resumed run is over; the next one is none


@contextlib.contextmanager
def run_block(
    name: str, tags: Mapping[str, str] | None, args: Mapping[str, Any] | None
) -> Generator[Session | None]:
    """Record a block as one run of its context; what this process recorded outside of blocks ends, unless somebody is in it."""
    if block.get() is not None:
        raise RuntimeError(
            f"the run {name!r} begins inside another `flor.run` block of this process; end that one first"
        )
    outer = active
    if outer is not None and current.get() is not None and not outer.ended and outer.here().execution:
        raise RuntimeError(
            f"the run {name!r} begins inside a named loop of training run {outer.run_id}; begin it outside"
        )
    if outer is not None and outer.embedded and not outer.ended:
        raise RuntimeError(f"the run {name!r} begins inside training run {outer.run_id}, which is an asset's")
    if factory is None and (_off() or os.environ.get("FLOR_ORIGIN") == "replay"):
        yield None
        return
    if outer is None or outer.may_end():
        _over()
    mine = _Block()
    with _starting:
        _drop_ahead()
        _blocks.append(mine)
        os.environ.pop(PARENT_RUN, None)
        with _beginning():
            mine.session = _begin(name, tags, args)
            tokens = block.set(mine), current.set(None)
        _record_held(mine.session)
        _tell_children()
    status, reason = "finished", ""
    try:
        yield mine.session
    except KeyboardInterrupt:
        status, reason = "interrupted", "KeyboardInterrupt"
        raise
    except SystemExit as error:
        if error.code not in (None, 0):
            status, reason = "failed", f"SystemExit: {error.code}"
        raise
    except BaseException as error:
        status, reason = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        block.reset(tokens[0])
        current.reset(tokens[1])
        with _starting, contextlib.suppress(ValueError):
            _blocks.remove(mine)
        _close(mine.session, status, reason)
        with _starting:
            _tell_children()


def _drop_ahead() -> None:
    """What hindsight statements logged before a block would have been logged before its run."""
    global _ahead
    if _ahead is not None:
        _ahead.withdraw()
    _ahead = None


def commit() -> str:
    """End the run that is being recorded, or make it durable where it can't end; its id, empty where there is none."""
    mine = block.get() or (_block_around() if _blocks else None)
    session = active if mine is None else mine.session
    if session is None or session.ended:
        if mine is None and _silent:
            _over()
        return ""
    if mine is not None or session.embedded or not session.may_end():
        session.sync()
    else:
        _over()
    return session.run_id


def _disable() -> None:
    global _disabled
    _disabled = True


def _off() -> bool:
    return _disabled or os.environ.get("FLOR_OFF", "") not in ("", "0")


def _environment_object(name: str) -> dict[str, Any]:
    text = os.environ.pop(name, "")
    if not text:
        return {}
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError(f"{name} must hold a JSON object, it holds {text[:100]!r}")
    return value


def _disown_child() -> None:
    """A forked child records nothing, unless it becomes a rank of a distributed training that its parent is not in.

    A `flor.run` block in it is a run of its own.
    """
    global \
        active, \
        factory, \
        _ahead, \
        _dropped, \
        _forked_from, \
        _forker, \
        _number, \
        _parent, \
        _silent, \
        _starting, \
        _terminal
    if _forked_from is None:
        _terminal = os.getsid(0)
    _forker, _dropped = os.getppid(), 0
    _held.clear()
    _starting = threading.RLock()  # another thread of the parent may have held it
    mine = block.get()
    owner = active if mine is None else mine.session
    before = _forked_from or "" if owner is None else owner.run_id
    for one in _blocks:
        if one.session is not None:
            one.session.disown()
    _blocks.clear()
    block.set(None)
    if _ahead is not None:
        _ahead.disown()
        _ahead = None
    ours = ranks_follow and active is None and find_rank() is None
    if active is not None:
        active.disown()
        active = None
    if ours:
        _number, _silent = 0, False
    elif factory is not None or find_rank() is not None:
        _disable()
        factory = None
    _forked_from = _parent = before


os.register_at_fork(after_in_child=_disown_child)


def _note_for_parent() -> None:
    """In a fresh interpreter that `multiprocessing` started: the variables that it reads, the run has read."""
    place = layout.find_place(Path.cwd())
    if place is not None and layout.run_folder(place.home, _parent).is_dir():
        note_for_parent(place.home, _parent, plain=keeps_values(place.root))


if not _off():
    keep_early()
    watch_early()
    variable_reads.watch()
    switches.watch_calls()
    keep_early_state()
    if _parent and _is_made() and os.environ.get("FLOR_ORIGIN") != "replay":
        _note_for_parent()


@contextlib.contextmanager
def recorded_run(
    entrypoint: str,
    *,
    root: Path,
    origin: str = "script",
    tags: Mapping[str, str] | None = None,
    args: Mapping[str, Any] | None = None,
    module: str = "",
) -> Generator[Session]:
    """Record a block of this process as one training run.

    Args:
        entrypoint: what a replay calls: `file.py:function`, relative to the repository.
        root: a folder in the repository.
        origin: who started it.
        tags: free texts kept with the run.
        args: arguments given from outside.
        module: the name that the entry point's module was imported by; a replay imports it by the same one.

    Yields:
        The session; its `run_id` is the training run's.
    """
    global active
    if active is not None and not active.ended:
        raise RuntimeError(
            f"training run {active.run_id} is being recorded in this process; a second one can't begin before it ends"
        )
    place = layout.find_place(root)
    session = Session(
        place or layout.place_without_git(root), entrypoint, topology=Topology(new_run_id()), tags=tags or {},
        origin=origin, args=args or {}, versioned=place is not None, module=module,
    )  # fmt: skip
    session.embedded = True
    session.walker.hosted()
    active = session
    _tell_children()
    token = current.set(None)
    try:
        yield session
    except KeyboardInterrupt:
        session.finish("interrupted", "KeyboardInterrupt")
        raise
    except BaseException as error:
        session.finish("failed", f"{type(error).__name__}: {error}")
        raise
    else:
        session.finish("finished")
    finally:
        current.reset(token)
        active = None
        _tell_children()
