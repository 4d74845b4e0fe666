"""Adapter of the re-insertion benchmark: `--adapter propagation:adapter` from this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flor_dagster.propagation import propagate

MARK = "__hs__"


class Refusal(Exception):  # noqa: N818  # the benchmark knows refusals by this name
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def adapter(new_source: str, old_source: str, line: int) -> str:
    """Place the statement on `line`; what travels with it (imports) is taken out again, for the score is of places."""
    result = propagate(new_source, old_source, [line])
    if result.refusals:
        refusal = result.refusals[0]
        raise Refusal(f"{refusal.kind}: {refusal.sentence} [{refusal.candidate_score}]")
    if not result.placements[0].carried:
        return result.source
    lines = result.source.split("\n")
    along = {n for n in result.added if MARK not in lines[n - 1]}
    return "\n".join(text for n, text in enumerate(lines, start=1) if n not in along)
