"""A value comes back as it was logged, bit for bit; what can't be kept says what it was."""

from __future__ import annotations

import datetime as dt
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flor_dagster.recording.values import ArrayValue, Unstored, decode, encode


def there_and_back(value: Any) -> Any:
    text = encode(value)
    assert "\n" not in text
    text.encode("ascii")
    return decode(json.loads(text))


def bits(value: float) -> bytes:
    return struct.pack(">d", value)


@given(st.integers(0, 2**64 - 1))
def test_every_float_keeps_its_bits(pattern: int) -> None:
    value = struct.unpack(">d", pattern.to_bytes(8, "big"))[0]
    assert bits(there_and_back(value)) == bits(value)
    assert bits(there_and_back([value])[0]) == bits(value)


@pytest.mark.parametrize("value", [0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1e308, 0.1])
def test_the_ends_of_the_floats(value: float) -> None:
    assert bits(there_and_back(value)) == bits(value)
    assert bits(there_and_back(np.float64(value))) == bits(value)


@given(st.integers() | st.integers(-(10**6000), 10**6000))
def test_integers_of_any_size(value: int) -> None:
    assert there_and_back(value) == value
    assert type(there_and_back(value)) is int
    assert there_and_back({"a": [value]}) == {"a": [value]}


any_text = st.text(st.characters(exclude_categories=()))


@given(any_text)
def test_any_text_with_nulls_and_lone_surrogates(value: str) -> None:
    assert there_and_back(value) == value


@given(any_text)
def test_any_text_is_a_key(key: str) -> None:
    assert there_and_back({key: 1, "other": {key: [2]}}) == {key: 1, "other": {key: [2]}}


structures = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | any_text,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(any_text | st.sampled_from(["$", "v", "bits"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(structures)
def test_nested_structures_also_with_keys_of_our_own_tags(value: Any) -> None:
    got = there_and_back(value)
    assert got == value
    assert json.dumps(got) == json.dumps(value)


def test_a_dict_that_looks_like_a_tag_is_a_dict() -> None:
    for value in ({"$": "float", "bits": "00"}, {"$": 1}, [{"$": "json", "v": {}}], {"a": {"$": "error"}}):
        assert there_and_back(value) == value


def test_tuples_and_bools_in_structures() -> None:
    assert there_and_back((1, (True, None))) == [1, [True, None]]


@pytest.mark.parametrize("kind", ["i1", "u8", "f2", "f4", "f8", "c16", ">f4", ">i8", "?", "M8[ns]"])
def test_small_arrays_keep_kind_shape_and_content(kind: str) -> None:
    array = np.arange(6).astype(kind).reshape(2, 3)
    got = there_and_back(array)
    assert isinstance(got, ArrayValue)
    back = np.frombuffer(got.data, np.dtype(got.dtype)).reshape(got.shape)
    assert (back == array).all()


def test_numpy_scalars_are_plain_values() -> None:
    assert there_and_back(np.int64(7)) == 7
    assert there_and_back(np.float32(0.1)) == float(np.float32(0.1))
    assert there_and_back(np.bool_(True)) is True
    assert there_and_back(np.str_("a")) == "a"
    assert there_and_back(np.array(3.5)) == 3.5


def test_dates() -> None:
    now = dt.datetime(2026, 11, 21, 1, 2, 3, 4, tzinfo=dt.UTC)
    assert there_and_back(now) == now
    assert there_and_back(dt.date(2026, 1, 2)) == dt.date(2026, 1, 2)


class BrokenRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class LyingInt(int):
    def __int__(self) -> int:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        return "nonsense"


class BrokenClass:
    @property
    def __class__(self) -> Any:
        raise RuntimeError("no")


class OddDict(dict):
    def items(self) -> Any:
        raise RuntimeError("no")


def test_nothing_raises() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    hard = [
        BrokenRepr(), BrokenClass(), OddDict(a=1), loop, deep, {1: 2, "1": 3}, {(1,): 2}, object(), b"\xff", 1j,
        np.array([object()]), np.zeros(10**6), range(3), {1, 2}, print, "x" * 2_000_000, ArrayValue("f8", (), b""),
        dt.timedelta(1), np.datetime64("NaT"), np.timedelta64(1, "s"), np.longdouble(1), [np.nan, BrokenRepr()],
    ]  # fmt: skip
    for value in hard:
        there_and_back(value)
    assert isinstance(there_and_back(BrokenRepr()), Unstored)
    assert there_and_back(LyingInt(5)) == 5


def test_what_cannot_be_kept_says_what_it_was() -> None:
    got = there_and_back(object())
    assert isinstance(got, Unstored)
    assert got.type == "builtins.object"
    assert got.text.startswith("<object")
