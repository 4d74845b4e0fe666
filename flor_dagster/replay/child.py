"""The child process of a replay: runs an old version's code under a plan. Imports the recorder alone."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import faulthandler
import importlib.util
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from flor_dagster.errors import CheckpointError, DamagedCheckpointError, FlorError
from flor_dagster.recording import process as sessions
from flor_dagster.recording import switches, variable_reads
from flor_dagster.recording.differing import watch_hashes
from flor_dagster.recording.endings import at_end
from flor_dagster.recording.exits import EXIT_DAMAGED, EXIT_RESTORE
from flor_dagster.recording.generators import HOMES, begin_with
from flor_dagster.recording.imports import when_asked_for
from flor_dagster.recording.masking import SECRETS, known_secrets, unmasked_argv
from flor_dagster.recording.process_state import give_back_process_state
from flor_dagster.recording.ranks import find_rank
from flor_dagster.recording.replaying import ReplaySession, pin_torch_threads
from flor_dagster.recording.session import Session
from flor_dagster.replay.beginning import begin_here, from_asked
from flor_dagster.replay.confining import confine
from flor_dagster.replay.grouping import watch_sums
from flor_dagster.replay.importing import import_as_recorded
from flor_dagster.replay.launching import launch, launch_script
from flor_dagster.replay.main_module import new_main
from flor_dagster.replay.processes import STACK_SIGNAL
from flor_dagster.replay.watching import watch

# Errors of a replay's own, as a rank's journal names them.
_OURS = ("CheckpointError", "DamagedCheckpointError", "ReplayError")


def main(plan_path: str) -> int:
    """Replay by the plan in a file; the exit status of the process."""
    plan = json.loads(Path(plan_path).read_text(encoding="utf-8"))
    if "ranks" not in plan:
        return replay(plan)
    # What one rank wrote before another one was there is of this replay, too.
    for rank in plan["ranks"]:
        rank["launched"] = time.time_ns()
    if not plan["hook"]:
        return launch(plan, replay)
    Path(plan_path).write_text(json.dumps(plan), encoding="utf-8")  # ranks in fresh interpreters read it
    return launch_script(plan, make_ranks)


def replay(plan: dict[str, Any]) -> int:
    """Replay by a plan, in this process."""
    _take_secrets(os.environ.pop(SECRETS, ""))
    stack = Path(plan["stack"]).open("w", encoding="utf-8")  # noqa: SIM115 - open for as long as the process lives
    faulthandler.enable()
    faulthandler.register(STACK_SIGNAL, file=stack, all_threads=True)
    function = plan["script"].partition(":")[2]
    path = _begin_as_script(plan)
    if plan.get("unseeded"):
        watch_hashes()
    sessions.wanted = plan.get("nth") or 1
    sessions.wanted_block = plan.get("alike")
    sessions.factory = lambda: ReplaySession(plan)
    sessions.asked = lambda: from_asked(plan)
    builtins.__dict__["__flor__"] = _Lazy()
    if plan.get("other_machine"):
        pin_torch_threads(plan)
    pid = os.getpid()
    status = _carry_out(plan, pid, path, function)
    if os.getpid() != pid:
        os._exit(status)
    return status


def _begin_as_script(plan: dict[str, Any], *, made: bool = False) -> Path:
    """Confine and watch this process, and give it the recorded folder, arguments and import path; the script's path."""
    give_back_process_state(plan["process"])
    _confine_and_watch(plan, made=made)
    path = Path(plan["root"]) / plan["script"].partition(":")[0]
    os.chdir(plan["cwd"])
    argv = [plan["argv"][0] if plan["argv"] else str(path), *plan["argv"][1:]]
    sys.argv = unmasked_argv(argv, {number: known_secrets.values[name] for number, name, _ in plan["masked"]})
    import_as_recorded(plan, path)
    return path


def _confine_and_watch(plan: dict[str, Any], *, made: bool) -> None:
    confine(plan["user_root"], plan["own_folders"])
    watch(plan, made=made)
    watch_sums(plan)
    variable_reads.watch()
    switches.watch_calls()
    tempfile.tempdir = None  # asked for by code of ours: the program's own asking is seen


def _take_secrets(text: str) -> None:
    """Know the secrets that the coordinator gives: they stand in no file."""
    known_secrets.add(json.loads(text or "{}"))


def make_ranks(plan: dict[str, Any]) -> int:
    """Run the script in this process, which makes the ranks; each is replayed where it becomes one."""
    first = plan["ranks"][0]
    _take_secrets(os.environ.get(SECRETS, ""))  # it stays there for the ranks
    path = _begin_as_script(first, made=True)
    os.environ["PYTHONPATH"] = plan["hook"]
    _await_rank(plan)
    status = 0
    try:
        _run(path, "", path.stem, first | {"begin": {}, "drawn": {}})
        _wind_up()
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:  # noqa: BLE001 - an old version may raise anything
        _print_traceback()
        status = 1
    if sessions.present() is not None:  # the process that made the others was a rank itself
        _end_rank(first, "failed" if status else "finished", f"the script left with exit status {status}")
    _flush()
    return status


def await_rank(plan_path: str) -> None:
    """In a fresh interpreter that the script started: replay a rank here, if this becomes one."""
    plan = json.loads(Path(plan_path).read_text(encoding="utf-8"))
    first = plan["ranks"][0]
    _take_secrets(os.environ.get(SECRETS, ""))
    _confine_and_watch(first, made=True)
    _await_rank(plan)


def _await_rank(plan: dict[str, Any]) -> None:
    faulthandler.enable()
    sessions.wanted = plan["ranks"][0].get("nth") or 1
    sessions.ranks_follow = True
    sessions.factory = lambda: _session_of_rank(plan)
    sessions.asked = lambda: from_asked(plan["ranks"][0])
    builtins.__dict__["__flor__"] = _Lazy()


def _session_of_rank(plan: dict[str, Any]) -> Session | None:
    """The session of the rank that this process is; None where it is none."""
    rank = find_rank()
    mine = next((p for p in plan["ranks"] if rank is not None and p["rank"] == rank.number), None)
    if rank is None or mine is None or rank.world_size != mine["world_size"]:
        return None
    stack = Path(mine["stack"]).open("w", encoding="utf-8")  # noqa: SIM115 - open for as long as the process lives
    faulthandler.register(STACK_SIGNAL, file=stack, all_threads=True)
    if mine.get("other_machine"):
        pin_torch_threads(mine)
    session = ReplaySession(mine)
    at_end(lambda status, reason: _end_rank(mine, status, reason))
    return session


def _end_rank(plan: dict[str, Any], status: str, reason: str) -> None:
    session = sessions.present()
    if (
        session is not None
        and plan.get("ended_badly")
        and status == "failed"
        and not reason.startswith(_OURS)
    ):
        status, reason = "finished", ""  # the recorded rank ended in an error too
    if session is not None:
        session.finish(status, reason)


def _carry_out(plan: dict[str, Any], pid: int, path: Path, function: str) -> int:
    try:
        _run(path, function, plan.get("module") or path.stem, plan)
        _wind_up()
    except DamagedCheckpointError as error:
        return _fail(str(error), EXIT_DAMAGED)
    except CheckpointError as error:
        return _fail(str(error), EXIT_RESTORE)
    except SystemExit as exit_:
        code = exit_.code
        if os.getpid() == pid and code not in (None, 0) and not plan.get("ended_badly"):
            return _fail(f"the script left with exit status {code}", 1)
        _wind_up()
    except BaseException as error:  # noqa: BLE001 - an old version may raise anything
        if os.getpid() != pid or not plan.get("ended_badly"):
            return _fail(f"{type(error).__name__}: {error}", 1)
        # The recorded run ended in an error too: it has come to the same place.
        _wind_up()
    if os.getpid() == pid:  # else the old code forked, and this copy of it came to the script's end
        if sessions.present() is None and ((plan.get("nth") or 1) > 1 or plan.get("alike")):
            return _fail(f"the script never began the run that was the {plan['nth']}. of its process", 1)
        _session().finish("finished")
    _flush()
    return 0


def _wind_up() -> None:
    """What the interpreter does at a script's end, before the recorder's own last hook."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


class _Lazy:
    """What the patched source calls `__flor__`: the session, begun at the first call where none was before."""

    def has(self, name: str) -> bool:
        """Asked for each local name that a loop stores, at each of its iterations."""
        session = sessions.present()
        return session.has(name) if isinstance(session, ReplaySession) else self.__getattr__("has")(name)

    def begin(self, keys: tuple[str, ...], unknown: bool) -> None:
        """Before a hindsight expression, or a block of them."""
        self.__getattr__("begin")(keys, unknown, sys._getframe(1))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    def end(self, keys: tuple[str, ...]) -> None:
        """After it."""
        self.__getattr__("end")(keys, sys._getframe(1))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    def failed(self, logged: tuple[tuple[str, int], ...], file: str, line: int, old_line: int) -> None:
        """A hindsight expression raised."""
        code = sys._getframe(1).f_code  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        self.__getattr__("failed")(logged, file, line, old_line, code)

    def __call__(self) -> None:
        """Nothing: torch's compiler only takes what can be called from among the built-in names."""

    def __getattr__(self, name: str) -> Any:
        session = sessions.ahead()
        # Before the run that is asked for begins, nothing is put back and nothing watched.
        return _nothing if session is None else getattr(session, name)


def _nothing(*_: Any) -> bool:
    return False


# What torch compiles is left before such a call, and entered again behind it.
for _method in (_Lazy.begin, _Lazy.end, _Lazy.failed):
    _method.__dict__["_torchdynamo_disable"] = True


def _session() -> Session:
    session = sessions.present() or sessions.start()
    if session is None:
        raise FlorError("this process is no replay")
    return session


def _fail(reason: str, status: int) -> int:
    if sys.exc_info()[0] is not None:
        with contextlib.suppress(Exception):
            _print_traceback()
    session = sessions.present() or sessions.start()
    if session is None:
        sys.stderr.write(f"flor_dagster: {reason}\n")
    else:
        session.finish("failed", reason)
    _flush()
    return status


def _print_traceback() -> None:
    kind, error, trace = sys.exc_info()
    here = str(Path(__file__).resolve())
    frames = [f for f in traceback.extract_tb(trace) if f.filename != here and "<frozen" not in f.filename]
    sys.stderr.write("Traceback (most recent call last):\n" + "".join(traceback.format_list(frames)))
    sys.stderr.write("".join(traceback.format_exception_only(kind, error)))


def _run(path: Path, function: str, module_name: str, plan: dict[str, Any]) -> None:
    if function:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise FlorError(f"{path} can't be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        sessions.outside = True
        spec.loader.exec_module(module)
        sessions.outside = False
        target: Any = getattr(module, function)
        # A function's recording begins with its call, whatever its module drew before.
        begin_with({**plan["generators"], **plan["begin"]})
        plan["generators"] = {}
        target()
        return
    drawn: dict[str, bool] = plan["drawn"]
    # A warm worker has libraries that the run imported later; their generators begin as they did behind that import.
    plan["preloaded"] = [
        root for root in plan["begin"] if root not in drawn and HOMES.get(root, "") in sys.modules
    ]
    begin_with({root: state for root, state in plan["begin"].items() if root not in drawn})
    if drawn:
        when_asked_for("flor_dagster", lambda: begin_here(plan["begin"], drawn))
    main_module = new_main(path)
    if plan.get("module_name"):  # python -m
        main_module.__spec__ = importlib.util.find_spec(plan["module_name"])
        main_module.__package__ = getattr(main_module.__spec__, "parent", None)
    code = compile(path.read_bytes(), str(path), "exec")
    exec(code, main_module.__dict__)
