"""Random generators: Python's, numpy's, torch's."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording import shape
from flor_dagster.recording.adapters.instances import fill_attributes
from flor_dagster.recording.adapters.registry import Describe, puts_back
from flor_dagster.recording.shape import MISSING, find

if TYPE_CHECKING:
    from flor_dagster.recording.capture import Capturer
    from flor_dagster.recording.graft import Grafter


def recognise(kind: type) -> Describe | None:
    """Random generators of Python, numpy and torch."""
    if issubclass(kind, random.Random):
        return None if issubclass(kind, random.SystemRandom) else describe_python
    # Never by `numpy.random` itself, whose first use would load it, and seed it, for the training.
    numpy = sys.modules.get("numpy.random")
    if numpy is not None and hasattr(numpy, "Generator"):
        if issubclass(kind, numpy.RandomState):
            return describe_random_state
        if issubclass(kind, numpy.BitGenerator):
            return describe_bits
        if kind is numpy.Generator:
            return describe_generator
        if kind is numpy.SeedSequence:
            return describe_seeds
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "Generator") and issubclass(kind, torch.Generator):
        return describe_torch
    return None


def describe_python(walk: Capturer, value: random.Random, node: list[Any]) -> list[Any]:
    """A `random.Random`, and what a subclass adds to it."""
    del node
    version, internal, gauss = random.Random.getstate(value)
    attributes = {k: v for k, v in shape.attributes_of(value).items() if k != "gauss_next"}
    name = shape.type_name(type(value))
    return ["rng.python", [version, list(internal), gauss], name, walk.named(attributes)]


def describe_random_state(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """Numpy's legacy generator; the entropy that it was not seeded from is no part of it."""
    del walk, node
    return ["rng.numpy", shape.type_name(type(value)), _jsonable(value.get_state(legacy=False)), None]


def describe_bits(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A bit generator, and how many children its seeds have spawned."""
    del walk, node
    return ["rng.numpy", shape.type_name(type(value)), _jsonable(value.state), _seeds_of(value)]


def describe_generator(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A generator, by its bit generator."""
    del node
    return ["rng.generator", walk.ref(value.bit_generator)]


def describe_seeds(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A seed sequence: `spawn` counts its children."""
    del walk, node
    return ["rng.seeds", *_seeds(value)]


def describe_torch(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A generator of torch, on any device."""
    del walk, node
    return ["rng.torch", str(value.device), value.get_state().numpy().tobytes().hex()]


@puts_back("rng.python")
def put_python(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live generator, with the recorded state."""
    version, internal, gauss = node[1]
    name, attributes = node[2:] if len(node) > 2 else ("random.Random", {})
    if live is MISSING:
        kind: Any = find(name)
        if not isinstance(kind, type) or not issubclass(kind, random.Random):
            raise CheckpointError(f"the class {name} does not exist in this program")
        live = kind.__new__(kind)
    graft.memo[ref] = live
    fill_attributes(graft, live, {**attributes, "gauss_next": ["v", None]})
    random.Random.setstate(live, (version, tuple(internal), gauss))
    return live


@puts_back("rng.numpy")
def put_numpy(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live generator, with the recorded state and as many children."""
    del ref
    numpy: Any = sys.modules["numpy"]
    name, state, *rest = node[1:]
    seeds = rest[0] if rest else None
    if live is MISSING:
        kind: Any = find(name)
        if not isinstance(kind, type):
            raise CheckpointError(f"the random generator {name} does not exist in this program")
        live = kind() if seeds is None else kind(_seed_sequence(numpy, seeds, seeds[3]))
    elif seeds is not None:
        _advance_children(live, seeds)
    value = _value(state)
    if hasattr(live, "set_state"):
        live.set_state(value)
    else:
        live.state = value
    return live


@puts_back("rng.generator")
def put_generator(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live generator where it draws from the same bits."""
    numpy: Any = sys.modules["numpy"]
    bits = graft.value(node[1])
    if ref in graft.memo:
        return graft.memo[ref]
    return live if live is not MISSING and live.bit_generator is bits else numpy.random.Generator(bits)


@puts_back("rng.torch")
def put_torch(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live generator, with the recorded state."""
    del ref
    torch: Any = sys.modules["torch"]
    target = live if live is not MISSING else torch.Generator(device=node[1])
    target.set_state(torch.frombuffer(bytearray.fromhex(node[2]), dtype=torch.uint8))
    return target


@puts_back("rng.seeds")
def put_seeds(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live sequence, with as many children spawned; a new one where the seeds are others."""
    del graft, ref
    numpy: Any = sys.modules["numpy"]
    seeds = node[1:]
    if live is MISSING or _seeds(live)[:3] != seeds[:3] or live.n_children_spawned > seeds[3]:
        return _seed_sequence(numpy, seeds, seeds[3])
    if seeds[3] > live.n_children_spawned:
        live.spawn(seeds[3] - live.n_children_spawned)
    return live


def _seeds_of(bits: Any) -> Any:
    seeds = getattr(bits, "seed_seq", None)
    return None if seeds is None or not hasattr(seeds, "n_children_spawned") else _seeds(seeds)


def _seeds(sequence: Any) -> list[Any]:
    entropy = sequence.entropy.tolist() if hasattr(sequence.entropy, "tolist") else sequence.entropy
    key = [int(k) for k in sequence.spawn_key]
    return [_plain_ints(entropy), key, int(sequence.pool_size), int(sequence.n_children_spawned)]


def _plain_ints(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [int(v) for v in value]
    return None if value is None else int(value)


def _seed_sequence(numpy: Any, seeds: list[Any], spawned: int) -> Any:
    entropy, key, pool, _ = seeds
    return numpy.random.SeedSequence(
        entropy, spawn_key=tuple(key), pool_size=pool, n_children_spawned=spawned
    )


def _advance_children(bits: Any, seeds: list[Any]) -> None:
    """Count the children of a bit generator's seeds up to the recorded number."""
    missing = seeds[3] - bits.seed_seq.n_children_spawned
    if missing < 0:
        raise CheckpointError("a random generator has spawned more children here than in the recorded run")
    if missing:
        bits.seed_seq.spawn(missing)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _jsonable(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        return {"$array": value.tolist(), "dtype": value.dtype.str} if value.ndim else value.item()
    return value


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        if "$array" in value:
            numpy: Any = sys.modules["numpy"]
            return numpy.array(value["$array"], dtype=value["dtype"])
        return {k: _value(v) for k, v in value.items()}
    return value
