"""Which interpreter executes an old version, and how its packages differ from those that the run was recorded with."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flor_dagster.errors import ReplayError
from flor_dagster.recording.environment import packages_file
from flor_dagster.replay.record import RunRecord
from flor_dagster.replay.surroundings import foreseen_differences

# Modules whose versions are recorded, by the distributions that they come from.
DISTRIBUTIONS = {"sklearn": "scikit-learn"}

SHOWN = 5
"""So many of the other packages are named."""

_ASK = (
    "import json, platform, sys\n"
    "from importlib import metadata\n"
    "found = {}\n"
    "for name in json.loads(sys.argv[1]):\n"
    "    try:\n"
    "        found[name] = metadata.version(name)\n"
    "    except metadata.PackageNotFoundError:\n"
    "        found[name] = ''\n"
    "print(json.dumps({'python': platform.python_version(), 'packages': found}))\n"
)


@dataclass(frozen=True, slots=True)
class Environment:
    """What executes a replay.

    Args:
        interpreter: the Python.
        warnings: how it differs from what the run was recorded with, each in words; empty where nothing is known to differ.
    """

    interpreter: str
    warnings: tuple[str, ...]


def choose_environment(record: RunRecord, python: str | None, home: Path | None = None) -> Environment:
    """The interpreter of a run's replays.

    Args:
        record: the run's journal.
        home: the `.flor/` folder, which holds the run's list of packages; None looks at the libraries that it had loaded.
        python: a given interpreter; None takes the one that the run was recorded with, where it is still there, else this
            process's own.

    Raises:
        ReplayError: the given one is none.
    """
    header = record.header
    recorded = str(header.get("executable") or "")
    warnings: list[str] = []
    if python is not None:
        interpreter = str(Path(python).expanduser().absolute())
    elif recorded and os.access(recorded, os.X_OK):
        interpreter = recorded
    else:
        interpreter = sys.executable
        warnings.append(
            f"its interpreter {recorded or '(unknown)'} is not there any more; {interpreter} takes its place"
        )
    versions: Mapping[str, Any] = next(
        (parts[1].get("versions", {}) for _, kind, parts in record.events if kind == "i"), {}
    )
    wanted = {DISTRIBUTIONS.get(name, name): str(version) for name, version in versions.items() if version}
    installed = _recorded_packages(home, str(header.get("packages") or ""))
    facts = _facts(interpreter, tuple(sorted({*wanted, *installed})))
    if header.get("python") and header["python"] != facts["python"]:
        warnings.append(f"Python is {facts['python']}, the run had {header['python']}")
    for name, version in wanted.items():
        here = facts["packages"].get(name, "")
        if here != version:
            warnings.append(f"{name} is {here or 'not installed'}, the run had {version}")
    others = [
        f"{name} {facts['packages'].get(name) or '(not installed)'} instead of {version}"
        for name, version in installed.items()
        if _plain(name) not in {_plain(w) for w in wanted} and facts["packages"].get(name, "") != version
    ]
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        warnings.append(
            f"other packages differ from those that were installed then: {', '.join(others[:SHOWN])}{more}"
        )
    if record.given is not None:
        warnings += foreseen_differences(record, record.given, interpreter, probe=bool(warnings))
    return Environment(interpreter, tuple(warnings))


def _recorded_packages(home: Path | None, digest: str) -> dict[str, str]:
    """Name → version of what was installed when the run was recorded; empty where that is not known."""
    if home is None or not digest:
        return {}
    try:
        listed = json.loads(packages_file(home, digest).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: version for name, _, version in (str(line).partition("==") for line in listed)}


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


@functools.lru_cache(64)
def _facts(interpreter: str, packages: tuple[str, ...]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [interpreter, "-P", "-c", _ASK, json.dumps(packages)], capture_output=True, text=True, check=True, timeout=60,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ReplayError(
            f"{interpreter} can't be used as the interpreter of a replay: {error}. Name a Python with --python"
        ) from error
