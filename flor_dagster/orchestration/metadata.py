"""Values and tables as Dagster metadata: plain, bounded, never a surprise for its serializer."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd

from flor_dagster.showing import shown

MAX_TEXT = 2_000
_TAG = re.compile(r"[^A-Za-z0-9._-]")


def tag_value(text: str) -> str:
    """A text as the value of a tag: at most 63 characters of letters, digits, `.`, `_` and `-`."""
    return _TAG.sub("-", text)[:63].strip("-._") or "none"


def metadata_value(value: Any) -> dg.MetadataValue[Any]:
    """One logged value or argument. Finite numbers stay numbers, so that Dagster plots them over partitions."""
    value = _plain(value)
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int) and abs(value) < 2**53:
        return dg.MetadataValue.int(value)
    if isinstance(value, float) and math.isfinite(value):
        return dg.MetadataValue.float(value)
    return text_value(value)


def text_value(value: Any) -> dg.MetadataValue[Any]:
    """A text that is shown as it is; a very long one is cut."""
    return dg.MetadataValue.text(_short(value))


def fence_value(*texts: str, language: str = "") -> dg.MetadataValue[Any]:
    """Blocks of code, whatever they hold."""
    return dg.MetadataValue.md("\n".join(shown(text, "fence", language) for text in texts))


def code_value(*parts: str | tuple[str]) -> dg.MetadataValue[Any]:
    """A sentence in Markdown: a part in a tuple is code, whatever it holds."""
    return dg.MetadataValue.md(
        "".join(shown(part[0], "code") if isinstance(part, tuple) else part for part in parts)
    )


def picture_value(title: str, png: bytes) -> dg.MetadataValue[Any]:
    """A picture where it stands."""
    image = base64.b64encode(png).decode()
    return dg.MetadataValue.md(f"![{shown(title, 'markdown')}](data:image/png;base64,{image})")


def link_value(words: str, path: str) -> dg.MetadataValue[Any]:
    """A link within Dagster's pages.

    Args:
        words: what it says.
        path: where it goes; quoted already.
    """
    return dg.MetadataValue.md(f"[{shown(words, 'markdown')}]({path})")


def url_value(base: str, *parts: str, line: int | None = None) -> dg.MetadataValue[Any]:
    """A web address.

    Args:
        base: as the project's settings give it.
        parts: what comes behind it; quoted here.
        line: of the file there.
    """
    path = "/".join(shown(part, "path") for part in parts)
    return dg.MetadataValue.url(f"{base.rstrip('/')}/{path}" + (f"#L{line}" if line else ""))


def file_value(path: str) -> dg.MetadataValue[Any]:
    """A file or folder of this machine."""
    return dg.MetadataValue.path(path)


def log_line(log: Callable[[str], Any]) -> Callable[[str], None]:
    """A function that logs lines which are not ours: a child's output, sentences with names and values in them.

    Args:
        log: such as `context.log.info`.
    """
    return lambda line: log(shown(line))


def seconds(value: float) -> str:
    """A duration in words that fit its size."""
    if value < 60:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def table(frame: pd.DataFrame, schema: dg.TableSchema | None = None) -> dg.MetadataValue[Any]:
    """A (short) frame as a table on the asset's page."""
    records = [
        dg.TableRecord({shown(name): _cell(value) for name, value in zip(frame.columns, row, strict=True)})
        for row in frame.itertuples(index=False, name=None)
    ]
    return dg.MetadataValue.table(records, schema or column_schema(frame))


def column_schema(frame: pd.DataFrame, descriptions: Mapping[str, str] | None = None) -> dg.TableSchema:
    """The columns of a frame: name, type and, where known, where the column comes from."""
    known = descriptions or {}
    return dg.TableSchema(
        columns=[
            dg.TableColumn(shown(name), type=str(dtype), description=_described(known.get(str(name))))
            for name, dtype in zip(frame.columns, frame.dtypes, strict=True)
        ]
    )


def _described(text: str | None) -> str | None:
    return None if text is None else shown(text)


def rows(records: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    """A small table from mappings that share their keys, which may not be empty."""
    columns = [dg.TableColumn(name) for name in records[0]]
    return dg.MetadataValue.table(
        [dg.TableRecord({key: _cell(value) for key, value in record.items()}) for record in records],
        dg.TableSchema(columns),
    )


def _cell(value: Any) -> str | int | float | bool | None:
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    value = _plain(value)
    if isinstance(value, bool | str):
        return value if not isinstance(value, str) else _short(value)
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, float):
        # JSON has no NaN and no infinities: the empty place stays empty, the infinite value is written out.
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    return _short(value)


def _plain(value: Any) -> Any:
    """A numpy scalar as the Python value it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _short(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
