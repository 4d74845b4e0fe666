"""The child process that keeps a run's code as a version: git is slow to import and none of the training's business."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from flor_dagster.recording.runlock import held_for_child

SNAPSHOT_WAIT_SECONDS = 60.0
MAX_LOADED_BYTES = 1 << 25
SNAPSHOT_MODULE = "flor_dagster.versions.snapshot"


class VersionChild:
    """Snapshots a work tree behind the training.

    Args:
        root: the top of the work tree, or None outside any repository.
        out: the file that says which commit it is, or why there is none.
        loaded: the modules' files that the training has loaded, relative to `root`, with their bytes. They may be edited before
            the child comes to look at them.
    """

    def __init__(self, root: Path | None, out: Path, loaded: Mapping[str, bytes]) -> None:
        self._out = out
        self._child: subprocess.Popen[bytes] | None = None
        if root is None:
            self._refuse("the training ran outside any git repository")
        else:
            self._start(root, loaded)

    def _refuse(self, error: str) -> None:
        with contextlib.suppress(OSError):
            self._out.write_text(json.dumps({"error": error}), encoding="utf-8")

    def _start(self, root: Path, loaded: Mapping[str, bytes]) -> None:
        package_parent = str(Path(__file__).resolve().parents[2])
        # Settings stay (a `safe.directory` may be one); what points git elsewhere goes.
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith("GIT_CONFIG")
        }
        environment["PYTHONPATH"] = os.pathsep.join(
            p for p in (package_parent, os.environ.get("PYTHONPATH", "")) if p
        )
        command = [
            sys.executable, "-P", "-m", SNAPSHOT_MODULE, "--root", str(root), "--out", str(self._out), "--loaded",
        ]  # fmt: skip
        try:
            with _file_of(loaded) as given, held_for_child(self._out) as held:
                self._child = subprocess.Popen(
                    [*command, *(("--held", str(held)) if held >= 0 else ())], cwd=root, env=environment, stdin=given,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                    pass_fds=(held,) if held >= 0 else (),
                )  # fmt: skip
        except OSError as error:
            self._refuse(f"the snapshot could not be started: {error}")

    def wait(self) -> str:
        """Wait for its end; what there is to warn of, or nothing."""
        if self._child is None:
            return ""
        try:
            status = self._child.wait(SNAPSHOT_WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "the code snapshot did not end in time; this run may have no version"
        try:
            error = json.loads(self._out.read_bytes()).get("error")
        except (OSError, ValueError, AttributeError):
            error = f"the snapshot left no word, with exit status {status}"
        return f"the code of this run could not be kept, so it can't be replayed: {error}" if error else ""


def _file_of(loaded: Mapping[str, bytes]) -> BinaryIO:
    """A file without a name: a line of JSON, path → number of bytes, and the bytes of all.

    Raises:
        OSError: there is no room for it.
    """
    if hasattr(os, "memfd_create"):
        file: BinaryIO = os.fdopen(os.memfd_create("flor-loaded"), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115
    kept: dict[str, bytes] = {}
    room = MAX_LOADED_BYTES
    for path, data in loaded.items():
        if len(data) <= room:
            room -= len(data)
            kept[path] = data
    file.write(json.dumps({path: len(data) for path, data in kept.items()}).encode() + b"\n")
    for data in kept.values():
        file.write(data)
    file.flush()
    file.seek(0)
    return file
