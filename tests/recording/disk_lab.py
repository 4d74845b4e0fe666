"""Disks that are full, read-only or gone, on whatever machine the tests run.

A small tmpfs in a mount namespace of its own where the kernel gives one (to root, or to a user namespace); elsewhere a
limit on the size of files, which programs meet as they meet a full disk, and folders without write permission.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recording.record_lab import environment

KEEP = '"$@"; status=$?; cp -a .flor .kept; exit $status'


@functools.cache
def namespaces() -> tuple[str, ...]:
    """The command that gives a mount namespace; empty where there is none."""
    for command in (("unshare", "-m"), ("unshare", "-rm")):
        probe = [*command, "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]
        if (
            shutil.which("unshare")
            and subprocess.run(probe, capture_output=True, check=False).returncode == 0
        ):
            return command
    return ()


def run(root: Path, before: str, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a project whose home is prepared by shell commands; what they leave there is kept."""
    (root / ".flor").mkdir(exist_ok=True)
    done = subprocess.run(
        [*namespaces(), "sh", "-c", f"{before}; {KEEP}", "sh", sys.executable, *command], cwd=root,
        env=environment(**variables), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    shutil.rmtree(root / ".flor", ignore_errors=True)
    if (root / ".kept").exists():
        (root / ".kept").rename(root / ".flor")
    return done


def on_small_disk(
    root: Path, kilobytes: int, *command: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """With so much room in the home; without namespaces, for each file."""
    if namespaces():
        before = f"cp -a .flor .was; mount -t tmpfs -o size={kilobytes}k tmpfs .flor; cp -a .was/. .flor; rm -rf .was"
        return run(root, before, *command, **variables)
    return run(root, f"ulimit -f {kilobytes * 2}", *command, **variables)


def on_read_only_disk(root: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """With a home that can only be read."""
    if namespaces():
        return run(root, "mount -t tmpfs -o ro tmpfs .flor", *command, **variables)
    if os.geteuid() == 0:
        pytest.skip(
            "root writes where it may not, and this kernel lets it mount nothing: no disk is read-only"
        )
    (root / ".flor").mkdir(exist_ok=True)
    (root / ".flor").chmod(0o555)
    return run(root, ":", *command, **variables)
