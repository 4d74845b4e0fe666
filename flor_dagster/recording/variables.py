"""Which environment variables decide a training's values: the one table, by their names.

Three classes:

- *numeric*: what chooses kernels, threads, precision, determinism, locale, time zone or memory allocation. Kept with the
  run and given back to its replays as they were.
- *machine*: where things lie on a machine. A replay gets today's.
- everything else counts only if the program reads it (`variable_reads`).

The prefixes are those that the libraries document for themselves: OpenMP 5.2 ch. 21 (`OMP_`), GCC libgomp (`GOMP_`), LLVM
libomp (`KMP_`, `LIBOMP_`), Intel oneMKL and oneDNN developer guides (`MKL_`, `DNNL_`, `ONEDNN_`), OpenBLAS USAGE.md
(`OPENBLAS_`, `GOTO_`), BLIS Multithreading.md (`BLIS_`), Apple Accelerate (`VECLIB_`), NumPy's build options and global
state (`NPY_`, `NUMPY_`), Numba, NumExpr, joblib and loky, scikit-learn's configuration (`SKLEARN_`), SciPy (`SCIPY_`),
PyTorch's environment variables (`ATEN_`, `TORCH…`, `PYTORCH_`, `GLOO_`, `NCCL_`), NVIDIA CUDA, cuBLAS, cuDNN (`CUDA_`,
`CUBLAS…`, `CUDNN_`, `NVIDIA_`), AMD ROCm (`HIP_`, `HSA_`, `ROC…`, `MIOPEN_`), XLA, JAX, TensorFlow, Keras, Triton, Arrow
(`ARROW_USER_SIMD_LEVEL`), Polars, Rayon, tokenizers, TBB, OpenCV; CPython's command line and environment (`PYTHON…`), POSIX
locale and time zone, glibc's allocator and tunables, the dynamic linker's preloads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from flor_dagster.recording.masking import looks_like_credential, secret_name

# By what stands before the first underscore, or the whole name. Sets, not patterns: compiling those would take a good part of
# the time that importing this package may take.
_NUMERIC = frozenset(
    [
        "OMP",
        "GOMP",
        "KMP",
        "LIBOMP",
        "MKL",
        "OPENBLAS",
        "GOTO",
        "BLIS",
        "FLAME",
        "VECLIB",
        "NPY",
        "NUMPY",
        "NUMBA",
        "NUMEXPR",
        "SCIPY",
        "SKLEARN",
        "LOKY",
        "JOBLIB",
        "ATEN",
        "TORCH",
        "TORCHINDUCTOR",
        "TORCHDYNAMO",
        "PYTORCH",
        "DNNL",
        "ONEDNN",
        "CUBLAS",
        "CUBLASLT",
        "CUDA",
        "CUDNN",
        "CUFFT",
        "CUSOLVER",
        "NVIDIA",
        "NVFUSER",
        "NVTE",
        "NCCL",
        "GLOO",
        "HIP",
        "HSA",
        "ROCR",
        "ROCM",
        "ROCBLAS",
        "HIPBLASLT",
        "MIOPEN",
        "XLA",
        "JAX",
        "LIBTPU",
        "TPU",
        "TF",
        "TF2",
        "KERAS",
        "TRITON",
        "ARROW",
        "POLARS",
        "RAYON",
        "TBB",
        "OPENCV",
        "ACL",
        "ACCELERATE",
        "XFORMERS",
        "BITSANDBYTES",
        "PYTHON",
        "LC",
        "MALLOC",
        "JEMALLOC",
        "TCMALLOC",
    ]
)
_NUMERIC_NAMES = frozenset(
    [
        "GLIBC_TUNABLES",
        "LD_PRELOAD",
        "DYLD_INSERT_LIBRARIES",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TOKENIZERS_PARALLELISM",
        "FLASH_ATTENTION_DETERMINISTIC",
    ]
)
_TERRAFORM = frozenset(
    [
        "CLI",
        "VAR",
        "TOKEN",
        "LOG",
        "DATA",
        "WORKSPACE",
        "PLUGIN",
        "INPUT",
        "REATTACH",
        "REGISTRY",
        "STATE",
        "IGNORE",
        "IN",
    ]
)
"""Terraform's variables begin with TensorFlow's letters; `TF_VAR_…` and `TF_TOKEN_…` often hold secrets."""

_MACHINE = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "TMPDIR",
        "TEMP",
        "TMP",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "HF_HOME",
        "TZDIR",
        "LOCPATH",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "NVIDIA_PRODUCT_NAME",
    ]
)
"""`NVIDIA_VISIBLE_DEVICES` and its like tell a container's runtime what to mount; nothing in the process reads them."""
_MACHINE_PREFIXES = (
    "XDG_",
    "SSL_CERT_",
    "NVIDIA_REQUIRE_",
    "CUDA_BIN_",
    "CUDA_LIB_",
    "CUDA_INC_",
    "CUDA_TOOLKIT_",
    "CUDA_INSTALL_",
)
_PLACES = ("_HOME", "_PATH", "_ROOT", "_CACHE_DIR", "_EXTENSIONS_DIR")
_PLACED = frozenset(
    ["CUDA", "ROCM", "HIP", "TORCH", "KERAS", "JAX", "TRITON", "NUMBA", "TORCHINDUCTOR", "CUPY"]
)

# Where the interpreter finds its files, and how it talks; the replay sets its own.
_INTERPRETERS_OWN = frozenset(
    [
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONUSERBASE",
        "PYTHONSTARTUP",
        "PYTHONPYCACHEPREFIX",
        "PYTHONUNBUFFERED",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONBREAKPOINT",
        "PYTHONINSPECT",
        "PYTHONDEBUG",
        "PYTHONVERBOSE",
        "PYTHONCASEOK",
        "PYTHONEXECUTABLE",
        "PYTHONPLATLIBDIR",
        "PYTHON_HISTORY",
        "PYTHON_BASIC_REPL",
        "PYTHON_COLORS",
        "PYTHONSAFEPATH",
        "PYTHONPROFILEIMPORTTIME",
        "PYTHONDUMPREFS",
        "PYTHONDUMPREFSFILE",
    ]
)

# What a shell, a desktop, a terminal or a launcher says of itself: it differs from session to session, and no value depends on it.
_SESSION = frozenset(
    [
        "_",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "COLORTERM",
        "COLUMNS",
        "LINES",
        "LSCOLORS",
        "PAGER",
        "EDITOR",
        "VISUAL",
        "PS1",
        "PS2",
        "PS3",
        "PS4",
        "MAIL",
        "HOSTNAME",
        "HOSTTYPE",
        "MACHTYPE",
        "OSTYPE",
        "DISPLAY",
        "XAUTHORITY",
        "WINDOWID",
        "WINDOWPATH",
        "STY",
        "INVOCATION_ID",
        "MFLAGS",
        "CLICOLOR",
        "DEBIAN_FRONTEND",
    ]
)
_SESSION_PREFIXES = (
    "TERM", "LS_", "LESS", "HIST", "PROMPT", "WAYLAND_", "DBUS_", "DESKTOP_", "GNOME_", "KDE_", "GTK_", "QT_", "SESSION_", "SSH_", "GPG_",
    "TMUX", "SUDO_", "VSCODE_", "PYCHARM_", "JPY_", "CONDA_", "_CE_", "PYENV_", "JOURNAL_", "SYSTEMD_", "MEMORY_PRESSURE_", "MOTD_",
    "NVM_", "DAGSTER_", "PYTEST_", "COV_CORE_", "GIT_", "MAKE", "BASH_", "ZSH", "NO_COLOR", "FORCE_COLOR", "GREP_",
)  # fmt: skip

OURS = frozenset(
    {
        "FLOR_ARGS", "FLOR_CACHE", "FLOR_CHECKPOINTS", "FLOR_CHECKPOINT_FLOOR_SECONDS", "FLOR_CHECKPOINT_MEMORY",
        "FLOR_CHECKPOINT_OVERHEAD", "FLOR_CHECKPOINT_PROJECT_BYTES", "FLOR_CHECKPOINT_RUN_BYTES", "FLOR_HOME", "FLOR_KEEP_VARIABLES",
        "FLOR_OFF", "FLOR_ORIGIN", "FLOR_PARENT_RUN", "FLOR_READER_PASSWORD", "FLOR_READER_URL", "FLOR_RUN_ID", "FLOR_SECRETS", "FLOR_TAGS", "FLOR_WORKER_ROUND",
    }
)  # fmt: skip
"""This package's own; a program's own variables may begin with `FLOR_`, too."""


def is_numeric(name: str) -> bool:
    """Whether a variable decides how numbers come out, whoever reads it."""
    if name in _NUMERIC_NAMES:
        return True
    first, underscore, rest = name.partition("_")
    if not underscore:
        return first.startswith("PYTHON") and first != "PYTHON" and not is_machine(name)
    if first == "TF" and rest.partition("_")[0] in _TERRAFORM:
        return False
    return (first in _NUMERIC or first.startswith("PYTHON")) and not is_machine(name)


def is_machine(name: str) -> bool:
    """Whether a variable says where things lie on this machine, or how the interpreter is set up on it."""
    if name in _MACHINE or name in _INTERPRETERS_OWN or name.startswith(_MACHINE_PREFIXES):
        return True
    return name.endswith(_PLACES) and name.partition("_")[0] in _PLACED


def is_of_session(name: str) -> bool:
    """Whether a variable tells of the terminal, the desktop or the launcher: no program's values depend on it."""
    return name in _SESSION or name in OURS or name.startswith(_SESSION_PREFIXES)


def start_environment() -> Mapping[str, str]:
    """The environment that this process was started with, whatever it has changed since.

    Linux keeps it; elsewhere it is the one of now.
    """
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - this runs at every start, pathlib takes ten times as long
            raw = file.read()
    except OSError:
        return dict(os.environ)
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def numeric_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The numeric ones of an environment, but for likely secrets (`NVIDIA_API_KEY`), sorted by name.

    What the interpreter was told to ignore (`-E`, `-I`) is none.
    """
    ignored = bool(sys.flags.ignore_environment)
    return {
        name: environment[name]
        for name in sorted(environment)
        if is_numeric(name)
        and not secret_name(name)
        and not looks_like_credential(environment[name])
        and not (ignored and name.startswith("PYTHON"))
    }


def machine_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that say where things lie on this machine; the interpreter's own are left to whoever starts it."""
    return {
        name: value
        for name, value in environment.items()
        if is_machine(name) and name not in _INTERPRETERS_OWN
    }
