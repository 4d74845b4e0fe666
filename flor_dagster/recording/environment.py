"""What a run's process runs in: machine, interpreter, libraries, threads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import socket
import sys
import time
from pathlib import Path
from typing import Any

from flor_dagster.recording import layout
from flor_dagster.recording.kernels import kernel_facts, processor_features
from flor_dagster.recording.masking import keyed_digest, masked_argv, project_key, secret_arguments
from flor_dagster.recording.modules import clock_facts
from flor_dagster.recording.portable import is_portable
from flor_dagster.recording.process_state import read_process_state
from flor_dagster.recording.program import program
from flor_dagster.recording.sharing import found as is_found
from flor_dagster.recording.variables import numeric_variables, start_environment


def process_facts(home: Path, *, script: bool) -> dict[str, Any]:
    """What the header says of the process at its start.

    Args:
        home: the `.flor/` folder, whose key secrets of the command line are digested with.
        script: whether a replay starts the program as this process was started. A function is called in a process that
            others have set up: its numeric variables are those of now.
    """
    numeric = numeric_variables(start_environment() if script else os.environ)
    secrets = secret_arguments(sys.argv)
    key = project_key(home) if secrets else b""
    return {
        "started": time.time_ns(), "clock": clock_facts(), "pid": os.getpid(), "ppid": os.getppid(), "host": socket.gethostname(),
        "argv": masked_argv(sys.argv, secrets),
        "masked": [[one.number, one.name, keyed_digest(key, one.value)] for one in secrets],
        "cwd": str(Path.cwd()), "began_in": str(layout.beginning()), "python": platform.python_version(), "executable": sys.executable,
        "platform": platform.platform(), "hashseed": numeric.get("PYTHONHASHSEED"), "variables": numeric,
        "portable": is_portable(numeric), "process": read_process_state(), "cores": os.cpu_count(), "hardware": hardware_facts(),
    }  # fmt: skip


def import_facts(root: Path) -> dict[str, Any]:
    """By what name the program was started as a module, and where in its repository it imports from.

    Args:
        root: the repository; folders in it are given relative to it, those of `PYTHONPATH` elsewhere as they are.
    """
    spec = program().spec
    given = {os.path.realpath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p}
    ours = str(Path(__file__).resolve().parents[2])
    paths: list[str] = []
    for entry in sys.path:
        real = os.path.realpath(entry or ".")
        if real == str(root) or real.startswith(f"{root}{os.sep}"):
            if not _is_installed(real):
                paths.append(os.path.relpath(real, root))
        elif real in given and real != ours:
            paths.append(real)
    return {"module_name": getattr(spec, "name", None), "paths": list(dict.fromkeys(paths))}


def _is_installed(folder: str) -> bool:
    """Whether a folder belongs to an interpreter: a virtual environment may lie in the repository."""
    prefixes = {os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)}
    return any(folder.startswith(prefix + os.sep) for prefix in prefixes) or "site-packages" in folder


def hardware_facts() -> dict[str, Any]:
    """The machine, as the system's own files tell it: asking a GPU's library would start it up in this process."""
    facts: dict[str, Any] = {
        "machine": platform.machine(), "cpu": "", "features": processor_features(), "memory": None, "gpus": [],
    }  # fmt: skip
    with contextlib.suppress(OSError, ValueError):
        facts["memory"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        named = (line.partition(":") for line in file)
        facts["cpu"] = next((value.strip() for key, _, value in named if key.strip() == "model name"), "")
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace")
            named = (line.partition(":") for line in text.splitlines())
            facts["gpus"] += [value.strip() for key, _, value in named if key.strip() == "Model"]
    return facts


def installed_packages() -> list[str]:
    """`name==version` of what is installed on the import path, by the names of its metadata folders; sorted.

    What a package brings with itself for its own use is none: it may be on the path of one process and not of another.
    Reading the folders' names takes milliseconds; reading their metadata would take the training's time.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        if _is_vendored(folder):
            continue
        with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
            for entry in entries:
                stem, dot, kind = entry.name.rpartition(".")
                name, dash, version = stem.partition("-")
                if dot and dash and kind in ("dist-info", "egg-info"):
                    # What stands earlier on the path is what is imported.
                    found.setdefault(name.replace("_", "-").lower(), version.partition("-py")[0])
    return sorted(f"{name}=={version}" for name, version in found.items())


def _is_vendored(folder: str) -> bool:
    """Whether a folder of the import path belongs to an installed package, which put it there: it came with that one."""
    parts = Path(folder).parts[:-1]
    return "site-packages" in parts or "dist-packages" in parts


def keep_packages(home: Path) -> str:
    """The digest of the installed packages; the list itself lies once under it in the home.

    `home/packages/<digest>.json` is a JSON list of `name==version`.
    """
    packages = installed_packages()
    text = json.dumps(packages)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    path = packages_file(home, digest)
    if not is_found(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{digest}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    return digest


def packages_file(home: Path, digest: str) -> Path:
    """Where a list of packages lies."""
    return home / "packages" / f"{digest}.json"


def library_facts() -> dict[str, Any]:
    """What is known of the libraries once the training loop begins."""
    facts: dict[str, Any] = {}
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        facts["torch_threads"] = torch.get_num_threads()
        facts["cuda"] = bool(torch.cuda.is_initialized())
    facts["kernels"] = kernel_facts()
    facts["versions"] = {
        name: str(getattr(sys.modules[name], "__version__", ""))
        for name in ("numpy", "torch", "sklearn", "scipy", "pandas")
        if name in sys.modules
    }
    return facts
