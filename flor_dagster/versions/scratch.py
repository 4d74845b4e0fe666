"""Temporary folders whose names say which process they belong to, so that those of killed ones are known."""

from __future__ import annotations

import tempfile

from flor_dagster.recording.owners import own_mark

SCRATCH_PREFIX = "flor-"


def scratch_folder(what: str) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder, gone with its block.

    Args:
        what: what it is for, for whoever finds it.
    """
    return tempfile.TemporaryDirectory(
        prefix=f"{SCRATCH_PREFIX}{what}-{own_mark()}-", ignore_cleanup_errors=True
    )
