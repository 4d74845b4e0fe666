"""Memory that did not change is not copied again, and a changed byte is always seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.memory import LEAST_BYTES, Block, Copy, KnownMemory, Pool, most_bytes


def capture(array: np.ndarray, known: KnownMemory) -> tuple[str, Copy]:
    capturer = Capturer(lambda _: True, known=known)
    capturer.add("array", array)
    state = capturer.finish()
    ((digest, copy),) = state.buffers.items()
    return digest, copy


@given(st.integers(0, 4 * LEAST_BYTES - 1), st.integers(0, 4 * LEAST_BYTES - 1), st.integers(1, 255))
def test_one_changed_byte_is_another_content(place: int, next_place: int, change: int) -> None:
    array = np.zeros(4 * LEAST_BYTES, dtype=np.uint8)
    known = KnownMemory()
    first, copied = capture(array, known)
    again, same = capture(array, known)
    assert again == first
    assert same is copied, "what did not change is not copied again"
    seen = {array.tobytes(): first}
    for at in (place, next_place, place):
        array[at] ^= change
        other, changed = capture(array, known)
        assert bytes(changed.data) == array.tobytes()
        assert seen.setdefault(array.tobytes(), other) == other
    assert len(set(seen.values())) == len(seen)


def test_another_array_at_the_same_address_is_seen() -> None:
    known = KnownMemory()
    memory = np.zeros(2 * LEAST_BYTES, dtype=np.uint8)
    first, _ = capture(memory, known)
    memory[:] = 1
    second, _ = capture(memory.view(np.float64), known)
    assert first != second


def copy_of(array: np.ndarray, known: KnownMemory) -> Copy:
    return known.copy(array.ctypes.data, array.nbytes)


def test_what_is_kept_stays_within_its_limit() -> None:
    known = KnownMemory(most=100_000)
    arrays = [np.full(40_000, i, dtype=np.uint8) for i in range(5)]
    copies = [copy_of(a, known) for a in arrays]
    assert [copy_of(a, known) is c for a, c in zip(arrays[3:], copies[3:], strict=True)] == [True, True]
    assert copy_of(arrays[0], known) is not copies[0]
    large = np.zeros(200_000, dtype=np.uint8)
    assert copy_of(large, known) is not copy_of(large, known)


def test_memory_is_used_again_once_nobody_holds_the_copy_and_never_before() -> None:
    known = KnownMemory()
    array = np.zeros(4 * LEAST_BYTES, dtype=np.uint8)
    held = copy_of(array, known)
    array += 1
    second = copy_of(array, known)
    assert bytes(held.data) == bytes(4 * LEAST_BYTES), "a copy that is held keeps its content"
    assert second.data is not held.data
    place = id(held.data)
    del held
    array += 1
    third = copy_of(array, known)
    assert id(third.data) == place
    assert bytes(second.data) == b"\1" * second.data.__len__()
    assert bytes(third.data) == b"\2" * third.data.__len__()


def test_a_pool_keeps_no_more_than_its_limit() -> None:
    pool = Pool(100_000)
    for _ in range(5):
        pool.give(Block(40_000))
    assert pool.held == 80_000
    pool.prepare([40_000])
    assert pool.held == 80_000
    assert len(pool.take(40_000)) == 40_000


def test_how_much_memory_copies_may_take_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOR_CHECKPOINT_MEMORY", "123")
    assert most_bytes() == 123
    monkeypatch.setenv("FLOR_CHECKPOINT_MEMORY", "1G")
    with pytest.raises(ValueError, match="number of bytes"):
        most_bytes()


def test_a_copy_that_would_take_too_much_of_the_free_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flor_dagster.recording import memory

    assert memory.has_room(1 << 20, 0.5)
    assert not memory.has_room(1 << 60, 0.5)
    pages = {"SC_AVPHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory.os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000)  # what is cached can be given, too
    assert memory.has_room(500_000, 0.5)
    assert not memory.has_room(500_001, 0.5)
