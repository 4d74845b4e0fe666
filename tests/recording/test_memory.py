"""Memory that did not change is not copied again, and a changed byte is always seen."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.memory import LEAST_BYTES, Copy, KnownMemory


def capture(array: np.ndarray, known: KnownMemory) -> tuple[str, bytes]:
    capturer = Capturer(lambda _: True, known=known)
    capturer.add("array", array)
    state = capturer.finish()
    ((digest, data),) = state.buffers.items()
    return digest, data


@given(st.integers(0, 4 * LEAST_BYTES - 1), st.integers(1, 255))
def test_one_changed_byte_is_another_content(place: int, change: int) -> None:
    array = np.zeros(4 * LEAST_BYTES, dtype=np.uint8)
    known = KnownMemory()
    first, copied = capture(array, known)
    again, same = capture(array, known)
    assert again == first
    assert same is copied, "what did not change is not copied again"
    array[place] ^= change
    other, changed = capture(array, known)
    assert other != first
    assert changed == array.tobytes()


def test_another_array_at_the_same_address_is_seen() -> None:
    known = KnownMemory()
    memory = np.zeros(2 * LEAST_BYTES, dtype=np.uint8)
    first, _ = capture(memory, known)
    memory[:] = 1
    second, _ = capture(memory.view(np.float64), known)
    assert first != second


def test_what_is_kept_stays_within_its_limit() -> None:
    known = KnownMemory(most=100_000)
    arrays = [np.full(40_000, i, dtype=np.uint8) for i in range(5)]
    for array in arrays:
        known.keep(array.ctypes.data, array.nbytes, Copy(array.tobytes()))
    held = [known.same(a.ctypes.data, a.nbytes) is not None for a in arrays]
    assert held == [False, False, False, True, True]
    known.keep(1, 200_000, Copy(b""))
    assert known.same(1, 200_000) is None
