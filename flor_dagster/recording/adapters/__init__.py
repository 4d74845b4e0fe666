"""Adapters: one module per idea of what state is made of.

What the libraries know best is asked first, plain instances last.
"""

from flor_dagster.recording.adapters import (
    arrays,
    code,
    containers,  # noqa: F401  # pyright: ignore[reportUnusedImport] - exact types only: it registers them itself
    generators,
    instances,
    pickled,
    process,
    registry,
    tensors,
    weak,  # noqa: F401  # pyright: ignore[reportUnusedImport] - likewise
)

registry.families[:] = [
    room.recognise for room in (generators, arrays, tensors, code, process, pickled, instances)
]
