"""What a run's process runs in: machine, interpreter, libraries, threads."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from pathlib import Path
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def process_facts() -> dict[str, Any]:
    """What the header says of the process at its start."""
    return {
        "started": time.time_ns(), "pid": os.getpid(), "host": socket.gethostname(), "argv": list(sys.argv),
        "cwd": str(Path.cwd()), "python": platform.python_version(), "executable": sys.executable,
        "platform": platform.platform(), "hashseed": os.environ.get("PYTHONHASHSEED"),
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "cores": os.cpu_count(),
    }  # fmt: skip


def library_facts() -> dict[str, Any]:
    """What is known of the libraries once the training loop begins."""
    facts: dict[str, Any] = {}
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        facts["torch_threads"] = torch.get_num_threads()
        facts["cuda"] = bool(torch.cuda.is_available())
    facts["versions"] = {
        name: str(getattr(sys.modules[name], "__version__", ""))
        for name in ("numpy", "torch", "sklearn", "scipy", "pandas")
        if name in sys.modules
    }
    return facts
