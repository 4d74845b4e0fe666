"""A `__main__` for a script that is executed in a process which began as something else."""

from __future__ import annotations

import builtins
import sys
import types
from pathlib import Path


def new_main(script: Path) -> types.ModuleType:
    """A module that becomes the process's `__main__`, with what the interpreter puts into one by itself.

    Args:
        script: what is to be executed in it.
    """
    module = types.ModuleType("__main__")
    module.__file__ = str(script)
    module.__dict__["__builtins__"] = builtins
    if "__annotations__" in vars(sys.modules["__main__"]):  # until Python 3.13
        module.__annotations__ = {}
    sys.modules["__main__"] = module
    return module
