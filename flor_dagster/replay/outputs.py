"""What a replay misses of the untracked files: those that were written when the training was in its loops, or later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SHOWN = 3


def explained(reason: str, left_out: Sequence[str]) -> str:
    """A failure's reason, with the files that were left out where it may be about one.

    Args:
        reason: in words.
        left_out: their names.
    """
    lacking = any(Path(name).name in reason for name in left_out)
    if not left_out or not (lacking or "No such file" in reason or "FileNotFoundError" in reason):
        return reason
    more = f" and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
    return f"{reason} (not reached, since written after this run began: {', '.join(left_out[:SHOWN])}{more})"
