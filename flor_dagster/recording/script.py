"""The script as it lay there when the import of this package began: as early as can be, lest it is saved anew before it is read."""

from __future__ import annotations

import os
import sys


def _read() -> tuple[str, int, bytes]:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if isinstance(file, str) and file.endswith(".py"):  # a pipe would be emptied, a terminal waited for
        try:
            with open(file, "rb") as source:  # noqa: PTH123 - pathlib takes longer to load than this
                return file, os.fstat(source.fileno()).st_mtime_ns, source.read()
        except OSError:
            pass
    return "", 0, b""


file, written, text = _read()
