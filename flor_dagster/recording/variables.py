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
import re
import sys
from collections.abc import Mapping

from flor_dagster.recording.masking import looks_like_credential, secret_name

_NUMERIC = re.compile(
    r"(OMP|GOMP|KMP|LIBOMP|MKL|OPENBLAS|GOTO|BLIS|FLAME|VECLIB|NPY|NUMPY|NUMBA|NUMEXPR|SCIPY|SKLEARN|LOKY|JOBLIB"
    r"|ATEN|TORCH|TORCHINDUCTOR|TORCHDYNAMO|TORCH_CUDNN|PYTORCH|DNNL|ONEDNN|CUBLAS|CUBLASLT|CUDA|CUDNN|CUFFT|CUSOLVER|NVIDIA|NVFUSER|NVTE"
    r"|NCCL|GLOO|HIP|HSA|ROCR|ROCM|ROCBLAS|HIPBLASLT|MIOPEN|XLA|JAX|LIBTPU|TPU|TF|TF2|KERAS|TRITON|ARROW|POLARS|RAYON|TBB|OPENCV|ACL"
    r"|ACCELERATE|FLASH_ATTENTION|XFORMERS|BITSANDBYTES|PYTHON|LC|MALLOC|JEMALLOC|TCMALLOC)_\w+"
    r"|PYTHON[A-Z]\w*|MALLOC_CONF|GLIBC_TUNABLES|LD_PRELOAD|DYLD_INSERT_LIBRARIES|LANG|LANGUAGE|TZ|TOKENIZERS_PARALLELISM"
)

# Terraform's, which share TensorFlow's first letters; its TF_VAR_ and TF_TOKEN_ variables often hold secrets.
_OTHERS = re.compile(
    r"TF_(CLI|VAR|TOKEN|LOG|DATA_DIR|WORKSPACE|PLUGIN|INPUT|REATTACH|REGISTRY|STATE|IGNORE|IN_AUTOMATION)\w*"
)

_MACHINE = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TMPDIR|TEMP|TMP|(DY)?LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|XDG_\w+|SSL_CERT_\w+|HF_HOME"
    r"|(CUDA|ROCM|HIP|TORCH|KERAS|JAX|TRITON|NUMBA|TORCHINDUCTOR|CUPY)_(HOME|PATH|ROOT|CACHE_DIR|CACHE_PATH|EXTENSIONS_DIR|COMPILATION_CACHE_DIR)"
    r"|CUDA_(BIN|LIB|INC|TOOLKIT|INSTALL)_?\w*(PATH|DIR|ROOT)|NVIDIA_(VISIBLE_DEVICES|DRIVER_CAPABILITIES|REQUIRE_\w+|PRODUCT_NAME)|TZDIR|LOCPATH"
)
"""`NVIDIA_VISIBLE_DEVICES` and its like tell a container's runtime what to mount; nothing in the process reads them."""

# Where the interpreter finds its files, and how it talks; the replay sets its own.
_INTERPRETERS_OWN = frozenset(
    {
        "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONSTARTUP", "PYTHONPYCACHEPREFIX", "PYTHONUNBUFFERED",
        "PYTHONDONTWRITEBYTECODE", "PYTHONBREAKPOINT", "PYTHONINSPECT", "PYTHONDEBUG", "PYTHONVERBOSE", "PYTHONCASEOK",
        "PYTHONEXECUTABLE", "PYTHONPLATLIBDIR", "PYTHON_HISTORY", "PYTHON_BASIC_REPL", "PYTHON_COLORS", "PYTHONSAFEPATH",
        "PYTHONPROFILEIMPORTTIME", "PYTHONDUMPREFS", "PYTHONDUMPREFSFILE",
    }
)  # fmt: skip

# What a shell, a desktop, a terminal or a launcher says of itself: it differs from session to session, and no value depends on it.
_SESSION = re.compile(
    r"_|PWD|OLDPWD|SHLVL|TERM|TERM_\w+|COLORTERM|COLUMNS|LINES|LS_COLORS|LESS\w*|PAGER|EDITOR|VISUAL|HIST\w+|PS[0-4]|PROMPT\w*|MAIL"
    r"|HOSTNAME|HOSTTYPE|MACHTYPE|OSTYPE|DISPLAY|WAYLAND_\w+|XAUTHORITY|DBUS_\w+|DESKTOP_\w+|GNOME_\w+|KDE_\w+|GTK_\w+|QT_\w+"
    r"|SESSION_\w+|WINDOWID|WINDOWPATH|SSH_\w+|GPG_\w+|TMUX\w*|STY|SUDO_\w+|VSCODE_\w+|PYCHARM_\w+|JPY_\w+|CONDA_\w+|_CE_\w+|PYENV_\w*"
    r"|INVOCATION_ID|JOURNAL_STREAM|SYSTEMD_\w+|MEMORY_PRESSURE_\w+|MOTD_\w+|NVM_\w+|FLOR_\w*|DAGSTER_\w*|PYTEST_\w*|COV_CORE_\w+|GIT_\w+|DEBIAN_FRONTEND"
    r"|MAKE\w*|MFLAGS|BASH_\w*|ZSH\w*|LSCOLORS|CLICOLOR|NO_COLOR|FORCE_COLOR|GREP_\w+"
)


def is_numeric(name: str) -> bool:
    """Whether a variable decides how numbers come out, whoever reads it."""
    return bool(_NUMERIC.fullmatch(name)) and not is_machine(name) and not _OTHERS.fullmatch(name)


def is_machine(name: str) -> bool:
    """Whether a variable says where things lie on this machine, or how the interpreter is set up on it."""
    return name in _INTERPRETERS_OWN or bool(_MACHINE.fullmatch(name))


def is_of_session(name: str) -> bool:
    """Whether a variable tells of the terminal, the desktop or the launcher: no program's values depend on it."""
    return bool(_SESSION.fullmatch(name))


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
