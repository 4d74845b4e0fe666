"""Carry out one replay: a checkout of our own, a patched source, a child process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flor_dagster.errors import ReplayError
from flor_dagster.propagation import classify_effects
from flor_dagster.recording import layout
from flor_dagster.replay.patch import Guarded, Patched, patch
from flor_dagster.replay.placing import PlacedVersion, log_lines
from flor_dagster.replay.planning import LoopPlan, shifted
from flor_dagster.replay.record import RunRecord
from flor_dagster.store.models import RunRow, StatementRow
from flor_dagster.versions import Clone, Repository, link_untracked

# What a child gets of this process's environment; old code sees nothing else.
ALLOWED_VARIABLES = re.compile(
    r"^(PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|"
    r"CUDA_\w+|NVIDIA_\w+|HF_HOME|TORCH_HOME|XDG_\w+|SSL_CERT_\w+|(OMP|MKL|OPENBLAS|NUMEXPR)_NUM_THREADS)$"
)

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from flor_dagster.replay.child import main; "
    "sys.path[0] = ''; sys.exit(main(sys.argv[2]))"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a child did: its exit status, its journal, its last lines, how long it took."""

    status: int
    journal: Path
    tail: tuple[str, ...]
    seconds: float
    statements: dict[str, dict[int, str]]
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """One replay of one training run, ready to be carried out."""

    replay_id: str
    run: RunRow
    record: RunRecord
    placed: PlacedVersion
    statements: tuple[StatementRow, ...]
    loops: LoopPlan
    home: Path
    user_root: Path
    cache: Path
    timeout: float


def execute(job: Job, on_line: Callable[[str], None] | None = None) -> Outcome:
    """Carry out one replay in a child process.

    Args:
        job: what is to be done.
        on_line: told of what goes on, in words.

    Returns:
        The child's outcome; a status other than 0 is not raised here.

    Raises:
        ReplayError: when the version can't be checked out or its files can't be patched.
    """
    folder = layout.replay_folder(job.home, job.replay_id)
    folder.mkdir(parents=True, exist_ok=True)
    if job.run.commit is None:
        raise ReplayError(
            f"training run {job.run.key} has no version: its code was not kept, so it can't be replayed"
        )
    repository = Repository(job.user_root)
    clone = Clone.open(job.user_root, job.cache)
    work = clone.place / "replays" / job.replay_id
    try:
        checkout = clone.checkout(job.run.commit, work)
        link_untracked(job.user_root, checkout.path)
        statements = _write_files(job, repository, checkout.path)
        plan_path = folder / "plan.json"
        journal = folder / "journal.0.jsonl"
        journal.unlink(missing_ok=True)
        plan = _child_plan(job, checkout.path, journal, statements)
        plan_path.write_text(json.dumps(plan), encoding="utf-8")
        if on_line is not None:
            on_line(f"{job.run.key}: {job.loops.sentence}")
        status, seconds = _run_child(job, plan_path, folder / "output.txt", checkout.path)
        tail = _tail(folder / "output.txt", checkout.path, job.user_root)
        return Outcome(status, journal, tail, seconds, statements, _reason(journal))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_files(job: Job, repository: Repository, root: Path) -> dict[str, dict[int, str]]:
    """Write the patched files into the checkout; file → line → statement key."""
    by_id = {s.id: s for s in job.statements}
    loops: dict[str, set[tuple[int, int]]] = {}
    for execution in job.record.executions.values():
        if execution.function != "<module>" and not Path(execution.file).is_absolute():
            loops.setdefault(execution.file, set()).add((execution.line, execution.column))
    statements: dict[str, dict[int, str]] = {}
    for file in sorted({*loops, *job.placed.files}):
        placed = job.placed.files.get(file)
        text = placed.text if placed is not None else repository.read(job.run.commit or "", file)
        if text is None:
            continue
        added = placed.added if placed is not None else ()
        guarded: list[Guarded] = []
        for statement_id, placement in placed.placements.items() if placed is not None else ():
            row = by_id[statement_id]
            watched = classify_effects(row.expression) == "unknown"
            guarded.append(
                Guarded(row.key, row.name, placement.lines, log_lines(text, placement, row.name), watched)
            )
        sites = [(shifted(line, added), column) for line, column in sorted(loops.get(file, ()))]
        patched: Patched = patch(text, file, sites, guarded)
        _write_text(root / file, patched.source)
        statements[file] = patched.statements
    return statements


def _write_text(path: Path, text: str) -> None:
    import tokenize

    with path.open("rb") as file:
        encoding, _ = tokenize.detect_encoding(file.readline)
    mode = path.stat().st_mode
    path.unlink()  # a link or a read-only file is replaced, never written through
    path.write_bytes(text.encode(encoding))
    path.chmod(mode | 0o200)


def _child_plan(job: Job, root: Path, journal: Path, statements: dict[str, dict[int, str]]) -> dict[str, Any]:
    header = job.record.header
    return {
        "run": job.run.id, "replay": job.replay_id, "root": str(root.resolve()), "home": str(job.home),
        "user_root": str(job.user_root), "journal": str(journal), "entrypoint": job.run.entrypoint,
        "script": job.run.entrypoint, "module": header.get("module"), "nth": header.get("nth", 1), "argv": _moved(header.get("argv", []), header, root),
        "cwd": _moved([header.get("cwd") or str(root)], header, root)[0], "args": job.record.args,
        "begin": job.record.begin, "generators": job.record.generators, "loops": job.loops.loops, "statements": statements, "ended_badly": not job.record.finished,
    }  # fmt: skip


def _moved(texts: list[str], header: Mapping[str, Any], root: Path) -> list[str]:
    """Paths into the recorded repository become paths into the checkout."""
    recorded = header.get("root")
    if not recorded:
        return texts
    return [
        str(root) + t[len(recorded) :] if t == recorded or t.startswith(recorded + os.sep) else t
        for t in texts
    ]


def _environment(header: Mapping[str, Any]) -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if ALLOWED_VARIABLES.match(k)}
    environment.update(header.get("threads", {}))
    # A run without a fixed hash seed has an order of its own in every set of texts; a fixed one here at least repeats.
    environment["PYTHONHASHSEED"] = header.get("hashseed") or "0"
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment["FLOR_ORIGIN"] = "replay"
    return environment


def _run_child(job: Job, plan: Path, output: Path, root: Path) -> tuple[int, float]:
    header = job.record.header
    recorded = header.get("executable")
    interpreter = recorded if recorded and os.access(recorded, os.X_OK) else sys.executable
    package_parent = str(Path(__file__).resolve().parents[2])
    command = [interpreter, "-P", "-c", _BOOT, package_parent, str(plan)]
    begin = time.perf_counter()
    with output.open("wb") as stream:
        child = subprocess.Popen(
            command, cwd=root, env=_environment(header), stdin=subprocess.DEVNULL, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status = child.wait(job.timeout)
        except subprocess.TimeoutExpired:
            _kill(child)
            stream.write(f"\nflor_dagster: stopped after {job.timeout:.0f} s\n".encode())
            status = -signal.SIGKILL
        except BaseException:
            _kill(child)
            raise
    return status, time.perf_counter() - begin


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _tail(output: Path, root: Path, user_root: Path, lines: int = 20) -> tuple[str, ...]:
    """The child's last lines, with the checkout's paths as the repository's."""
    text = output.read_bytes()[-20_000:].decode("utf-8", errors="replace")
    text = text.replace(str(root.resolve()), str(user_root)).replace(str(root), str(user_root))
    return tuple(text.splitlines()[-lines:])


def _reason(journal: Path) -> str:
    if not journal.exists():
        return "the child ended before it began to replay"
    last = ""
    for raw in journal.read_bytes().splitlines()[-3:]:
        with contextlib.suppress(ValueError):
            parts = json.loads(raw)
            if parts and parts[0] == "z":
                last = parts[2]
    return last
