"""Variables under which numeric libraries compute alike on every machine of a kind: what `flor run --portable` sets.

On x86-64 the kind is x86-64-v3 (AVX2 and FMA: Intel since 2013, AMD since 2015); on arm64 it is ARMv8.0. Each library is held to
the kernels of that level, to one thread, and to its reproducible mode, by the variables that its documentation names: OpenBLAS
(`OPENBLAS_CORETYPE`), NumPy (`NPY_DISABLE_CPU_FEATURES`), PyTorch (`ATEN_CPU_CAPABILITY`), oneDNN (`DNNL_MAX_CPU_ISA`), oneMKL's
conditional numerical reproducibility (`MKL_CBWR`), OpenMP.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping

THREADS = "OMP_NUM_THREADS"
"""May be another fixed number; that of BLAS libraries is cut down to a machine's processors, so theirs stays one."""

_EVERYWHERE = {
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OMP_DYNAMIC": "FALSE",
    "MKL_NUM_THREADS": "1",
    "MKL_DYNAMIC": "FALSE",
    "OPENBLAS_NUM_THREADS": "1",
    "BLIS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}

# NumPy 2.4 names its groups by levels, earlier ones by instruction sets; it passes over names that it does not know.
_X86_64 = {
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4,AVX512_ICL,AVX512_SPR,AVX512F,AVX512CD,AVX512_SKX,AVX512_CLX,AVX512_CNL",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx2,+fma,+bmi2,+f16c",
}

_ARM64 = {
    "OPENBLAS_CORETYPE": "ARMV8",
    "NPY_DISABLE_CPU_FEATURES": "ASIMDHP,ASIMDDP,ASIMDFHM,SVE",
    "ATEN_CPU_CAPABILITY": "default",
    "DNNL_DEFAULT_FPMATH_MODE": "STRICT",
}


def portable_variables(machine: str = "") -> dict[str, str]:
    """The variables of a portable training run.

    Args:
        machine: as `platform.machine()`; empty takes this one's.
    """
    machine = (machine or platform.machine()).lower()
    if machine in ("x86_64", "amd64"):
        return _EVERYWHERE | _X86_64
    return _EVERYWHERE | _ARM64 if machine in ("aarch64", "arm64") else dict(_EVERYWHERE)


def is_portable(variables: Mapping[str, str]) -> bool:
    """Whether a training run was started with all of them, on a machine whose kind has kernels of its own."""
    machine = platform.machine().lower()
    known = machine in ("x86_64", "amd64", "aarch64", "arm64")
    return known and all(
        variables.get(name) == value or (name == THREADS and variables.get(name, "").isdecimal())
        for name, value in portable_variables().items()
    )
