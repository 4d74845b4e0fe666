"""What a project says of its versions, in its `pyproject.toml`.

[tool.flor]
secrets = ["*.vault", "!public.pem"]   # more names that look like secrets; one with `!` is none
max-file-mb = 10                       # untracked files beyond this are left out
max-total-mb = 200                     # and the biggest, where they are more than this together

[tool.flor.snapshot]
beside = true                          # versions go to a repository of our own in `.flor/`, not to the user's
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flor_dagster.versions.secrets import SECRET_PATTERNS

if TYPE_CHECKING:
    from pathlib import Path

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class SnapshotSettings:
    """What stays out of a version, of the files that git does not track, and where versions are kept.

    Attributes:
        secrets: Shell patterns of names that look like secrets.
        max_file_bytes: Files beyond this size are left out.
        max_total_bytes: Where the files are more than this together, the biggest are left out.
        beside: Versions are kept in a repository of our own beside the user's; None where that could not be read.
        troubles: Sentences about settings that could not be read; the defaults hold for those.
    """

    secrets: tuple[str, ...] = SECRET_PATTERNS
    max_file_bytes: int = 10 * MEGABYTE
    max_total_bytes: int = 200 * MEGABYTE
    beside: bool | None = False
    troubles: tuple[str, ...] = ()


def read_settings(root: Path) -> SnapshotSettings:
    """The settings of the project at the top of a work tree; a mistake in the file never stops a snapshot."""
    file = root / "pyproject.toml"
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return SnapshotSettings()
    except (OSError, ValueError) as error:
        return SnapshotSettings(
            beside=None, troubles=(f"pyproject.toml can't be read, so [tool.flor] is not used: {error}",)
        )
    tool = document.get("tool")
    table: Any = tool.get("flor") if isinstance(tool, dict) else None
    if not isinstance(table, dict):
        return SnapshotSettings()
    troubles: list[str] = []
    default = SnapshotSettings()
    secrets = table.get("secrets", [])
    if not (isinstance(secrets, list) and all(isinstance(pattern, str) for pattern in secrets)):
        troubles.append(
            f"[tool.flor] secrets must be a list of texts, it is {secrets!r}: the built-in ones hold."
        )
        secrets = []
    return SnapshotSettings(
        (*SECRET_PATTERNS, *secrets),
        _bytes(table, "max-file-mb", default.max_file_bytes, troubles),
        _bytes(table, "max-total-mb", default.max_total_bytes, troubles),
        _beside(table.get("snapshot", {}), troubles),
        tuple(troubles),
    )


def _beside(table: Any, troubles: list[str]) -> bool:
    """Who wrote anything here that can't be read has asked for it: what is kept beside is never published by mistake."""
    value = table.get("beside", False) if isinstance(table, dict) else None
    unknown = sorted(set(table) - {"beside"}) if isinstance(table, dict) else []
    if isinstance(value, bool) and not unknown:
        return value
    wrong = (
        f"has no setting {unknown[0]!r}" if unknown else f"must say beside = true or false, it is {table!r}"
    )
    troubles.append(f"[tool.flor.snapshot] {wrong}: versions are kept beside the repository.")
    return True


def _bytes(table: dict[str, Any], key: str, default: int, troubles: list[str]) -> int:
    value = table.get(key, default / MEGABYTE)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        troubles.append(
            f"[tool.flor] {key} must be a number of megabytes, it is {value!r}: {default // MEGABYTE} holds."
        )
        return default
    return int(min(value * MEGABYTE, 2**62))
