"""What the numeric libraries of this process really use: kernels, threads, instruction sets, precision.

Read from what is loaded, never by importing anything. BLAS and OpenMP libraries are asked by the functions that threadpoolctl
asks (https://github.com/joblib/threadpoolctl), through `ctypes` and the paths in `/proc/self/maps`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LIBRARIES = r"(?i)/lib(?P<name>scipy_openblas64_|scipy_openblas|openblas64_|openblas|blis|mkl_rt|gomp|iomp5?|omp)\b[^/]*\.(so|dylib)"
_OPENMP = ("gomp", "iomp", "iomp5", "omp")
_AFFIXES = (("", ""), ("", "64_"), ("", "_64"), ("scipy_", ""), ("scipy_", "64_"))

_X86_FEATURES = frozenset(
    [
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "bmi2",
        "avx512f",
        "avx512cd",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "avx512ifma",
        "avx512vbmi",
        "avx_vnni",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "amx_fp16",
    ]
)
_ARM_FEATURES = frozenset(
    [
        "asimd",
        "asimdhp",
        "asimddp",
        "asimdfhm",
        "fphp",
        "sve",
        "sve2",
        "bf16",
        "i8mm",
        "svebf16",
        "svei8mm",
        "sme",
    ]
)


def kernel_facts() -> dict[str, Any]:
    """Of each library that is loaded: its kernels, threads and settings. Some milliseconds."""
    facts: dict[str, Any] = {}
    pools = _pools()
    if pools:
        facts["pools"] = pools
    with contextlib.suppress(Exception):
        numpy = _numpy_features()
        if numpy is not None:
            facts["numpy"] = numpy
    with contextlib.suppress(Exception):
        torch = _torch_settings()
        if torch is not None:
            facts["torch"] = torch
    with contextlib.suppress(Exception):
        facts["libc"] = os.confstr("CS_GNU_LIBC_VERSION")
    return facts


def processor_features() -> list[str]:
    """The instruction sets of this processor that numeric libraries choose kernels by, sorted; empty where it does not say."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return sorted({*value.split()} & (_X86_FEATURES | _ARM_FEATURES))
    return []


def _pools() -> list[dict[str, Any]]:
    """The BLAS and OpenMP libraries that are loaded: name, kernel architecture, version, threads."""
    try:
        text = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    paths = sorted(
        {
            line[at:].strip()
            for line in text.splitlines()
            if (at := line.find("/")) >= 0 and re.search(_LIBRARIES, line[at:])
        }
    )
    found: list[dict[str, Any]] = []
    for path in paths:
        match = re.search(_LIBRARIES, path)
        assert match is not None
        with contextlib.suppress(Exception):
            facts = _ask(path, match["name"].lower())
            if facts:
                # One OpenMP library may be there several times, each with its threads.
                found.append({"name": match["name"].lower().strip("_"), **facts})
    return found


def _ask(path: str, name: str) -> dict[str, Any]:
    import ctypes

    library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)  # never loads it anew

    def call(function: str, kind: Any) -> Any:
        for before, behind in _AFFIXES:
            pointer = getattr(library, f"{before}{function}{behind}", None)
            if pointer is not None:
                pointer.restype, pointer.argtypes = kind, []
                return pointer()
        return None

    if name in _OPENMP:
        return {"threads": call("omp_get_max_threads", ctypes.c_int)}
    if name == "mkl_rt":
        return {"threads": call("MKL_Get_Max_Threads", ctypes.c_int)}
    if name == "blis":
        return {
            "threads": call("bli_thread_get_num_threads", ctypes.c_int),
            "kernel": _text(call("bli_arch_string", ctypes.c_char_p)),
        }
    return {
        "threads": call("openblas_get_num_threads", ctypes.c_int), "kernel": _text(call("openblas_get_corename", ctypes.c_char_p)),
        "config": _version(_text(call("openblas_get_config", ctypes.c_char_p))),
    }  # fmt: skip


def _text(value: Any) -> str | None:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else None


def _version(config: str | None) -> str | None:
    match = re.search(r"OpenBLAS\s+(\S+)", config or "")
    return match[1] if match else None


def _numpy_features() -> list[str] | None:
    for name in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        module = sys.modules.get(name)
        features = getattr(module, "__cpu_features__", None)
        if isinstance(features, dict):
            used = {*getattr(module, "__cpu_baseline__", ()), *getattr(module, "__cpu_dispatch__", ())}
            return sorted(feature for feature, on in features.items() if on and feature in used)
    return None


def _torch_settings() -> dict[str, Any] | None:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return None
    settings: dict[str, Any] = {"threads": torch.get_num_threads()}
    for name, read in (
        ("capability", lambda: torch.backends.cpu.get_cpu_capability()),
        ("deterministic", lambda: torch.are_deterministic_algorithms_enabled()),
        ("matmul precision", lambda: torch.get_float32_matmul_precision()),
        ("oneDNN", lambda: torch._C._get_mkldnn_enabled()),  # noqa: SLF001
        ("cudnn deterministic", lambda: torch.backends.cudnn.deterministic),
        ("cudnn benchmark", lambda: torch.backends.cudnn.benchmark),
        ("default dtype", lambda: str(torch.get_default_dtype()).removeprefix("torch.")),
    ):
        with contextlib.suppress(Exception):
            settings[name] = read()
    return settings


_BY_VARIABLE = {
    "kernel": ("OPENBLAS_CORETYPE", "BLIS_ARCH_TYPE"),
    "threads": (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "GOTO_NUM_THREADS",
        "BLIS_NUM_THREADS",
    ),
    "numpy": ("NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"),
    "capability": ("ATEN_CPU_CAPABILITY",),
}


def kernel_differences(
    recorded: Mapping[str, Any],
    replayed: Mapping[str, Any],
    then: Mapping[str, str] | None = None,
    now: Mapping[str, str] | None = None,
) -> list[str]:
    """How what the libraries use differs, each in words; what is known of one side only is not compared.

    Args:
        recorded: the run's `kernel_facts`.
        replayed: the replay's.
        then: the numeric variables that the run was started with.
        now: those that the replay is started with.
    """
    found: list[str] = []
    before, after = _by_name(recorded), _by_name(replayed)
    for name in sorted(before.keys() & after.keys()):
        kernels = [sorted({p["kernel"] for p in side[name] if p.get("kernel")}) for side in (before, after)]
        if kernels[0] and kernels[1] and kernels[0] != kernels[1]:
            cause = _cause("kernel", then, now)
            found.append(
                f"recorded with the BLAS kernel {'/'.join(kernels[0])} ({name}), replayed with {'/'.join(kernels[1])}{cause}"
            )
        threads = [sorted({p["threads"] for p in side[name] if p.get("threads")}) for side in (before, after)]
        if threads[0] and threads[1] and threads[0] != threads[1]:
            was, now_is = ("/".join(map(str, side)) for side in threads)
            found.append(f"{name} had {was} threads and has {now_is}{_cause('threads', then, now)}")
        versions = [sorted({p["config"] for p in side[name] if p.get("config")}) for side in (before, after)]
        if versions[0] and versions[1] and versions[0] != versions[1]:
            found.append(f"{name} was {'/'.join(versions[0])} and is {'/'.join(versions[1])}")
    one, other = recorded.get("numpy"), replayed.get("numpy")
    if one is not None and other is not None and one != other:
        lacks, more = sorted({*one} - {*other}), sorted({*other} - {*one})
        words = " and ".join(
            [f"without {', '.join(lacks)}"] * bool(lacks) + [f"with {', '.join(more)} besides"] * bool(more)
        )
        found.append(f"numpy's kernels are chosen {words or 'otherwise'}{_cause('numpy', then, now)}")
    torch, here = recorded.get("torch") or {}, replayed.get("torch") or {}
    for name in sorted(torch.keys() & here.keys()):
        if torch[name] != here[name]:
            words = {"threads": "torch's threads were", "capability": "torch's CPU capability was"}.get(
                name, f"torch's {name} was"
            )
            verb = "are" if name == "threads" else "is"
            found.append(f"{words} {torch[name]} and {verb} {here[name]}{_cause(name, then, now)}")
    if recorded.get("libc") and replayed.get("libc") and recorded["libc"] != replayed["libc"]:
        found.append(f"the C library was {recorded['libc']} and is {replayed['libc']}")
    return found


def _by_name(facts: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for pool in facts.get("pools") or ():
        found.setdefault(pool["name"], []).append(pool)
    return found


def _cause(what: str, then: Mapping[str, str] | None, now: Mapping[str, str] | None) -> str:
    """The variables that explain a difference, where they differ."""
    if then is None or now is None:
        return ""
    said = [
        f"{name} was {_shown(then.get(name))} then and is {_shown(now.get(name))} now"
        for name in _BY_VARIABLE.get(what, ())
        if then.get(name) != now.get(name)
    ]
    return f" ({'; '.join(said)})" if said else ""


def _shown(value: str | None) -> str:
    return "not set" if value is None else value
