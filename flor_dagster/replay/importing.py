"""Where a replay's child imports from: what the recorded program found in its repository is found in the checkout.

An editable install, `PYTHONPATH` or a folder that was put on the path points into the user's work tree, which is today's
code. The standard library alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def import_as_recorded(plan: dict[str, Any], script: Path) -> None:
    """Set the import path of this process.

    Args:
        plan: of a replay's child.
        script: what it runs.
    """
    root = plan["root"]
    moved = [_moved(entry, plan) for entry in sys.path[1:]]
    recorded = plan.get("paths")
    if recorded is None:  # a journal of before that was noted
        sys.path[:] = [str(script.parent), *moved]
    else:
        own = [os.path.normpath(os.path.join(root, entry)) for entry in recorded]  # noqa: PTH118
        # A program that is no script of the repository (a console script) has its own folder first.
        sys.path[:] = [*own, *(entry for entry in moved if entry not in own)]
    for finder in sys.meta_path:
        mapping = getattr(sys.modules.get(getattr(finder, "__module__", "")), "MAPPING", None)
        if isinstance(mapping, dict):  # of an editable install by setuptools
            for name, place in list(mapping.items()):
                mapping[name] = _moved(str(place), plan)


def _moved(entry: str, plan: dict[str, Any]) -> str:
    """A folder of the user's work tree as the checkout's; one of an interpreter that lies in it stays."""
    real = os.path.realpath(entry) if entry else entry
    prefixes = [os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)]
    for root in filter(None, (plan["user_root"], plan.get("recorded_root"))):
        inside = real == root or real.startswith(root + os.sep)
        if (
            inside
            and not any(real.startswith(prefix + os.sep) for prefix in prefixes)
            and "site-packages" not in real
        ):
            there = plan["root"] + real[len(root) :]
            return there if os.path.exists(there) else entry  # noqa: PTH110
    return entry
