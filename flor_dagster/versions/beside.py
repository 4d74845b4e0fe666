"""A bare repository of our own in `.flor/`, where versions are kept instead of in the user's repository.

`git push --mirror` publishes every ref of the user's repository, those with uncommitted code among them. What lies here
is published by nobody. It needs nothing of the user's repository: of each version it holds the commit and all its
folders and files, and so of the commit that it was based on, as far as that has them. Only the history before is not
here; `shallow` says so to git.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flor_dagster.recording.layout import ensure_home
from flor_dagster.versions.command import GitError, last_lines, run

if TYPE_CHECKING:
    from collections.abc import Generator

    from flor_dagster.versions.command import Answer
    from flor_dagster.versions.private_index import PrivateIndex

VERSION_REFS = "refs/flor/versions/"
"""Versions are kept by a ref of their own, `refs/flor/versions/<commit>`, so that `git gc` never drops one."""

_PARTIAL = ".versions-"
_STALE_SECONDS = 60.0
_SURE = ("-c", "core.fsync=loose-object,pack,pack-metadata,reference")


@dataclass(frozen=True, slots=True)
class Beside:
    """The repository of our own beside a user's; it is there once a version was kept in it.

    Attributes:
        root: The bare repository.
        form: Its object format, which is the user's.
    """

    root: Path
    form: str

    @classmethod
    def of(cls, home: Path, form: str) -> Beside:
        """The one in a `.flor/` folder. Several users' repositories may share a folder, and so this one."""
        return cls(home / ("versions.git" if form == "sha1" else f"versions-{form}.git"), form)

    @property
    def common_dir(self) -> Path:
        """Where objects and refs lie."""
        return self.root

    @property
    def objects(self) -> Path:
        """The folder with the objects."""
        return self.root / "objects"

    @property
    def exists(self) -> bool:
        """Whether a version was ever kept here."""
        return self.objects.is_dir()

    def git(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> Answer:
        """Run a git command on it. It is named, and not looked for: `safe.bareRepository` may forbid that."""
        environment = {"GIT_DIR": str(self.root)}
        return run(self.root, *arguments, stdin=stdin, check=check, environment=environment)

    def make(self) -> None:
        """Make it where it is not there; whoever is first wins, and a killed one leaves none that is half made."""
        if self.exists:
            return
        home = ensure_home(self.root.parent)
        partial = Path(tempfile.mkdtemp(dir=home, prefix=_PARTIAL))
        try:
            run(partial, "init", "--quiet", "--bare", "--template=", f"--object-format={self.form}", ".")
            partial.rename(self.root)
        except OSError:
            if not self.exists:
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def versions(self) -> tuple[str, ...]:
        """The commits that are kept here."""
        if not self.exists:
            return ()
        return tuple(self.git("for-each-ref", "--format=%(objectname)", VERSION_REFS).text.split())

    def holds(self, commit: str) -> bool:
        """Whether a version is here with all that belongs to it."""
        return self.git("rev-list", "--objects", "--quiet", commit, check=False).status == 0

    def take(self, index: PrivateIndex, commit: str, base: str | None) -> None:
        """Take in what is lacking of a version: what the snapshot found in the user's repository and wrote nowhere.

        Args:
            index: It sees the objects of both.
            commit: The version.
            base: The user's commit that it hangs on, or is; None before the first commit.

        Raises:
            GitError: An object of the version is nowhere, or can't be written.
        """
        wanted = _objects_of(index, commit)
        end = commit
        if base is not None and base != commit:
            # A checkout of the version names it to old code that asks git, long after a rebase. A partial clone may lack some.
            with contextlib.suppress(GitError):
                wanted += _objects_of(index, base)
                end = base
        asked = "".join(f"{name}\n" for name in dict.fromkeys(wanted)).encode()
        found = self.git("cat-file", "--batch-check=%(objectname)", stdin=asked).text.split("\n")
        lacking = "".join(f"{line.split()[0]}\n" for line in found if line.endswith(" missing"))
        if lacking:
            # The pack gets its name when it is whole. A training waits for it: `flor gc` makes it small.
            name = str(self.objects / "pack" / "pack")
            quick = ("--quiet", "--window=0", "--compression=1")
            index.git(*_SURE, "pack-objects", *quick, name, stdin=lacking.encode())
        if base is not None:
            self._end_history(end)

    def _end_history(self, commit: str) -> None:
        """Say to git that the parents of a commit are not here."""
        with self._lock():
            file = self.root / "shallow"
            known = file.read_text(encoding="ascii").split() if file.exists() else []
            if commit in known:
                return
            partial = self.root / "shallow.flor"
            partial.write_text("".join(f"{name}\n" for name in [*known, commit]), encoding="ascii")
            partial.replace(file)

    @contextlib.contextmanager
    def _lock(self) -> Generator[None]:
        fd = os.open(self.root / "flor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def clear(self) -> None:
        """Take away what killed processes left; only while no version is being kept."""
        for left in self.root.parent.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        for name in ("packed-refs.lock", "shallow.lock"):  # of a collection; git holds them for milliseconds
            with contextlib.suppress(OSError):
                if time.time() - (self.root / name).stat().st_mtime > _STALE_SECONDS:
                    (self.root / name).unlink()

    def collect(self) -> str:
        """Delete the objects that no version needs; only while no version is being kept.

        Returns:
            Why that could not be done; empty where it was.
        """
        if not self.exists:
            return ""
        answer = self.git("gc", "--quiet", "--prune=now", check=False)
        return "" if answer.status == 0 else f"{self.root} could not be tidied: {last_lines(answer.stderr)}"


def _objects_of(index: PrivateIndex, commit: str) -> list[str]:
    listed = index.git("rev-list", "--objects", "--no-object-names", f"{commit}^{{tree}}").text
    return [commit, *listed.split()]
