"""What the commands have in common: the project's workspace, errors that a person understands, chosen runs."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from flor_dagster.cli.output import FAILED, STOPPED, USAGE, Output
from flor_dagster.errors import FlorError, NoRepositoryError, UnknownNameError

if TYPE_CHECKING:
    from flor_dagster.replay.outside_git import Records
    from flor_dagster.replay.workspace import Workspace
    from flor_dagster.store.models import RunRow

P = ParamSpec("P")
W = TypeVar("W")


class Terminated(KeyboardInterrupt):
    """The command was asked to end by another signal than that of Ctrl-C.

    Args:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.name = signal.Signals(number).name
        self.status = 128 + number


@contextlib.contextmanager
def stopped_by_signals() -> Generator[None]:
    """Let SIGTERM and SIGHUP stop a command as Ctrl-C does: what it has begun is ended and taken away first.

    A signal that is ignored (by `nohup`) stays so.
    """
    before: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        for one in before:  # a session that ends sends both
            signal.signal(one, signal.SIG_IGN)
        raise Terminated(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def project_command(
    function: Callable[Concatenate[Workspace, Output, P], int],
) -> Callable[..., None]:
    """Give a command `--project` and `--json`, an open workspace, an output, and errors that a person understands.

    The command returns its exit status.
    """

    def opened(project: Path | None) -> Workspace:
        from flor_dagster.replay.workspace import Workspace

        return Workspace.open(project)

    return _command(function, opened)


def records_command(
    function: Callable[Concatenate[Workspace | Records, Output, P], int],
) -> Callable[..., None]:
    """The same for a command that only looks at records: they may lie where there is no git."""

    def opened(project: Path | None) -> Workspace | Records:
        from flor_dagster.replay.outside_git import open_records

        return open_records(project)

    return _command(function, opened)


def _command(
    function: Callable[Concatenate[W, Output, P], int],
    opened: Callable[[Path | None], AbstractContextManager[W]],
) -> Callable[..., None]:
    @click.option(
        "--project",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="The project's folder; default: the git repository around the working directory.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
    @functools.wraps(function)
    def command(project: Path | None, as_json: bool, *args: P.args, **kwargs: P.kwargs) -> None:
        output = Output(as_json)
        try:
            with stopped_by_signals(), opened(project) as workspace:
                code = function(workspace, output, *args, **kwargs)
        except FlorError as error:
            output.complain(str(error))
            about = {"kind": type(error).__name__, "message": str(error)}
            run: RunRow | None = getattr(error, "run", None)
            output.document({"error": about | ({} if run is None else {"run": run.key})})
            code = USAGE if isinstance(error, NoRepositoryError | UnknownNameError) else FAILED
        except KeyboardInterrupt as error:
            by = f" by {error.name}" if isinstance(error, Terminated) else ""
            with contextlib.suppress(OSError):  # the terminal may be what went away
                output.complain(
                    f"stopped{by}. What was finished is kept; the same command goes on with the rest."
                )
                output.document({"error": {"kind": "KeyboardInterrupt", "message": f"stopped{by}"}})
            code = error.status if isinstance(error, Terminated) else STOPPED
        raise click.exceptions.Exit(code)

    return command


def chosen_runs(
    workspace: Workspace | Records, keys: Sequence[str], latest: int | None
) -> tuple[RunRow, ...]:
    """The training runs that the options name; all of them without options.

    Raises:
        NoRunsError: when there is none in the project.
    """
    workspace.require_runs()
    runs = workspace.runs()
    if keys:
        named = {workspace.store.run(key).id for key in keys}
        runs = tuple(run for run in runs if run.id in named)
    return latest_runs(runs, latest)


def latest_runs(runs: Sequence[RunRow], latest: int | None) -> tuple[RunRow, ...]:
    """The last so many of the training runs, oldest first; all of them for None."""
    return tuple(runs if latest is None else runs[-latest:])
