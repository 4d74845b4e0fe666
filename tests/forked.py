"""Run a command as a process of its own without importing everything anew: a server that has it all imported forks."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *(f"flor_dagster.cli.{name}" for name in ("run", "runs", "view", "propagate", "hindsight", "doctor", "gc")),
        "flor_dagster.replay.workspace",
        "pandas",
        "sqlalchemy.dialects.sqlite",
    ]
)  # fmt: skip


def run_forked(
    main: Callable[[], object],
    arguments: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    timeout: float = 120.0,
) -> tuple[int, str, str]:
    """Call `main` in a new process with these arguments, folder and environment, and nothing on standard input.

    Returns:
        Exit status, standard output, standard error.

    Raises:
        TimeoutError: it did not end in `timeout` seconds, and was killed.
    """
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _CONTEXT.Process(
            target=_child, args=(main, list(arguments), str(cwd), dict(environment), str(out), str(err))
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{' '.join(arguments)}: no end in {timeout} s")
        return process.exitcode, out.read_text(), err.read_text()


def _child(
    main: Callable[[], object],
    arguments: list[str],
    cwd: str,
    environment: dict[str, str],
    out: str,
    err: str,
) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for target, path in ((0, os.devnull), (1, out), (2, err)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, target)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # it is the process' own
    sys.argv = ["flor", *arguments]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
