"""What the checker is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Spot:
    """Where something stands: a file, and its first and last line there (counted from 1)."""

    file: str
    lines: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PlaceVerdict:
    """Whether a statement's place is the one its author would have chosen, and why that is in doubt."""

    verdict: Literal["certain", "likely", "contradicted"]
    reasons: tuple[str, ...] = ()
