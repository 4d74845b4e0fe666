"""Values of numpy, torch and pandas as journal text. None of them is imported here: who logs one has."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flor_dagster.recording.masking import known_secrets

if TYPE_CHECKING:
    from flor_dagster.recording.artifacts import Artifact, ArtifactStore

Encode = Callable[[Any], str]
Keep = Callable[["Artifact"], str]

MAX_INLINE_BYTES = 64 * 1024

_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def structure(kind: str, fields: dict[str, str]) -> str:
    """The tag of a value made of named parts, each of them journal text already."""
    parts = ",".join(f"{_dumps(name)}:{text}" for name, text in fields.items())
    return f'{{"$":"object","type":{_dumps(kind)},"v":{{{parts}}}}}'


def array_text(dtype: str, shape: tuple[int, ...], data: bytes) -> str:
    """The tag of an array."""
    return _dumps(
        {"$": "array", "dtype": dtype, "shape": list(shape), "data": base64.b64encode(data).decode("ascii")}
    )


def encode_foreign(value: Any, kind: str, encode: Encode, store: ArtifactStore | None) -> str | None:
    """Journal text of a value of one of these libraries; None for anything else.

    Args:
        value: what was logged.
        kind: its type's full name.
        encode: any value's journal text.
        store: where large ones go; None where there is no such place, and they can't be kept.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _tensor(torch, value, kind, encode, store)
    pandas = sys.modules.get("pandas")
    if pandas is not None and hasattr(pandas, "DataFrame"):
        text = _of_pandas(pandas, value, encode)
        if text is not None:
            return text
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic | numpy.ndarray):
        return _of_numpy(numpy, value, kind, encode, store)
    return None


def _of_numpy(numpy: Any, value: Any, kind: str, encode: Encode, store: ArtifactStore | None) -> str:
    if value.dtype.hasobject:
        if value.ndim == 0:
            return encode(value.item())
        items = "[" + ",".join(encode(v) for v in value.ravel().tolist()) + "]"
        return structure(kind, {"shape": encode(list(value.shape)), "items": f'{{"$":"json","v":{items}}}'})
    if (
        value.dtype.kind in "SU"
        and value.ndim
        and known_secrets
        and known_secrets.mask.finds(repr(value.tolist()))
    ):
        return encode([known_secrets.mask(str(item)) for item in value.ravel().tolist()])
    # A time, a long double, a complex64 or a row of a structured array has no exact counterpart in Python.
    if value.ndim == 0 and value.dtype.kind in "biuSU":
        return encode(value.item())
    if value.ndim == 0 and value.dtype.kind == "f" and value.dtype.itemsize <= 8:
        return encode(float(value.item()))
    if value.ndim == 0 and value.dtype.kind == "c" and value.dtype.itemsize <= 16:
        return encode(complex(value.item()))
    array = numpy.asarray(value)
    if array.nbytes > MAX_INLINE_BYTES:
        if store is None:
            raise ValueError(f"an array of {array.nbytes} bytes")
        out = io.BytesIO()
        numpy.save(out, array, allow_pickle=False)
        shape = "x".join(map(str, array.shape))
        return artifact_text(store.keep(out.getbuffer(), "npy", kind, f"{array.dtype} {shape}"))
    little = numpy.array(array.astype(array.dtype.newbyteorder("<"), copy=False), order="C")
    name = little.dtype.str
    if little.dtype.names is not None:
        name = repr(little.dtype.descr)
        if numpy.dtype(little.dtype.descr) != little.dtype:
            raise ValueError("an array of rows with gaps")
    return array_text(name, value.shape, little.tobytes())


def artifact_text(artifact: Artifact) -> str:
    """The tag of a value in a file of its own."""
    fields = {"$": "artifact", "digest": artifact.digest, "suffix": artifact.suffix, "size": artifact.size}
    return _dumps(fields | {"type": artifact.type, "note": artifact.note})


def _tensor(torch: Any, value: Any, kind: str, encode: Encode, store: ArtifactStore | None) -> str:
    tensor = value.detach()
    if tensor.is_quantized:
        return structure(
            kind, {"dequantized": encode(tensor.dequantize()), "dtype": encode(str(value.dtype))}
        )
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        parts = {"indices": encode(tensor.indices()), "values": encode(tensor.values())}
        return structure("torch.sparse_coo", {"shape": encode(list(tensor.shape))} | parts)
    if tensor.layout == torch.sparse_csr:
        parts = {
            "crow_indices": tensor.crow_indices(),
            "col_indices": tensor.col_indices(),
            "values": tensor.values(),
        }
        texts = {name: encode(part) for name, part in parts.items()}
        return structure("torch.sparse_csr", {"shape": encode(list(tensor.shape))} | texts)
    if tensor.layout != torch.strided:
        raise ValueError(f"a tensor of layout {tensor.layout}")
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    if tensor.dtype.is_floating_point and tensor.dtype not in (torch.float64, torch.float32, torch.float16):
        tensor = tensor.float()  # bfloat16 and the 8-bit ones: every value of them is a float32
    if tensor.ndim == 0:
        return encode(tensor.item())
    return _of_numpy(sys.modules["numpy"], tensor.numpy(), kind, encode, store)


def _of_pandas(pandas: Any, value: Any, encode: Encode) -> str | None:
    if value is pandas.NA or value is pandas.NaT:
        return f'{{"$":"missing","type":"pandas.{"NA" if value is pandas.NA else "NaT"}"}}'
    if isinstance(value, pandas.Timestamp):
        if value.nanosecond == 0:
            return encode(value.to_pydatetime())
        zone = encode(str(value.tz)) if value.tz is not None else "null"
        return structure("pandas.Timestamp", {"ns": encode(value.value), "zone": zone})
    if isinstance(value, pandas.Timedelta):
        return structure("pandas.Timedelta", {"ns": encode(value.value)})
    if isinstance(value, pandas.Series):
        fields = {
            "name": encode(value.name),
            "dtype": encode(str(value.dtype)),
            "index": _listed(value.index, encode),
        }
        return structure("pandas.Series", fields | {"values": _listed(value, encode)})
    if isinstance(value, pandas.Index):
        return structure("pandas.Index", {"name": encode(value.name), "values": _listed(value, encode)})
    if isinstance(value, pandas.DataFrame):
        columns = [value.iloc[:, place] for place in range(value.shape[1])]
        dtypes = encode([str(column.dtype) for column in columns])
        data = "[" + ",".join(_listed(column, encode) for column in columns) + "]"
        fields = {
            "columns": _listed(value.columns, encode),
            "dtypes": dtypes,
            "index": _listed(value.index, encode),
        }
        return structure("pandas.DataFrame", fields | {"data": f'{{"$":"json","v":{data}}}'})
    return None


def _listed(values: Any, encode: Encode) -> str:
    return f'{{"$":"json","v":[{",".join(encode(v) for v in values.tolist())}]}}'
