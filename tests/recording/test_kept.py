"""What was just put back is compared with the checked buffer that it came from, and any change to it is still seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flor_dagster.errors import DamagedCheckpointError
from flor_dagster.recording import state
from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.checkpoints import CheckpointStore, Manifest
from flor_dagster.recording.graft import Bytes, Grafter
from flor_dagster.recording.kept import KeptBuffers
from flor_dagster.recording.memory import LEAST_BYTES, KnownMemory

SIZE = 4 * LEAST_BYTES


def kept_in(folder: Path, *arrays: np.ndarray) -> tuple[CheckpointStore, list[Manifest]]:
    store, manifests = CheckpointStore(folder / "checkpoints"), []
    for number, array in enumerate(arrays):
        capturer = Capturer(lambda _: True)
        capturer.add("object:it", array)
        seen = capturer.finish()
        manifest = Manifest("run", str(number), seen.nodes, seen.roots, seen.digests(), {}, (), {}, {})
        store.write(manifest, seen.buffers)
        manifests.append(manifest)
    return store, manifests


def put_back(kept: KeptBuffers, manifest: Manifest, live: np.ndarray) -> None:
    def read(digest: str) -> Bytes:
        return kept.read(manifest, digest).data

    kept.next_checkpoint()
    Grafter(manifest.nodes, read, wrote=kept.wrote).graft(manifest.roots["object:it"], live, "it")


def digest_of(array: np.ndarray, known: KnownMemory) -> str:
    capturer = Capturer(lambda _: True, known=known)
    capturer.add("object:it", array)
    return capturer.finish().digests()["object:it"]


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, SIZE - 1), change=st.integers(0, 255))
def test_a_changed_byte_after_a_restore_is_another_digest(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    rng = np.random.default_rng(1)
    recorded = rng.integers(0, 255, SIZE, dtype=np.uint8)
    store, (manifest,) = kept_in(tmp_path_factory.mktemp("kept"), recorded)
    known, live = KnownMemory(), np.zeros_like(recorded)
    put_back(KeptBuffers(store, known), manifest, live)
    assert digest_of(live, known) == manifest.digests["object:it"]
    live[place] ^= change
    assert (digest_of(live, known) == manifest.digests["object:it"]) == (change == 0)


def test_no_digest_is_computed_of_what_was_put_back_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = np.arange(SIZE, dtype=np.uint8)
    store, (manifest,) = kept_in(tmp_path, recorded)
    known, live = KnownMemory(), np.zeros_like(recorded)
    put_back(KeptBuffers(store, known), manifest, live)
    sizes: list[int] = []
    monkeypatch.setattr("flor_dagster.recording.capture.digest_bytes", lambda data: sizes.append(len(data)))
    assert digest_of(live, known) == manifest.digests["object:it"]
    assert sizes == []


def test_one_checkpoint_after_another_comes_back_as_it_was(tmp_path: Path) -> None:
    arrays = [np.full(SIZE, number, dtype=np.uint8) for number in range(6)]
    store, manifests = kept_in(tmp_path, *arrays)
    known = KnownMemory(most=3 * SIZE)
    kept, live = KeptBuffers(store, known), np.zeros(SIZE, dtype=np.uint8)
    for number in (0, 1, 2, 3, 4, 5, 4, 3, 0):
        put_back(kept, manifests[number], live)
        assert (live == number).all()
        assert digest_of(live, known) == manifests[number].digests["object:it"]


def test_an_altered_buffer_is_never_put_back(tmp_path: Path) -> None:
    store, (manifest,) = kept_in(tmp_path, np.arange(SIZE, dtype=np.uint8))
    path = next(path for path in (store.folder / "objects").rglob("*") if path.is_file())
    altered = bytearray(path.read_bytes())
    for damaged in (altered[:-1], altered[:-1] + b"?", b""):
        path.write_bytes(damaged)
        live = np.zeros(SIZE, dtype=np.uint8)
        with pytest.raises(DamagedCheckpointError):
            put_back(KeptBuffers(store, KnownMemory()), manifest, live)
        assert not live.any()


@given(st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats(allow_nan=False)),
                    lambda inner: st.lists(inner, max_size=4), max_leaves=8))  # fmt: skip
def test_the_text_of_a_part_is_its_json(value: object) -> None:
    import json

    for part in (value, ["v", value], ["s", value]):
        assert state.text_of(part) == json.dumps(part, separators=(",", ":")).encode()
