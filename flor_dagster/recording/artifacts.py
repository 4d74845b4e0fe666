"""Values that are kept beside the journal: figures, images, large arrays and texts, by the digest of their content.

They lie in the home as `artifacts/<2 hex digits>/<the rest>.<suffix>`, as files that any program opens. A record refers to
one only once it is there whole; writing it holds the training up, so that what is logged is what the value was.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flor_dagster.errors import StoreError
from flor_dagster.recording.sharing import found

MAX_BYTES = 1 << 30
VALUE_SUFFIX = "value.json"
"""A value's journal text that was too long for the journal."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A logged value that lies in a file of its own.

    Args:
        digest: of its content, BLAKE2b, 160 bits, hex.
        suffix: what kind of file it is: png, npy, json, value.json.
        size: bytes.
        type: the type of the value that was logged.
        note: shape and dtype of an array, the size of an image.
    """

    digest: str
    suffix: str
    size: int
    type: str
    note: str = ""

    @property
    def reference(self) -> str:
        """What `flor.artifact` takes: the beginning of the digest."""
        return f"artifact:{self.digest[:16]}"

    def __str__(self) -> str:
        what = " ".join(part for part in (self.type.rpartition(".")[2], self.note) if part)
        return f"{self.reference} ({what}, {self.suffix}, {_size_text(self.size)})"


def _size_text(size: int) -> str:
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size} bytes"


class ArtifactStore:
    """Files by their content.

    Args:
        home: the `.flor/` folder.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / "artifacts"

    def keep(self, data: bytes | memoryview, suffix: str, kind: str, note: str = "") -> Artifact:
        """Write what is not there yet.

        Raises:
            ValueError: when it is larger than an artifact may be.
            OSError: when it can't be written.
        """
        size = memoryview(data).nbytes
        if size > MAX_BYTES:
            raise ValueError(
                f"{_size_text(size)} are more than an artifact may have ({_size_text(MAX_BYTES)})"
            )
        artifact = Artifact(hashlib.blake2b(data, digest_size=20).hexdigest(), suffix, size, kind, note)
        path = self.path(artifact)
        if not found(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
            try:
                temporary.write_bytes(data)
                temporary.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
        return artifact

    def path(self, artifact: Artifact) -> Path:
        """Where an artifact lies."""
        return self._folder / artifact.digest[:2] / f"{artifact.digest[2:]}.{artifact.suffix}"

    def find(self, reference: str) -> Artifact:
        """The artifact of a reference: `artifact:` and the beginning of its digest.

        Raises:
            StoreError: when none or more than one begins so.
        """
        start = reference.removeprefix("artifact:").split(" ", 1)[0].lower()
        if len(start) < 8 or not all(c in "0123456789abcdef" for c in start):
            raise StoreError(
                f"{reference!r} is no artifact's reference; one reads artifact:0123456789abcdef."
            )
        matches = sorted((self._folder / start[:2]).glob(f"{start[2:]}*"))
        if len(matches) != 1:
            many = "several artifacts begin so" if matches else "this project has no such artifact"
            raise StoreError(f"{reference}: {many} ({self._folder}).")
        stem, _, suffix = matches[0].name.partition(".")
        return Artifact(start[:2] + stem, suffix, matches[0].stat().st_size, "")

    def read(self, artifact: Artifact) -> bytes:
        """An artifact's content.

        Raises:
            StoreError: when it is missing, or is not what was written.
        """
        path = self.path(artifact)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{artifact.reference} can't be read at {path}: {error}") from error
        if hashlib.blake2b(data, digest_size=20).hexdigest() != artifact.digest:
            raise StoreError(f"{artifact.reference} was altered on disk: {path}")
        return data

    def load(self, artifact: Artifact) -> Any:
        """An artifact as an object: a numpy array, an image of PIL, a value; bytes where nothing better is installed.

        Nothing is unpickled.

        Raises:
            StoreError: when it is missing, or is not what was written.
        """
        data = self.read(artifact)
        if artifact.suffix == VALUE_SUFFIX:
            from flor_dagster.recording.values import decode

            return decode(json.loads(data))
        if artifact.suffix == "npy":
            return importlib.import_module("numpy").load(io.BytesIO(data), allow_pickle=False)
        if artifact.suffix == "png":
            with contextlib.suppress(ImportError):
                image = importlib.import_module("PIL.Image").open(io.BytesIO(data))
                image.load()
                return image
        if artifact.suffix == "json":
            return json.loads(data)
        return data


def picture(value: Any, kind: str, store: ArtifactStore) -> Artifact | None:
    """A figure of matplotlib or plotly, or an image of PIL, as a file; None for anything else."""
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(value, pil.Image):
        out = io.BytesIO()
        value.save(out, "PNG")
        return store.keep(out.getvalue(), "png", kind, f"{value.mode} {value.width}x{value.height}")
    figures = sys.modules.get("matplotlib.figure")
    if figures is not None:
        figure = value if isinstance(value, figures.Figure) else getattr(value, "figure", None)
        if isinstance(figure, figures.Figure) and (
            figure is value or kind.startswith(("matplotlib.", "mpl_toolkits."))
        ):
            out = io.BytesIO()
            figure.savefig(out, format="png", metadata={"Software": None})
            return store.keep(out.getvalue(), "png", kind)
    if kind.startswith("plotly.") and "plotly.basedatatypes" in sys.modules:
        basic = sys.modules["plotly.basedatatypes"].BaseFigure
        if isinstance(value, basic):
            figure: Any = value
            return store.keep(figure.to_json().encode(), "json", kind)
    return None
