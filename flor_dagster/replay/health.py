"""Is everything there that recording and replaying need?"""

from __future__ import annotations

import grp
import importlib.util
import os
import pwd
import re
import shlex
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flor_dagster.errors import FlorError
from flor_dagster.recording import layout
from flor_dagster.versions.command import run

if TYPE_CHECKING:
    from flor_dagster.replay.workspace import Workspace

LITTLE_SPACE = 5 * 10**9
OLDEST_GIT = (2, 31)
RECENT_RUNS = 20


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        level: `ok`, `warning` (something is slower or less certain), `problem` (something does not work).
        sentence: How it is, and what to do.
    """

    name: str
    level: Literal["ok", "warning", "problem"]
    sentence: str


def check_health(workspace: Workspace) -> tuple[Check, ...]:
    """Look at repository, home, disk, interpreter, git and log store."""
    return tuple(_checks(workspace))


def _checks(workspace: Workspace) -> Iterator[Check]:
    yield Check("repository", "ok", f"{workspace.root}")
    yield _writable(workspace.home, workspace.root)
    yield from whose_home(workspace.home, os.getuid())
    yield _space(workspace.home)
    yield _hash_seed()
    yield _git(workspace.root)
    if importlib.util.find_spec("orjson") is None:
        yield Check("orjson", "warning", "not installed: records are written more slowly; pip install orjson")
    else:
        yield Check("orjson", "ok", "installed")
    yield from _store(workspace)


def _writable(home: Path, root: Path) -> Check:
    probe = home / f".doctor.{os.getpid()}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Check("home", "problem", f"{home} can't be written to: {error}. Nothing would be recorded")
    text = f"{home} is writable"
    if home.is_relative_to(root):
        text += "; `git clean -fdx` would delete it with every run in it: FLOR_HOME keeps it elsewhere"
    return Check("home", "ok", text)


def whose_home(home: Path, user: int) -> Iterator[Check]:
    """Whose a home is, and who else may read or write it: who may write it may run code as who replays from it.

    Args:
        home: the `.flor/` folder.
        user: the number of the user who asks.
    """
    trust = "what lies there is unpickled and run in replays: replay only what you would run"
    status = home.stat()
    if status.st_uid != user:
        yield Check("owner", "warning", f"{home} belongs to {_user(status.st_uid)}, not to you; {trust}")
    foreign = [path for path in _below(home) if path.lstat().st_uid not in (status.st_uid, user)]
    if foreign:
        owners = ", ".join(sorted({_user(path.lstat().st_uid) for path in foreign}))
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        yield Check("owner", "warning", f"{foreign[0]}{more} in {home} belongs to {owners}; {trust}")
    mode = stat.S_IMODE(status.st_mode)
    mend = f"`chmod 700 {shlex.quote(str(home))}` makes it its owner's alone"
    if mode & stat.S_IWOTH:
        yield Check(
            "owner", "problem", f"{home} can be written by everyone (mode {mode:04o}); {trust}. {mend}"
        )
    elif mode & stat.S_IWGRP:
        who = f"by the group {_group(status.st_gid)} (mode {mode:04o})"
        yield Check(
            "owner",
            "warning",
            f"{home} can be written {who}; {trust}. {mend}, where it is not shared on purpose",
        )
    elif mode & 0o077:
        text = f"{home} can be read by others (mode {mode:04o}), with the code, arguments and values of every run"
        yield Check("owner", "warning", f"{text}. {mend}, where it is not shared on purpose")
    elif status.st_uid == user and not foreign:
        yield Check("owner", "ok", f"{home} is yours alone")


def _below(home: Path) -> Iterator[Path]:
    """What lies directly in a home, and the folders and files of each run."""
    yield from home.iterdir()
    for kind in ("runs", "checkpoints", "replays"):
        for folder in (home / kind).glob("*"):
            yield folder
            yield from folder.glob("*") if not folder.is_symlink() else ()


def _user(number: int) -> str:
    try:
        return f"{pwd.getpwuid(number).pw_name} (uid {number})"
    except KeyError:
        return f"uid {number}"


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return f"{number}"


def _space(home: Path) -> Check:
    free = shutil.disk_usage(home).free
    text = f"{free / 1e9:.1f} GB are free at {home}"
    if free < LITTLE_SPACE:
        return Check("disk", "warning", f"{text}: `flor gc --plan` says what could go")
    return Check("disk", "ok", text)


def _hash_seed() -> Check:
    if os.environ.get("PYTHONHASHSEED", "random") == "random":
        return Check(
            "hash seed",
            "warning",
            "PYTHONHASHSEED is not set here: the order of a training's sets of texts could not be had again. Start "
            "trainings by `flor run`, or with PYTHONHASHSEED=0",
        )
    return Check("hash seed", "ok", f"PYTHONHASHSEED={os.environ['PYTHONHASHSEED']}")


def _git(root: Path) -> Check:
    text = run(root, "version").text
    match = re.search(r"(\d+)\.(\d+)", text)
    if match is None or (int(match[1]), int(match[2])) < OLDEST_GIT:
        oldest = ".".join(str(part) for part in OLDEST_GIT)
        return Check("git", "warning", f"{text or 'unknown version'}: older than {oldest}, the oldest tested")
    return Check("git", "ok", text)


def _store(workspace: Workspace) -> Iterator[Check]:
    try:
        workspace.sync()
        runs = workspace.store.runs()
    except FlorError as error:
        yield Check("log store", "problem", str(error))
        return
    for folder, why in workspace.store.problems.items():
        yield Check("log store", "problem", f"{folder} was not taken in: {why}")
    for row in runs:
        folder = layout.runs_folder(workspace.home) / row.id
        if not any(folder.glob("journal.*.jsonl")):
            words = f"the files of {row.key} are gone from {folder}: the log store alone has its records, and it can't be replayed"
            yield Check("log store", "problem", f"{words}. Put them back, or leave it so")
    yield Check("log store", "ok", f"its schema is current; {len(runs)} training runs")
    for row in runs[-RECENT_RUNS:]:
        for code, message in workspace.store.warnings(row.id):
            level = "problem" if code == "lost" else "warning"
            yield Check("recent runs", level, f"{row.key}: {message}")
        if row.status == "lost":
            yield Check("recent runs", "warning", f"{row.key} was lost: {row.reason}")
