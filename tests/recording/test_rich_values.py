"""Values beyond JSON: each comes back as what it was, or as a file beside the journal, or says why it can't."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import json
import math
import uuid
import zoneinfo
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flor_dagster.recording.artifacts import Artifact, ArtifactStore
from flor_dagster.recording.values import ArrayValue, Structure, Unstored, decode, encode
from flor_dagster.store import LogStore
from tests.recording.record_lab import Project


def there_and_back(value: Any, store: ArtifactStore | None = None) -> Any:
    text = encode(value, store)
    assert "\n" not in text
    assert text.isascii()
    return decode(json.loads(text))


text = st.text(st.characters(exclude_categories=()), max_size=20)
hashable = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text | st.binary(max_size=20)
    | st.complex_numbers(allow_nan=False) | st.decimals(allow_nan=False) | st.fractions() | st.uuids()
    | st.dates() | st.times() | st.timedeltas()
    | st.datetimes(timezones=st.none() | st.timezones() | st.just(dt.UTC))
)  # fmt: skip
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(text | st.sampled_from(["$", "v"]), inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_any_value_of_the_standard_library_in_any_nesting(value: Any) -> None:
    got = there_and_back(value)
    assert got == value
    assert type(got) is type(value)


@given(st.datetimes(timezones=st.timezones()))
def test_a_moment_keeps_its_instant(value: dt.datetime) -> None:
    got = there_and_back(value)
    assert got.utcoffset() == value.utcoffset()
    assert got.replace(tzinfo=None) == value.replace(tzinfo=None)


def test_a_zone_keeps_its_name_on_both_sides_of_a_fold() -> None:
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    for fold in (0, 1):
        value = dt.datetime(2025, 10, 26, 2, 30, tzinfo=zone, fold=fold)
        got = there_and_back(value)
        assert (got.tzinfo, got.fold, got.utcoffset()) == (zone, fold, value.utcoffset())


class Colour(enum.Enum):
    RED = "r"


@dataclasses.dataclass
class Point:
    x: float
    inner: Any


def test_classes_become_their_parts() -> None:
    got = there_and_back([Point(math.inf, {"a": Colour.RED}), Path("a/b")])
    assert got[0].type.endswith("Point")
    assert got[0].fields["x"] == math.inf
    assert got[0].fields["inner"]["a"].fields == {"name": "RED", "value": "r"}
    assert got[1] == PurePath("a/b")
    assert there_and_back(got) == got


@pytest.mark.parametrize(
    "value",
    [
        np.datetime64("2026-11-21T01:02:03.123456789"), np.timedelta64(5, "ns"), np.longdouble("0.1"),
        np.complex64(1 + 2j), np.zeros(2, [("a", "<i4"), ("b", "<U3")]), np.array(["ab", "c"]),
        np.zeros((0, 3)), np.array([1, 2], ">i2"), np.zeros((2, 3), order="F"),
    ],
)  # fmt: skip
def test_numpy_kinds_keep_every_bit(value: Any) -> None:
    got = there_and_back(value)
    if isinstance(got, complex):
        assert got == complex(value)
        return
    assert isinstance(got, ArrayValue)
    import ast

    dtype = np.dtype(ast.literal_eval(got.dtype) if got.dtype.startswith("[") else got.dtype)
    back = np.frombuffer(got.data, dtype).reshape(got.shape)
    assert back.shape == np.shape(value)
    assert (back == value).all()


def test_pandas() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, math.nan], "c": ["x", None]}, index=["p", "q"])
    got = there_and_back(frame)
    assert isinstance(got, Structure)
    assert got.fields["columns"] == ["a", "b", "c"]
    assert got.fields["index"] == ["p", "q"]
    assert got.fields["data"][0] == [1, 2]
    assert math.isnan(got.fields["data"][1][1])
    series = there_and_back(pd.Series([1.5], name="s"))
    assert (series.fields["name"], series.fields["values"]) == ("s", [1.5])
    assert there_and_back(pd.Timestamp("2026-11-21T01:02:03.5", tz="UTC")).microsecond == 500000
    assert there_and_back(pd.Timestamp(1)).fields["ns"] == 1
    assert '"missing"' in encode(pd.NA)
    assert there_and_back([pd.NA, pd.NaT]) == [None, None]


def test_torch_kinds() -> None:
    torch = pytest.importorskip("torch")
    assert there_and_back(torch.tensor(1.5, dtype=torch.bfloat16)) == 1.5
    half = there_and_back(torch.tensor([0.1], dtype=torch.float16))
    assert np.frombuffer(half.data, half.dtype)[0] == np.float16(0.1)
    assert there_and_back(torch.tensor(1 + 2j)) == 1 + 2j
    sparse = there_and_back(torch.eye(3).to_sparse())
    assert sparse.fields["shape"] == [3, 3]
    assert np.frombuffer(sparse.fields["values"].data, sparse.fields["values"].dtype).tolist() == [1.0] * 3
    csr = there_and_back(torch.eye(3).to_sparse_csr())
    assert csr.type == "torch.sparse_csr"
    quantized = torch.quantize_per_tensor(torch.tensor([0.5]), 0.1, 0, torch.quint8)
    assert quantized.dequantize().numpy().tobytes() == there_and_back(quantized).fields["dequantized"].data
    assert isinstance(there_and_back(torch.empty(2, device="meta")), Unstored)


def test_what_is_large_lies_in_a_file_of_its_own(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    array = np.random.default_rng(0).normal(size=(200, 100))
    got = there_and_back(array, store)
    assert isinstance(got, Artifact)
    assert str(got).startswith("artifact:")
    assert "float64 200x100" in str(got)
    assert (store.load(store.find(str(got))) == array).all()
    long = "\ud800x" * 600_000
    assert store.load(there_and_back(long, store)) == long
    before = sorted(tmp_path.rglob("*"))
    assert there_and_back(array, store) == got
    assert sorted(tmp_path.rglob("*")) == before


def test_images_and_figures_are_files(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    pyplot = pytest.importorskip("matplotlib.figure")
    store = ArtifactStore(tmp_path)
    image = image_module.new("RGB", (4, 3), (1, 2, 3))
    got = there_and_back(image, store)
    assert store.load(got).getpixel((0, 0)) == (1, 2, 3)
    figure = pyplot.Figure()
    axes = figure.subplots()
    axes.plot([1, 2])
    drawn = there_and_back(figure, store)
    assert drawn.suffix == "png"
    assert there_and_back(axes, store) == dataclasses.replace(drawn, type=f"{type(axes).__module__}.Axes")


class Slow:
    def __repr__(self) -> str:
        raise RuntimeError

    __float__ = __eq__ = __hash__ = __repr__  # pyright: ignore[reportAssignmentType]


def test_what_cannot_be_kept_says_why() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for value in (Slow(), [Slow()], loop, np.zeros(10**7), {Slow: Slow()}, [np.zeros(10**7)] * 3):
        there_and_back(value)
    assert isinstance(there_and_back(loop), Unstored)
    assert "nested too deeply" in encode(loop)


SCRIPT = """
import numpy as np, decimal, math
import flor_dagster as flor
for i in flor.loop("i", range(2)):
    flor.log("big", np.full((100, 100), i, "f8"))
    flor.log("price", decimal.Decimal("1.10"))
    flor.log("nan", math.nan)
    flor.log("odd", {"a": {1, 2}, 3: object})
"""


def test_a_reference_shows_in_the_view_and_loads(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    project.run(SCRIPT)
    with LogStore.open(tmp_path / "store.db") as store:
        store.ingest_all(project.root / ".flor")
        frame = store.dataframe("big", "price", "nan", "odd")
    assert str(frame["big"][1]).startswith("artifact:")
    assert (ArtifactStore(project.root / ".flor").load(frame["big"][1]) == 1.0).all()
    assert frame["price"][0] == decimal.Decimal("1.10")
    assert frame["odd"][0]["a"] == {1, 2}
    assert not list((project.root / ".flor" / "artifacts").rglob(".*"))


def test_uuid_and_fraction() -> None:
    for value in (uuid.UUID(int=5), fractions.Fraction(1, 3), fractions.Fraction(10**5000, 7)):
        assert there_and_back(value) == value
