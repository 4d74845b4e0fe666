"""The exit codes of a replay's child that mean something to its parent."""

from __future__ import annotations

EXIT_RESTORE = 71
"""An end state does not fit the program: plan again without it."""

EXIT_EFFECT = 72
"""A hindsight expression changed the training's random state."""

EXIT_DAMAGED = 73
"""A checkpoint was altered on disk."""

EXIT_CHANGED = 74
"""A training that was to go on is not the one that died: its code, its libraries or its setup differ."""
