"""What a project or a person sets: the environment first, then `[tool.flor]` and `[tool.flor.checkpoints]` of pyproject.toml.

| `[tool.flor]` | environment | means | default |
| --- | --- | --- | --- |
| `keep_variables` | `FLOR_KEEP_VARIABLES` | whether values of the environment variables that a program reads are kept in plain text; likely secrets never are | true |
| `portable` | | whether `flor run` starts trainings with kernels that any machine of the kind gives alike | false |

About checkpoints:

| `[tool.flor.checkpoints]` | environment | means | default |
| --- | --- | --- | --- |
| `take` | `FLOR_CHECKPOINTS` | `auto`, `all` or `none` | `auto` |
| `overhead` | `FLOR_CHECKPOINT_OVERHEAD` | the share of a run's time that they may cost | 0.015 |
| `floor_seconds` | `FLOR_CHECKPOINT_FLOOR_SECONDS` | seconds that they may cost in any case | 1 |
| `run_bytes` | `FLOR_CHECKPOINT_RUN_BYTES` | what one run's checkpoints may take on the disk | 20 GB |
| `project_bytes` | `FLOR_CHECKPOINT_PROJECT_BYTES` | what `flor gc` thins all of them to | 100 GB |

Sizes are bytes, or texts like `500 MB` and `2 GiB`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip
_VARIABLES = {
    "take": "FLOR_CHECKPOINTS",
    "overhead": "FLOR_CHECKPOINT_OVERHEAD",
    "floor_seconds": "FLOR_CHECKPOINT_FLOOR_SECONDS",
    "run_bytes": "FLOR_CHECKPOINT_RUN_BYTES",
    "project_bytes": "FLOR_CHECKPOINT_PROJECT_BYTES",
}


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """What may be set.

    Args:
        take: `auto` holds the budget, `all` takes every checkpoint, `none` takes none.
        overhead: the share of the run so far that checkpoints may cost.
        floor_seconds: what they may cost in any case.
        run_bytes: what one run's may take on the disk.
        project_bytes: what `flor gc` thins all of them to.
    """

    take: str = "auto"
    overhead: float = 0.015
    floor_seconds: float = 1.0
    run_bytes: int = 20 * 10**9
    project_bytes: int = 100 * 10**9


def checkpoint_settings(root: Path | None) -> CheckpointSettings:
    """The settings of a project.

    Args:
        root: the folder of its pyproject.toml, None for none.

    Raises:
        ValueError: when one of them can't be meant; it says which, and where it stands.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    file = None if root is None else root / "pyproject.toml"
    for key, value in (_from_project(file) if file is not None else {}).items():
        if key not in _VARIABLES:
            known = ", ".join(_VARIABLES)
            raise ValueError(f"[tool.flor.checkpoints] of {file} has no setting {key!r}; there are {known}")
        values[key], places[key] = value, f"`{key}` of [tool.flor.checkpoints] in {file}"
    for key, variable in _VARIABLES.items():
        if os.environ.get(variable):
            values[key], places[key] = os.environ[variable], variable
    return CheckpointSettings(**{key: _read(key, value, places[key]) for key, value in values.items()})


def keeps_values(root: Path | None) -> bool:
    """Whether values of the program's own environment variables may be kept in plain text (`keep_variables`).

    A file that can't be read keeps none.
    """
    chosen = os.environ.get("FLOR_KEEP_VARIABLES")
    if chosen:
        return chosen.lower() not in ("0", "false", "no", "off")
    try:
        return _setting(root, "keep_variables") is not False
    except ValueError:
        return False


def is_portable_project(root: Path | None) -> bool:
    """Whether a project's trainings are to be portable (`portable = true` in `[tool.flor]`).

    Raises:
        ValueError: its pyproject.toml can't be read, or says neither true nor false.
    """
    value = _setting(root, "portable")
    if value in (None, True, False):
        return bool(value)
    raise ValueError(
        f"`portable` of [tool.flor] in {root}/pyproject.toml is {value!r}; it may be true or false"
    )


def _setting(root: Path | None, name: str) -> Any:
    return None if root is None else _tool(root / "pyproject.toml").get(name)


def _from_project(file: Path) -> Mapping[str, Any]:
    found = _tool(file).get("checkpoints")
    return found if isinstance(found, dict) else {}


def _tool(file: Path) -> Mapping[str, Any]:
    """The table `[tool.flor]` of a pyproject.toml; empty where there is none."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    if "tool.flor" not in text:
        return {}
    import tomllib

    try:
        found = tomllib.loads(text)["tool"]["flor"]
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} can't be read: {error}") from error
    except (KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(key: str, value: Any, place: str) -> Any:
    if key == "take":
        if value in ("auto", "all", "none"):
            return value
        raise ValueError(f"{place} is {value!r}; it may be auto, all or none")
    if key.endswith("_bytes"):
        return read_size(value, place)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError(f"{place} is {value!r}; it must be a number from 0 on")
    return number


def read_size(value: Any, place: str) -> int:
    """A number of bytes, or a text like `500 MB`.

    Raises:
        ValueError: when it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(value))
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{place} is {value!r}; it must be a size like 500 MB or 2 GiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])
